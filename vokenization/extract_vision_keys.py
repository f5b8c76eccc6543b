"""Extract the keys of image sets: each picture's vector in a matcher's joint space.

    python vokenization/extract_vision_keys.py --load-dir snap/xmatching/NAME --image-sets open_images
    python vokenization/extract_vision_keys.py --torchvision-model resnet101 --image-sets open_images --output-dir snap/resnet101

With --key-views a key is the mean over several views of its picture, see xvoken/pictures/cuts.py. With --torchvision-model the files hold
a backbone's raw features instead, which are no keys: for Vokenization's --voken_feat_dir, see vokenization/torchvision_features.py.

reads   data/vokenization/images/{IMAGE_SET}.ids and the pictures, in files or tar shards; the snapshot
writes  snap/xmatching/NAME/keys/{IMAGE_SET}.hdf5 (keys float32 (N, dim), ids), .ids, .path, .skipped.tsv;
        see xvoken/files/keys.py. The frozen tower's outputs for the pictures are kept in data/cache.
"""

import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401
from xvoken.interrupts import importing

from xvoken import commands
from xvoken.cli.flags import (
    LOAD,
    Help,
    Parser,
    add_compute_flags,
    add_engine_flags,
    add_key_views_flag,
    add_roots_flags,
    at_least_one,
    compute_of,
    precision_help,
    roots_of,
)
from xvoken.cli.main import run_main
from xvoken.encoders.identity import Identity, identify, said
from xvoken.errors import UserError
from xvoken.files import image_ids
from xvoken.files import keys as key_files
from xvoken.files.image_ids import hash_of_pictures
from xvoken.files.image_sets import Roots, listed_sets, split_name
from xvoken.files.safe import sha256_of_file, sha256_of_lines
from xvoken.kinds import DECODERS
from xvoken.machine import IMAGE_BATCH, ON_GPU, Compute, suggest_bf16
from xvoken.pictures.sources import Member
from xvoken.work.product import Product, begun_with, settled


@dataclass(frozen=True)
class Listed:
    """The pictures of an image set. ids, paths: one of each a picture; data: their hash_of_pictures."""

    name: str
    ids: list[str]
    paths: list[Path | Member]
    data: str

    @classmethod
    def read(cls, image_set: str, roots: Roots, ids_root: Path, limit: int | None) -> "Listed":
        """The first `limit` pictures in the order that is fixed; raises UserError if none is."""
        name, folder = split_name(image_set)
        if not image_ids.ids_file(ids_root, name).exists():
            known = image_ids.known_sets(ids_root, roots)
            raise UserError(f"image set {name}: its order is not fixed yet; run: {commands.fix_order(image_set)} (known here: {known})")
        ids = image_ids.read(ids_root, name)[:limit]
        paths = image_ids.paths(ids_root, name, ids, folder, roots)
        return cls(name, ids, paths, hash_of_pictures(ids, paths))

    def settings(self) -> dict[str, Any]:
        """What files made of them depend on."""
        return {"pictures": len(self.ids), "ids": sha256_of_lines(self.ids)[:16], "data": self.data[:16]}

    def product(self, where: Path, settings: dict[str, Any], what: str) -> Product:
        """The files of a folder that hold something of each picture; what: the name of that."""
        older = {"data": settings["data"], "precision": settings["precision"], "decoder": "pillow", "key_views": 1}
        return Product(
            key_files.keys_file(where, self.name), settings, lambda: key_files.read_settings(where, self.name),
            f"the {what} of these {len(self.ids):,} pictures", key_files.companions(where, self.name),
            (key_files.skipped_file(where, self.name),),
            unsaid={name: value for name, value in older.items() if name in settings},
        )  # fmt: skip

    def tell(self, made: int, what: str, path: Path, skipped: int) -> None:
        """Print what was written; what: its name."""
        listed = f"; {skipped} left out, listed in {self.name}.skipped.tsv" if skipped else ""
        print(f"wrote {made:,} {what} to {path}{listed}")


def extract(load: str, identity: Identity, pictures: Listed, where: Path, compute: Compute) -> None:
    """Write the keys of one image set, unless they exist already."""
    name, ids, paths, data = pictures.name, pictures.ids, pictures.paths, pictures.data
    path = key_files.keys_file(where, name)
    compute = settled(compute, begun_with(path, lambda: key_files.read_settings(where, name)))
    settings = {
        "snapshot": identity.name, "snapshot_hash": identity.hash, **pictures.settings(),
        "precision": compute.precision, "decoder": compute.decoder, "key_views": identity.key_views,
    }  # fmt: skip
    product = pictures.product(where, settings, "keys")
    if product.finished():
        return
    with importing():
        from vokenization.keys import key_blocks, tower_features
        from xvoken.cache.features import left_out, precision_of
        from xvoken.pictures.batches import require_decoder
    require_decoder(compute.decoder)
    suggest_bf16(compute)
    encoder, features = tower_features(load, ids, paths, compute, name, data, identity.hash, identity.key_views)
    if features is None:
        return
    settings["precision"] = precision_of(features[0], compute)
    skipped = left_out(features)
    missing = {row for row, _ in skipped}
    rows = [row for row in range(len(ids)) if row not in missing]
    with product.alone(wait=True) as todo:  # if the tower's outputs were cached already, several shares get here
        if not todo:
            return
        key_files.write(
            where, name, key_blocks(encoder, features), [ids[r] for r in rows], [str(paths[r]) for r in rows],
            [(ids[r], str(paths[r]), reason) for r, reason in skipped], said(settings),
            said({"snapshot": encoder.name, "snapshot_hash": encoder.hash, "image_set": name, "key_views": identity.key_views}),
        )  # fmt: skip
    pictures.tell(len(rows), f"keys of {encoder.dim} dimensions", path, len(skipped))


