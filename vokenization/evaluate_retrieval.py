"""Recall over whole image sets, in both directions.

    python vokenization/evaluate_retrieval.py --load snap/xmatching/NAME --image-sets coco_minival

reads   data/lxmert/*.json (captions), snap/xmatching/NAME and its keys/{IMAGE_SET}.hdf5
writes  snap/xmatching/NAME/eval/{IMAGE_SET}.json: images, captions, text_to_image {R1, R5, R10, median_rank},
        image_to_text {...}, chance {...}; recalls in percent; settings: all that they depend on
A second run prints what the file holds; where snapshot, keys, captions or precision are others, they are measured again.
"""

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

import torch

from xvoken.cache.texts import sentence_means, text_features, token_features
from xvoken.cli.flags import Help, Parser, add_compute_flags, add_roots_flags, compute_of, roots_of
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.encoders.encoder import Encoder, load_encoder
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files.image_sets import LXMERT_NAMES, CaptionedSet, Roots, captioned_sets, listed_sets, lxmert_file, read_captioned, split_name
from xvoken.files.keys import Gallery, read_keys
from xvoken.files.safe import quoted, read_json, sha256_of_lines, write_json
from xvoken.machine import Compute
from xvoken.recall import evaluate
from xvoken.records import table
from xvoken.work.product import Product


@dataclass
class Evaluation:
    """The captions of one image set, and the keys that they are held against."""

    name: str
    captioned: CaptionedSet
    gallery: Gallery

    @classmethod
    def of(cls, name: str, keys_dir: Path, langs: list[str], roots: Roots, encoder: Encoder) -> "Evaluation":
        """Raises UserError where there are no captions, or no keys, or none of the captions is of one of them."""
        if not lxmert_file(name, roots).exists() and name not in LXMERT_NAMES:
            raise UserError(f"{name}: has no captions to evaluate with; sets that have some in {roots.lxmert}: {captioned_sets(roots)}")
        captioned = read_captioned(name, langs, roots)
        found = cls(name, captioned, read_keys(keys_dir, [name], encoder))
        if not found.captions:
            raise UserError(f"{name}: none of its captions belongs to one of its {len(found.gallery.ids)} keys")
        return found

    @cached_property
    def captions(self) -> list[tuple[int, str]]:
        """Row of the key and text of each caption that has a key."""
        row_of = {key_id.split("/", 1)[1]: row for row, key_id in enumerate(self.gallery.ids)}
        ids = self.captioned.ids
        return [(row_of[ids[picture]], text) for picture, text in self.captioned.captions if ids[picture] in row_of]

    def product(self, path: Path, encoder: Encoder, compute: Compute) -> Product:
        """What its record depends on. Recalls cost no more than a look, and are measured again where that is another now."""
        ids, captions = self.captioned.ids, self.captioned.captions
        settings = {
            "snapshot_hash": encoder.hash, "keys": sha256_of_lines(self.gallery.made_by)[:16],
            "captions": sha256_of_lines(f"{ids[picture]}\t{text}" for picture, text in captions)[:16], "precision": compute.precision,
        }  # fmt: skip
        return Product(path, settings, lambda: read_settings(path), "this recall", replaced=True)

    def measure(self, encoder: Encoder, compute: Compute) -> dict[str, Any]:
        """The record: all its captions against all its keys."""
        if missing := len(self.captioned.captions) - len(self.captions):
            say(f"{self.name}: {missing} captions of pictures without a key left out")
        sentences = list(dict.fromkeys(text for _, text in self.captioned.captions))
        by_token = encoder.level == "token"
        # Cut as in training, whose validation measured the same, and whose cache is found again.
        made = token_features if by_token else text_features
        features = made(encoder.text_spec, encoder.text.tower, encoder.tokenizer, sentences, encoder.max_len, compute, self.name)
        if by_token:
            text = sentence_means(features, encoder.text_head)
        else:
            text = encoder.text_vectors(torch.from_numpy(features.rows.astype("float32")))
        text_row = {sentence: row for row, sentence in enumerate(sentences)}
        rows = torch.tensor([text_row[sentence] for _, sentence in self.captions])
        return evaluate(text[rows], torch.from_numpy(self.gallery.vectors), torch.tensor([row for row, _ in self.captions]))


def read_record(path: Path) -> dict[str, Any]:
    """A record as `main` writes it, as a dict at least; raises UserError for what is none."""
    record = read_json(path, mend := f"make it again after: rm {quoted(path)}")
    if not isinstance(record, dict):
        raise UserError(f"{path} is no record of recalls; {mend}")
    return record


def read_settings(path: Path) -> dict[str, Any]:
    """What the record depends on; nothing of files of earlier versions, which do not say, and of what is no record."""
    try:
        settings = read_record(path).get("settings")
    except UserError:
        return {}
    return settings if isinstance(settings, dict) else {}


def with_text(load: str, encoder: Encoder) -> Encoder:
    """The encoder with its text tower, which what is finished is skipped without."""
    return load_encoder(load, ["text"], "cpu") if encoder.text is None else encoder


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Recall over whole image sets, both directions.", formatter_class=Help)
    parser.add_argument(
        "--load", required=True, help="a matcher's snapshot, as snap/xmatching/NAME, or a CLIP or SigLIP model by hub id or folder"
    )
    parser.add_argument("--image-sets", default="coco_minival", help="image sets with captions, with commas")
    parser.add_argument("--langs", default="mscoco", help="sources of sentences (keys of sentf), with commas")
    parser.add_argument("--keys-dir", type=Path, help="folder of the keys (default: keys/ in the snapshot)")
    parser.add_argument("--output", type=Path, help="folder to write to (default: eval/ in the snapshot)")
    add_roots_flags(parser)
    parser.add_argument("--cache", default="data/cache", help="folder for the tower's outputs")
    add_compute_flags(parser, "text tower", "as training takes it, whose cache is then used again")
    args = parser.parse_args(argv)
    encoder = load_encoder(args.load, [], "cpu")
    compute = compute_of(args)
    for image_set in listed_sets([args.image_sets]):
        name, _ = split_name(image_set)
        path = (args.output or encoder.home / "eval") / f"{name}.json"
        if not path.exists():
            encoder = with_text(args.load, encoder)
        keys_dir = args.keys_dir or key_files.folder(encoder.home)
        evaluation = Evaluation.of(name, keys_dir, args.langs.split(","), roots_of(args), encoder)
        product, written = evaluation.product(path, encoder, compute), ""
        if not product.finished():
            encoder = with_text(args.load, encoder)
            with product.alone() as todo:
                if todo:
                    made_by = {"snapshot": encoder.name, "snapshot_hash": encoder.hash, "settings": product.settings}
                    write_json(path, {**evaluation.measure(encoder, compute), **made_by})
                    written = f"\nwrote {path}"
        print(f"{name}: {table(read_record(path))}{written}")


if __name__ == "__main__":
    run_main(main)
