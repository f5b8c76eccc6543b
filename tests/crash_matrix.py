"""All kinds of kills at several moments of every stage, and a full disk; some minutes, so not part of the default suite.

python -m pytest tests/crash_matrix.py
"""

import os
import random
import signal

import pytest

from tests.running import children, run_here, start, wait_until
from tests.worlds import ScaleWorld, break_run, fill_disk, make_scale_world


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> ScaleWorld:
    return make_scale_world(tmp_path_factory.mktemp("crash") / "world")


@pytest.mark.parametrize("stage", ["tokenize", "keys", "retrieve"])
def test_all_breaks(world: ScaleWorld, stage: str) -> None:
    assert run_here(*world.command(stage, "--num-workers", "1")[1:]).returncode == 0
    unbroken = world.outputs(stage)
    for how in ("group", "worker", "parent", "ctrl-c"):
        for seed in range(3):
            world.remove_outputs(stage)
            break_run(world, stage, how, random.Random(seed))
            done = run_here(*world.command(stage, "--num-workers", "1")[1:])
            assert done.returncode == 0, done.stderr
            assert world.outputs(stage) == unbroken


@pytest.mark.parametrize("stage", ["tokenize", "keys", "retrieve"])
def test_full_disk(world: ScaleWorld, stage: str) -> None:
    fill_disk(world, stage)


def test_ctrl_c_while_workers_start(world: ScaleWorld) -> None:
    world.remove_outputs("tokenize")
    process = start(world.tokenize("--num-workers", "2"))
    wait_until(lambda: children(process.pid), what="a worker")
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=10)[1]
    assert process.returncode == 130 and "Traceback" not in error, error
