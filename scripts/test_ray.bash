#!/usr/bin/env bash
# The Ray engine on a real cluster of two nodes on this machine; some minutes.
#   bash scripts/test_ray.bash
# Runs in a network of its own, with loopback only: nothing is reached from outside, and proxies do not come between.
source "$(dirname "$0")/common.bash"
python -c "import ray" 2> /dev/null || python -m pip install --quiet --disable-pip-version-check -e '.[ray]' -c constraints.txt
exec unshare --map-root-user --net --pid --fork --mount-proc bash -c "ip link set lo up && exec python tests/ray_cluster.py"
