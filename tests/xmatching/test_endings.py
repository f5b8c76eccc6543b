"""How a training ends that can't go on, or that was killed at the last moment; and two at once."""

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.running import ROOT, killed_behind, run_here, start, wait_until
from tests.worlds import World
from xvoken.encoders import snapshot as snapshots


def train(flags: list[str], limit: int) -> subprocess.CompletedProcess[str]:
    """As a user does, with files of at most `limit` bytes."""
    limits = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    command = [sys.executable, "xmatching/main.py", *flags]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=120, preexec_fn=limits)


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "more", "at"), [(100_000, [], "tokenizer"), (1_000_000, ["--hidden", "1024"], "LAST.safetensors")])
def test_a_full_disk_is_one_line(world: World, matcher: Path, tmp_path: Path, limit: int, more: list[str], at: str):
    """The cache is filled already; the tokenizer's largest file has 700,000 bytes, the heads have more than a million."""
    flags = world.train_flags(tmp_path / "m", *more)
    done = train(flags, limit)
    last = f"error: no room on the disk for {tmp_path / 'm' / at}; make room, then run the same command to go on"
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == last and "Traceback" not in done.stderr, done.stderr
    assert not [path.name for path in (tmp_path / "m").rglob("*") if path.name.startswith(".")]
    done = run_here("xmatching/main.py", *flags)
    assert done.returncode == 0 and "wrote the matcher" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_training_killed_behind_its_last_epoch_gets_its_card(world: World, matcher: Path, tmp_path: Path, script: Callable[..., str]):
    output = tmp_path / "m"
    flags = ["xmatching/main.py", *world.train_flags(output, "--epochs", 1)]
    killed_behind(snapshots.training_file(output).name, flags)
    assert not (output / "README.md").exists() and snapshots.training_file(output).exists()
    printed = script("xmatching.main", *flags[1:])
    assert "trained already" in printed and "wrote what was missing" in printed
    assert "best epoch 1 of 1" in (output / "README.md").read_text() and (output / "curves.png").exists()
    (output / "README.md").write_text("edited")
    assert "wrote" not in script("xmatching.main", *flags[1:])
    assert (output / "README.md").read_text() == "edited"
    shutil.rmtree(snapshots.tokenizer_folder(output))
    assert "wrote what was missing" in script("xmatching.main", *flags[1:])
    assert snapshots.has_tokenizer(output)
    snapshots.tensors_file(output, "BEST").unlink()
    assert "BEST.safetensors is gone" in run_here(*flags).stderr


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_training_of_the_same_output_is_refused(world: World, matcher: Path, tmp_path: Path, processes: int):
    output = tmp_path / "m"
    first = start([sys.executable, str(ROOT / "xmatching/main.py"), *world.train_flags(output, "--epochs", 100_000)])
    wait_until(snapshots.training_file(output).exists, what="an epoch")
    command = [sys.executable, "xmatching/launch.py", str(processes), *world.train_flags(output, "--lr", 0.5)]
    second = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=120)
    lines = [line for line in second.stderr.splitlines() if "error" in line]
    mend = f"error: another run (process {first.pid}) is at work on {output}; wait for it, or stop it first"
    assert (second.returncode, lines) == (2, [mend]), second.stderr
    first.send_signal(signal.SIGINT)
    assert first.communicate(timeout=60) and first.returncode == 130
    assert not list(output.glob(".*"))


@pytest.mark.slow
def test_a_snapshot_removed_in_mid_training_is_a_failure(world: World, matcher: Path, tmp_path: Path, script: Callable):
    """Another run may be at work there by now."""
    output = tmp_path / "m"
    process = start([sys.executable, str(ROOT / "xmatching/main.py"), *world.train_flags(output, "--epochs", 20)])
    wait_until(snapshots.training_file(output).exists, what="an epoch")
    output.rename(tmp_path / "moved")  # at one stroke; rm may meet a file that is written behind its back
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and f"error: {output} was removed while this run was at work in it" in error.splitlines()[-1], error
    assert not output.exists()
