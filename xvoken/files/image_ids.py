"""The fixed order of an image set on disk.

data/vokenization/images/{IMAGE_SET}.ids     one id a line (see ids.py); its line number is the picture's number for good
data/vokenization/images/{IMAGE_SET}.json    where the pictures come from: {"folder": ...}, {"lxmert": ...} or
                                              {"pattern": FOLDER/*.tar, "shards": {path of a tar: its size in bytes, ...}},
                                              and ids.MARK where an id is written otherwise than it is
data/vokenization/images/{IMAGE_SET}.members for shards, a line an id: number of its tar, byte offset, size, tab-separated
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xvoken import commands
from xvoken.errors import UserError
from xvoken.files.ids import decoded, encoded, is_marked, mark
from xvoken.files.image_sets import FOLDERS, LXMERT_NAMES, Roots, captioned_stems, in_folder, lxmert_file, named_file, usual_folder
from xvoken.files.safe import all_written, quoted, read_json, sha256_of_lines, write_json, write_lines
from xvoken.pictures.sources import Member, expand, is_shards, size_of

ROOT = Path("data/vokenization/images")


def ids_file(root: Path, image_set: str) -> Path:
    """The order itself, an id a line."""
    return root / f"{image_set}.ids"


def source_file(root: Path, image_set: str) -> Path:
    """The JSON file that says where the pictures come from."""
    return root / f"{image_set}.json"


def members_file(root: Path, image_set: str) -> Path:
    """The places of pictures in tar shards."""
    return root / f"{image_set}.members"


def write(root: Path, image_set: str, ids: list[str], folder: Path | None, members: list[Member] | None = None) -> bool:
    """Fix the order; returns False if the same order was fixed before, raises UserError if another one was.

    folder: of the pictures, or the pattern of tar shards, None for LXMERT's; members: for tar shards, one an id. Their places are
    written even if the order was fixed before, since the shards may have been made again.
    """
    path = ids_file(root, image_set)
    stands = path.exists()
    if stands:
        then = read(root, image_set)
        files, files_now = ([named_file(image_set, i) for i in those] for those in (then, ids))  # older ids of a set may have endings
        if files != files_now:
            at = next((i for i, (a, b) in enumerate(zip(files, files_now, strict=False)) if a != b), min(len(then), len(ids)))
            raise UserError(
                f"{path} fixes {len(then)} pictures, there are {len(ids)} now, first difference at line {at + 1}; keys made "
                f"with it go by that order: keep it, choose another name for the new set, or start over with: rm {quoted(path)}"
            )
    said = mark(ids) if not stands or _is_marked(root, image_set) else {}
    if members is not None:
        assert folder is not None, "shards are given by a pattern"
        numbers = {tar: number for number, tar in enumerate(expand(folder))}
        write_lines(members_file(root, image_set), (f"{numbers[m.tar]}\t{m.offset}\t{m.size}" for m in members))
        sizes = {tar: os.path.getsize(tar) for tar in numbers}
        write_json(source_file(root, image_set), {"pattern": str(folder), "shards": sizes, **said})
    if not stands:
        if members is None:
            write_json(source_file(root, image_set), ({"folder": str(folder)} if folder else {"lxmert": image_set}) | said)
        write_lines(path, map(encoded, ids))
        all_written(path, source_file(root, image_set), *([] if members is None else [members_file(root, image_set)]))
    return not stands


def read(root: Path, image_set: str) -> list[str]:
    """The ids of an image set, in order; raises UserError if they are not fixed yet, or the file is damaged."""
    path = ids_file(root, image_set)
    try:
        ids = path.read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; make it with: {commands.fix_order(image_set)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; make it again after: rm {quoted(path)}") from None
    if not ids:
        raise UserError(f"{path} is empty; make it again after: rm {quoted(path)}")
    return list(map(decoded, ids)) if _is_marked(root, image_set) else ids


def _is_marked(root: Path, image_set: str) -> bool:
    """Whether the ids of a set that is there are written in another way than they are; old files hold them as they are."""
    path = source_file(root, image_set)
    return path.exists() and is_marked(read_json(path, f"remove {path}"))


def paths(root: Path, image_set: str, ids: list[str], folder: Path | None, roots: Roots) -> list[Path | Member]:
    """The path, or the place in a shard, of each id's picture.

    folder: where the pictures lie now, a folder or tar shards (None: where they lay when the order was fixed).
    Raises UserError for shards that are missing or have changed.
    """
    path = source_file(root, image_set)
    source = read_json(path, f"remove {path}") if path.exists() else {}
    if is_shards(folder) if folder else "shards" in source:
        return _members(root, image_set, ids, folder, source)
    if folder is None:
        folder = Path(source["folder"]) if "folder" in source else usual_folder(image_set)
    if folder is not None:
        return [in_folder(folder, named_file(image_set, i)) for i in ids]
    return [roots.picture(i, image_set) for i in ids]


def _members(root: Path, image_set: str, ids: list[str], pattern: Path | None, source: dict[str, Any]) -> list[Path | Member]:
    where = pattern or source["pattern"]
    again = f"{commands.fix_order(f'{image_set}={where}')} (and the flags it had)"
    then = source.get("shards", {})
    tars = expand(pattern) if pattern else list(then)
    if [os.path.basename(tar) for tar in tars] != [os.path.basename(tar) for tar in then]:
        path = source_file(root, image_set)
        raise UserError(f"{pattern}: not the {len(then)} shards that {path} names; read their headers with: {again}")
    for tar, size in zip(tars, then.values(), strict=True):
        if not os.path.isfile(tar):
            raise UserError(f"{tar}: no such shard; bring it back, or say where the shards are: --image-sets '{image_set}=FOLDER/*.tar'")
        if os.path.getsize(tar) != size:
            now = f"has {os.path.getsize(tar)} bytes, had {size} when its headers were read"
            raise UserError(f"{tar}: {now}; bring that shard back, or read them again with: {again}")
    places = _read_places(members_file(root, image_set), len(ids), again)
    files = (named_file(image_set, i) for i in ids)
    return [Member(tars[number], file, offset, size) for file, (number, offset, size) in zip(files, places, strict=True)]


def _read_places(path: Path, number: int, again: str) -> list[tuple[int, ...]]:
    """(number of the tar, offset, size) of the first `number` pictures; raises UserError for a file without them."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1][:number]
        places = [tuple(map(int, line.split("\t"))) for line in lines]
    except (FileNotFoundError, ValueError):
        places = []
    if len(places) < number or any(len(place) != 3 for place in places):
        raise UserError(f"{path}: not the places of {number} pictures, a line each; make it again with: {again}")
    return places


