"""A small world for the tests of long work: a matcher with random weights, pictures, a corpus, and its stages."""

import importlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from xvoken.cli.main import run_main

ROOT = Path(__file__).resolve().parents[1]
LINES, PICTURES = 50_000, 800
PART_LIMIT = {"tokenize": 100_000, "keys": 300_000, "retrieve": 50_000}  # bytes, less than a part's file takes
WORDS = ["the", "a", "dog", "cat", "red", "blue", "house", "runs", "sleeps", "on", "under", "happy", "unaffable", "water", "12,5%"]


@dataclass
class ScaleWorld:
    """Where everything lies, and the commands that make it."""

    folder: Path

    @property
    def load(self) -> Path:
        return self.folder / "snap"

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus.txt"

    def tokenize(self, *flags: str) -> list[str]:
        return script("tokenization/tokenize_dataset.py", self.folder, self.corpus.name, "minilm", *flags)

    def keys(self, *flags: str) -> list[str]:
        return script(
            "vokenization/extract_vision_keys.py", "--load", self.load, "--image-sets", f"pics={self.folder / 'pics'}",
            "--ids-root", self.folder, "--cache", self.folder / "cache", "--device", "cpu", *flags,
        )  # fmt: skip

    def retrieve(self, *flags: str) -> list[str]:
        return script(
            "vokenization/vokenize_corpus_mp.py", "--load", self.load, "--corpus", self.corpus, "--tokenizer-name", "minilm",
            "--image-sets", "pics", "--device", "cpu", "--limit", 20_000, *flags,
        )  # fmt: skip

    def command(self, stage: str, *flags: str) -> list[str]:
        return getattr(self, stage)(*flags)

    def outputs(self, stage: str) -> dict[str, bytes]:
        """The finished files of a stage, by name."""
        folder = {"tokenize": self.folder, "keys": self.load / "keys", "retrieve": self.load / "vokens"}[stage]
        pattern = "corpus.txt.*" if stage == "tokenize" else "*"
        # A report tells of seconds and memory, no two are equal.
        files = [path for path in folder.glob(pattern) if path.is_file() and not path.name.endswith(".report.json")]
        return {path.name: path.read_bytes() for path in files}

    def remove_outputs(self, stage: str) -> None:
        """Make the stage's files, and the cache it may use, as if it had never run."""
        folder = {"tokenize": self.folder, "keys": self.load / "keys", "retrieve": self.load / "vokens"}[stage]
        for path in folder.glob("corpus.txt.*" if stage == "tokenize" else "*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if stage == "keys":
            shutil.rmtree(self.folder / "cache", ignore_errors=True)

    def markers(self) -> int:
        """How many parts are done of whatever is at work."""
        return len([p for p in self.folder.rglob("*.parts/*.json") if p.stem.isdigit()])


def script(path: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / path), *map(str, arguments)]


def run(command: list[str], **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=200, **options)


def start(command: list[str], cwd: Path | None = None) -> subprocess.Popen:
    """Start a command as the leader of a process group of its own."""
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=cwd)


def children(pid: int) -> list[int]:
    """The worker processes of a run (multiprocessing's resource tracker is none)."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in path.read_text().split()]
    return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def run_inside(command: list[str], capsys) -> tuple[int, str]:
    """Run a stage's main() in this process, where everything is imported already: exit code, stderr."""
    name = Path(command[1]).relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    code = 0
    try:
        run_main(partial(importlib.import_module(name).main, command[2:]))
    except SystemExit as exit_:
        code = exit_.code
    return code, capsys.readouterr().err


def break_run(world: ScaleWorld, stage: str, how: str, rng: random.Random) -> None:
    """Start a stage with two workers and break it at a random moment of its work; it must be broken, not finished."""
    for _ in range(5):
        before = world.markers()
        process = start(world.command(stage, "--num-workers", "2"))
        try:
            wait_until(partial(_moved_on, world, before, process), what="a part")
            time.sleep(rng.uniform(0, 0.2))
            workers = children(process.pid)
            if process.poll() is None and len(workers) == 2:
                _break(process, workers, how, rng)
        finally:
            if process.poll() is None:
                kill_group(process)
        if world.markers():
            return
        world.remove_outputs(stage)  # it was faster than we: once more
    raise AssertionError(f"{stage}: no {how} came before the run had ended")


def _moved_on(world: ScaleWorld, before: int, process: subprocess.Popen) -> bool:
    return world.markers() > before or process.poll() is not None


def _break(process: subprocess.Popen, workers: list[int], how: str, rng: random.Random) -> None:
    if how == "group":
        kill_group(process)
    elif how == "worker":
        os.kill(rng.choice(workers), signal.SIGKILL)
        error = process.communicate(timeout=30)[1]
        assert process.returncode in (0, 1), error
        if process.returncode:
            assert "killed by SIGKILL" in error and "run the same command to go on" in error and "Traceback" not in error
    elif how == "parent":
        process.kill()
        process.wait()
    elif how == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)
        error = process.communicate(timeout=10)[1]
        assert process.returncode in (0, 130), error  # 0: it had ended before; break_run sees no parts, and tries again
        clean = "run the same command to go on" in error and "Traceback" not in error
        assert process.returncode == 0 or clean, error
    wait_until(lambda: not any(map(alive, workers)), 10, "the workers to end by themselves")


