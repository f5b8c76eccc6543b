"""Encode phrases with the text tower of a dual encoder, into a database.

    python ctx/encode_captions.py --device 1

reads   Visual Genome's attributes.json and relationships.json (--ann_dir), or the lines of any text file (--captions)
writes  outputs/captions_db/caption_db.hdf5: keys, features and captions, in groups of phrases; see xvoken/files/phrases.py
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401
from xvoken.interrupts import importing

import numpy as np
from numpy.typing import NDArray

from ctx.options import OUTPUTS, add_model_flags, compute_of
from ctx.phrases import read_lines, read_visual_genome
from ctx.run import today
from xvoken.cli.flags import Parser, some_path
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.encoders.identity import Identity, identify
from xvoken.files import phrases as caption_db
from xvoken.files.safe import quoted, sha256_of_lines
from xvoken.machine import WORTH_LINES, Compute
from xvoken.work.parts import Parts
from xvoken.work.product import Product, begun_with, one_pass, settled

CHUNK = 2048  # phrases per part of the work, and per group of the file
BATCH = {"cpu": 64, "gpu": 2048}  # phrases per batch


def part_groups(parts: Parts, phrases: list[str]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], list[str]]]:
    for number, (start, stop) in enumerate(parts.ranges):
        arrays = parts.load(number)
        yield arrays["keys"], arrays["features"], phrases[start:stop]


def encode(model: str, identity: Identity, phrases: list[str], compute: Compute, output: Path) -> None:
    """Write the database, unless it exists already."""
    compute = settled(compute, begun_with(output, lambda: caption_db.read_settings(output)))
    settings = {
        "model": identity.name, "model_hash": identity.hash, "precision": compute.precision,
        "phrases": len(phrases), "data": sha256_of_lines(phrases)[:16],
    }  # fmt: skip
    # Earlier versions cut phrases for a matcher at the length of its training.
    cut_at = {"cut": "at the tower's length"} if identity.matcher else {}
    settings |= cut_at
    product = Product(output, settings, lambda: caption_db.read_settings(output), f"these {len(phrases):,} phrases", unsaid=cut_at)
    if product.finished():
        if cut_at and "cut" not in caption_db.read_settings(output):
            longest = f"a version that cut phrases at {identity.max_len} tokens"
            say(f"warning: {output} was made by {longest}; if some phrases are longer, make it again after: rm {quoted(output)}")
        return
    with importing():
        from ctx.phrase_job import PhrasesJob
    with one_pass([product], len(phrases), CHUNK, compute.engine) as made:
        job = PhrasesJob(model, phrases, compute.precision, compute.batch_size, identity.hash, pace=compute.pace(len(phrases), WORTH_LINES))
        if not made.run(job, compute.devices, desc=output.name, unit="phrases"):
            return
        attributes = {
            "model": model, "model_hash": identity.hash, "revision": identity.revision, "date": today(),
            "phrases": len(phrases), "settings": json.dumps(settings, sort_keys=True),
        }  # fmt: skip
        cut = sum(summary["cut"] for summary in made.parts.summaries())
        made.report(phrases=len(phrases), cut=cut)
        caption_db.write(output, part_groups(made.parts, phrases), attributes)
    print(f"wrote {len(phrases):,} phrases ({cut:,} cut to the tower's length) to {output}")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Encode phrases with the text tower of a dual encoder, into a database.")
    parser.add_argument(
        "--ann_dir",
        type=some_path,
        default=Path("datasets/visual_genome"),
        help="folder of Visual Genome's JSON files (default: %(default)s)",
    )
    parser.add_argument("--captions", type=some_path, help="a text file with one phrase per line, instead of Visual Genome")
    add_model_flags(parser, "captions_db", "phrases")
    args = parser.parse_args(argv)
    compute, _ = compute_of(args, BATCH)
    identity = identify(args.model)  # first: a missing model must be reported before minutes of reading
    phrases = read_lines(args.captions, args.limit) if args.captions else read_visual_genome(args.ann_dir, args.limit)
    encode(args.model, identity, phrases, compute, OUTPUTS / args.exp_name / "caption_db.hdf5")


if __name__ == "__main__":
    run_main(main)
