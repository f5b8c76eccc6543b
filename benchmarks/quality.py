"""Recall of the recipes, with five seeds each, on the demo's held-out pictures and on the COCO sample.

    python benchmarks/quality.py [--small]

reads   the demo's data and ../shared/coco_sample (if present): trains on their training parts, measures after the last
        epoch on openmoji_heldout (400 pictures) and mscoco_minival (40), which are used for no choice of settings or epochs
prints  a table of means and standard deviations; the last line is one JSON object
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.matching_data import Bench, Source, small_source, sources, train_and_measure
from benchmarks.measure import make_parser, threads
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.records import TOP

DIRECTIONS = ("text_to_image", "image_to_text")


def measure(bench: Bench, source: Source, recipe: str, seeds: range, more: list[str]) -> dict[str, dict[str, float]]:
    """Recall over the seeds, in percent: {"text_to_image R@1": {"mean", "sd"}, ...}."""
    args = source.args(recipe, more)
    towers, train, gallery = bench.pairs(args, held_out=True)
    records = []
    for seed in seeds:
        args.seed, started = seed, time.time()
        records.append(train_and_measure(args, towers, train, gallery))
        say(f"{source.name}, {recipe}, seed {seed}: {time.time() - started:.0f} s")
    values = {f"{d} R@{k}": [r[d][f"R{k}"] for r in records] for d in DIRECTIONS for k in TOP}
    return {name: {"mean": round(statistics.mean(v), 2), "sd": round(statistics.stdev(v), 2)} for name, v in values.items()}


def print_table(results: dict[str, dict[str, Any]]) -> None:
    print(f"{'data, recipe':<26}" + "".join(f"{'t2i' if d == DIRECTIONS[0] else 'i2t'} R@{k:<9}" for d in DIRECTIONS for k in TOP))
    for data, recipes in results.items():
        for recipe, found in recipes.items():
            cells = "".join(f"{v['mean']:5.1f} ± {v['sd']:<6.1f}" for v in found.values())
            print(f"{f'{data}, {recipe}':<26}{cells}")


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("Recall of the recipes.")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each recipe, at least two")
    parser.add_argument("--recipes", default="published,best", help="recipes with a training, separated by commas")
    parser.add_argument("--epochs", type=int, help="number of epochs, instead of each recipe's own")
    parser.add_argument("--loss", help="objective, instead of each recipe's own")
    args = parser.parse_args(argv)
    bench, results = Bench(), {}
    more = ["--epochs", str(args.epochs)] if args.epochs else []
    more += ["--loss", args.loss] if args.loss else []
    seeds = range(1, (2 if args.small else args.seeds) + 1)
    with tempfile.TemporaryDirectory() as folder, threads(1):
        for source in [small_source(Path(folder))] if args.small else sources():
            results[source.name] = {r: measure(bench, source, r, seeds, more) for r in args.recipes.split(",")}
    print_table(results)
    ratios = {}
    for data, found in results.items():
        if {"published", "best"} <= set(found):
            ratios[data] = {d: round(found["best"][f"{d} R@1"]["mean"] / found["published"][f"{d} R@1"]["mean"], 2) for d in DIRECTIONS}
            print(f"{data}: best / published at R@1: {ratios[data]}")
    print(json.dumps({"stage": "quality", "seeds": len(seeds), "results": results, "best_vs_published_R1": ratios}))


if __name__ == "__main__":
    run_main(main)
