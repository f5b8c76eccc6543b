#!/usr/bin/env bash
# Retrieve images for every sentence of the three files of the English Wikipedia, from 50,000 images; finished files are skipped.
#   bash scripts/mpvokenize_wiki.bash [flags of vokenization/vokenize_corpus_mp.py]
#   bash scripts/mpvokenize_wiki.bash 0,1,2,3 NAME [flags]
# 0,1,2,3 are the GPUs; cpu and auto (all GPUs, else the CPU; the default) work too. NAME is the run under snap/xmatching, or a path; without it
# LOAD= is taken, by default the snapshot that run_xmatching.bash trains. IMAGE_SETS=: separated by commas, vg_nococo by default;
# DATA_DIR=: folder of the three files, data/wiki-cased by default; TOKENIZER=: whose tokens to read, by default the snapshot's tokenizer.
# --no-sentences: for every line instead; --max-img-num N: from the first N images, -1 for all.
source "$(dirname "$0")/common.bash"
take_arguments "$@"
LOAD=${RUN:-${LOAD:-$DEFAULT_RUN}}
DATA_DIR=${DATA_DIR:-data/wiki-cased}
IMAGE_SETS=${IMAGE_SETS:-vg_nococo}

# $LOAD/vokens/FILE.$IMAGE_SETS
vokenize_files en.valid.raw en.test.raw en.train.raw -- --max-img-num 50000 --sentences "${FLAGS[@]}"
