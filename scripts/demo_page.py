"""Write the demo's page: sentences and photos without any training, then what a trained matcher finds, its curve and its recalls.

    python scripts/demo_page.py --load snap/xmatching/demo --corpus data/demo/dialogues/train.pkl.txt \
        --image-sets openmoji_heldout,openmoji_train --eval-set openmoji_heldout --output snap/xmatching/demo/page.html

reads   the snapshot's metrics.jsonl, eval/, vokens/ and keys/*.path, the pictures, the corpus; the same of the untrained matcher
writes  one HTML file with the pictures inside, which needs no other file, no network and no script
"""

import json
import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401
from xvoken.interrupts import importing

from scripts.demo_lines import Retrieved, choose, same_training
from xvoken import commands
from xvoken.cli.flags import Parser
from xvoken.cli.main import run_main
from xvoken.encoders import snapshot as snapshots
from xvoken.errors import UserError
from xvoken.files.safe import fingerprint, read_json, sha256_of_file, write_text
from xvoken.work.product import Product

BEST, ANY = 24, 24  # lines shown: those with the highest scores, and a random sample
PRINTED = 5  # lines printed at the end
PAGE = 2  # version of the page's layout; a page of another version is made again


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
    with importing():
        from scripts.demo_context import context_section
        from scripts.demo_parts import Trained, page, photos_section, trained_section, untrained_section
    lines = dialogues.lines()
    epochs = [json.loads(line) for line in snapshots.metrics_file(args.load).read_text(encoding="utf-8").splitlines()]
    choice = snapshots.read_header(snapshots.require_snapshot(args.load)).get("choice")
    recalls = {made: read_recall(load, args.eval_set) for made, load in matchers.items()}
    best, sample = choose(lines, BEST, ANY)
    sections = [trained_section(Trained(args.eval_set, recalls, epochs, choice, lines), best, sample)]
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
