#!/usr/bin/env bash
# Retrieve the top 5 images for every line of the three Reddit files; finished files are skipped.
#   bash scripts/mpvokenize_reddit.bash [flags of vokenization/vokenize_corpus_mp.py]
#   bash scripts/mpvokenize_reddit.bash 0,1,2,3 NAME [flags]
# 0,1,2,3 are the GPUs; cpu and auto (all GPUs, else the CPU; the default) work too. NAME is the run under snap/xmatching, or a path; without it
# LOAD= is taken, by default the snapshot that run_xmatching.bash trains. IMAGE_SETS=: separated by commas, open_images by default;
# DATA_DIR=: folder of the three files, data/reddit by default; TOKENIZER=: whose tokens to read, by default the snapshot's tokenizer.
source "$(dirname "$0")/common.bash"
take_arguments "$@"
LOAD=${RUN:-${LOAD:-$DEFAULT_RUN}}
DATA_DIR=${DATA_DIR:-data/reddit}
IMAGE_SETS=${IMAGE_SETS:-open_images}

# $LOAD/vokens/FILE.$IMAGE_SETS
vokenize_files valid.pkl.txt test.pkl.txt train.pkl.txt -- --topk 5 "${FLAGS[@]}"
