"""Write the demo's page: sentences and photos without any training, then what a trained matcher finds, its curve and its recalls.

    python scripts/demo_page.py --load snap/xmatching/demo --corpus data/demo/dialogues/train.pkl.txt \
        --image-sets openmoji_heldout,openmoji_train --eval-set openmoji_heldout --output snap/xmatching/demo/page.html

reads   the snapshot's metrics.jsonl, eval/, vokens/ and keys/*.path, the pictures, the corpus; the same of the untrained matcher
writes  one HTML file with the pictures inside, which needs no other file, no network and no script
"""

import html
import json
import re
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from scripts.demo_context import context_section
from scripts.demo_lines import Line, Retrieved, choose, same_training
from scripts.demo_parts import STYLE, curve_svg, line_html, pairs_html, recall_html
from scripts.demo_photos import credits_text
from xvoken import commands
from xvoken.cli.flags import Parser
from xvoken.cli.main import run_main
from xvoken.encoders import snapshot as snapshots
from xvoken.errors import UserError
from xvoken.files.safe import fingerprint, read_json, sha256_of_file, write_text
from xvoken.work.product import Product

BEST, ANY = 24, 24  # lines shown: those with the highest scores, and a random sample
PAIRS = 6  # dialogue lines shown with photos
PRINTED = 5  # lines printed at the end
PAGE = 2  # version of the page's layout; a page of another version is made again


@dataclass
class Trained:
    """What is told of the trained matcher: an image set that it never saw, with recalls by matcher, and its lines."""

    eval_set: str
    recalls: dict[str, dict[str, Any]]
    epochs: list[dict[str, Any]]
    lines: list[Line]


def untrained_section(sentences: list[Line], dialogues: list[Line]) -> str:
    """Sentences and dialogue lines with photos, by the matcher that was not trained."""
    return f"""<h2>Without any training</h2>
<p>The matcher of <i>--recipe zeroshot</i> was trained on nothing: a picture is what an image classifier takes it for, in the words of its
1,000 class names, and a sentence encoder compares these with the line. Here are photos; the sentences are ours, one about each photo, and
were written before anything was retrieved for them. For each the three photos with the highest scores, best first; the score is the inner
product of two vectors of length 1 (1 at most).</p>
{pairs_html(sentences)}
<h3>Dialogue lines with the highest scores</h3>
<p>The dialogues are seldom about what these photos show: lines for which the matcher is surest, each with another photo.</p>
{pairs_html(choose(dialogues, PAIRS, 0)[0])}"""


def trained_section(found: Trained, best: list[Line], sample: list[Line]) -> str:
    """Recalls, the training curve, and dialogue lines with drawings, by the trained matcher."""
    record = next(iter(found.recalls.values()))
    return f"""<h2>Trained on drawings</h2>
<p>The matcher of <i>--recipe best</i> has learnt from OpenMoji's drawings and their names. For each of {len(found.lines):,} dialogue lines it
finds the five pictures with the highest scores.</p>
<h3>How well it finds pictures it never saw</h3>
<p>{record["captions"]:,} captions and {record["images"]:,} pictures of <i>{html.escape(found.eval_set)}</i>: share of captions whose picture is
among the first 1, 5, 10, and the other way round, in percent; small: by chance.</p>
{recall_html(found.recalls)}
<h3>Training</h3>{curve_svg(found.epochs)}
<h3>Lines with the highest scores</h3>{"".join(map(line_html, best))}
<h3>Lines taken at random</h3>{"".join(map(line_html, sample))}"""


def photos_section(sentences: list[Line]) -> str:
    """The sentences about the photos once more, by the trained matcher."""
    return f"""<h2>The photos again, after training on drawings</h2>
<p>The same sentences and photos, by the trained matcher. It has seen no photo: what to train on is what it is to be good at.</p>
{pairs_html(sentences)}"""


def page(sections: list[str], made_of: str = "", photos: bool = False) -> str:
    """The whole page; every text from a file is escaped.

    sections: HTML, from top to bottom; made_of: fingerprint of the input files, which tells a second run whether anything has changed;
    photos: whether there are photos to give credit for.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    ours = f" Photos: as shipped with scikit-image ({html.escape(credits_text())}); the sentences about them: xvoken's own." if photos else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="made-of" content="{made_of}">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>xvoken: images for every line</title><style>{STYLE}</style></head><body>
<h1>Images for every line</h1>
{"".join(sections)}
<p><small>Drawings: OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0. Dialogues: ChatterBot corpus, BSD 3-Clause.{ours}</small></p>
</body></html>
"""


