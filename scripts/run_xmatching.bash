#!/usr/bin/env bash
# Train a matcher on COCO.
#   bash scripts/run_xmatching.bash 0,1,2,3 [NAME] [flags of xmatching/main.py]
# 0,1,2,3 are the GPUs, one process for each; on a machine without a GPU, as many processes on the CPU. auto: all GPUs, else the CPU;
# cpu: one process on the CPU, which takes all cores. python xmatching/main.py --help lists the flags.
# NAME: the run, a folder under snap/xmatching, or a path; OUTPUT=snap/xmatching/NAME does the same. Without both: the default one.
# A stopped training goes on when the same command is run again.
# On several machines, run the same command on each, with its own NODE_RANK:
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 MASTER_PORT=29500 bash scripts/run_xmatching.bash 0,1,2,3
source "$(dirname "$0")/common.bash"
(($#)) || usage_error "the first argument is missing: the GPUs, such as 0,1,2,3, or auto, or cpu"
[[ "$1" != -* ]] || usage_error "the first argument is $1: the GPUs come first, such as 0,1,2,3, or auto, or cpu"
take_arguments "$@"
[[ -z "$RUN" || -z "${OUTPUT:-}" ]] || usage_error "the run is named twice: OUTPUT=$OUTPUT and $RUN"
OUTPUT=${RUN:-${OUTPUT:-$DEFAULT_RUN}}

exec python xmatching/launch.py "$PROCESSES" --resume --output "$OUTPUT" "${FLAGS[@]}"
