"""A training killed at random moments ends with the bytes of an unbroken one."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import ROOT, killed_behind
from tests.worlds import LINEAR, World
from xvoken.encoders import snapshot as snapshots

RECIPE = [*LINEAR, "--views", 3, "--epochs", 40]


@pytest.mark.slow
def test_killed_at_random_moments(world: World, tmp_path: Path, script: Callable[..., str]):
    script("xmatching.main", *world.train_flags(tmp_path / "whole", *RECIPE))
    command = [sys.executable, "xmatching/main.py", *world.train_flags(tmp_path / "cut", *RECIPE, "--resume")]
    moments, kills = random.Random(1), 0
    for _ in range(2):
        run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not snapshots.training_file(tmp_path / "cut").exists() and run.poll() is None:
            time.sleep(0.01)  # the start takes most of the time of so small a training
        written = snapshots.training_file(tmp_path / "cut").stat().st_mtime_ns
        while snapshots.training_file(tmp_path / "cut").stat().st_mtime_ns == written and run.poll() is None:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.2))
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
            kills += 1
        run.wait()
    assert kills, "every run ended before it was killed"
    script("xmatching.main", *world.train_flags(tmp_path / "cut", *RECIPE, "--resume"))
    for tag in ("LAST", "BEST"):
        whole, cut = (snapshots.tensors_file(tmp_path / name, tag).read_bytes() for name in ("whole", "cut"))
        assert whole == cut, tag
    state = [snapshots.read_tensors(snapshots.training_file(tmp_path / name))[0] for name in ("whole", "cut")]
    assert state[0].keys() == state[1].keys()
    assert "objective.log_scale" in state[0]
    assert all(state[0][name].equal(state[1][name]) for name in state[0])
    assert len(snapshots.metrics_file(tmp_path / "cut").read_text().splitlines()) == 40


def test_a_finished_training_of_an_older_version_is_recognized(world: World, tmp_path: Path, script: Callable[..., str]):
    """Files that say nothing of head, pooling and the like are those of the published recipe."""
    flags = world.train_flags(tmp_path / "old", "--epochs", 1)
    script("xmatching.main", *flags)
    path = snapshots.training_file(tmp_path / "old")
    tensors, header = snapshots.read_tensors(path)
    for name in ("head", "hidden_layers", "text_pool", "visn_pool", "level"):
        del header["config"]["model"][name]
    later = "temperature schedule views crop_scale tower_lr weight_decay hinge_warmup train_precision load precision"
    for name in later.split():
        del header["config"]["training"][name]
    snapshots.write_tensors(path, tensors, header)
    assert "is trained already" in script("xmatching.main", *flags)


def test_old_heads_load(world: World, matcher: Path, tmp_path: Path):
    from xvoken.encoders.encoder import load_encoder

    tensors, config = snapshots.read_tensors(snapshots.tensors_file(matcher, "BEST"))
    for name in snapshots.ModelConfig.unsaid():
        config["model"].pop(name, None)
    snapshots.write_tensors(tmp_path / "BEST.safetensors", tensors, config)
    os.symlink(matcher / "tokenizer", tmp_path / "tokenizer")
    assert load_encoder(str(tmp_path), [], "cpu").text_head.state_dict()["layers.0.weight"].equal(tensors["text_head.layers.0.weight"])


@pytest.mark.parametrize("flag", ["--lr", "--views", "--head", "--precision"])
def test_other_settings_are_refused(world: World, tmp_path: Path, script: Callable[..., str], flag: str):
    from xvoken.errors import UserError

    script("xmatching.main", *world.train_flags(tmp_path / "out", "--epochs", 1))
    with pytest.raises(UserError, match="was trained with other settings"):
        value = {"--lr": 0.5, "--views": 2, "--head": "linear", "--precision": "bf16"}[flag]
        script("xmatching.main", *world.train_flags(tmp_path / "out", "--epochs", 1, flag, value))


@pytest.mark.slow
def test_going_on_with_epochs_of_the_version_that_took_equal_scores_for_hits(world: World, tmp_path: Path, script: Callable[..., str]):
    """Their recall and that of the epochs to come are two things: it says so, and goes on."""
    flags = world.train_flags(tmp_path / "m", "--epochs", 2)
    command = ["xmatching/main.py", *flags]
    killed_behind("metrics.jsonl", command)  # the first epoch's, whose state is not saved yet
    killed_behind(snapshots.training_file(tmp_path / "m").name, command)
    tensors, header = snapshots.read_tensors(snapshots.training_file(tmp_path / "m"))
    assert len(header["records"]) == 1
    assert "counted equal scores as hits" not in script("xmatching.main", *flags, "--resume")
    del header["equal_scores"]
    snapshots.write_tensors(snapshots.training_file(tmp_path / "m"), tensors, header)
    printed = script("xmatching.main", *flags, "--resume")
    assert "the first 1 epochs were measured by a version that counted equal scores as hits" in printed
    assert "wrote the matcher" in printed