def read_made_of(path: Path) -> dict[str, Any]:
    """The fingerprint in a page's head, as settings of a Product; {} for other files."""
    with open(path, encoding="utf-8", errors="replace") as file:
        found = re.search(r'<meta name="made-of" content="([0-9a-f]+)">', file.read(1000))
    return {"made_of": found[1]} if found else {}


def eval_file(load: Path, image_set: str) -> Path:
    """Where evaluation writes a snapshot's recall."""
    return load / "eval" / f"{image_set}.json"


def read_recall(load: Path, image_set: str) -> dict[str, Any]:
    """A snapshot's recall on an image set; raises UserError if there is none, or if it is of another training."""
    path = eval_file(load, image_set)
    record = read_json(path, f"run: {commands.evaluate(load, image_set)}")
    same_training(load, path, record, f"{commands.evaluate(load, image_set)} (and the flags it had)")
    return record


def parse(argv: list[str] | None) -> Namespace:
    """The flags; raises UserError if only some of those that belong together are given."""
    parser = Parser(description="Write the demo's page: lines with their pictures, without and with training; training curve, recall.")
    parser.add_argument("--load", required=True, type=Path, help="the trained matcher's snapshot")
    parser.add_argument("--corpus", required=True, type=Path, help="the dialogues, one per line, utterances separated by tabs")
    parser.add_argument("--image-sets", required=True, help="image sets that were retrieved from, separated by commas")
    parser.add_argument("--eval-set", required=True, help="image set whose recall is shown")
    parser.add_argument("--zeroshot", type=Path, help="snapshot of a matcher without training, to show what it finds too; with --sentences")
    parser.add_argument("--sentences", type=Path, help="sentences about photos, one per line, for both matchers; with --zeroshot")
    parser.add_argument("--photo-set", default="photos", help="image set of the photos that were retrieved from (default: photos)")
    parser.add_argument("--context", type=Path, help="txt_ctx.hdf5 of ctx/build_context.py, to show phrases for pictures too")
    parser.add_argument("--context-images", type=Path, help="folder of the pictures that --context was made from")
    parser.add_argument("--output", required=True, type=Path, help="the HTML file to write")
    args = parser.parse_args(argv)
    for one, other in (("zeroshot", "sentences"), ("context", "context_images")):
        if (getattr(args, one) is None) != (getattr(args, other) is None):
            raise UserError(f"--{one} and --{other.replace('_', '-')} belong together: give both or none")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    dialogues = Retrieved(args.load, args.corpus, sorted(args.image_sets.split(",")))
    photos = [args.photo_set]
    # By the matcher without training: sentences and dialogues; by the trained one: the sentences.
    by_photo = [
        Retrieved(load, corpus, photos)
        for load, corpus in ((args.zeroshot, args.sentences), (args.zeroshot, args.corpus), (args.load, args.sentences))
        if args.zeroshot
    ]
    matchers = {"trained": args.load, **({"without training": args.zeroshot} if args.zeroshot else {})}
    files = [snapshots.metrics_file(args.load), *(eval_file(load, args.eval_set) for load in matchers.values())]
    files += [file for found in (dialogues, *by_photo) for file in found.files()] + ([args.context] if args.context else [])
    made_of = fingerprint({"page": PAGE, "files": [sha256_of_file(path) if path.is_file() else None for path in files]})
    product = Product(args.output, {"made_of": made_of}, lambda: read_made_of(args.output), "what these files say", replaced=True)
    if product.finished():
        return
    lines = dialogues.lines()
    epochs = [json.loads(line) for line in snapshots.metrics_file(args.load).read_text(encoding="utf-8").splitlines()]
    recalls = {made: read_recall(load, args.eval_set) for made, load in matchers.items()}
    best, sample = choose(lines, BEST, ANY)
    sections = [trained_section(Trained(args.eval_set, recalls, epochs, lines), best, sample)]
    if by_photo:
        sentences, others, again = (found.lines() for found in by_photo)
        sections = [untrained_section(sentences, others), *sections, photos_section(again)]
    if args.context:
        sections.append(context_section(args.context, args.context_images))
    with product.alone() as todo:
        if todo:
            write_text(args.output, page(sections, made_of, bool(by_photo)))
    for line in best[:PRINTED]:
        print(" | ".join(line.utterances))
        print("    " + ", ".join(f"{path.stem} {score:.2f}" for path, score in line.found))
    print(f"wrote the page to {args.output}: open {args.output.resolve().as_uri()}")


if __name__ == "__main__":
    run_main(main)
