"""A training that is finished ends at once: without torch, and never in spite of a file that has changed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from xvoken.interrupts import STOPPED

import pytest
from safetensors.torch import load_file, save_file

from tests.running import ROOT
from tests.worlds import World
from xmatching.finished import known_towers, remember_towers, tower_start
from xmatching.param import parse_args
from xmatching.settings import ImageFacts, TextFacts
from xvoken.encoders import snapshot as snapshots
from xvoken.towers.sources import image_files, text_files

HEAVY = ("torch", "torchvision", "transformers", "faiss", "h5py")


def imported(script: str, *flags: object, **environment: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Run a script, and tell which of HEAVY it imported."""
    command = [sys.executable, script, *map(str, flags)]
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1", **environment}  # also of what the script starts
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=120)
    lines = done.stderr.splitlines()
    names = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    said = "\n".join(line for line in lines if not line.startswith("import time:"))
    return subprocess.CompletedProcess(command, done.returncode, done.stdout, said), names & set(HEAVY)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def trained(world: World, home: Path) -> list[str]:
    """The flags of a finished training, whose towers are known in `home`."""
    folder = world.folder / "finished"
    (folder / "towers").mkdir(parents=True)
    weights = folder / "towers" / "resnet18.safetensors"
    save_file(load_file(world.resnet), weights)
    flags = world.train_flags(folder / "m", "--epochs", 1, "--visn-weights", weights)
    done, found = imported("xmatching/main.py", *flags, XDG_CACHE_HOME=str(home))
    assert done.returncode == 0 and "wrote the matcher" in done.stdout, done.stderr
    assert "torch" in found
    return flags


@pytest.mark.slow
@pytest.mark.parametrize("command", [["xmatching/main.py"], ["xmatching/launch.py", 1], ["xmatching/launch.py", 2]])
def test_a_finished_training_is_skipped_without_torch(trained: list[str], home: Path, command: list[object]):
    output = Path(trained[trained.index("--output") + 1])
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    done, found = imported(*command, *trained, XDG_CACHE_HOME=str(home))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"skipped: {output} is trained already (1 epochs, same settings)"
    assert not found
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_heads_in_closed_form_are_skipped_and_refused_without_torch(joined_matcher: Path):
    command = json.loads((joined_matcher / "BEST.json").read_text())["command"].split()
    flags = command[1 + next(number for number, word in enumerate(command) if word.endswith("main.py")) :]
    done, found = imported("xmatching/main.py", *flags)
    assert (done.returncode, done.stderr) == (0, f"skipped: {joined_matcher} is trained already (0 epochs, same settings)")
    assert not found
    done, found = imported("xmatching/main.py", *flags, "--ridge", 2)
    assert done.returncode == 2 and "was trained with other settings (ridge: 1.0 then, 2.0 now)" in done.stderr
    assert not found


def test_other_settings_are_refused_without_torch(trained: list[str], home: Path):
    done, found = imported("xmatching/main.py", *trained, "--lr", 0.5, XDG_CACHE_HOME=str(home))
    assert done.returncode == 2 and "was trained with other settings (lr: 0.001 then, 0.5 now)" in done.stderr
    assert not found


@pytest.mark.slow
def test_towers_that_nobody_knows_are_loaded_once(trained: list[str], tmp_path: Path):
    for expected in (True, False):
        done, found = imported("xmatching/main.py", *trained, XDG_CACHE_HOME=str(tmp_path))
        assert done.returncode == 0 and "is trained already" in done.stderr
        assert ("torch" in found) == expected


@pytest.mark.slow
def test_what_is_missing_is_written_and_a_missing_snapshot_refused(trained: list[str], home: Path):
    output = Path(trained[trained.index("--output") + 1])
    (output / "README.md").unlink()
    done, found = imported("xmatching/main.py", *trained, XDG_CACHE_HOME=str(home))
    assert done.returncode == 0 and "wrote what was missing" in done.stdout and done.stderr.count("is trained already") == 1
    assert "torch" in found and (output / "README.md").exists()
    best = snapshots.tensors_file(output, "BEST")
    best.rename(output / "away")
    try:
        done, found = imported("xmatching/main.py", *trained, XDG_CACHE_HOME=str(home))
        assert done.returncode == 2 and f"{best} is gone" in done.stderr and not found
    finally:
        (output / "away").rename(best)


@pytest.mark.slow
def test_changed_weights_are_another_training(trained: list[str], home: Path):
    """Of the same size, and with its time set back."""
    weights = Path(trained[len(trained) - 1 - trained[::-1].index("--visn-weights") + 1])
    before, content = weights.stat(), weights.read_bytes()
    state = load_file(weights)
    state["layer4.1.conv2.weight"] += 1
    save_file(state, weights)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.stat().st_size == before.st_size
    try:
        done, found = imported("xmatching/main.py", *trained, XDG_CACHE_HOME=str(home))
        assert done.returncode == 2 and "was trained with other settings (visn_hash:" in done.stderr and "torch" in found
    finally:
        weights.write_bytes(content)
    done, _ = imported("xmatching/main.py", *trained, XDG_CACHE_HOME=str(home))
    assert done.returncode == 0 and "is trained already" in done.stderr


