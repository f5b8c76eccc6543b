"""Every long stage, killed and started again, gives the bytes of an unbroken run."""

import random
import re
import shutil

import pytest

from tests.running import run_here, start, wait_until
from tests.worlds import ScaleWorld, break_run, fill_disk, make_scale_world

BREAKS = {"tokenize": ("group", "parent"), "keys": ("worker",), "retrieve": ("ctrl-c",)}  # crash_matrix.py: all of all


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> ScaleWorld:
    return make_scale_world(tmp_path_factory.mktemp("crash") / "world")


@pytest.mark.slow
@pytest.mark.parametrize("stage", BREAKS)  # in this order: each reads what the one before it wrote
def test_broken_run_gives_the_same_bytes(world: ScaleWorld, stage: str) -> None:
    done = run_here(*world.command(stage, "--num-workers", "1")[1:])
    assert done.returncode == 0, done.stderr
    unbroken, rng = world.outputs(stage), random.Random()
    world.remove_outputs(stage)
    for how in BREAKS[stage]:
        break_run(world, stage, how, rng)
    done = run_here(*world.command(stage, "--num-workers", "1")[1:])
    assert done.returncode == 0, done.stderr
    assert world.outputs(stage) == unbroken
    assert not [path.name for path in world.folder.rglob("*") if path.name.endswith((".parts", ".tmp"))]
    assert "skipped" in run_here(*world.command(stage)[1:]).stderr


@pytest.mark.slow
def test_full_disk_is_one_line_and_the_run_goes_on(world: ScaleWorld) -> None:
    fill_disk(world, "tokenize")


@pytest.mark.slow
def test_parts_removed_in_mid_run_are_a_failure(world: ScaleWorld) -> None:
    """A chain of commands must not go on without the output."""
    unbroken = world.outputs("tokenize")
    world.remove_outputs("tokenize")
    process = start(world.tokenize("--num-workers", "2"))
    wait_until(world.markers, what="a part")
    shutil.rmtree(next(world.folder.glob("*.parts")), ignore_errors=True)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 1, error
    assert re.search(r"\nerror: .*\.parts\b.* run the same command again\n$", error) and "Traceback" not in error, error
    assert run_here(*world.tokenize()[1:]).returncode == 0
    assert world.outputs("tokenize") == unbroken


@pytest.mark.slow
def test_second_run_on_the_same_output_is_refused(world: ScaleWorld) -> None:
    world.remove_outputs("tokenize")
    first = start(world.tokenize("--num-workers", "2"))
    wait_until(lambda: list(world.folder.glob("*.parts/lock")), what="the lock")
    done = run_here(*world.tokenize()[1:])
    assert (done.returncode, "another run" in done.stderr, str(first.pid) in done.stderr) == (2, True, True)
    assert first.wait(60) == 0
