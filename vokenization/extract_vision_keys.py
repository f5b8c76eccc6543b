"""Extract the keys of image sets: each picture's vector in a matcher's joint space.

    python vokenization/extract_vision_keys.py --load-dir snap/xmatching/NAME --image-sets open_images

With --key-views a key is the mean over several views of its picture, see xvoken/pictures/cuts.py.

reads   data/vokenization/images/{IMAGE_SET}.ids and the pictures, in files or tar shards; the snapshot
writes  snap/xmatching/NAME/keys/{IMAGE_SET}.hdf5 (keys float32 (N, dim), ids), .ids, .path, .skipped.tsv;
        see xvoken/files/keys.py. The frozen tower's outputs for the pictures are kept in data/cache.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401
from xvoken.interrupts import importing

from xvoken import commands
from xvoken.cli.flags import (
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
from xvoken.files.safe import sha256_of_lines
from xvoken.kinds import DECODERS
from xvoken.machine import IMAGE_BATCH, ON_GPU, Compute, suggest_bf16
from xvoken.work.product import Product, begun_with, settled


def extract(
    load: str, identity: Identity, image_set: str, where: Path, compute: Compute, roots: Roots, ids_root: Path, limit: int | None
) -> None:
    """Write the keys of one image set, unless they exist already."""
    name, folder = split_name(image_set)
    if not image_ids.ids_file(ids_root, name).exists():
        known = image_ids.known_sets(ids_root, roots)
        raise UserError(f"image set {name}: its order is not fixed yet; run: {commands.fix_order(image_set)} (known here: {known})")
    ids = image_ids.read(ids_root, name)[:limit]
    paths = image_ids.paths(ids_root, name, ids, folder, roots)
    data, path = hash_of_pictures(ids, paths), key_files.keys_file(where, name)
    compute = settled(compute, begun_with(path, lambda: key_files.read_settings(where, name)))
    settings = {
        "snapshot": identity.name, "snapshot_hash": identity.hash, "pictures": len(ids), "ids": sha256_of_lines(ids)[:16],
        "data": data[:16],
        "precision": compute.precision, "decoder": compute.decoder, "key_views": identity.key_views,
    }  # fmt: skip
    product = Product(
        path, settings, lambda: key_files.read_settings(where, name), f"the keys of these {len(ids):,} pictures",
        key_files.companions(where, name), (key_files.skipped_file(where, name),),
        unsaid={"data": settings["data"], "precision": settings["precision"], "decoder": "pillow", "key_views": 1},
    )  # fmt: skip
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
    listed = f"; {len(skipped)} left out, listed in {name}.skipped.tsv" if skipped else ""
    print(f"wrote {len(rows):,} keys of {encoder.dim} dimensions to {path}{listed}")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Extract the keys of image sets: the pictures' vectors in the joint space.", formatter_class=Help)
    parser.add_argument(
        "--load-dir",
        "--load",
        dest="load",
        required=True,
        help="a matcher's snapshot, such as snap/xmatching/NAME, or a CLIP or SigLIP model by hub id or folder",
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
    compute = compute_of(args)
    identity = identify(args.load, args.key_views)
    where = Path(args.output) if args.output else key_files.folder(identity.home)
    for image_set in listed_sets(args.image_sets):
        extract(args.load, identity, image_set, where, compute, roots_of(args), args.ids_root, args.limit)


if __name__ == "__main__":
    run_main(main)
