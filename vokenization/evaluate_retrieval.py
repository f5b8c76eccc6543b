"""Recall over whole image sets, in both directions.

    python vokenization/evaluate_retrieval.py --load snap/xmatching/NAME --image-sets coco_minival
    python vokenization/evaluate_retrieval.py --load snap/xmatching/NAME --protocol coco5k

reads   data/lxmert/*.json (captions), snap/xmatching/NAME and its keys/{IMAGE_SET}.hdf5
writes  snap/xmatching/NAME/eval/{IMAGE_SET}.json, with --protocol eval/{IMAGE_SET}.{PROTOCOL}.json: images, captions,
        text_to_image {R1, R5, R10, median_rank, mean_rank, mAP_R}, image_to_text {...}, rsum, chance {...}, interval {text_to_image
        {R1: [from, to], ...}, image_to_text {...}, rsum}; recalls and mAP_R in percent; settings: all that the figures depend on
A protocol (vokenization/protocols.py) is an image set of the Karpathy split and the way it is ranked: coco5k and flickr as a whole,
coco1k in five folds whose figures are averaged. Its table has published figures below, unless the matcher was trained on some of the
pictures.
Captions are encoded as retrieval encodes a corpus' lines: in the same precision, cut at the tower's length. With --hubness, scores are
corrected as there, in a bank of training's captions and pictures (--bank-set: of a set's), both ways: the record says hubness and bank.
Of a snapshot with a calibration also `probability`: precision by coverage and calibration error of the probability that a caption's best
picture is right, and with --other-lines how well it tells captions from these.
A second run prints the file; if snapshot, keys, captions, precision, hubness or bank have changed, it measures again.
"""

import sys
from argparse import SUPPRESS, Namespace
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401
from xvoken.interrupts import importing

