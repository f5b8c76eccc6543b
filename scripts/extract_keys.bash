#!/usr/bin/env bash
# Fix the order of the image sets, then extract their keys; finished files are skipped.
#   bash scripts/extract_keys.bash [flags of vokenization/extract_vision_keys.py]
#   bash scripts/extract_keys.bash 0 NAME [flags]
# 0 is the GPU, or several such as 0,1; cpu and auto (all GPUs, else the CPU; the default) work too. NAME is the run under snap/xmatching, or a
# path; without it LOAD= is taken, by default the snapshot that run_xmatching.bash trains.
# IMAGE_SETS=: separated by commas, open_images by default; with NAME those of Vokenization's script: vg_nococo, coco_minival, coco_nominival,
# coco_train, and cc_valid where data/cc/validation.tsv is. NUM_IMAGES=: size of the random sample taken of each set, 500000 by default.
source "$(dirname "$0")/common.bash"
take_arguments "$@"
LOAD=${RUN:-${LOAD:-$DEFAULT_RUN}}
if [[ -z "${IMAGE_SETS:-}" && -n "$RUN" ]]; then
    IMAGE_SETS=vg_nococo,coco_minival,coco_nominival,coco_train
    if [[ -e data/cc/validation.tsv ]]; then
        IMAGE_SETS+=,cc_valid
    else
        echo "cc_valid: left out, data/cc/validation.tsv does not exist" >&2
    fi
fi
IMAGE_SETS=${IMAGE_SETS:-open_images}
NUM_IMAGES=${NUM_IMAGES:-500000}

# The order: data/vokenization/images/{IMAGE_SET}.ids
python vokenization/create_image_ids.py --image-sets "$IMAGE_SETS" --num-images "$NUM_IMAGES"

# The keys: $LOAD/keys/{IMAGE_SET}.hdf5
python vokenization/extract_vision_keys.py --load-dir "$LOAD" --image-sets "$IMAGE_SETS" "${FLAGS[@]}"
