#!/usr/bin/env bash
# Fix the order of the image sets, then extract their keys; finished files are skipped.
#   bash scripts/extract_keys.bash [flags of vokenization/extract_vision_keys.py]
# LOAD=: the snapshot, by default the one that run_xmatching.bash trains; IMAGE_SETS=: separated by commas, open_images by default;
# NUM_IMAGES=: size of the random sample taken of each set, 500000 by default.
source "$(dirname "$0")/common.bash"
LOAD=${LOAD:-snap/xmatching/clsmlp_sent-level_b1024_embed512_maxlen75_resnext_bert}
IMAGE_SETS=${IMAGE_SETS:-open_images}
NUM_IMAGES=${NUM_IMAGES:-500000}

# The order: data/vokenization/images/{IMAGE_SET}.ids
python vokenization/create_image_ids.py --image-sets "$IMAGE_SETS" --num-images "$NUM_IMAGES"

# The keys: $LOAD/keys/{IMAGE_SET}.hdf5
python vokenization/extract_vision_keys.py --load-dir "$LOAD" --image-sets "$IMAGE_SETS" "$@"
