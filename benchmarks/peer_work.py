"""The rows of benchmarks/peers.py: for each work the commands of every tool, how they are run, and what they found."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks import peer_world
from xvoken.errors import RunError

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {"sbert": "sbert", "clip-retrieval": "inference", "loop": "loop"}
SENTENCE = "a dog on the beach"
Commands = list[list[str]]


@dataclass
class World:
    """folder: of this run; clip, keys, vectors: the model, our keys of the first photos, the same as .npy; pythons: tool -> Python."""

    folder: Path
    clip: Path
    photos: dict[int, Path]
    lines: list[str]
    counts: list[int]
    keys: Path
    vectors: Path
    pythons: dict[str, str]
    flags: list[str]
    isa: dict[str, str]
    bert: tuple[Path, Path] | None = None


@dataclass
class Work:
    """commands: tool, a new folder -> its commands; read: the same -> what they found, and how it is held against ours."""

    name: str
    unit: str
    items: int
    tools: list[str]
    commands: Callable[[str, Path], Commands]
    read: Callable[[str, Path], Any] = lambda tool, folder: None
    agrees: Callable[[Any, Any], float] = lambda ours, theirs: 0.0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    mb: dict[str, float] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)


# Commands, their time and their memory


def memory(session: int) -> float:
    """MB of all processes of a session, what several of them map counted once."""
    total = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rsplit(")", 1)[1].split()[3]) == session:
                total += int(next(line for line in (path / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:")).split()[1])
        except (OSError, StopIteration):  # it has ended
            continue
    return total / 1024


def run(commands: Commands, folder: Path, isa: dict[str, str], limit: float | None = None) -> tuple[float, float]:
    """Run commands one after the other, or kill what runs when `limit` seconds are over; returns seconds and MB."""
    started, most = time.perf_counter(), 0.0
    unset = ("OMP_NUM_THREADS", "PYTHONPATH")
    base = {name: value for name, value in os.environ.items() if name not in unset} | isa | {"HF_HUB_OFFLINE": "1"}
    for command in commands:
        env = base | ({"PYTHONPATH": str(ROOT)} if str(ROOT / "benchmarks/peers") not in command[1] else {})
        with open(folder / "log", "ab") as log:
            process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
        looked = 0.0
        while process.poll() is None:
            time.sleep(0.01)
            taken = time.perf_counter() - started
            if limit and taken > limit:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return taken, most
            if taken - looked > 0.5:  # a look takes some 20 ms
                looked, most = taken, max(most, memory(process.pid))
        if process.returncode:
            raise RunError(f"{shlex.join(command)} failed: {(folder / 'log').read_text(errors='replace')[-1500:]}")
    return time.perf_counter() - started, most


def stage(script: str, *flags: object) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, flags)]


def peer(world: World, tool: str, *words: object) -> Commands:
    return [[world.pythons[tool], str(peer_world.PEERS / f"{SCRIPTS[tool]}.py"), *map(str, words)]]


def encode(world: World, photos: Path, folder: Path) -> Commands:
    """Ours: ids, then keys, without a cache of an earlier run."""
    few = ["--ids-root", folder / "ids"]
    return [
        stage("vokenization/create_image_ids.py", "--image-sets", f"album={photos}", *few),
        stage(
            "vokenization/extract_vision_keys.py", "--load", world.clip, "--image-sets", "album", *few,
            "--output", folder / "keys", "--cache", folder / "cache", *world.flags,
        ),
    ]  # fmt: skip


def retrieve(world: World, text: Path, folder: Path, with_bert: bool) -> Commands:
    """Ours: tokens, then the best 5 of the keys for every line."""
    load, tokenizer = (world.bert[1], world.bert[0]) if with_bert else (world.clip, world.clip)
    keys = ["--image-sets", "pics"] if with_bert else ["--image-sets", "album", "--keys-dir", world.keys]
    (folder / "text").mkdir(exist_ok=True)
    corpus = folder / "text/lines.txt"
    corpus.write_bytes(text.read_bytes())
    return [
        stage("tokenization/tokenize_dataset.py", folder / "text", corpus.name, tokenizer),
        stage(
            "vokenization/vokenize_corpus_mp.py", "--load", load, "--corpus", corpus, "--tokenizer-name", tokenizer, *keys,
            "--output", folder / "vokens", *world.flags,
        ),
    ]  # fmt: skip


# The rows


def alike(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The lowest cosine of rows, both less their mean: vectors of random weights are much alike."""
    ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)
    return float(((ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)).min())


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max())


