"""Which pictures get a context: those of COCO's caption annotations, or a folder's.

ROOT/annotations/captions_{train,val}{2014,2017}.json     COCO's own files
ROOT/annotations/coco_{train,restval,dev,test}_ids.npy    annotation ids of the Karpathy split, where they lie there
ROOT/{train,val}{2014,2017}/, or ROOT/images/...          the pictures
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xvoken.console import say
from xvoken.errors import UserError
from xvoken.files.safe import read_json
from xvoken.pictures.sources import folder_ids

YEARS = ("2014", "2017")
# The Karpathy split's id files, by the annotation file that their ids are of.
KARPATHY = {"train": ("train",), "val": ("restval", "dev", "test")}


@dataclass
class PictureSet:
    """ids: names of the pictures in both context files; paths: where they lie."""

    ids: list[str]
    paths: list[Path]


def read_pictures(images: Path | None, dataset_root: Path, limit: int | None = None) -> PictureSet:
    """The pictures of a folder, or of COCO when `images` is None; at most the first `limit`.

    Raises UserError when there is none, or when two have the same id.
    """
    pictures = _folder(images) if images else _coco(dataset_root)
    return PictureSet(pictures.ids[:limit], pictures.paths[:limit])


def _folder(folder: Path) -> PictureSet:
    names, others = folder_ids(folder)
    if others:
        say(f"{folder}: {others} other files left out")
    ids = [Path(name).stem for name in names]
    twice = [i for i, count in Counter(ids).items() if count > 1]
    if twice:
        same = [name for name in names if Path(name).stem == twice[0]]
        raise UserError(f"{folder}: {len(twice)} image ids stand twice, as {twice[0]} for {', '.join(same)}; rename or remove one")
    return PictureSet(ids, [folder / name for name in names])


def _coco(root: Path) -> PictureSet:
    annotations = root / "annotations"
    found = {year: [s for s in KARPATHY if (annotations / f"captions_{s}{year}.json").is_file()] for year in YEARS}
    year = next((y for y in YEARS if found[y]), None)
    if year is None:
        raise UserError(
            f"{annotations}/captions_train2014.json does not exist (nor val2014, nor 2017); put COCO's annotations and pictures "
            f"under {root}, name their folder with --dataset_root, or give any folder of pictures with --images"
        )
    paths: dict[int, Path] = {}
    for split in found[year]:
        for image, path in _split(root, split, year).items():
            if image in paths:
                raise UserError(f"{annotations}: image id {image} stands in both captions_*{year}.json files; remove it from one")
            paths[image] = path
    if not paths:
        raise UserError(f"{annotations}: no images in captions_*{year}.json")
    return PictureSet([str(i) for i in sorted(paths)], [paths[i] for i in sorted(paths)])


def _split(root: Path, split: str, year: str) -> dict[int, Path]:
    """Image id -> path, for the images of one annotation file that the Karpathy files keep."""
    file = root / "annotations" / f"captions_{split}{year}.json"
    loaded = read_json(file, "download it again, it is whole in annotations_trainval2014.zip")
    try:
        names = {image["id"]: image["file_name"] for image in loaded["images"]}
        image_of = {row["id"]: row["image_id"] for row in loaded["annotations"]}
    except (KeyError, TypeError):
        raise UserError(f"{file}: not COCO's layout {{images: [{{id, file_name}}], annotations: [{{id, image_id}}]}}") from None
    if len(names) < len(loaded["images"]):
        twice = Counter(image["id"] for image in loaded["images"]).most_common(1)[0][0]
        raise UserError(f"{file}: image id {twice} stands twice; remove one of the two")
    missing = next((a for a, image in image_of.items() if image not in names), None)
    if missing is not None:
        raise UserError(f"{file}: annotation {missing} is of image {image_of[missing]}, which is not in it; download the file again")
    folder = _pictures_folder(root, f"{split}{year}")
    return {image: folder / names[image] for image in _kept(root / "annotations", split, file, names, image_of)}


def _kept(annotations: Path, split: str, file: Path, names: dict[int, Any], image_of: dict[int, int]) -> list[int]:
    """Image ids that the Karpathy files name; all of them where there is no such file."""
    files = {name: annotations / f"coco_{name}_ids.npy" for part in KARPATHY.values() for name in part}
    if not any(path.is_file() for path in files.values()):
        return list(names)
    kept = []
    for name in KARPATHY[split]:
        if not files[name].is_file():
            say(f"warning: {files[name]} is missing beside the other Karpathy files; its pictures are left out")
            continue
        ids = _load_ids(files[name])
        unknown = [i for i in ids if i not in image_of]
        if unknown:
            raise UserError(
                f"{files[name]}: {len(unknown)} annotation ids do not exist in {file}, {unknown[0]} for one; take files of one COCO"
            )
        kept += [image_of[i] for i in ids]
    return list(dict.fromkeys(kept))


def _load_ids(path: Path) -> list[int]:
    try:
        ids = np.load(path)
        return ids.astype(np.int64, casting="same_kind").ravel().tolist()
    except (OSError, ValueError, EOFError, TypeError):
        raise UserError(f"{path}: not a numpy array of whole numbers; download it again") from None


def _pictures_folder(root: Path, name: str) -> Path:
    folders = [root / name, root / "images" / name]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise UserError(f"{folders[0]}: no such folder of pictures (nor {folders[1]}); unzip COCO's {name}.zip there")
    return folder
