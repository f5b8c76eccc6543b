"""Write the demo's page: sentences and photos without any training, then what a trained matcher finds, its curve and its recalls.

    python scripts/demo_page.py --load snap/xmatching/demo --corpus data/demo/dialogues/train.pkl.txt \
        --image-sets openmoji_heldout,openmoji_train --eval-set openmoji_heldout --output snap/xmatching/demo/page.html

reads   the snapshot's metrics.jsonl, eval/, vokens/ and keys/*.path, the pictures, the corpus; the same of the untrained matcher
writes  one HTML file with the pictures inside, which needs no other file, no network and no script; it links to the pages of all lines
        and of all crops (vokenization/page.py, ctx/page.py) that are there
"""

import html
import json
import os
import sys
from argparse import Namespace
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from scripts.demo_lines import Line, Retrieved, choose, same_training
from xvoken import commands
from xvoken.cli.flags import Parser
from xvoken.cli.main import run_main
from xvoken.encoders import snapshot as snapshots
from xvoken.errors import UserError
from xvoken.files.safe import fingerprint, read_json, sha256_of_file
from xvoken.pages.document import assets_hash, jumps, made, write_page

BEST, ANY = 8, 8  # lines shown: those with the highest scores, and a random sample; all of them are on pages of their own
PRINTED = 5  # lines printed at the end
PAGE = 3  # version of the page; one of another version is made again
TITLE = "Images for every line"


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


@dataclass
class DemoPage:
    """The demo's page, as xvoken.pages.document.make writes it."""

    args: Namespace
    holds = "what these files say"
    data = False

    @cached_property
    def dialogues(self) -> Retrieved:
        """The dialogues, by the trained matcher."""
        return Retrieved(self.args.load, self.args.corpus, sorted(self.args.image_sets.split(",")))

    @cached_property
    def by_photo(self) -> list[Retrieved]:
        """By the matcher without training, sentences and dialogues; by the trained one, the sentences. Empty without --zeroshot."""
        args = self.args
        asked = ((args.zeroshot, args.sentences), (args.zeroshot, args.corpus), (args.load, args.sentences))
        return [Retrieved(load, corpus, [args.photo_set]) for load, corpus in asked if args.zeroshot]

    @cached_property
    def matchers(self) -> dict[str, Path]:
        """The snapshots, by how they were made."""
        return {"trained": self.args.load, **({"without training": self.args.zeroshot} if self.args.zeroshot else {})}

    @cached_property
    def links(self) -> dict[str, str]:
        """Links to the pages of all lines and of all crops, as HTML, by section; empty for those that are not written."""
        pages = {"trained": [("all dialogues with their drawings", self.dialogues.page())]}
        if self.by_photo:
            sentences, others, again = (found.page() for found in self.by_photo)
            pages["untrained"] = [("all sentences with their photos", sentences), ("all dialogues with photos", others)]
            pages["again"] = [("all sentences with their photos", again)]
        if self.args.context:
            pages["context"] = [("all pictures with all of their crops", self.args.context.with_suffix(".page.html"))]
        return {key: self._linked(found) for key, found in pages.items()}

    def _linked(self, pages: list[tuple[str, Path]]) -> str:
        there = [(name, os.path.relpath(path, self.args.output.parent)) for name, path in pages if path.is_file()]
        links = ", ".join(f'<a href="{html.escape(quote(where))}">{name}</a>' for name, where in there)
        return f"<p>To browse and search: {links}.</p>" if links else ""

    @cached_property
    def made_of(self) -> str:
        """The fingerprint of all that the page depends on."""
        args = self.args
        files = [snapshots.metrics_file(args.load), *(eval_file(load, args.eval_set) for load in self.matchers.values())]
        files += [file for found in (self.dialogues, *self.by_photo) for file in found.files()] + ([args.context] if args.context else [])
        read = [sha256_of_file(path) if path.is_file() else None for path in files]
        return fingerprint({"page": PAGE, "assets": assets_hash(), "files": read, "links": self.links})

    def write(self, output: Path) -> None:
        """Write the page, and print the lines with the highest scores."""
        from scripts.demo_context import context_section
        from scripts.demo_parts import HEADINGS, footer, photos_section, trained_section, untrained_section

        lines = self.dialogues.lines()
        best, sample = choose(lines, BEST, ANY)
        sections = {"trained": trained_section(self._trained(lines), best, sample, self.links["trained"])}
        if self.by_photo:
            sentences, others, again = (found.lines() for found in self.by_photo)
            first = {"untrained": untrained_section(sentences, others, self.links["untrained"])}
            sections = first | sections | {"again": photos_section(again, self.links["again"])}
        if self.args.context:
            sections["context"] = context_section(self.args.context, self.args.context_images, self.links["context"])
        parts = {"sections": "\n".join(sections.values()), "footer": footer(bool(self.by_photo))}
        write_page(output, "plain.html", self.made_of, TITLE, jumps=jumps({key: HEADINGS[key] for key in sections}), **parts)
        for line in best[:PRINTED]:
            print(" | ".join(line.utterances))
            print("    " + ", ".join(f"{path.stem} {score:.2f}" for path, score in line.found))

    def _trained(self, lines: list[Line]) -> Any:
        from scripts.demo_parts import Trained

        load, eval_set = self.args.load, self.args.eval_set
        epochs = [json.loads(line) for line in snapshots.metrics_file(load).read_text(encoding="utf-8").splitlines()]
        header = snapshots.read_header(snapshots.require_snapshot(load))
        recalls = {made: read_recall(one, eval_set) for made, one in self.matchers.items()}
        return Trained(eval_set, recalls, epochs, header.get("choice"), header.get("epoch"), lines)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    print(made(DemoPage(args), args.output, "the page"))


if __name__ == "__main__":
    run_main(main)