def hdf5(path: Path, name: str) -> np.ndarray:
    with h5py.File(path) as file:
        return file[name][:]


def photo_work(world: World, number: int) -> Work:
    photos = world.photos[number]

    def commands(tool: str, folder: Path) -> Commands:
        return encode(world, photos, folder) if tool == "ours" else peer(world, tool, "pictures", world.clip, photos, folder / "out.npz")

    def read(tool: str, folder: Path) -> np.ndarray:
        return hdf5(folder / "keys/album.hdf5", "keys") if tool == "ours" else np.load(folder / "out.npz")["vectors"]

    return Work(f"photos-{number}", "pictures", number, ["ours", *world.pythons], commands, read, alike)


def line_work(world: World, number: int, with_bert: bool = False) -> Work:
    name = f"{'bert' if with_bert else 'lines'}-{number}"
    text = world.folder / f"{name}.txt"
    text.write_text("\n".join(world.lines[:number]) + "\n")
    model, vectors = (world.bert[0], world.folder / "bert.npy") if with_bert else (world.clip, world.vectors)

    def commands(tool: str, folder: Path) -> Commands:
        if tool == "ours":
            return retrieve(world, text, folder, with_bert)
        return peer(world, tool, "lines", model, text, vectors, folder / "out.npz")

    def read(tool: str, folder: Path) -> np.ndarray:
        return hdf5(folder / "vokens/lines.txt.album.hdf5", "scores") if tool == "ours" else np.load(folder / "out.npz")["scores"]

    if with_bert:
        return Work(name, "lines", number, ["ours", *(tool for tool in world.pythons if tool == "sbert")], commands)
    return Work(name, "lines", number, ["ours", *world.pythons], commands, read, difference)


def context_work(world: World, photos: Path, number: int, phrases: int) -> Work:
    text = world.folder / "phrases.txt"
    text.write_text("\n".join(list(dict.fromkeys(world.lines))[:phrases]) + "\n")
    model = ["--model", world.clip, *world.flags]

    def commands(tool: str, folder: Path) -> Commands:
        if tool != "ours":
            return peer(world, tool, "context", world.clip, photos, text, folder / "out.npz")
        return [
            stage("ctx/encode_captions.py", "--captions", text, *model),
            stage("ctx/build_context.py", "--images", photos, *model),
        ]

    def read(tool: str, folder: Path) -> np.ndarray:
        if tool != "ours":
            return np.load(folder / "out.npz")["scores"]
        with h5py.File(folder / "outputs/retrieved_captions/txt_ctx.hdf5") as file:
            parts = [file[f"{path.stem}/{name}/scores"][:] for path in sorted(photos.iterdir()) for name in ("whole", "five", "nine")]
        return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])

    return Work(f"context-{number}", "pictures", number, ["ours", "loop"], commands, read, difference)


def ask_work(world: World) -> Work:
    def commands(tool: str, folder: Path) -> Commands:
        if tool != "ours":
            return peer(world, tool, "ask", world.clip, world.vectors, SENTENCE)
        where = ["--image-sets", "album", "--keys-dir", world.keys, "--load", world.clip, "--no-pictures"]
        return [stage("vokenization/search.py", *where, *world.flags, SENTENCE)]

    return Work("ask", "sentences", 1, ["ours", *(tool for tool in world.pythons if tool != "clip-retrieval")], commands)


def works(world: World, rows: list[str]) -> list[Work]:
    """What the names of the rows mean, in the order in which it is measured."""
    counts = sorted(world.photos)
    found = [photo_work(world, number) for number in counts if "photos" in rows or ("resume" in rows and number == counts[-1])]
    found += [line_work(world, number) for number in world.counts if "lines" in rows]
    if "bert" in rows:
        found.append(line_work(world, world.counts[0], with_bert=True))
    if "context" in rows:
        few = peer_world.photos(world.photos[counts[0]], world.folder / "few", min(40, counts[0]))
        found.append(context_work(world, few, min(40, counts[0]), 2000))
    return [*found, ask_work(world)] if "ask" in rows else found
