"""Fix the order of the pictures in image sets.

    python vokenization/create_image_ids.py --image-sets coco_minival,open_images --num-images 500000
    python vokenization/create_image_ids.py

Without --image-sets: the sets of COCO, Visual Genome, Conceptual Captions and Open Images that are here; those that are not are named.

reads   data/lxmert/*.json, data/cc/*.tsv (pictures in the order of the file), or a folder of pictures (sorted by name): open_images,
        NAME=FOLDER, or tar shards, in the order that a folder with the unpacked files has: 'NAME=FOLDER/{00000..00099}.tar'
writes  data/vokenization/images/{IMAGE_SET}.ids, for shards also .members; see xvoken/files/image_ids.py
An order that is fixed already is compared with the pictures found, never changed.
"""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from xvoken.cli.flags import Help, Parser, add_roots_flags, at_least_one, names, roots_of
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.errors import UserError
from xvoken.files import image_ids
from xvoken.files.image_sets import (
    CONCEPTUAL,
    FOLDERS,
    LXMERT_NAMES,
    Roots,
    listed_sets,
    lxmert_file,
    named_id,
    read_captioned,
    split_name,
    usual_folder,
)
from xvoken.files.locks import sole_writer
from xvoken.files.safe import remove_temporary
from xvoken.pictures.sources import Member, list_pictures


def ordered_ids(name: str, folder: Path | None, roots: Roots, langs: list[str]) -> list[str] | dict[str, Member]:
    """Ids of a set in order, for tar shards with their members; raises UserError for an unknown set."""
    if folder is not None:
        ids, others = list_pictures(folder)
        if others:
            say(f"{name}: {others} other files in {folder} left out")
        if isinstance(ids, dict):
            return {named_id(name, file): member for file, member in ids.items()}
        return [named_id(name, file) for file in ids]
    if not lxmert_file(name, roots).exists():
        if name in (*LXMERT_NAMES, *CONCEPTUAL):
            raise UserError(f"{lxmert_file(name, roots)} does not exist; docs/data.md says how to get it")
        known = image_ids.known_sets(image_ids.ROOT, roots)
        raise UserError(f"image set {name}: unknown; known here: {known}; a folder of pictures is given as {name}=FOLDER")
    return read_captioned(name, langs, roots).ids


def sets_here(roots: Roots) -> list[str]:
    """The usual image sets that are here, in Vokenization's order; tells which are not, raises UserError if none is."""
    places = {name: lxmert_file(name, roots) for name in (*LXMERT_NAMES, *CONCEPTUAL)} | {name: usual_folder(name) for name in FOLDERS}
    here = [name for name, place in places.items() if place.exists()]
    if not here:
        looked = ", ".join(str(place) for place in places.values())
        raise UserError(f"none of the usual image sets is here ({looked}); docs/data.md says how to get them, --image-sets takes others")
    for name in [name for name in places if name not in here]:
        say(f"{name}: left out, {places[name]} does not exist")
    return here


def sample(ids: list[str], number: int | None, seed: int) -> list[str]:
    """A sample of `number` ids fixed by the seed, in their order; all ids if there are no more than that."""
    if number is None or number >= len(ids):
        return ids
    return [ids[i] for i in sorted(random.Random(seed).sample(range(len(ids)), number))]


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Fix the order of the pictures in image sets.", formatter_class=Help)
    parser.add_argument(
        "--image-sets", nargs="+",
        help="image sets, separated by commas: coco_train, coco_nominival, coco_minival, vg_nococo, cc_train, cc_valid, open_images, the "
        "name of any file in --lxmert-root, NAME=FOLDER, or tar shards, in quotes: 'NAME=FOLDER/{00000..00099}.tar' (default: all "
        "of those named first that are here)",
    )  # fmt: skip
    parser.add_argument("--num-images", type=at_least_one, help="take a random sample of that many pictures of each set, fixed by --seed")
    parser.add_argument("--limit", type=at_least_one, metavar="N", help="take only the first N pictures of each set")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the sample")
    parser.add_argument(
        "--langs", type=names, default="mscoco", help="sources of sentences that an LXMERT file must have, separated by commas"
    )
    parser.add_argument("--ids-root", type=Path, default=image_ids.ROOT, help="folder for the .ids files")
    add_roots_flags(parser)
    args = parser.parse_args(argv)
    for image_set in listed_sets(args.image_sets) if args.image_sets else sets_here(roots_of(args)):
        name, folder = split_name(image_set)
        folder = folder or usual_folder(name)
        found = ordered_ids(name, folder, roots_of(args), args.langs)
        ids = sample(list(found), args.num_images, args.seed)[: args.limit]
        members = [found[i] for i in ids] if isinstance(found, dict) else None
        path = image_ids.ids_file(args.ids_root, name)
        with sole_writer(path, wait=True):  # another run needs it only for a moment; after that its order is compared with ours
            for file in (path, image_ids.source_file(args.ids_root, name), image_ids.members_file(args.ids_root, name)):
                remove_temporary(file)
            written = image_ids.write(args.ids_root, name, ids, folder, members)
        if written:
            print(f"wrote the order of {len(ids):,} pictures to {path}")
        else:
            say(f"skipped: {path} fixes the same {len(ids):,} pictures already")


if __name__ == "__main__":
    run_main(main)
