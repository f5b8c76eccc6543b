"""The fixed order of an image set on disk.

data/vokenization/images/{IMAGE_SET}.ids     one id a line; its line number is the picture's number for good
data/vokenization/images/{IMAGE_SET}.json    where the pictures come from: {"folder": ...} or {"lxmert": ...}
"""

import json
from pathlib import Path

from xvoken.disk import read_json, write_json, write_lines
from xvoken.image_sets import FOLDERS, LXMERT_NAMES, Roots, lxmert_file
from xvoken.messages import UserError

ROOT = Path("data/vokenization/images")


def ids_file(root: Path, image_set: str) -> Path:
    return root / f"{image_set}.ids"


def source_file(root: Path, image_set: str) -> Path:
    return root / f"{image_set}.json"


def write(root: Path, image_set: str, ids: list[str], folder: Path | None) -> bool:
    """Fix the order; returns False if that order stood already, raises UserError if another one did."""
    path = ids_file(root, image_set)
    if path.exists():
        then = read(root, image_set)
        if then != ids:
            at = next((i for i, (a, b) in enumerate(zip(then, ids, strict=False)) if a != b), min(len(then), len(ids)))
            raise UserError(
                f"{path} fixes {len(then)} pictures, there are {len(ids)} now, first difference at line {at + 1}; keys made "
                f"with it go by that order: keep it, choose another name for the new set, or start over with: rm {path}"
            )
        return False
    write_json(source_file(root, image_set), {"folder": str(folder)} if folder else {"lxmert": image_set})
    write_lines(path, ids)
    return True


def read(root: Path, image_set: str) -> list[str]:
    path = ids_file(root, image_set)
    try:
        ids = path.read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; make it with: python vokenization/create_image_ids.py --image-sets {image_set}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; make it again after: rm {path}") from None
    if not ids:
        raise UserError(f"{path} is empty; make it again after: rm {path}")
    return ids


def paths(root: Path, image_set: str, ids: list[str], folder: Path | None, roots: Roots) -> list[Path]:
    """The pictures' paths. `folder` overrides the one that the order was made from."""
    if folder is None and source_file(root, image_set).exists():
        source = read_json(source_file(root, image_set), f"remove {source_file(root, image_set)}")
        folder = Path(source["folder"]) if "folder" in source else None
    if folder is not None:
        return [folder / i for i in ids]
    return [roots.picture(i) for i in ids]


def known_sets(root: Path, roots: Roots) -> str:
    """Names one may give, for messages."""
    names = {p.stem for p in root.glob("*.ids")} | {n for n in LXMERT_NAMES if lxmert_file(n, roots).exists()} | set(FOLDERS)
    return ", ".join(sorted(names | {p.stem for p in roots.lxmert.glob("*.json")} - set(LXMERT_NAMES.values())))


def check(root: Path, image_set: str) -> str:
    ids = read(root, image_set)
    if len(set(ids)) < len(ids):
        raise UserError(f"{ids_file(root, image_set)}: the same id stands on two lines")
    return f"order of {len(ids):,} pictures, {json.dumps(ids[0])} to {json.dumps(ids[-1])}"
