#!/usr/bin/env bash
# Test the Ray engine on a cluster of two nodes on this machine; takes some minutes.
#   bash scripts/test_ray.bash
# Runs in a network namespace with loopback only, so that nothing outside can reach the cluster and no proxy gets in the way.
source "$(dirname "$0")/common.bash"
python -c "import ray" 2> /dev/null || python -m pip install --quiet --disable-pip-version-check -e '.[ray]' -c constraints.txt
exec unshare --map-root-user --net --pid --fork --mount-proc bash -c "ip link set lo up && exec python tests/ray_cluster.py"
