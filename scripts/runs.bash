#!/usr/bin/env bash
# Print a table of all trainings in a folder, best recall first.
#   bash scripts/runs.bash [FOLDER]        (snap/xmatching by default)
source "$(dirname "$0")/common.bash"
exec python xmatching/runs.py "$@"
