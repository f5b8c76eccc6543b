"""Whole commands of ours against the tools that people would use instead: the same model folder, files and processor, in one run.

    python benchmarks/peers.py [--rows photos,lines] [--tools sbert] [--photos 363,1024] [--lines 1500,4096] [--isa avx2]
    python benchmarks/peers.py --small

ours             the stages' scripts, one after the other
sbert            sentence-transformers: encode (batches of 32, its default) and util.semantic_search
clip-retrieval   clip inference with hf_clip:FOLDER, then a product of matrices; float16, see benchmarks/peers/inference.py
loop             transformers alone: batches of 32, no_grad, a product of matrices

photos   vectors of so many JPEG files                     ours: image ids, keys
lines    the best 5 of the first number of photos a line   ours: tokens, retrieval
bert     the same with BERT-base on the first number of lines (its heads are ours alone)
context  the best 16 of the first 2,000 lines for 15 views of each of 40 photos     ours: phrases, both context files
ask      from the start to the answer to one sentence, the photos' vectors being there
resume   the most photos once more, killed at 60% of their time, then the same command again

The start of Python and all loading are counted. The tools take turns, --repeat times, and of each the fastest counts; a row that takes
longer than --limit is cut off, and says so. MB: the most memory that a tool's processes had together, what they share counted once.
cosine: the lowest one with our vectors, both less the mean vector. difference, same: the largest difference from our scores, and the
share of places with the same item. resume: yes, if the second run took less than 85% of the time; with few photos, loading hides it.
CLIP ViT-B/32 and BERT-base have random weights. sbert and clip-retrieval get an environment of their own (--cache), with pinned
packages, and the torch of the running one. The last line is one JSON object.
"""

import json
import os
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import numpy as np

from benchmarks import peer_world, worlds
from benchmarks.measure import machine, make_parser
from benchmarks.memory import numbers
from benchmarks.peer_work import BEST, SCRIPTS, Work, World, compare, encode, hdf5, photo_work, run, works
from tests import builder
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.errors import RunError, UserError, one_line

ISA = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
ROWS = ("photos", "lines", "bert", "context", "ask", "resume")


def measure(work: Work, world: World, repeat: int, limit: float) -> None:
    """Let the tools take turns, for `limit` seconds at most."""
    ends = time.perf_counter() + limit
    for turn in range(repeat):
        for tool in [tool for tool in work.tools if tool not in work.gone]:
            folder = world.folder / f"{work.name}-{tool}-{turn}"
            folder.mkdir()
            try:
                taken, mb, ended = run(work.commands(tool, folder), folder, world.isa, ends - time.perf_counter())
                if not ended:
                    work.gone[tool] = f"cut off after {taken:.0f} s of the row's {limit:g}"
                    continue
                work.found[tool] = work.read(tool, folder)
            except RunError as error:
                if tool == "ours":
                    raise
                work.gone[tool] = one_line(error)
                continue
            work.seconds.setdefault(tool, []).append(round(taken, 2))
            work.mb[tool] = max(work.mb.get(tool, 0), mb)


def show(work: Work) -> dict[str, Any]:
    """Print a row a tool; returns them for the record. ratio: how many times as fast ours is."""
    rows: dict[str, Any] = {}
    ours = min(work.seconds.get("ours", [0.0]))
    for tool in work.tools:
        if tool not in work.seconds:
            rows[tool], said = {"gone": work.gone[tool]}, work.gone[tool]
        else:
            taken = min(work.seconds[tool])
            rows[tool] = {"seconds": work.seconds[tool], "mb": round(work.mb[tool])}
            said = f"{taken:8.2f} s {work.items / taken:9.2f} {work.unit}/s {work.mb[tool]:7.0f} MB"
            if tool != "ours" and ours:
                near = compare(work.found["ours"], work.found[tool]) if work.found[tool] else {}
                rows[tool] |= {"ratio": round(taken / ours, 3), **near}
                said += ", ".join([f"   ours is {taken / ours:.2f} times as fast", *(f"{name} {value:g}" for name, value in near.items())])
            if tool in work.gone:  # after a first turn that counts
                rows[tool]["gone"] = work.gone[tool]
                said += f" ({work.gone[tool]})"
        print(f"{work.name:<14}{tool:<16}{said}", flush=True)
    return rows


def resume(work: Work, world: World, limit: float) -> dict[str, Any]:
    """Kill each tool at 60% of its time and run it again in the same folder."""
    rows = {}
    if not work.seconds:
        measure(work, world, 1, limit)
    ends = time.perf_counter() + limit
    for tool in work.seconds:
        folder = world.folder / f"resume-{tool}"
        folder.mkdir()
        whole, left = min(work.seconds[tool]), ends - time.perf_counter()
        killed = run(work.commands(tool, folder), folder, world.isa, min(0.6 * whole, left))[0]
        again, _, ended = run(work.commands(tool, folder), folder, world.isa, left - killed)
        resumes = ended and again < 0.85 * whole
        rows[tool] = {"whole": whole, "killed": round(killed, 2), "again": round(again, 2), "resumes": resumes if ended else None}
        said = f"cut off, the row's {limit:g} s are over" if not ended else "yes" if resumes else "no"
        print(f"{'resume':<14}{tool:<16}{said:<4}whole {whole:.1f} s, killed at {killed:.1f}, again {again:.1f}", flush=True)
    return rows