def known_sets(root: Path, roots: Roots) -> str:
    """The names of image sets that a user can give, with commas, for messages."""
    names = {p.stem for p in root.glob("*.ids")} | {n for n in LXMERT_NAMES if lxmert_file(n, roots).exists()} | set(FOLDERS)
    return ", ".join(sorted(names | captioned_stems(roots) - set(LXMERT_NAMES.values())))


def check(root: Path, image_set: str) -> str:
    """Check the files of a set; returns a line that describes the order, or raises UserError."""
    ids = read(root, image_set)
    if len(set(ids)) < len(ids):
        raise UserError(
            f"{ids_file(root, image_set)}: the same id stands on two lines; make it again after: rm {quoted(ids_file(root, image_set))}"
        )
    path = source_file(root, image_set)
    if path.exists() and "shards" in read_json(path, f"remove {path}"):
        _read_places(members_file(root, image_set), len(ids), f"{commands.fix_order(image_set)} (and the flags it had)")
    return f"order of {len(ids):,} pictures, {json.dumps(ids[0])} to {json.dumps(ids[-1])}"


def hash_of_pictures(ids: list[str], paths: Sequence[Path | Member]) -> str:
    """Hash of the ids and the file sizes: a hash of the pictures themselves would take as long as the work on them."""
    return sha256_of_lines(f"{i}\t{size_of(path)}" for i, path in zip(ids, paths, strict=True))
