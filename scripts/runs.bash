#!/usr/bin/env bash
# A table of all trainings, best recall first.
#   bash scripts/runs.bash [FOLDER of runs, snap/xmatching by default]
source "$(dirname "$0")/common.bash"
exec python xmatching/runs.py "$@"
