#!/usr/bin/env bash
# Check style: ruff's rules and its format.
#   bash scripts/lint.bash
source "$(dirname "$0")/common.bash"
install_environment test test
ruff check .
exec ruff format --check .
