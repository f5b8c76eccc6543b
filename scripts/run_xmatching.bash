#!/usr/bin/env bash
# Train a matcher on COCO.
#   bash scripts/run_xmatching.bash 0,1,2,3 [flags of xmatching/main.py]
# 0,1,2,3 are the GPUs, one process each; on a machine without a GPU, processes on the CPU.
source "$(dirname "$0")/common.bash"
GPUS=${1:?"usage: bash scripts/run_xmatching.bash GPUS, as in 0,1,2,3"}
OUTPUT=${OUTPUT:-snap/xmatching/clsmlp_sent-level_b1024_embed512_maxlen75_resnext_bert}

read -r VISIBLE PROCESSES < <(python -m xvoken.devices "$GPUS" || echo failed 0)
[[ "$PROCESSES" != 0 ]] || exit 2
[[ "$VISIBLE" == none ]] || export CUDA_VISIBLE_DEVICES=$VISIBLE

exec python xmatching/launch.py "$PROCESSES" --resume --output "$OUTPUT" "${@:2}"
