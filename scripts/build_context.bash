#!/usr/bin/env bash
# Make the cross-modal context: encode the phrases, then write both context files in one pass over the pictures. Finished files
# are skipped.
#   bash scripts/build_context.bash 0
# 0 is the GPU; cpu and auto (all GPUs, else the CPU; the default) work too. Variables:
#   CAPTIONS=FILE           phrases of your own, one per line, instead of Visual Genome's
#   IMAGES=FOLDER           pictures of your own, or tar shards, instead of COCO's
#   IMAGE_SETS=NAME,NAME    image sets fixed by create_image_ids.py, instead of COCO's pictures
#   K=16                    phrases to retrieve for each view of a picture
#   MODEL=...               another model than CLIP ViT-B/32: hub id, folder, or a matcher's snapshot
#   PRECISION=bf16          faster, less exact
#   KEY_VIEWS=4             the mean over so many views of each picture and crop (docs/training.md)
#   HUBNESS=0.5             so much of what a phrase has in common with all pictures is taken off its scores (docs/judging.md)
#   ANN_DIR=, DATASET_ROOT= folders of Visual Genome and of COCO
source "$(dirname "$0")/common.bash"
(($# <= 1)) || usage_error "only one argument is taken, the device; everything else is set by variables"
DEVICE=${1:-auto}
MODEL=${MODEL:-openai/clip-vit-base-patch32}
ANN_DIR=${ANN_DIR:-datasets/visual_genome}
DATASET_ROOT=${DATASET_ROOT:-datasets/coco_captions}
PRECISION=${PRECISION:-fp32}
COMMON=(--model "$MODEL" --device "$DEVICE" --precision "$PRECISION")

# The phrases: outputs/captions_db/caption_db.hdf5
python ctx/encode_captions.py --ann_dir "$ANN_DIR" ${CAPTIONS:+--captions "$CAPTIONS"} "${COMMON[@]}"

# Both files: outputs/image_features/vis_ctx.hdf5, outputs/retrieved_captions/txt_ctx.hdf5
python ctx/build_context.py --dataset_root "$DATASET_ROOT" ${IMAGES:+--images "$IMAGES"} \
    ${IMAGE_SETS:+--image-sets "$IMAGE_SETS"} ${KEY_VIEWS:+--key-views "$KEY_VIEWS"} \
    ${HUBNESS:+--hubness "$HUBNESS"} "${COMMON[@]}" --k "${K:-16}"