def extract_raw(model: str, weights: Path | None, pictures: Listed, where: Path, compute: Compute) -> None:
    """Write a backbone's raw features for one image set, unless they exist already. weights: its file, None for the published ones."""
    path, whole = key_files.keys_file(where, pictures.name), compute.batch_size == 1
    compute = settled(compute, begun_with(path, lambda: key_files.read_settings(where, pictures.name)))
    settings = {
        "torchvision": model, "weights": sha256_of_file(weights)[:16] if weights else "published", **pictures.settings(),
        "precision": compute.precision, "decoder": compute.decoder, "sides": [400, 600] if whole else [256, 224],
    }  # fmt: skip
    product = pictures.product(where, settings, f"features by {model}")
    if product.finished():
        return
    with importing():
        from vokenization.torchvision_features import write_features
        from xvoken.encoders.matcher import ImageTowerSpec
    spec = ImageTowerSpec(model, str(weights) if weights else None)
    if made := write_features(spec, product, pictures.ids, pictures.paths, compute, whole):
        pictures.tell(made[0], f"raw features by {model}", path, made[1])


def require_one_model(args: Namespace) -> None:
    """Raise UserError for flags of the model that do not go together."""
    if bool(args.load) == bool(args.torchvision_model):
        both = "both are given" if args.load else "neither is given"
        raise UserError(f"--load-dir (a matcher or CLIP, for keys) or --torchvision-model (for raw features): {both}, give one of them")
    if args.visn_weights and not args.torchvision_model:
        raise UserError("--visn-weights goes with --torchvision-model; a snapshot says itself where its tower's weights are")
    if args.visn_weights and not args.visn_weights.is_file():
        raise UserError(f"--visn-weights {args.visn_weights}: no such file")
    if args.torchvision_model and args.key_views:
        raise UserError("--key-views goes with --load-dir; raw features are of one view")
    if args.torchvision_model and not args.output:
        raise UserError("--torchvision-model needs --output-dir, a folder for the features, such as snap/resnet101: they are no snapshot's")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Extract the keys of image sets: the pictures' vectors in the joint space.", formatter_class=Help)
    parser.add_argument(
        "--load-dir",
        "--load",
        dest="load",
        help=LOAD,
    )
    parser.add_argument(
        "--torchvision-model",
        help="instead of --load-dir: a torchvision classifier, such as resnet101, whose features, those that its last layer takes, are "
        "written as they are, not of length 1; with --batch-size 1 of whole pictures, the shorter side at most 400 and the longer one at "
        "most 600, else of the centre of 224 of 256; needs --output-dir",
    )
    parser.add_argument(
        "--visn-weights", type=Path, help="file with the weights of --torchvision-model: .safetensors or .pth (default: the published ones)"
    )
    parser.add_argument(
        "--image-sets", default=["open_images"], nargs="+",
        help="image sets, separated by commas; if pictures moved, NAME=FOLDER or 'NAME=FOLDER/{00000..00099}.tar' (default: open_images)",
    )  # fmt: skip
    parser.add_argument("--output-dir", "--output", dest="output", help="folder for the keys (default: keys/ in the snapshot)")
    parser.add_argument("--ids-root", type=Path, default=image_ids.ROOT, help="folder of the .ids files")
    add_roots_flags(parser)
    parser.add_argument("--cache", default="data/cache", help="folder for the cached outputs of the tower")
    parser.add_argument("--limit", type=at_least_one, metavar="N", help="extract only the first N pictures of each set")
    parser.add_argument("--batch-size", type=at_least_one, help=f"pictures in a batch, times {ON_GPU} on a GPU (default: {IMAGE_BATCH})")
    parser.add_argument(
        "--decoder", choices=DECODERS, default="pillow",
        help="what decodes pictures; torchcodec decodes and scales JPEG files on the GPU, where Pillow on all cores can't keep up with it",
    )  # fmt: skip
    add_key_views_flag(parser)
    add_compute_flags(
        parser, precision_help("image tower", "bf16 if the device has units for it, as by default in training, whose cache is then used")
    )
    add_engine_flags(parser)
    args = parser.parse_args(argv)
    require_one_model(args)
    compute, sets = compute_of(args), listed_sets(args.image_sets)
    if args.torchvision_model:
        for image_set in sets:
            pictures = Listed.read(image_set, roots_of(args), args.ids_root, args.limit)
            extract_raw(args.torchvision_model, args.visn_weights, pictures, Path(args.output), compute)
        return
    identity = identify(args.load, args.key_views)
    where = Path(args.output) if args.output else key_files.folder(identity.home)
    for image_set in sets:
        extract(args.load, identity, Listed.read(image_set, roots_of(args), args.ids_root, args.limit), where, compute)


if __name__ == "__main__":
    run_main(main)
