"""The rows of benchmarks/peers.py: for each work the commands of every tool, how they are run, and what they found."""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from benchmarks import peer_world
from xvoken.errors import RunError

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {"sbert": "sbert", "clip-retrieval": "inference", "loop": "loop"}
SENTENCE = "a dog on the beach"
BEST = 16  # phrases for each view of a photo, the default of ctx/build_context.py and what peers/loop.py looks for
Commands = list[list[str]]
Found = dict[str, np.ndarray]  # vectors, one an item; or rows and scores of the best, best first
ENDS_WITH_US = partial(ctypes.CDLL(None).prctl, 1, signal.SIGKILL)  # PR_SET_PDEATHSIG: however this process ends


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
    """commands: tool, a new folder -> its commands; read: the same -> what they found; gone: tool -> why it is measured no more."""

    name: str
    unit: str
    items: int
    tools: list[str]
    commands: Callable[[str, Path], Commands]
    read: Callable[[str, Path], Found] = lambda tool, folder: {}
    seconds: dict[str, list[float]] = field(default_factory=dict)
    mb: dict[str, float] = field(default_factory=dict)
    found: dict[str, Found] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)


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


def run(commands: Commands, folder: Path, isa: dict[str, str], limit: float) -> tuple[float, float, bool]:
    """Run commands one after the other, and kill what runs when `limit` seconds are over; returns seconds, MB, whether all ended."""
    started, most = time.perf_counter(), 0.0
    unset = ("OMP_NUM_THREADS", "PYTHONPATH")
    base = {name: value for name, value in os.environ.items() if name not in unset} | isa | {"HF_HUB_OFFLINE": "1"}
    for command in commands:
        env = base | ({"PYTHONPATH": str(ROOT)} if str(peer_world.PEERS) not in command[1] else {})
        with open(folder / "log", "ab") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True, preexec_fn=ENDS_WITH_US
            )  # fmt: skip
        looked = 0.0
        try:
            while process.poll() is None:
                time.sleep(0.02)
                taken = time.perf_counter() - started
                if taken > limit:
                    return taken, most, False
                if taken - looked > 1:  # a look takes some 20 ms
                    looked, most = taken, max(most, memory(process.pid))
        finally:  # also on Ctrl-C, and what a command leaves behind
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode:
            raise RunError(f"{shlex.join(command)} failed: {(folder / 'log').read_text(errors='replace')[-1500:]}")
    return time.perf_counter() - started, most, True


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


def compare(ours: Found, theirs: Found) -> dict[str, float]:
    """How close to ours theirs is, see the head of peers.py."""
    if "vectors" in ours:
        a, b = (found["vectors"] - found["vectors"].mean(0) for found in (ours, theirs))
        return {"cosine": round(float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min()), 7)}
    difference = float(np.abs(ours["scores"] - theirs["scores"]).max())
    return {"difference": float(f"{difference:.2g}"), "same": round(float((ours["rows"] == theirs["rows"]).mean()), 4)}


def hdf5(path: Path, name: str) -> np.ndarray:
    with h5py.File(path) as file:
        return file[name][:]


def hdf5_names(path: Path) -> list[str]:
    with h5py.File(path) as file:
        return sorted(file)


def photo_work(world: World, number: int) -> Work:
    photos = world.photos[number]

    def commands(tool: str, folder: Path) -> Commands:
        return encode(world, photos, folder) if tool == "ours" else peer(world, tool, "pictures", world.clip, photos, folder / "out.npz")

    def read(tool: str, folder: Path) -> Found:
        return {"vectors": hdf5(folder / "keys/album.hdf5", "keys")} if tool == "ours" else dict(np.load(folder / "out.npz"))

    return Work(f"photos-{number}", "pictures", number, ["ours", *world.pythons], commands, read)


def line_work(world: World, number: int, with_bert: bool = False) -> Work:
    name = f"{'bert' if with_bert else 'lines'}-{number}"
    text = world.folder / f"{name}.txt"
    text.write_text("\n".join(world.lines[:number]) + "\n")
    model, vectors = (world.bert[0], world.folder / "bert.npy") if with_bert else (world.clip, world.vectors)

    def commands(tool: str, folder: Path) -> Commands:
        if tool == "ours":
            return retrieve(world, text, folder, with_bert)
        return peer(world, tool, "lines", model, text, vectors, folder / "out.npz")

    def read(tool: str, folder: Path) -> Found:
        if tool != "ours":
            return dict(np.load(folder / "out.npz"))
        return {name: hdf5(folder / "vokens/lines.txt.album.hdf5", kind) for name, kind in (("rows", "indices"), ("scores", "scores"))}

    if with_bert:
        return Work(name, "lines", number, ["ours", *(tool for tool in world.pythons if tool == "sbert")], commands)
    return Work(name, "lines", number, ["ours", *world.pythons], commands, read)


def context_work(world: World, photos: Path, number: int, phrases: int) -> Work:
    text = world.folder / "phrases.txt"
    listed = list(dict.fromkeys(world.lines))[:phrases]
    text.write_text("\n".join(listed) + "\n")
    model = ["--model", world.clip, *world.flags]

    def commands(tool: str, folder: Path) -> Commands:
        if tool != "ours":
            return peer(world, tool, "context", world.clip, photos, text, folder / "out.npz")
        return [
            stage("ctx/encode_captions.py", "--captions", text, *model),
            stage("ctx/build_context.py", "--images", photos, *model),
        ]

    def read(tool: str, folder: Path) -> Found:
        if tool != "ours":
            return dict(np.load(folder / "out.npz"))
        if len(hdf5_names(folder / "outputs/image_features/vis_ctx.hdf5")) != number:
            raise RunError("vis_ctx.hdf5 lacks photos")
        at = {phrase.encode(): row for row, phrase in enumerate(listed)}
        with h5py.File(folder / "outputs/retrieved_captions/txt_ctx.hdf5") as file:
            views = [file[f"{name}/{view}"] for name in sorted(file) for view in ("whole", "five", "nine")]
            scores, texts = (np.concatenate([view[kind][:].reshape(-1, BEST) for view in views]) for kind in ("scores", "texts"))
        return {"scores": scores, "rows": np.vectorize(at.__getitem__)(texts)}

    return Work(f"context-{number}", "pictures", number, ["ours", *(tool for tool in world.pythons if tool == "loop")], commands, read)


def ask_work(world: World) -> Work:
    def commands(tool: str, folder: Path) -> Commands:
        if tool != "ours":
            return peer(world, tool, "ask", world.clip, world.vectors, SENTENCE)
        where = ["--image-sets", "album", "--keys-dir", world.keys, "--load", world.clip, "--no-pictures"]
        return [stage("vokenization/search.py", *where, *world.flags, SENTENCE)]

    return Work("ask", "sentences", 1, ["ours", *(tool for tool in world.pythons if tool != "clip-retrieval")], commands)


def works(world: World, rows: list[str]) -> list[Work]:
    """What the names of the rows mean, in the order in which it is measured."""
    few = min(world.photos)
    found = [photo_work(world, number) for number in sorted(world.photos) if "photos" in rows]
    found += [line_work(world, number) for number in world.counts if "lines" in rows]
    if "bert" in rows:
        found.append(line_work(world, world.counts[0], with_bert=True))
    if "context" in rows:
        number = min(40, few)
        photos = peer_world.photos(world.photos[few], world.folder / "few", number)
        found.append(context_work(world, photos, number, min(2000, max(world.counts))))
    return [*found, ask_work(world)] if "ask" in rows else found
