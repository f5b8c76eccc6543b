#!/usr/bin/env bash
# The cross-modal context: encode the phrases, then both context files in one pass over the pictures; what is done is skipped.
#   bash scripts/build_context.bash 0
# 0 is the GPU; cpu and auto (all GPUs, else the CPU; the default) work too. CAPTIONS=file: phrases of your own;
# IMAGES=folder, or tar shards: pictures of your own; IMAGE_SETS=: sets of create_image_ids.py; K=: phrases a view;
# MODEL=: another model than CLIP ViT-B/32; PRECISION=bf16: faster.
# ANN_DIR=, DATASET_ROOT=: where Visual Genome and COCO lie.
source "$(dirname "$0")/common.bash"
(($# <= 1)) || usage_error "one argument is taken, the device; the rest is said by variables"
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
    ${IMAGE_SETS:+--image-sets "$IMAGE_SETS"} "${COMMON[@]}" --k "${K:-16}"