def prepare(args: Any, folder: Path) -> World:
    """Photos, lines, models, our keys of the first photos, environments."""
    if args.small:
        args.images, lines = folder / "source", builder.phrases(30)
        worlds.photos(args.images, 3, (160, 120))
    else:
        lines = [line for path in args.texts for line in path.read_text().splitlines() if line.strip()]
    most = max(args.lines)
    if len(lines) < most:
        raise UserError(f"{most:,} lines are wanted and {len(lines):,} are there; name more files with --texts or fewer lines with --lines")
    pythons = {}
    for tool in args.tools:
        try:
            pythons[tool] = sys.executable if tool == "loop" else str(peer_world.environment(args.cache, SCRIPTS[tool]))
        except UserError as error:
            say(f"left out: {error}")
    photos = {number: peer_world.photos(args.images, folder / f"photos{number}", number) for number in args.photos}
    clip = peer_world.clip(folder / "clip" if args.small else args.cache / "clip_b32", lines, 1 if args.small else 12)
    isa, flags = ISA if args.isa else {}, shlex.split(args.ours)
    world = World(folder, clip, photos, lines, args.lines, folder / "base/keys", folder / "keys.npy", pythons, flags, isa)
    if {"lines", "ask"} & {*args.rows}:
        (folder / "base").mkdir()
        if not run(encode(world, photos[args.photos[0]], folder / "base"), folder / "base", world.isa, args.limit)[2]:
            raise RunError(f"our keys of the photos, which lines and ask need, took longer than --limit {args.limit:g}")
        np.save(world.vectors, hdf5(world.keys / "album.hdf5", "keys"))
    if "bert" in args.rows:
        world.bert = peer_world.bert(args.cache / "bert_base")
        worlds.keys(world.bert[1], args.photos[0])
        np.save(folder / "bert.npy", np.random.default_rng(0).standard_normal((args.photos[0], 768), np.float32))
    return world


def parse_args(argv: list[str] | None) -> Any:
    sample = ROOT.parent / "shared/coco_sample"
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS), help="what to measure, separated by commas")
    parser.add_argument("--tools", default=",".join(SCRIPTS), help="what to measure ours against, separated by commas")
    parser.add_argument("--photos", type=numbers, default=[363, 1024], help="numbers of photos, separated by commas")
    parser.add_argument("--lines", type=numbers, default=[1500, 4096], help="numbers of lines, separated by commas")
    parser.add_argument(
        "--images", type=Path, default=sample / "mscoco/images", help="folder of photos, repeated with changes to get enough"
    )
    parser.add_argument(
        "--texts", type=Path, nargs="+", default=[sample / f"reddit/{name}.pkl.txt" for name in ("valid", "test")], help="files of lines"
    )
    parser.add_argument("--ours", default="", help="flags for all stages of ours that run a tower, in one word: --ours='--precision auto'")
    parser.add_argument("--isa", choices=["avx2"], help="let no library use more of the processor than AVX2, to come near a plain one")
    parser.add_argument("--repeat", type=int, default=2, help="turns; the fastest counts")
    parser.add_argument(
        "--limit", type=float, default=1800, help="seconds for a row, all its turns together; without photos, resume may take them twice"
    )
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/xvoken/peers"), help="folder of the environments and models")
    args = parser.parse_args(argv)
    args.rows, args.tools, args.cache = args.rows.split(","), args.tools.split(","), args.cache.expanduser().resolve()
    if args.small:
        args.rows, args.tools, args.photos, args.lines, args.repeat = ["photos"], ["loop"], [6], [20], 1
    for flag, given, known in (("--rows", args.rows, ROWS), ("--tools", args.tools, tuple(SCRIPTS))):
        if wrong := [name for name in given if name not in known]:
            parser.error(f"{flag}: {wrong[0]} is none of {', '.join(known)}")
    if "context" in args.rows and max(args.lines) < BEST:
        parser.error(f"--lines {max(args.lines)}: context needs at least {BEST}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what runs is ended too
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = f"{name}/home"  # what commands remember begins empty, and stays for the later turns
        world = prepare(args, Path(name))
        print(f"peers, {machine()}{', at most AVX2' if args.isa else ''}; fastest of {args.repeat}", flush=True)
        record: dict[str, Any] = {"stage": "peers", "machine": machine(), "isa": args.isa, "ours": args.ours, "rows": {}}
        measured = works(world, args.rows)
        for work in measured:
            measure(work, world, args.repeat, args.limit)
            record["rows"][work.name] = show(work)
        if "resume" in args.rows:
            most = photo_work(world, max(args.photos))
            record["rows"]["resume"] = resume(next((work for work in measured if work.name == most.name), most), world, args.limit)
    print(json.dumps(record))


if __name__ == "__main__":
    run_main(main)
