#!/usr/bin/env bash
# Test and measure on one GPU, in 9 minutes at most, without a network, with the torch, torchvision, transformers, h5py and pytest that
# are there. What a machine has not (faiss, torchcodec, ijson, platformdirs) is done without.
#   bash scripts/bench_gpu.bash
#   XVOKEN_AS_GPU=cpu bash scripts/bench_gpu.bash --small     # the same on the CPU: shows that it runs
# Writes bench_gpu.json (each test, each benchmark), bench_gpu.md (rows for benchmarks/RESULTS.md) and bench_gpu.log into $OUT, else snap/.
# WHEELS (default: build/wheels): a folder whose wheels are used too, without their dependencies. Flags: python scripts/bench_gpu.py --help
source "$(dirname "$0")/common.bash"
for PYTHON in python python3; do
    "$PYTHON" -c "import torch" 2> /dev/null && break
done
WHEELS=${WHEELS:-build/wheels}
if compgen -G "$WHEELS/*.whl" > /dev/null; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    for wheel in "$WHEELS"/*.whl; do
        "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --target "$site" "$wheel" >&2 ||
            echo "done without: $wheel" >&2
    done
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
export HF_HUB_OFFLINE=1
"$PYTHON" scripts/bench_gpu.py "$@"
