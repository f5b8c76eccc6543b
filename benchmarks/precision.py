"""How often bf16, or decoding by torchcodec, gives the same best picture as fp32 and Pillow, for matchers trained on the COCO sample.

    python benchmarks/precision.py [--small]

reads   ../shared/coco_sample: 160 photos to train on, 200 to retrieve from, 3,000 lines of dialogue to retrieve for
prints  for each recipe the share of lines with the same best picture: with only the sentences in bf16, with sentences and
        pictures in bf16, and with pictures decoded by torchcodec (on the CPU); the last line is one JSON object. As long as
        a share of bf16 is below 99.5%, fp32 stays the default of retrieval.
"""

import contextlib
import importlib
import io
import json
import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import h5py

from benchmarks.matching_data import COCO_SAMPLE, Source, coco_sample, small_source
from benchmarks.measure import machine, parse_args
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


def measure(folder: Path, source: Source, recipe: str) -> dict[str, float]:
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


def main(argv: list[str] | None = None) -> None:
    args = parse_args(__doc__.splitlines()[0], argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = small_source(folder) if args.small else coco_sample()
        lines = [f"photo number {i}\n" for i in range(20)]
        if not args.small:
            lines = (COCO_SAMPLE / "reddit/valid.pkl.txt").read_text().splitlines(keepends=True)
        (folder / "lines.txt").write_text("".join(lines))
        tokenizer = source.towers[source.towers.index("--lang") + 1]
        stage("tokenization.tokenize_dataset", folder, "lines.txt", tokenizer)
        sets = f"{source.train},{source.valid}"
        stage("vokenization.create_image_ids", "--image-sets", sets, "--ids-root", folder / "ids", *source.roots)
        same = {recipe: measure(folder, source, recipe) for recipe in ("published", "best")}
    for recipe, shares in same.items():
        in_bf16 = f"sentences in bf16 {shares['sentences']:.2%}, both sides in bf16 {shares['both']:.2%}"
        print(f"{recipe:<12} same best picture: {in_bf16}, decoded by torchcodec {shares['torchcodec']:.2%}")
    print(json.dumps({"stage": "precision", "lines": len(lines), "same_top_1": same, "machine": machine()}))


if __name__ == "__main__":
    run_main(main)
