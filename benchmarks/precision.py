"""How often bf16, and torchcodec's pictures, name the same best picture as fp32 and Pillow's, on matchers trained on the COCO sample.

    python benchmarks/precision.py

reads   ../shared/coco_sample: 160 photos to train on, 200 to retrieve from, 3,000 lines of dialogue to retrieve for
prints  the share of lines with the same best picture, for each recipe, with the sentences alone and with both sides in
        bf16, and with pictures decoded by torchcodec (on the CPU); the last line is one JSON object. Below 99.5%, fp32
        stays the default of retrieval.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import h5py

from benchmarks.matching_data import COCO_SAMPLE
from benchmarks.measure import machine, parse_args
from xvoken.messages import UserError, run_main, say

SETS = "mscoco_train,mscoco_minival"
KEYS = {"fp32": ["--precision", "fp32"], "bf16": ["--precision", "bf16"], "torchcodec": ["--decoder", "torchcodec"]}
WAYS = {"sentences": ("fp32", "bf16"), "both": ("bf16", "bf16"), "torchcodec": ("torchcodec", "fp32")}  # keys, precision of the lines


def stage(script: str, *flags: object) -> None:
    done = subprocess.run([sys.executable, ROOT / script, *map(str, flags)], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{script}: {done.stderr[-2000:]}")


def best_pictures(folder: Path, load: Path, keys: str, precision: str) -> list[int]:
    """Row of the best picture of each line."""
    output = load / f"vokens-{keys}-{precision}"
    flags = ["--load", load, "--corpus", folder / "valid.pkl.txt", "--image-sets", SETS, "--topk", 1, "--precision", precision]
    stage("vokenization/vokenize_corpus_mp.py", *flags, "--keys-dir", load / f"keys-{keys}", "--output", output)
    with h5py.File(next(output.glob("*.hdf5"))) as file:
        return file["indices"][:, 0].tolist()


def measure(folder: Path, recipe: str, small: bool) -> dict[str, float]:
    load = folder / recipe
    roots = ["--lxmert-root", COCO_SAMPLE / "lxmert", "--coco-root", COCO_SAMPLE / "mscoco/images"]
    towers = ["--lang", "minilm", "--visn", "efficientnet_lite2", "--cache", folder / "cache", *(["--epochs", 1] if small else [])]
    sets = ["--train-imgs", "mscoco_train", "--valid-imgs", "mscoco_minival"]
    say(f"{recipe}: training ...")
    stage("xmatching/main.py", *roots, *towers, *sets, "--recipe", recipe, "--output", load)
    for name, how in KEYS.items():
        flags = ["--load-dir", load, "--image-sets", SETS, "--ids-root", folder / "ids", "--cache", folder / "cache"]
        stage("vokenization/extract_vision_keys.py", *flags, "--output", load / f"keys-{name}", *how, *roots)
    say(f"{recipe}: retrieving ...")
    expected = best_pictures(folder, load, "fp32", "fp32")
    same = {}
    for name, (keys, precision) in WAYS.items():
        found = best_pictures(folder, load, keys, precision)
        same[name] = round(sum(a == b for a, b in zip(found, expected, strict=True)) / len(expected), 5)
    return same


def main() -> None:
    args = parse_args(__doc__.splitlines()[0])
    if not COCO_SAMPLE.is_dir():
        raise UserError("../shared/coco_sample is not on this machine")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = (COCO_SAMPLE / "reddit/valid.pkl.txt").read_text().splitlines(keepends=True)[: 50 if args.small else None]
        (folder / "valid.pkl.txt").write_text("".join(lines))
        stage("tokenization/tokenize_dataset.py", folder, "valid.pkl.txt", "minilm")
        roots = ["--lxmert-root", COCO_SAMPLE / "lxmert", "--coco-root", COCO_SAMPLE / "mscoco/images"]
        stage("vokenization/create_image_ids.py", "--image-sets", SETS, "--ids-root", folder / "ids", *roots)
        same = {recipe: measure(folder, recipe, args.small) for recipe in ("published", "best")}
    for recipe, shares in same.items():
        in_bf16 = f"sentences in bf16 {shares['sentences']:.2%}, both sides in bf16 {shares['both']:.2%}"
        print(f"{recipe:<12} same best picture: {in_bf16}, decoded by torchcodec {shares['torchcodec']:.2%}")
    print(json.dumps({"stage": "precision", "lines": len(lines), "same_top_1": same, "machine": machine()}))


if __name__ == "__main__":
    run_main(main)
