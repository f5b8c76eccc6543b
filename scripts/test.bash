#!/usr/bin/env bash
# Install what is missing into .venv, then run the default test suite, a test file per core at a time.
#   bash scripts/test.bash [flags of pytest]
source "$(dirname "$0")/common.bash"
install_environment test test
# Files whole, since tests of a file may build on each other; -n 0 runs all in one process, as a debugger needs it.
exec python -m pytest -n auto --maxprocesses 8 --dist loadfile "$@"
