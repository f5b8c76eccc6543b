"""Search for the recipe `best`: axis by axis, on pictures held out from the training parts ("carvings").

    python benchmarks/search_recipe.py [--small]

reads   the demo's data and ../shared/coco_sample (if present), never their held-out sets
writes  benchmarks/search_recipe.jsonl: one object per trial, in order; data/cache/
The score of a recipe is the mean, over data sets and carvings, of recall at 1 and 5 in both directions. The search starts
at the present recipe `best` and goes through the axes; a value is adopted if it raises the score by GAIN. Trials that are in
the file already are not repeated.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.matching_data import Bench, Source, small_source, sources, train_and_measure
from benchmarks.measure import make_parser, threads
from xmatching.data import carve
from xmatching.recipes import BEST
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.machine import cores

RECORD = Path(__file__).with_name("search_recipe.jsonl")
GAIN = 0.3  # points of the score that a change must bring: less is noise
SHARE = 0.2  # of the training pictures, carved out to validate on
TRAINED = {"lr": 1e-3, "epochs": 100, "dropout": 0.5, "early-stop": False}  # the former best's training, of a linear head
AXES: dict[str, list[dict[str, Any]]] = {
    "head": [{"head": "cca"}, {"head": "cca,classes"}, {"head": "linear,cca,classes", **TRAINED}],
    "visn-pool": [{"visn-pool": pool} for pool in ("avg", "stages")],
    "lang-layers": [{"lang-layers": layers} for layers in ("1", "2,1", "4,3,2,1")],
    "key-views": [{"key-views": views} for views in (1, 2, None)],
    "hubness": [{"hubness": amount} for amount in (0, 0.5, None)],
    "rank": [{"rank": rank} for rank in (384, 768)],
    "epochs": [{"epochs": 0}, {"epochs": 10}, {"epochs": 10, "lr": 1e-5}, {"epochs": 10, "early-stop": False}],
}

BENCH = Bench()


def flags_of(source: Source, recipe: dict[str, Any]) -> argparse.Namespace:
    flags: list[str] = []
    for name, value in recipe.items():
        switch = {True: [f"--{name}"], False: [f"--no-{name}"]}
        flags += switch[value] if isinstance(value, bool) else [f"--{name}", "auto" if value is None else str(value)]
    return source.args("published", [*flags, "--crop-scale", "0.3"])


def measure(task: tuple[Source, dict[str, Any], int]) -> dict[str, Any]:
    """Train on the pictures that a carving leaves, and measure on those that it holds out."""
    source, recipe, seed = task
    args = flags_of(source, recipe)
    with threads(1):
        towers, train, evaluation = BENCH.pairs(args, held_out=False)
        args.seed = seed
        kept, gallery = carve(train, evaluation, SHARE, seed)
        record = train_and_measure(args, towers, kept, gallery)
    return {d: {k: record[d][k] for k in ("R1", "R5", "R10")} for d in ("text_to_image", "image_to_text")}


def score(results: dict[str, list[dict[str, Any]]]) -> float:
    """The score of a recipe: the mean over data sets and carvings of recall at 1 and 5, both directions, in percent."""
    means = [sum(r[d][k] for r in runs for d in r for k in ("R1", "R5")) / (4 * len(runs)) for runs in results.values()]
    return round(sum(means) / len(means), 3)


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("Search the recipe `best`.")
    parser.add_argument("--carvings", type=int, default=2, help="number of different held-out parts on which each recipe is tried")
    parser.add_argument("--rounds", type=int, default=1, help="how often to go through the axes")
    parser.add_argument("--axes", help="axes to go through, separated by commas (default: all)")
    parser.add_argument("--processes", type=int, default=cores(), help="number of trainings that run at the same time")
    parser.add_argument("--record", type=Path, default=RECORD, help="file of the trials; trials in it are not repeated")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if args.small:  # one axis, one training at a time, in this process
            args.carvings, args.axes, args.processes, args.record = 1, "head", 1, Path(folder) / "trials.jsonl"
        data = [small_source(Path(folder))] if args.small else sources()
        if args.processes == 1:
            walk(args, data, map)
            return
        with get_context("spawn").Pool(args.processes) as pool:
            walk(args, data, partial(pool.imap, chunksize=1))


def walk(args: argparse.Namespace, data: list[Source], run: Callable[..., Iterable[dict[str, Any]]]) -> None:
    """Go through the axes; run: the built-in `map`, or the map of a pool of processes."""
    known = [json.loads(line) for line in args.record.read_text().splitlines()] if args.record.exists() else []
    found = {json.dumps(trial["recipe"], sort_keys=True): trial["score"] for trial in known}

    def try_recipe(recipe: dict[str, Any]) -> float:
        key = json.dumps(recipe, sort_keys=True)
        if key not in found:
            for source in data:  # fills the cache once, for all processes
                BENCH.pairs(flags_of(source, recipe), held_out=False)
            started = time.time()
            tasks = [(source, recipe, seed) for source in data for seed in range(args.carvings)]
            runs = list(run(measure, tasks))
            results = {source.name: [r for t, r in zip(tasks, runs, strict=True) if t[0] is source] for source in data}
            found[key] = score(results)
            trial = {"score": found[key], "recipe": recipe, "results": results, "seconds": round(time.time() - started, 1)}
            with open(args.record, "a", encoding="utf-8") as file:
                file.write(json.dumps(trial) + "\n")
            say(f"{found[key]:7.3f}  {recipe}  {trial['seconds']} s")
        return found[key]

    say(f"published: {try_recipe({}):.3f}")
    best = {name.replace("_", "-"): value for name, value in BEST.items()}
    axes = [AXES[name] for name in (args.axes.split(",") if args.axes else AXES)]
    for _ in range(args.rounds):
        for values in axes:
            options = [{**best, **value} for value in values]
            top = max(options, key=try_recipe)
            if try_recipe(top) > try_recipe(best) + GAIN:
                best = top
    top = found[json.dumps(best, sort_keys=True)]
    print(f"best of {len(found)} recipes: {json.dumps(best)} with {top:.3f}; the trials are in {args.record}")


if __name__ == "__main__":
    run_main(main)
