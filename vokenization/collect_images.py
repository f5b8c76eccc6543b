"""Collect the pictures that a voken file names, each once: what a detector needs next.

    python vokenization/collect_images.py --vokens snap/xmatching/NAME/vokens/valid.pkl.txt.open_images --topk 1 --as symlinks

reads   the voken file's .hdf5 and .ids, the keys' .path, the pictures, in files or tar shards
writes  {voken file}.pictures/pictures.tsv    a line a picture: file, id, and the lines that want it, from 0, with commas
                              pictures.path   the files alone, a line each, as Maria's detector reads them
                              missing.tsv     as pictures.tsv, of pictures that are not there
                              images/         with --as symlinks, hardlinks or copies, the pictures under the names in the voken file's text
                              00000.tar, ...  with --as shards, the pictures in tar files, each with a .json of its id and lines
                              pictures.json   what it was made of, and counts; written last
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401
from xvoken.interrupts import importing

from xvoken.cli.flags import Help, Parser, at_least_one, some_path
from xvoken.cli.main import run_main
from xvoken.cli.page import Given, add_given_flags, given_of
from xvoken.console import say
from xvoken.errors import UserError
from xvoken.files.rows import read_rows
from xvoken.files.safe import differences, fingerprint, quoted, read_json, sha256_of_file, sha256_of_lines, write_json, write_lines
from xvoken.files.vokens import MAKE
from xvoken.pictures.sources import Member
from xvoken.work.product import Product

WAYS = ("list", "symlinks", "hardlinks", "copies", "shards")
BEGUN = ".begun.json"


def product_of(folder: Path, given: Given, paths: list[Path | Member], how: dict[str, Any]) -> Product:
    """The collection in a folder; how: the flags that it depends on. Raises UserError if there is one of other settings."""
    made_of = given.settings or {"vokens": sha256_of_file(given.hdf5)}  # the predecessors' files say nothing of themselves
    settings = {
        "vokens": fingerprint(made_of),
        "ids": sha256_of_lines(given.ids)[:16],
        "paths": sha256_of_lines(map(str, paths))[:16],
        **how,
    }
    done = folder / "pictures.json"
    if done.exists() and (changed := differences(read_json(done, f"remove {folder}")["settings"], settings)):
        raise UserError(
            f"{folder}: was made with other settings ({changed}); give another --output, or make it again: rm -r {quoted(folder)}"
        )
    return Product(
        folder / "pictures.tsv", settings, lambda: read_json(done, f"remove {folder}")["settings"], "the pictures of this voken file",
        (folder / "pictures.path", folder / "missing.tsv"), done=done,
    )  # fmt: skip


def require_own(folder: Path, settings: dict[str, Any]) -> None:
    """Raise UserError for a folder that holds something else than a run with these settings has left; then say there which they are."""
    begun = folder / BEGUN
    same = begun.is_file() and read_json(begun, f"remove {folder}") == settings
    if not same and (there := sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))):
        raise UserError(
            f"{folder}: holds other files ({', '.join(there[:3])}); give an empty folder as --output, or: rm -r {quoted(folder)}"
        )
    write_json(begun, settings)


def collect(given: Given, folder: Path, way: str, topk: int | None, shard_size: int) -> None:
    """Write the collection, unless it is there."""
    paths = given.paths()
    how = {"as": way, "topk": topk, **({"shard_size": shard_size} if way == "shards" else {})}
    product = product_of(folder, given, paths, how)
    if product.finished():
        return
    with importing():
        from vokenization.collecting import LinesOfTokens, put, read_wanted, require_files, sort_out, token_pictures, write_shards
    tokens = token_pictures(given.hdf5)
    wanted = read_wanted(given.hdf5, topk, LinesOfTokens(given.text(), tokens, read_rows(given.hdf5, MAKE)) if tokens else None)
    there, missing = sort_out(wanted, given.ids, paths)
    if not there.names:
        first = f"; the first: {missing.places[0]}" if missing.names else ""
        raise UserError(f"{given.name}: none of the {len(missing.names):,} pictures that it names is there{first}")
    require_files(there, way)
    with product.alone() as todo:
        if not todo:
            return
        require_own(folder, product.settings)
        if way == "shards":
            files: list[Any] = write_shards(there, folder, shard_size)
        else:
            files = list(there.places) if way == "list" else put(there, folder / "images", way)
        write_lines(folder / "missing.tsv", missing.rows(missing.places))
        write_lines(folder / "pictures.path", map(str, files))
        write_lines(product.path, there.rows(files))
        counts = {"pictures": len(files), "missing": len(missing.names), "lines": len(set(wanted.lines.tolist()))}
        write_json(product.last, {"settings": product.settings, **counts})
    print(f"wrote {len(files):,} pictures that {counts['lines']:,} lines want to {folder} ({way})")
    if missing.names:
        listed = f"listed in {folder / 'missing.tsv'}"
        say(f"pictures that are not there: {len(missing.names):,}, {listed}; when they are, again after: rm -r {quoted(folder)}")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Collect the pictures that a voken file names, each once.", formatter_class=Help)
    add_given_flags(parser)
    parser.add_argument(
        "--as", dest="way", choices=WAYS, default="list",
        help="list: only the lists; symlinks, hardlinks, copies: the pictures in a folder too; shards: in tar files",
    )  # fmt: skip
    parser.add_argument("--topk", type=at_least_one, metavar="K", help="only the best K of each line (default: all that the file has)")
    parser.add_argument("--shard-size", type=at_least_one, default=10_000, help="pictures in a tar file")
    parser.add_argument("--output", type=some_path, help="the folder to write to (default: the voken file's name and .pictures)")
    args = parser.parse_args(argv)
    given = given_of(args)
    collect(given, args.output or given.name.with_name(f"{given.name.name}.pictures"), args.way, args.topk, args.shard_size)


if __name__ == "__main__":
    run_main(main)