@pytest.mark.slow
def test_a_run_that_stopped_is_refused_or_goes_on(trained: list[str], home: Path, tmp_path: Path):
    output = Path(trained[trained.index("--output") + 1])
    path = snapshots.training_file(shutil.copytree(output, tmp_path / "m"))
    tensors, header = snapshots.read_tensors(path)
    header["config"]["training"]["epochs"] = 2
    snapshots.write_tensors(path, tensors, header)
    flags = [*trained, "--output", tmp_path / "m", "--epochs", 2]
    done, found = imported("xmatching/main.py", *flags, XDG_CACHE_HOME=str(home))
    assert done.returncode == 2 and "stopped after epoch 1; add --resume to go on" in done.stderr and not found
    done, found = imported("xmatching/main.py", *flags, "--resume", XDG_CACHE_HOME=str(home))
    assert done.returncode == 0 and "epoch 2/2" in done.stderr and "torch" in found


TEXT, IMAGE = TextFacts("a" * 16, 128, "b" * 16, 40), ImageFacts("c" * 16, 512)


def test_what_is_known_hangs_on_flags_and_files(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    args = parse_args(world.towers)
    assert known_towers(args) is None
    remember_towers(
        args, TEXT, IMAGE, replace(tower_start(args), since=min(path.stat().st_ctime for path in world.bert.iterdir()))
    )  # changed while it was read
    assert known_towers(args) is None
    remember_towers(args, TEXT, IMAGE, tower_start(args))
    assert known_towers(args) == (TEXT, IMAGE)
    for more in (["--lang-layers", "1"], ["--text-pool", "mean"], ["--visn-pool", "max"], ["--visn", "resnet34"]):
        assert known_towers(parse_args([*world.towers, *more])) is None
    monkeypatch.chdir(tmp_path)  # a relative name is another folder here
    assert known_towers(parse_args([*world.towers, "--lang", world.bert.name])) is None
    monkeypatch.chdir(world.bert.parent)
    assert known_towers(parse_args([*world.towers, "--lang", world.bert.name])) == (TEXT, IMAGE)


def test_files_of_towers(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A hub id's lie in the hub's cache, as its main branch names them; published weights where torch puts them."""
    assert text_files(str(world.bert)) == [world.bert]
    assert [path.name for path in text_files("minilm")] == ["model"]
    assert text_files("nosuch/model") == text_files("./nosuch") == image_files("resnet18", "nosuch.pth") == []
    repo = tmp_path / "models--some--model"
    (repo / "snapshots" / "abc").mkdir(parents=True)
    (repo / "snapshots" / "abc" / "config.json").write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert text_files("some/model") == [repo / "snapshots" / "abc", repo / "refs" / "main"]
    assert image_files("resnet18", str(world.resnet)) == [world.resnet]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert image_files("resnet18", None) == []
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    assert image_files("resnet18", None) == [tmp_path / "torch" / "hub" / "checkpoints"]
    assert image_files("efficientnet_lite2", None)[-1].name == "models"


def test_ctrl_c_in_the_heavy_import(world: World, tmp_path: Path):
    """main() runs by then: one line, nothing left behind."""
    command = [sys.executable, "xmatching/main.py", *world.train_flags(tmp_path / "m")]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    maps = Path(f"/proc/{run.pid}/maps")
    while "libtorch" not in maps.read_text():
        time.sleep(0.005)
    os.kill(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert (run.returncode, said) == (130, f"{STOPPED}\n")
    assert not (tmp_path / "m").exists()


def test_the_command_is_kept_with_the_snapshot(world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    from xmatching.main import main

    main(world.train_flags(tmp_path / "m", "--epochs", 1))
    assert "--output" in json.loads((tmp_path / "m/BEST.json").read_text())["command"]
    assert "wrote the matcher" in capfd.readouterr().out


def test_scripts_take_their_arguments(tmp_path: Path, matcher: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    from xmatching import gpus, launch, runs

    monkeypatch.setattr("xmatching.gpus.gpu_count", lambda: 0)
    gpus.main(["0"])
    assert capfd.readouterr().out == "none 1\n"
    runs.main([str(matcher.parent)])
    assert matcher.name in capfd.readouterr().out
    with pytest.raises(SystemExit) as end:
        launch.main(["none"])
    assert end.value.code == 2


@pytest.mark.slow
def test_a_name_that_is_none_ends_with_one_line(trained: list[str], home: Path):
    done, _ = imported("xmatching/main.py", *trained, "--lang", "a b", XDG_CACHE_HOME=str(home))
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
