"""Keys of a folder's pictures for scripts/find.bash: only those are encoded that are new or changed since anybody asked this folder.

    python scripts/find_keys.py --load MODEL --images FOLDER --image-set NAME --keys-dir DIR

reads   the pictures, and what `xvoken search --images` remembers of them in the user's cache (xvoken/ask/folders.py)
writes  DIR/NAME.hdf5, .ids, .path: see xvoken/files/keys.py
NAME changes with the pictures and the model, so that keys that are there already are those of these pictures.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401
from xvoken.interrupts import importing

from xvoken.cli.flags import LOAD, Help, Parser, add_compute_flags, precision_help, some_path
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.files import keys as key_files


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Write the keys of a folder's pictures, as far as they are remembered.", formatter_class=Help)
    parser.add_argument("--load", required=True, help=LOAD)
    parser.add_argument("--images", required=True, type=some_path, help="folder of pictures, or tar shards in quotes")
    parser.add_argument("--image-set", required=True, help="name of the keys")
    parser.add_argument("--keys-dir", required=True, type=some_path, help="folder of the keys")
    add_compute_flags(parser, precision_help("image tower", "bf16 if the device has units for it"), workers=None)
    args = parser.parse_args(argv)
    if (path := key_files.keys_file(args.keys_dir, args.image_set)).exists():
        say(f"skipped: {path} holds the keys of these pictures already")
        return
    with importing():
        from xvoken.ask.folders import open_folder
    searcher = open_folder(args.load, args.images, args.device, args.precision, show_progress=True, tower_engine=args.tower_engine)
    assert (found := searcher.gallery)
    ids = [name.partition("/")[2] for name in found.ids]
    key_files.write_keys(args.keys_dir, args.image_set, found.vectors, ids, found.paths, searcher.identity)
    print(f"wrote {len(ids):,} keys of {found.vectors.shape[1]} dimensions to {path}")


if __name__ == "__main__":
    run_main(main)
