#!/usr/bin/env bash
# Train a matcher on COCO.
#   bash scripts/run_xmatching.bash 0,1,2,3 [flags of xmatching/main.py]
# 0,1,2,3 are the GPUs, one process each; on a machine without a GPU, processes on the CPU. auto: all GPUs, else the CPU;
# cpu: one process on the CPU, which takes all cores. Flags: python xmatching/main.py --help.
# OUTPUT=snap/xmatching/NAME: another snapshot than the published one's.
# On several machines, the same on each: NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 MASTER_PORT=29500 bash scripts/...
source "$(dirname "$0")/common.bash"
(($#)) || usage_error "the GPUs are missing, as in 0,1,2,3 (auto and cpu work too)"
GPUS=$1
OUTPUT=${OUTPUT:-snap/xmatching/clsmlp_sent-level_b1024_embed512_maxlen75_resnext_bert}

case "$GPUS" in
    cpu)
        export CUDA_VISIBLE_DEVICES=
        PROCESSES=1
        ;;
    auto) PROCESSES=$(python -c "from xvoken.machine import gpu_count; print(max(1, gpu_count()))") ;;
    *)
        read -r VISIBLE PROCESSES < <(python xmatching/gpus.py "$GPUS" || echo failed 0)
        [[ "$PROCESSES" != 0 ]] || exit 2
        [[ "$VISIBLE" == none ]] || export CUDA_VISIBLE_DEVICES=$VISIBLE
        ;;
esac

exec python xmatching/launch.py "$PROCESSES" --resume --output "$OUTPUT" "${@:2}"
