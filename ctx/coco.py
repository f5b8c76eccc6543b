"""The pictures that get a context: those of COCO's caption annotations, of a folder or tar shards, or of image sets; COCO's captions.

ROOT/annotations/captions_{train,val}{2014,2017}.json     COCO's own files
ROOT/annotations/coco_{train,restval,dev,test}_ids.npy    annotation ids of the Karpathy split; optional
ROOT/{train,val}{2014,2017}/, or ROOT/images/...          the pictures
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xvoken.console import say
from xvoken.errors import UserError
from xvoken.files import image_ids
from xvoken.files.image_sets import Roots, split_name
from xvoken.files.safe import read_json
from xvoken.pictures.sources import Member, list_pictures

YEARS = ("2014", "2017")
AGAIN = "download it again, it is in annotations_trainval2014.zip"
# Annotation file -> the Karpathy split's id files whose ids come from it.
KARPATHY = {"train": ("train",), "val": ("restval", "dev", "test")}


@dataclass
class PictureSet:
    """ids: the pictures' names in both context files; paths: their files, or members of tar shards."""

    ids: list[str]
    paths: list[Path | Member]


@dataclass(frozen=True)
class Source:
    """Where pictures come from: the image sets if there are any, else the folder or tar shards `images`, else COCO under dataset_root."""

    image_sets: tuple[str, ...] = ()
    images: Path | None = None
    dataset_root: Path = Path("datasets/coco_captions")
    ids_root: Path = image_ids.ROOT
    roots: Roots | None = None

    def __str__(self) -> str:
        return ", ".join(self.image_sets) or str(self.images or self.dataset_root)


def read_pictures(source: Source, limit: int | None = None) -> PictureSet:
    """The pictures of a source, at most the first `limit`. Raises UserError if there are none, or if two have the same id."""
    pictures = _pictures(source)
    return PictureSet(pictures.ids[:limit], pictures.paths[:limit])


def _pictures(source: Source) -> PictureSet:
    if source.image_sets:
        return _image_sets(source)
    return _listed(source.images) if source.images else _coco(source.dataset_root)


def _listed(images: Path) -> PictureSet:
    """The pictures of a folder, or of tar shards, in the order that a folder with the unpacked files has."""
    found, others = list_pictures(images)
    if others:
        say(f"{images}: {others} other files left out")
    names = list(found)
    paths = list(found.values()) if isinstance(found, dict) else [images / name for name in names]
    return PictureSet(_ids(images, names, paths), paths)


def _image_sets(source: Source) -> PictureSet:
    """The pictures of image sets, one set after another, in the order that create_image_ids.py has fixed."""
    names, paths = [], []
    for image_set in source.image_sets:
        name, folder = split_name(image_set)
        ids = image_ids.read(source.ids_root, name)
        names += ids
        paths += image_ids.paths(source.ids_root, name, ids, folder, source.roots)
    return PictureSet(_ids(",".join(source.image_sets), names, paths), paths)


def _ids(where: object, names: list[str], paths: Sequence[Path | Member]) -> list[str]:
    """Ids of pictures: the file's name without ending, or, if it occurs in several folders, with its folders: a_b_c for a/b/c.jpg."""
    stems = [_stem(name, path) for name, path in zip(names, paths, strict=True)]
    times = Counter(map(os.path.basename, stems))
    ids = [base if times[base := os.path.basename(stem)] == 1 else stem.replace("/", "_") for stem in stems]
    twice = [i for i, count in Counter(ids).items() if count > 1]
    if twice:
        same = [name for name, i in zip(names, ids, strict=True) if i == twice[0]]
        raise UserError(f"{where}: {len(twice)} image ids occur twice, for example {twice[0]} for {', '.join(same)}; rename or remove one")
    return ids


def _stem(name: str, path: Path | Member) -> str:
    """The name without its file ending; a captioned set's names have no ending, but may have dots, and are left as they are."""
    return os.path.splitext(name)[0] if str(path).endswith(f"/{name}") else name


