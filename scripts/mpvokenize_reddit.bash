#!/usr/bin/env bash
# Retrieve the top images for every line of the three Reddit files; what is done is skipped.
#   bash scripts/mpvokenize_reddit.bash [flags of vokenization/vokenize_corpus_mp.py]
# LOAD=: the snapshot (the published one by default); IMAGE_SETS=: open_images by default, several with commas;
# DATA_DIR=: the folder of the three, data/reddit by default; TOKENIZER=: which tokens, the snapshot's own by default.
source "$(dirname "$0")/common.bash"
LOAD=${LOAD:-snap/xmatching/clsmlp_sent-level_b1024_embed512_maxlen75_resnext_bert}
DATA_DIR=${DATA_DIR:-data/reddit}
IMAGE_SETS=${IMAGE_SETS:-open_images}

for DATA_NAME in valid.pkl.txt test.pkl.txt train.pkl.txt; do
    # $LOAD/vokens/$DATA_NAME.$IMAGE_SETS
    python vokenization/vokenize_corpus_mp.py \
        --load "$LOAD" \
        --corpus "$DATA_DIR/$DATA_NAME" \
        ${TOKENIZER:+--tokenizer-name "$TOKENIZER"} \
        --image-sets "$IMAGE_SETS" \
        --topk 5 "$@"
done
