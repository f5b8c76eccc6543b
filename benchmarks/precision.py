"""What bf16 changes against fp32, and decoding by torchcodec against Pillow: best pictures, and recall.

    python benchmarks/precision.py [--small] [--recall-only]

reads   ../shared/coco_sample: 160 photos to train on, 200 to retrieve from, 3,000 lines of dialogue to retrieve for; the demo's data
prints  for each recipe the share of lines with the same best picture: with only the sentences in bf16, with sentences and
        pictures in bf16, and with pictures decoded by torchcodec (on the CPU). Then the change of recall from fp32 to bf16 in
        points, with its 95% interval, for matchers of the recipe `best` (five seeds) on openmoji_heldout (400 pictures) and
        mscoco_minival (40), and for five matchers that each hold a fifth of all 200 photos out; the matchers' own training in
        fp32 and in bf16. The last line is one JSON object; `harmless`: whether both sides in bf16 lose at most half a point of
        R@1, by the lower bound of the interval, everywhere. Only then may bf16 be a default.
"""

import contextlib
import importlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import h5py

from benchmarks.matching_data import COCO_SAMPLE, Source, coco_sample, small_source, sources
from benchmarks.measure import machine, make_parser, threads
from benchmarks.precision_recall import harmless, measure, print_table
from xvoken.cli.main import run_main
from xvoken.console import say

KEYS = {"fp32": ["--precision", "fp32"], "bf16": ["--precision", "bf16"], "torchcodec": ["--decoder", "torchcodec"]}
WAYS = {
    "sentences": ("fp32", "bf16"),
    "both": ("bf16", "bf16"),
    "torchcodec": ("torchcodec", "fp32"),
}  # keys' precision or decoder, lines' precision


def stage(module: str, *flags: object) -> None:
    """Run a stage with these flags in this process."""
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module(module).main([*map(str, flags)])


def best_pictures(folder: Path, load: Path, sets: str, keys: str, precision: str) -> list[int]:
    """The row of each line's best picture."""
    output = load / f"vokens-{keys}-{precision}"
    flags = ["--load", load, "--corpus", folder / "lines.txt", "--image-sets", sets, "--topk", 1, "--precision", precision]
    stage("vokenization.vokenize_corpus_mp", *flags, "--keys-dir", load / f"keys-{keys}", "--output", output)
    with h5py.File(next(output.glob("*.hdf5"))) as file:
        return file["indices"][:, 0].tolist()


def same_pictures(folder: Path, source: Source, recipe: str) -> dict[str, float]:
    load, sets = folder / recipe, f"{source.train},{source.valid}"
    say(f"{recipe}: training ...")
    # --cache comes first, so that a source's own --cache overrides it.
    stage("xmatching.main", "--cache", folder / "cache", "--recipe", recipe, *source.flags, "--output", load)
    for name, how in KEYS.items():
        flags = ["--load-dir", load, "--image-sets", sets, "--ids-root", folder / "ids", "--cache", folder / "cache"]
        stage("vokenization.extract_vision_keys", *flags, "--output", load / f"keys-{name}", *how, *source.roots)
    say(f"{recipe}: retrieving ...")
    expected = best_pictures(folder, load, sets, "fp32", "fp32")
    same = {}
    for name, (keys, precision) in WAYS.items():
        found = best_pictures(folder, load, sets, keys, precision)
        same[name] = round(sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected), 5)
    return same


def measure_same(folder: Path, source: Source, lines: list[str]) -> dict[str, dict[str, float]]:
    """Share of lines with the same best picture as in fp32, by recipe and way."""
    (folder / "lines.txt").write_text("".join(lines))
    tokenizer = source.towers[source.towers.index("--lang") + 1]
    stage("tokenization.tokenize_dataset", folder, "lines.txt", tokenizer)
    sets = f"{source.train},{source.valid}"
    stage("vokenization.create_image_ids", "--image-sets", sets, "--ids-root", folder / "ids", *source.roots)
    same = {recipe: same_pictures(folder, source, recipe) for recipe in ("published", "best")}
    for recipe, shares in same.items():
        in_bf16 = f"sentences in bf16 {shares['sentences']:.2%}, both sides in bf16 {shares['both']:.2%}"
        print(f"{recipe:<12} same best picture: {in_bf16}, decoded by torchcodec {shares['torchcodec']:.2%}")
    return same


def measure_recall(source: Source | None) -> dict[str, Any]:
    """What bf16 changes in recall, by data, precision of the training, and way; source: the only one, without folds."""
    with threads(1):
        results = {one.name: measure(one, range(1, 2 if source else 6)) for one in ([source] if source else sources())}
        if not source:
            results["coco_sample, folds"] = measure(coco_sample(), range(1, 6), in_folds=True)
    print_table(results)
    return {"recall": results, "harmless": harmless(results)}


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("What bf16 changes against fp32, and decoding by torchcodec against Pillow.")
    parser.add_argument("--recall-only", action="store_true", help="measure recall alone, not how often the best picture stays the same")
    args, record = parser.parse_args(argv), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = small_source(folder) if args.small else None
        if not args.recall_only:
            real = COCO_SAMPLE / "reddit/valid.pkl.txt"
            lines = [f"photo number {i}\n" for i in range(20)] if source else real.read_text().splitlines(keepends=True)
            record = {"lines": len(lines), "same_top_1": measure_same(folder, source or coco_sample(), lines)}
        record |= measure_recall(source)
    print(json.dumps({"stage": "precision", **record, "machine": machine()}))


if __name__ == "__main__":
    run_main(main)