from vokenization.hubness import CaptionBank, require_calibration, warn_of_calibration
from vokenization.protocols import PROTOCOLS, remarks
from xvoken import commands
from xvoken.cli.flags import (
    LOAD,
    Help,
    Parser,
    add_compute_flags,
    add_hubness_flag,
    add_roots_flags,
    compute_of,
    names,
    precision_help,
    roots_of,
    some_path,
)
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.encoders import snapshot
from xvoken.encoders.identity import Identity, identify
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files.image_sets import (
    CaptionedSet,
    Roots,
    captioned_sets,
    is_captioned,
    listed_sets,
    read_captioned,
    read_ids,
    split_name,
)
from xvoken.files.keys import Gallery, read_keys
from xvoken.files.lines import MOST, other_lines
from xvoken.files.safe import quoted, read_json, sha256_of_lines, write_json
from xvoken.machine import Compute
from xvoken.measures import SAMPLES, SEED
from xvoken.records import sureness, table
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
        if not is_captioned(name, roots):
            what = f"{name}: has no captions to evaluate with; sets with captions in {roots.lxmert}: {captioned_sets(roots)}"
            made_from = next((one.made_from for one in PROTOCOLS.values() if one.image_set == name), None)
            raise UserError(f"{what}; make it with: {commands.split_karpathy(made_from)}" if made_from else what)
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

    def folds(self, number: int) -> list[int]:
        """The fold of each key, by its picture's place in the caption file, in blocks of neighbours; raises UserError for an empty one."""
        place = {picture: at for at, picture in enumerate(self.captioned.ids)}
        pictures = [key_id.split("/", 1)[1] for key_id in self.gallery.ids]
        if strange := [picture for picture in pictures if picture not in place]:
            raise UserError(f"{self.name}: {len(strange)} of its keys are of pictures that its captions do not name, such as {strange[0]}")
        found = [place[picture] * number // len(place) for picture in pictures]
        if missing := set(range(number)) - {found[row] for row, _ in self.captions}:
            raise UserError(f"{self.name}: fold {min(missing) + 1} of {number} has no caption whose picture has a key")
        return found

    def product(self, path: Path, identity: Identity, compute: Compute, protocol: str | None, more: dict[str, Any]) -> Product:
        """The record's file and settings. A record with other settings is replaced without asking: measuring again takes no time.

        more: settings of bank and other lines, where there are any.
        """
        ids, captions = self.captioned.ids, self.captioned.captions
        settings = {
            "snapshot_hash": identity.hash, "keys": sha256_of_lines(self.gallery.made_by)[:16],
            "captions": sha256_of_lines(f"{ids[picture]}\t{text}" for picture, text in captions)[:16], "precision": compute.precision,
            "samples": SAMPLES, "seed": SEED,
        }  # fmt: skip
        if protocol:
            settings |= {"protocol": protocol, "folds": PROTOCOLS[protocol].folds, "pictures": sha256_of_lines(ids)[:16]}
        return Product(path, settings | more, lambda: read_settings(path), "this recall", replaced=True)


def read_bank(args: Namespace, identity: Identity, keys_dir: Path, langs: list[str]) -> CaptionBank | None:
    """What hubness is measured in, None if nothing is taken off; raises UserError where a bank is needed and there is none."""
    alpha = identity.hubness if args.hubness is None else args.hubness
    if not alpha > 0:
        if args.bank_set:
            raise UserError(f"--bank-set {args.bank_set}: is used only with --hubness A, such as --hubness 0.5")
        return None
    if args.bank_set:
        found = Evaluation.read(args.bank_set, keys_dir, langs, roots_of(args), identity)
        return CaptionBank.of_set(alpha, args.bank_set, [text for _, text in found.captions], found.gallery)
    if not identity.matcher or not snapshot.has_bank(args.load):
        raise UserError(f"--hubness {alpha:g}: {args.load} has no bank of its own; name a captioned set that has keys: --bank-set NAME")
    return CaptionBank(alpha)


def read_others(args: Namespace, identity: Identity) -> list[str]:
    """Lines that no picture fits, none if they are not asked for; raises UserError where no probability could tell them from captions."""
    if args.other_lines is None:
        return []
    require_calibration(identity, "--other-lines")
    return other_lines(args.other_lines)


def seen_in_training(load: str, ids: list[str], roots: Roots) -> dict[str, int]:
    """How many of the pictures are in the sets that a matcher was trained and chosen on, by set, as far as their files are here."""
    training = snapshot.read_header(snapshot.require_snapshot(load)).get("training", {})
    found = {name: len(set(ids) & set(read_ids(name, roots, training.get("limit")))) for name in training.get("data", {})}
    return {name: number for name, number in found.items() if number}


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


def record_file(folder: Path, name: str, protocol: str | None) -> Path:
    """The file of a record."""
    return folder / (f"{name}.{protocol}.json" if protocol else f"{name}.json")


def report(path: Path, name: str, protocol: str | None) -> str:
    """What the file holds, for people."""
    record = read_record(path)
    said = [name, *([protocol] if protocol else []), *([f"hubness {record['hubness']:g} taken off"] if "hubness" in record else [])]
    return "\n".join([f"{', '.join(said)}: {table(record)}", *sureness(record), *(remarks(protocol, record) if protocol else [])])


def parse_args(argv: list[str] | None) -> Namespace:
    parser = Parser(description="Recall over whole image sets, both directions.", formatter_class=Help)
    parser.add_argument("--load", required=True, help=LOAD)
    parser.add_argument("--image-sets", help="image sets that have captions, separated by commas (default: coco_minival)")
    parser.add_argument(
        "--protocol", choices=list(PROTOCOLS),
        help="rank as coco5k, coco1k (mean over five folds of 1,000 pictures) or flickr of the Karpathy split: its test set is then the "
        "default of --image-sets, and its source of sentences that of --langs",
    )  # fmt: skip
    parser.add_argument("--langs", type=names, help="sources of sentences (keys of sentf), separated by commas (default: mscoco)")
    parser.add_argument("--keys-dir", type=Path, help="folder of the keys (default: keys/ in the snapshot)")
    parser.add_argument("--output", type=Path, help="folder to write to (default: eval/ in the snapshot)")
    add_roots_flags(parser)
    # Read no more; scripts/xmatching_benchmark.bash gives one to this stage and to keys.
    parser.add_argument("--cache", default=SUPPRESS, help=SUPPRESS)
    add_hubness_flag(parser, "training's captions and pictures, for pictures and for captions")
    parser.add_argument(
        "--bank-set", metavar="NAME", help="a captioned set that has keys, which is the bank instead, such as a training set"
    )
    parser.add_argument(
        "--other-lines", type=some_path, metavar="FILE",
        help=f"text file of lines that no picture fits, such as dialogue, one each, the first {MOST:,} of which are read: how well the "
        "probability that a picture is right tells captions from them; for a snapshot with a calibration (docs/judging.md)",
    )  # fmt: skip
    add_compute_flags(parser, precision_help("text tower", "bf16 if the device has units for it"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    usual = PROTOCOLS[args.protocol] if args.protocol else None
    identity, compute = identify(args.load), compute_of(args)
    langs = args.langs or (list(usual.langs) if usual else ["mscoco"])
    keys_dir = args.keys_dir or key_files.folder(identity.home)
    bank = read_bank(args, identity, keys_dir, langs)
    warn_of_calibration(identity, bank.alpha if bank else 0.0)
    others, more = read_others(args, identity), bank.settings() if bank else {}
    if others:
        more["other_lines"] = sha256_of_lines(others)[:16]
    for image_set in listed_sets([args.image_sets or (usual.image_set if usual else "coco_minival")]):
        name, _ = split_name(image_set)
        path = record_file(args.output or identity.home / "eval", name, args.protocol)
        evaluation = Evaluation.read(name, keys_dir, langs, roots_of(args), identity)
        product, written = evaluation.product(path, identity, compute, args.protocol, more), ""
        if not product.finished():
            folds = evaluation.folds(usual.folds) if usual else None
            with importing():
                from vokenization.recall import Pairs, measure
            pairs = Pairs(evaluation.captions, evaluation.gallery.vectors, folds)
            with product.alone() as todo:
                if todo:
                    if bank and bank.name == name:
                        say(f"warning: {name} is its own bank, so that its figures are too high; name another set: --bank-set NAME")
                    if missing := len(evaluation.captioned.captions) - len(evaluation.captions):
                        say(f"{name}: left out {missing} captions, whose pictures have no key")
                    record = measure(args.load, identity, pairs, path, compute, bank, others)
                    if usual and identity.matcher:
                        record["seen"] = seen_in_training(args.load, evaluation.captioned.ids, roots_of(args))
                    write_json(path, {**record, "snapshot": identity.name, "snapshot_hash": identity.hash, "settings": product.settings})
                    written = f"\nwrote {path}"
        print(report(path, name, args.protocol) + written)


if __name__ == "__main__":
    run_main(main)
