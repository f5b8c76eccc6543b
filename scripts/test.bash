#!/usr/bin/env bash
# Install what is missing into .venv, then run the default test suite.
#   bash scripts/test.bash [flags of pytest]
source "$(dirname "$0")/common.bash"
install_environment test test
exec python -m pytest "$@"
