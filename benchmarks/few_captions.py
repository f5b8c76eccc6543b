"""Closed form, training from there, or training from scratch: recall by the number of captions to learn from.

    python benchmarks/few_captions.py [--small]

reads   the demo's data and ../shared/coco_sample (if present), never their held-out sets
prints  text to image R@1, R@5 and the sum of the six recalls on pictures carved from the training parts, hubness not taken off, the mean
        over carvings; the last line is one JSON object
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from benchmarks.matching_data import Bench, Source, small_source, sources, train_and_measure
from benchmarks.measure import make_parser, threads
from xmatching.data import PairBatches, carve
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.records import rsum

SHARE = 0.2  # of the training pictures, carved out to measure on
CAPTIONS = (200, 1000, 0)  # to learn from; 0: all
CCA = ["--head", "cca", "--hubness", "0", "--key-views", "1"]
LINEAR = [
    "--loss", "infonce", "--head", "linear", "--text-pool", "mean", "--visn-pool", "stages", "--optim", "adamw", "--schedule", "cosine",
    "--weight-decay", "0.1", "--dropout", "0.5", "--epochs", "100",
]  # fmt: skip
WAYS = {  # the recipe, and flags beside it
    "cca": ("best", [*CCA, "--epochs", "0"]),
    "cca, then 10 epochs": ("best", [*CCA, "--epochs", "10", "--no-early-stop"]),
    "cca, then as chosen": ("best", [*CCA, "--epochs", "10"]),
    "linear, 100 epochs": ("published", LINEAR),
}


def fewer(data: PairBatches, captions: int, seed: int) -> PairBatches:
    """The pairs of pictures drawn by `seed`, until there are so many captions (0: all)."""
    order = np.random.default_rng(seed).permutation(np.unique(data.image_rows))
    counts = np.cumsum([np.count_nonzero(data.image_rows == row) for row in order])
    kept = np.isin(data.image_rows, order[: int(np.searchsorted(counts, captions)) + 1 if captions else None])
    return PairBatches(data.text, data.images, data.text_rows[kept], data.image_rows[kept], data.others)


def measure(bench: Bench, source: Source, captions: int, carvings: int) -> dict[str, Any]:
    """The figures of all ways, and the number of captions that they had."""
    found: dict[str, Any] = {}
    for way, (recipe, flags) in WAYS.items():
        args = source.args(recipe, flags)
        towers, train, evaluation = bench.pairs(args, held_out=False)
        records = []
        for seed in range(carvings):
            kept, gallery = carve(train, evaluation, SHARE, seed)
            few = fewer(kept, captions, seed)
            records.append(train_and_measure(args, towers, few, gallery))
            found["captions"] = len(few.text_rows)
        sides = [record["text_to_image"] for record in records]
        figures = {"R1": [side["R1"] for side in sides], "R5": [side["R5"] for side in sides], "rsum": [rsum(r) for r in records]}
        found[way] = {name: round(statistics.mean(values), 1) for name, values in figures.items()}
        say(f"{source.name}, {found['captions']} captions, {way}: {found[way]}")
    return found


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("Recall by the number of captions to learn from.")
    parser.add_argument("--carvings", type=int, default=3, help="number of different carved parts that are measured on")
    args = parser.parse_args(argv)
    bench, results = Bench(), {}
    with tempfile.TemporaryDirectory() as folder, threads(1):
        for source in [small_source(Path(folder))] if args.small else sources():
            for captions in CAPTIONS[-1:] if args.small else CAPTIONS:
                row = measure(bench, source, captions, 1 if args.small else args.carvings)
                results[f"{source.name}, {row['captions']} captions"] = row
    print(f"{'data':<30}{'way':<24}{'R@1':>7}{'R@5':>7}{'rsum':>8}")
    for data, row in results.items():
        for way in WAYS:
            print(f"{data:<30}{way:<24}{row[way]['R1']:7.1f}{row[way]['R5']:7.1f}{row[way]['rsum']:8.1f}")
    print(json.dumps({"stage": "few_captions", "carvings": args.carvings, "results": results}))


if __name__ == "__main__":
    run_main(main)