def _coco(root: Path) -> PictureSet:
    annotations = root / "annotations"
    year, splits = _there(annotations, "or give any folder of pictures with --images")
    paths: dict[int, Path] = {}
    for split in splits:
        for image, path in _split(root, split, year).items():
            if image in paths:
                raise UserError(f"{annotations}: image id {image} is in both captions_*{year}.json files; remove it from one")
            paths[image] = path
    if not paths:
        raise UserError(f"{annotations}: no images in captions_*{year}.json")
    return PictureSet([str(i) for i in sorted(paths)], [paths[i] for i in sorted(paths)])


def read_sentences(root: Path) -> dict[int, tuple[str, list[str]]]:
    """File name and captions of all pictures in COCO's annotation files, by image id; raises UserError if there are none."""
    annotations = root / "annotations"
    year, splits = _there(annotations, "or name image sets that have captions with --image-sets")
    found: dict[int, tuple[str, list[str]]] = {}
    for split in splits:
        file = annotations / f"captions_{split}{year}.json"
        loaded = read_json(file, AGAIN)
        try:
            names = {image["id"]: str(image["file_name"]) for image in loaded["images"]}
            captions = [(row["image_id"], row["caption"]) for row in loaded["annotations"]]
            fault = next((number for number, caption in captions if number not in names or not isinstance(caption, str)), None)
        except (KeyError, TypeError):
            raise UserError(f"{file}: not COCO's layout {{images: [{{id, file_name}}], annotations: [{{image_id, caption}}]}}") from None
        if fault is not None:
            raise UserError(f"{file}: a caption of image {fault} is no text, or that image is not in it; {AGAIN}")
        both = next((number for number in names if number in found), None)
        if both is not None:
            raise UserError(f"{annotations}: image id {both} is in both captions_*{year}.json files; remove it from one")
        found |= {number: (name, []) for number, name in names.items()}
        for number, caption in captions:
            found[number][1].append(caption)
    return found


def _there(annotations: Path, otherwise: str) -> tuple[str, list[str]]:
    """The year and the splits that there are annotation files of; otherwise: what else mends it if there are none."""
    found = {year: [s for s in KARPATHY if (annotations / f"captions_{s}{year}.json").is_file()] for year in YEARS}
    year = next((y for y in YEARS if found[y]), None)
    if year is None:
        raise UserError(
            f"{annotations}/captions_train2014.json does not exist (nor val2014, nor 2017); put COCO's annotations and pictures "
            f"under {annotations.parent}, name their folder with --dataset_root, {otherwise}"
        )
    return year, found[year]


def _split(root: Path, split: str, year: str) -> dict[int, Path]:
    """Image id -> path, for the images of one annotation file that the Karpathy files keep."""
    file = root / "annotations" / f"captions_{split}{year}.json"
    loaded = read_json(file, AGAIN)
    try:
        names = {image["id"]: image["file_name"] for image in loaded["images"]}
        image_of = {row["id"]: row["image_id"] for row in loaded["annotations"]}
    except (KeyError, TypeError):
        raise UserError(f"{file}: not COCO's layout {{images: [{{id, file_name}}], annotations: [{{id, image_id}}]}}") from None
    if len(names) < len(loaded["images"]):
        twice = Counter(image["id"] for image in loaded["images"]).most_common(1)[0][0]
        raise UserError(f"{file}: image id {twice} occurs twice; remove one of the two")
    missing = next((a for a, image in image_of.items() if image not in names), None)
    if missing is not None:
        raise UserError(f"{file}: annotation {missing} is of image {image_of[missing]}, which is not in it; download the file again")
    folder = _pictures_folder(root, f"{split}{year}")
    return {image: folder / names[image] for image in _kept(root / "annotations", split, file, names, image_of)}


def _kept(annotations: Path, split: str, file: Path, names: dict[int, Any], image_of: dict[int, int]) -> list[int]:
    """Image ids of the annotations in the Karpathy files; all image ids if there are no Karpathy files."""
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
                f"{files[name]}: {len(unknown)} annotation ids do not exist in {file}, {unknown[0]} for one; take both from the same COCO"
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