SIGNAL_BEHIND = """
import os, runpy, sys
rename, (number, name, *sys.argv) = os.replace, sys.argv[1:]

def replace(source, target, **options):
    rename(source, target, **options)
    if os.path.basename(target) == name:
        os.kill(os.getpid(), int(number))

os.replace = replace
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def killed_behind(name: str, command: list[object], cwd: Path = ROOT) -> None:
    """Run a script (its path, then its flags) that is killed as soon as it has renamed a file to `name`."""
    process = _signalled_behind(signal.SIGKILL, name, command, cwd)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == -signal.SIGKILL, error


def stopped_behind(name: str, command: list[object], cwd: Path = ROOT) -> subprocess.Popen:
    """Start a script that stands still when it has renamed a file to `name`, until it is sent SIGCONT."""
    process = _signalled_behind(signal.SIGSTOP, name, command, cwd)
    wait_until(lambda: process.poll() is not None or state(process.pid) == "T", what=name)
    assert process.poll() is None, process.communicate()
    return process


def _signalled_behind(number: int, name: str, command: list[object], cwd: Path = ROOT) -> subprocess.Popen:
    return start([sys.executable, "-c", SIGNAL_BEHIND, str(int(number)), name, *map(str, command)], cwd)


def fill_disk(world: ScaleWorld, stage: str, capsys) -> None:
    """A file-size limit fails a part's file first, then, made larger, the file that joins them; after that the run goes on."""
    unbroken = world.outputs(stage)
    largest = max(map(len, unbroken.values()))
    if stage == "keys":
        largest = max(path.stat().st_size for path in (world.folder / "cache").glob("*.npy"))
    world.remove_outputs(stage)
    for limit, workers in ((PART_LIMIT[stage], "2"), (largest - 1, "1")):
        done = run(world.command(stage, "--num-workers", workers), preexec_fn=partial(_limit_files, limit))
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        assert done.returncode == 1 and len(errors) == 1, done.stderr
        assert "no room" in errors[0] and "make room, then run the same command" in errors[0]
        assert "Traceback" not in done.stderr
    assert run_inside(world.command(stage, "--num-workers", "1"), capsys)[0] == 0
    assert world.outputs(stage) == unbroken


def _limit_files(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def wait_until(condition, seconds: float = 120, what: str = "it") -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, f"waited {seconds} s for {what}"
        time.sleep(0.005)


def state(pid: int) -> str:
    """Of a process: R, S, T (stopped), Z (ended), ..."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def alive(pid: int) -> bool:
    try:
        return state(pid) != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_group(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def make_world(folder: Path, lines: int = LINES, pictures: int = PICTURES) -> ScaleWorld:
    """Pictures (one in fifty broken), a corpus with empty lines, and a snapshot of a matcher with random weights."""
    world, rng = ScaleWorld(folder), random.Random(0)
    (folder / "pics").mkdir(parents=True)
    for i in range(pictures):
        path = folder / f"pics/{i:04d}.jpg"
        noise = np.random.default_rng(i).integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(noise).resize((320, 240)).save(path, quality=80)
        if i % 50 == 7:
            path.write_bytes(path.read_bytes()[:300])
    (folder / "pics.ids").write_text("".join(f"{i:04d}.jpg\n" for i in range(pictures)))
    text = [" ".join(rng.choices(WORDS, k=rng.randrange(40) if i % 97 else 0)) for i in range(lines)]
    world.corpus.write_text("".join(f"{line}\n" for line in text))
    _make_snapshot(folder)
    return world


def _make_snapshot(folder: Path) -> None:
    from torchvision import models
    from transformers import BertConfig, BertModel

    from xvoken.encoders import snapshot as snapshots
    from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec, build_heads
    from xvoken.encoders.text import weights_hash
    from xvoken.encoders.tokenizer import load_tokenizer

    torch.manual_seed(0)
    tokenizer = load_tokenizer("minilm")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "text")
    torch.save(models.shufflenet_v2_x0_5(weights=None).state_dict(), folder / "image.pth")
    text, image = TextTowerSpec(str(folder / "text"), (2, 1)), ImageTowerSpec("shufflenet_v2_x0_5", str(folder / "image.pth"))
    text_tower, image_tower = text.build(), image.build()
    model = {
        "lang": text.name, "lang_hash": weights_hash(text_tower), "lang_layers": [2, 1], "text_width": text_tower.width,
        "visn": image.name, "visn_weights": image.weights, "visn_hash": weights_hash(image_tower), "image_width": image_tower.width,
        "dim": 32, "hidden": 64, "dropout": 0.0, "max_len": 32,
    }  # fmt: skip
    tensors = torch.nn.ModuleDict(build_heads(snapshots.ModelConfig.read(model))).state_dict()
    snapshots.write(folder / "snap", "BEST", {"model": model, "epoch": 0}, tensors, ["tests"])
    tokenizer.save_pretrained(folder / "snap/tokenizer")
