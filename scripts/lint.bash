#!/usr/bin/env bash
# Check style and types: ruff's rules and its format, and the library's types with ty.
#   bash scripts/lint.bash
source "$(dirname "$0")/common.bash"
install_environment test test
ruff check .
ruff format --check .
exec ty check --python .venv xvoken  # always .venv, even if another environment is active
