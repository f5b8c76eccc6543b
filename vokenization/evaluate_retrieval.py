"""Recall over whole image sets, in both directions.

    python vokenization/evaluate_retrieval.py --load snap/xmatching/NAME --image-sets coco_minival

reads   data/lxmert/*.json (captions), snap/xmatching/NAME and its keys/{IMAGE_SET}.hdf5
writes  snap/xmatching/NAME/eval/{IMAGE_SET}.json: images, captions, text_to_image {R1, R5, R10, median_rank},
        image_to_text {...}, chance {...}; recalls in percent; settings: all that the recalls depend on
A second run prints the file; if snapshot, keys, captions or precision have changed, it measures again.
"""

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401
from xvoken.interrupts import importing

from xvoken.cli.flags import Help, Parser, add_compute_flags, add_roots_flags, compute_of, names, precision_help, roots_of
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.encoders.identity import Identity, identify
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files.image_sets import LXMERT_NAMES, CaptionedSet, Roots, captioned_sets, listed_sets, lxmert_file, read_captioned, split_name
from xvoken.files.keys import Gallery, read_keys
from xvoken.files.safe import quoted, read_json, sha256_of_lines, write_json
from xvoken.machine import Compute
from xvoken.records import table
from xvoken.work.product import Product


@dataclass
class Evaluation:
    """The captions of one image set, and the keys that they are compared with."""

    name: str
    captioned: CaptionedSet
    gallery: Gallery

    @classmethod
    def read(cls, name: str, keys_dir: Path, langs: list[str], roots: Roots, identity: Identity) -> "Evaluation":
        """Read captions and keys; raises UserError if either is missing, or if no caption belongs to a picture with a key."""
        if not lxmert_file(name, roots).exists() and name not in LXMERT_NAMES:
            raise UserError(f"{name}: has no captions to evaluate with; sets with captions in {roots.lxmert}: {captioned_sets(roots)}")
        captioned = read_captioned(name, langs, roots)
        found = cls(name, captioned, read_keys(keys_dir, [name], identity))
        if not found.captions:
            raise UserError(f"{name}: none of its captions belongs to one of its {len(found.gallery.ids)} keys")
        return found

    @cached_property
    def captions(self) -> list[tuple[int, str]]:
        """Row of the key and text of each caption that has a key."""
        row_of = {key_id.split("/", 1)[1]: row for row, key_id in enumerate(self.gallery.ids)}
        ids = self.captioned.ids
        return [(row_of[ids[picture]], text) for picture, text in self.captioned.captions if ids[picture] in row_of]

    def product(self, path: Path, identity: Identity, compute: Compute) -> Product:
        """The record's file and settings. A record with other settings is replaced without asking: measuring again takes no time."""
        ids, captions = self.captioned.ids, self.captioned.captions
        settings = {
            "snapshot_hash": identity.hash, "keys": sha256_of_lines(self.gallery.made_by)[:16],
            "captions": sha256_of_lines(f"{ids[picture]}\t{text}" for picture, text in captions)[:16], "precision": compute.precision,
        }  # fmt: skip
        return Product(path, settings, lambda: read_settings(path), "this recall", replaced=True)


def read_record(path: Path) -> dict[str, Any]:
    """A record as `main` writes it; raises UserError for a file that is no JSON object."""
    record = read_json(path, mend := f"make it again after: rm {quoted(path)}")
    if not isinstance(record, dict):
        raise UserError(f"{path} is not a record of an evaluation; {mend}")
    return record


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a record; {} for files of earlier versions, which have none, and for other files."""
    try:
        settings = read_record(path).get("settings")
    except UserError:
        return {}
    return settings if isinstance(settings, dict) else {}


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Recall over whole image sets, both directions.", formatter_class=Help)
    parser.add_argument(
        "--load", required=True, help="a matcher's snapshot, such as snap/xmatching/NAME, or a CLIP or SigLIP model by hub id or folder"
    )
    parser.add_argument("--image-sets", default="coco_minival", help="image sets that have captions, separated by commas")
    parser.add_argument("--langs", type=names, default="mscoco", help="sources of sentences (keys of sentf), separated by commas")
    parser.add_argument("--keys-dir", type=Path, help="folder of the keys (default: keys/ in the snapshot)")
    parser.add_argument("--output", type=Path, help="folder to write to (default: eval/ in the snapshot)")
    add_roots_flags(parser)
    parser.add_argument("--cache", default="data/cache", help="folder for the cached outputs of the tower")
    add_compute_flags(
        parser, precision_help("text tower", "bf16 if the device has units for it, as by default in training, whose cache is then used")
    )
    args = parser.parse_args(argv)
    identity, compute, encoder = identify(args.load), compute_of(args), None
    for image_set in listed_sets([args.image_sets]):
        name, _ = split_name(image_set)
        path = (args.output or identity.home / "eval") / f"{name}.json"
        keys_dir = args.keys_dir or key_files.folder(identity.home)
        evaluation = Evaluation.read(name, keys_dir, args.langs, roots_of(args), identity)
        product, written = evaluation.product(path, identity, compute), ""
        if not product.finished():
            with importing():
                from vokenization.recall import measure
                from xvoken.encoders.encoder import load_encoder
            encoder = encoder or load_encoder(args.load, ["text"], "cpu", expected=identity.hash)
            with product.alone() as todo:
                if todo:
                    if missing := len(evaluation.captioned.captions) - len(evaluation.captions):
                        say(f"{name}: left out {missing} captions, whose pictures have no key")
                    record = measure(encoder, evaluation.captions, evaluation.gallery.vectors, compute, name)
                    write_json(path, {**record, "snapshot": identity.name, "snapshot_hash": identity.hash, "settings": product.settings})
                    written = f"\nwrote {path}"
        print(f"{name}: {table(read_record(path))}{written}")


if __name__ == "__main__":
    run_main(main)
