"""Encode phrases with the text branch of a dual encoder.

    python ctx/encode_captions.py --device 1

reads   Visual Genome's attributes.json and relationships.json (--ann_dir), or the lines of any text file (--captions)
writes  outputs/captions_db/caption_db.hdf5: keys, features and captions in groups; see xvoken/files/phrases.py
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

import numpy as np
from numpy.typing import NDArray

from ctx.options import OUTPUTS, add_model_flags, compute_of
from ctx.phrases import read_lines, read_visual_genome
from ctx.run import today
from xvoken.cli.flags import Parser
from xvoken.cli.main import run_main
from xvoken.encoders.batches import all_batches, require_finite, shown
from xvoken.encoders.encoder import Encoder, load_encoder
from xvoken.encoders.matcher import TextTowerSpec
from xvoken.files import phrases as caption_db
from xvoken.files.safe import quoted, save_arrays, sha256_of_lines
from xvoken.machine import Compute
from xvoken.work.parts import Parts
from xvoken.work.product import Product, one_pass

CHUNK = 2048  # phrases a part, and a group of the file
BATCH = {"cpu": 64, "gpu": 2048}  # phrases a batch


@dataclass
class PhrasesJob:
    """Phrases -> pooled features and keys; see xvoken.work.local.Job."""

    model: str
    phrases: list[str]
    precision: str
    batch_size: int

    def setup(self, device: str) -> None:
        self.encoder = load_encoder(self.model, ["text"], device, self.precision)

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        text = self.encoder.text
        tokens, offsets = text.tokenize(self.phrases[start:stop])
        lengths = np.diff(offsets)
        features = np.empty((len(lengths), text.width), np.float32)
        keys = np.empty((len(lengths), self.encoder.dim), np.float32)
        for batch, pooled in text.features(tokens, offsets, all_batches(lengths, self.batch_size)):
            keys[batch] = self.encoder.text_vectors(pooled).cpu().numpy()
            features[batch] = pooled.float().cpu().numpy()
        after = f", or take another model, after: rm -r {quoted(part.parent)}"
        for vectors, unit in ((features, False), (keys, True)):
            require_finite(vectors, lambda row: f"phrase {shown(self.phrases[start + row])}", self.precision, after, unit)
        save_arrays(part.with_suffix(".npz"), keys=keys, features=features)
        return {"cut": text.cut(lengths)}


def part_groups(parts: Parts, phrases: list[str]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], list[str]]]:
    for number, (start, stop) in enumerate(parts.ranges):
        arrays = parts.load(number)
        yield arrays["keys"], arrays["features"], phrases[start:stop]


def encode(model: str, encoder: Encoder, phrases: list[str], compute: Compute, output: Path) -> None:
    """Write the database, unless it stands there already."""
    settings = {
        "model": encoder.name, "model_hash": encoder.hash, "precision": compute.precision,
        "phrases": len(phrases), "data": sha256_of_lines(phrases)[:16],
    }  # fmt: skip
    # A matcher: earlier versions cut at the length of its training.
    cut_at = {"cut": "at the tower's length"} if isinstance(encoder.text_spec, TextTowerSpec) else {}
    settings |= cut_at
    product = Product(output, settings, lambda: caption_db.read_settings(output), f"these {len(phrases):,} phrases", unsaid=cut_at)
    if product.finished():
        return
    with one_pass([product], len(phrases), CHUNK) as made:
        made.run(PhrasesJob(model, phrases, compute.precision, compute.batch_size), compute.devices, desc=output.name, unit="phrases")
        attributes = {
            "model": model, "model_hash": encoder.hash, "revision": encoder.revision, "date": today(),
            "phrases": len(phrases), "settings": json.dumps(settings, sort_keys=True),
        }  # fmt: skip
        cut = sum(summary["cut"] for summary in made.parts.summaries())
        made.report(phrases=len(phrases), cut=cut)
        caption_db.write(output, part_groups(made.parts, phrases), attributes)
    print(f"wrote {len(phrases):,} phrases ({cut:,} cut to the tower's length) to {output}")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Encode phrases with the text branch of a dual encoder.")
    parser.add_argument(
        "--ann_dir", type=Path, default=Path("datasets/visual_genome"), help="Visual Genome's JSON files (default: %(default)s)"
    )
    parser.add_argument("--captions", type=Path, help="a text file, one phrase a line, instead of Visual Genome")
    add_model_flags(parser, "captions_db", "phrases")
    args = parser.parse_args(argv)
    compute, _ = compute_of(args, BATCH)
    encoder = load_encoder(args.model, [], "cpu")  # first: a model that is missing should not show after minutes of reading
    phrases = read_lines(args.captions, args.limit) if args.captions else read_visual_genome(args.ann_dir, args.limit)
    encode(args.model, encoder, phrases, compute, OUTPUTS / args.exp_name / "caption_db.hdf5")


if __name__ == "__main__":
    run_main(main)
