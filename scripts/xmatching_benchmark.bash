#!/usr/bin/env bash
# Judge a matcher on captioned sets: recall in both directions with intervals, mean ranks, mAP@R, and published figures where there are some.
#   bash scripts/xmatching_benchmark.bash 0 NAME [flags of vokenization/evaluate_retrieval.py]
# 0 are the GPUs, such as 0,1; auto: all GPUs, else the CPU; cpu. NAME is the snapshot's folder under snap/xmatching, or a path; for a CLIP model
# the folder that its keys are in, with its hub id or folder as a flag: --load openai/clip-vit-base-patch32.
# IMAGE_SETS=: separated by commas, coco_minival by default (with PROTOCOLS none); PROTOCOLS=: of the Karpathy split, separated by commas,
# such as coco5k,coco1k,flickr. Their keys must be there (vokenization/extract_vision_keys.py). CORPORA=: texts or captioned sets, for how many
# different pictures of IMAGE_SETS their tokens get; CORPORA_FLAGS=: flags of vokenization/evaluate_diversity.py, which measures it.
# The tables are shown, and written to snap/xmatching/NAME/analysis.log when all are there; measured figures are not measured again.
source "$(dirname "$0")/common.bash"
(($# >= 2)) || usage_error "two arguments are needed: the GPUs, such as 0, or auto, or cpu, and the snapshot's name"
name_run "$2"
LOAD=$RUN
[[ -d "$LOAD" ]] || usage_error "$LOAD: no such snapshot; train it with: OUTPUT=$LOAD bash scripts/run_xmatching.bash $1"
PROTOCOLS=${PROTOCOLS:-}
[[ -n "${IMAGE_SETS:-}" || (-n "$PROTOCOLS" && -z "${CORPORA:-}") ]] || IMAGE_SETS=coco_minival
read -r -a DIVERSITY_FLAGS <<< "${CORPORA_FLAGS:-}"
choose_gpus "$1"

# evaluate WHAT FLAGS...: the tables of vokenization/evaluate_WHAT.py, without the lines that tell what was written, so that the log is the same when run again
evaluate() {
    python "vokenization/evaluate_$1.py" --load "$LOAD" "${@:2}" > "$TABLES"
    sed '/^wrote /d' "$TABLES" | tee -a "$LOG"
}

# $LOAD/analysis.log: the tables, under a temporary name until all are there
LOG=$(mktemp "$LOAD/.analysis.log.XXXXXX.tmp")
TABLES=$(mktemp)
trap 'rm -f "$LOG" "$TABLES"' EXIT
[[ -z "${IMAGE_SETS:-}" ]] || evaluate retrieval --image-sets "$IMAGE_SETS" "${@:3}"
for PROTOCOL in ${PROTOCOLS//,/ }; do
    evaluate retrieval --protocol "$PROTOCOL" "${@:3}"
done
[[ -z "${CORPORA:-}" ]] || evaluate diversity --image-sets "$IMAGE_SETS" --corpus "$CORPORA" "${DIVERSITY_FLAGS[@]}"
chmod "$(printf '%o' $((0666 & ~$(umask))))" "$LOG"
mv "$LOG" "$LOAD/analysis.log"
echo "wrote $LOAD/analysis.log"
