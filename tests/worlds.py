"""The small worlds that tests share: pictures, captions, a corpus, and matchers of the real classes."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tests import builder
from tests.running import alive, children, kill_group, limit_files, run, run_here, script, start, wait_until

# A training of linear heads with a learned temperature.
LINEAR = (
    "--head", "linear", "--text-pool", "mean", "--visn-pool", "maps", "--loss", "infonce", "--optim", "adamw", "--schedule", "cosine",
    "--weight-decay", "0.1", "--dropout", "0.5",
)  # fmt: skip


@dataclass
class World:
    """folder of everything; bert: a small text model with MiniLM's tokenizer; resnet: weights of a random resnet18."""

    folder: Path
    bert: Path
    resnet: Path

    @property
    def roots(self) -> list[str]:
        return ["--lxmert-root", f"{self.folder}/lxmert", "--image-root", f"{self.folder}/images", "--coco-root", f"{self.folder}/coco"]

    @property
    def towers(self) -> list[str]:
        return ["--lang", str(self.bert), "--visn", "resnet18", "--visn-weights", str(self.resnet)]

    def train_flags(self, output: Path, *more: object) -> list[str]:
        sets = ["--train-imgs", "shapes_train", "--valid-imgs", "shapes_valid"]
        size = ["--hidden", "32", "--dim", "16", "--batch-size", "8", "--epochs", "2", "--precision", "fp32", "--num-workers", "1"]
        cache = ["--cache", f"{self.folder}/cache"]
        return [*self.roots, *self.towers, *sets, *size, *cache, "--output", str(output), *map(str, more)]


def make_world(folder: Path) -> World:
    """Drawn shapes with two captions each as LXMERT lays them out, a small BERT with MiniLM's tokenizer, a random resnet18."""
    entries = {"train": [], "valid": []}
    (folder / "images").mkdir()
    for number, (colour, shape) in enumerate((c, s) for c in builder.COLOURS for s in ("circle", "square")):
        name = f"{colour}_{shape}"
        (folder / "images" / f"{name}.png").write_bytes(builder.png(colour, shape, 240 + 7 * number, 300 - 5 * number, ground=211))
        captions = [f"a {colour} {shape}", f"{shape} painted {colour}"]
        entries["valid" if number % 4 == 3 else "train"].append({"img_id": name, "sentf": {"mscoco": captions}})
    (folder / "lxmert").mkdir()
    for split, rows in entries.items():
        (folder / "lxmert" / f"shapes_{split}.json").write_text(json.dumps(rows))
    world = World(folder, folder / "tiny-bert", folder / "resnet18.safetensors")
    builder.save_bert(world.bert, **builder.sizes(32, 5, 4, max_position_embeddings=40))
    builder.minilm_tokenizer().save_pretrained(world.bert)
    builder.save_torchvision(world.resnet, "resnet18")
    return world


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
            "--image-sets", "pics", "--device", "cpu", "--limit", 12_000, *flags,
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


def make_scale_world(folder: Path, lines: int = LINES, pictures: int = PICTURES) -> ScaleWorld:
    """Pictures (one in fifty broken), a corpus with empty lines, and a snapshot of a matcher with random weights."""
    from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec

    world, rng = ScaleWorld(folder), random.Random(0)
    (folder / "pics").mkdir(parents=True)
    for i in range(pictures):
        path = folder / f"pics/{i:04d}.jpg"
        builder.blurred_noise(320, 240, np.random.default_rng(i), cell=40).save(path, quality=80)
        if i % 50 == 7:
            path.write_bytes(path.read_bytes()[:300])
    (folder / "pics.ids").write_text("".join(f"{i:04d}.jpg\n" for i in range(pictures)))
    text = [" ".join(rng.choices(WORDS, k=rng.randrange(40) if i % 97 else 0)) for i in range(lines)]
    world.corpus.write_text("".join(f"{line}\n" for line in text))
    builder.save_bert(folder / "text", **builder.sizes(64, 2, 2, max_position_embeddings=32))
    builder.save_torchvision(folder / "image.pth", "shufflenet_v2_x0_5")
    text, image = TextTowerSpec(str(folder / "text"), (2, 1)), ImageTowerSpec("shufflenet_v2_x0_5", str(folder / "image.pth"))
    builder.save_snapshot(world.load, text, image, hidden=64, dim=32, max_len=32)
    return world


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


def fill_disk(world: ScaleWorld, stage: str) -> None:
    """A file-size limit fails a part's file first, then, made larger, the file that joins them; after that the run goes on."""
    unbroken = world.outputs(stage)
    largest = max(map(len, unbroken.values()))
    if stage == "keys":
        largest = max(path.stat().st_size for path in (world.folder / "cache").glob("*.npy"))
    world.remove_outputs(stage)
    for limit, workers in ((PART_LIMIT[stage], "2"), (largest - 1, "1")):
        done = run(world.command(stage, "--num-workers", workers), preexec_fn=partial(limit_files, limit))
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        assert done.returncode == 1 and len(errors) == 1, done.stderr
        assert "no room" in errors[0] and "make room, then run the same command" in errors[0]
        assert "Traceback" not in done.stderr
    assert run_here(*world.command(stage, "--num-workers", "1")[1:]).returncode == 0
    assert world.outputs(stage) == unbroken
