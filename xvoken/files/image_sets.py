"""Named sets of pictures, with captions (LXMERT layout, Conceptual Captions) or without (any folder, or tar shards).

LXMERT_ROOT/mscoco_train.json    a list of {img_id, sentf: {mscoco: [sentences]}}
COCO_ROOT/train2014/COCO_train2014_000000000009.jpg     pictures whose img_id is COCO_{split}_{12 digits}
CC_ROOT/training.tsv             cc_train: lines of a sentence, a tab and the picture's id; validation.tsv: cc_valid
CC_ROOT/images/training/training_00009486               pictures of these sets, without an ending
IMAGE_ROOT/2331999.jpg           all other pictures: {img_id}.jpg or another usual ending
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from xvoken.errors import UserError
from xvoken.files.safe import read_json
from xvoken.kinds import CAPTION_FORMATS, made_by
from xvoken.pictures.sources import ENDINGS

# Image sets that are LXMERT files under another name.
LXMERT_NAMES = {
    "coco_train": "mscoco_train",
    "coco_nominival": "mscoco_nominival",
    "coco_minival": "mscoco_minival",
    "vg_nococo": "vgnococo",
}
# Conceptual Captions, named as Vokenization names its parts.
CONCEPTUAL = {"cc_train": "training.tsv", "cc_valid": "validation.tsv"}
FOLDERS = {"open_images": "data/open_images/images"}
NO_ENDING = {"open_images": ".jpg"}  # of the pictures of a set without captions: what Maria's ids of it leave out
COCO_ID = re.compile(r"COCO_(\w+)_\d{12}")


@dataclass(frozen=True)
class Roots:
    """The folders of LXMERT files, of COCO's pictures by split, of all other pictures, and of Conceptual Captions."""

    lxmert: Path
    coco: Path
    images: Path
    cc: Path = Path("data/cc")

    def picture(self, img_id: str, image_set: str) -> Path:
        """The path of a picture of a set by its id; if there is no such file, the path it should have."""
        if image_set in CONCEPTUAL:
            folder = self.cc / "images" / img_id.partition("_")[0]
            paths = [folder / f"{img_id}{ending}" for ending in ("", *ENDINGS)]
            return next((path for path in paths if path.is_file()), paths[0])
        if coco := COCO_ID.fullmatch(img_id):
            return self.coco / coco[1] / f"{img_id}.jpg"
        paths = [self.images / f"{img_id}{ending}" for ending in ENDINGS]
        return next((path for path in paths if path.is_file()), paths[0])


@dataclass
class CaptionedSet:
    """ids and paths: one of each a picture; captions: (index of the picture, sentence) of each, in the order of the file."""

    name: str
    ids: list[str]
    paths: list[Path]
    captions: list[tuple[int, str]]


def lxmert_file(name: str, roots: Roots) -> Path:
    """The caption file of a set, in whichever format there is one; if there is none, the path it should have."""
    if name in CONCEPTUAL:
        return roots.cc / CONCEPTUAL[name]
    paths = [roots.lxmert / f"{LXMERT_NAMES.get(name, name)}{ending}" for ending in CAPTION_FORMATS]
    return next((path for path in paths if path.exists()), paths[0])


def is_captioned(name: str, roots: Roots) -> bool:
    """Whether a set has captions: its file is there, or it is one whose file `read_captioned` says how to get."""
    return name in (*LXMERT_NAMES, *CONCEPTUAL) or lxmert_file(name, roots).exists()


def captioned_stems(roots: Roots) -> set[str]:
    """The names, without ending, of the caption files in roots.lxmert, and the sets of Conceptual Captions that are there."""
    there = {name for name in CONCEPTUAL if lxmert_file(name, roots).exists()}
    return there | {path.stem for ending in CAPTION_FORMATS for path in roots.lxmert.glob(f"*{ending}")}


def captioned_sets(roots: Roots) -> str:
    """The names of the sets with captions in roots.lxmert, with commas, for messages."""
    return ", ".join(sorted(captioned_stems(roots))) or "none"


def read_captioned(name: str, langs: list[str], roots: Roots, limit: int | None = None) -> CaptionedSet:
    """Read a captioned set: all its pictures, and their sentences from the sources `langs`.

    name: of the image set, or of its file without the ending; limit: only the first pictures. The sentences of Conceptual Captions are
    read whatever sources are asked for, as its file names none.
    Raises UserError for a missing file, another layout, a picture listed twice, or no sentence at all.
    """
    path = lxmert_file(name, roots)
    mend = f"docs/data.md says how to get it (in {roots.lxmert} there are: {captioned_sets(roots)})"
    found = CaptionedSet(name, [], [], [])
    sources = set()
    for number, (img_id, sentences, known) in enumerate(islice(made_by(CAPTION_FORMATS[path.suffix])(path, langs, mend), limit)):
        found.ids.append(img_id)
        found.captions += [(number, sentence) for sentence in sentences]
        sources |= known
    if len(set(found.ids)) < len(found.ids):
        twice = Counter(found.ids).most_common(1)[0][0]
        raise UserError(f"{path}: picture {twice} is listed twice; join its entries to one, or remove one")
    if not found.captions:
        raise UserError(f"{path}: no sentence of {', '.join(langs)} in it; its sources are: {', '.join(sorted(sources)) or 'none'}")
    found.paths = [roots.picture(i, name) for i in found.ids]
    return found


def read_ids(name: str, roots: Roots, limit: int | None = None) -> list[str]:
    """The ids of a captioned set's pictures, whatever the sources of its sentences; [] if it is not there. limit: only the first."""
    path = lxmert_file(name, roots)
    if not path.exists():
        return []
    return [img_id for img_id, _, _ in islice(made_by(CAPTION_FORMATS[path.suffix])(path, [], ""), limit)]


def read_lxmert(path: Path, langs: list[str], mend: str) -> Iterator[tuple[str, list[str], set[str]]]:
    """Yield of each picture its id, its sentences from the sources `langs`, and the names of all its sources.

    mend: what to do if the file is missing, for the message. Raises UserError for a file in another layout.
    """
    rows = read_json(path, mend)
    if not isinstance(rows, list):
        raise UserError(f"{path}: a list of {{img_id, sentf}} was expected, this is a JSON {type(rows).__name__}")
    for number, row in enumerate(rows):
        yield *_parse(row, langs, f"{path}: entry {number}"), set(row["sentf"])


def _parse(row: Any, langs: list[str], where: str) -> tuple[str, list[str]]:
    try:
        img_id, sentf = row["img_id"], row["sentf"]
        given = {lang: sentf.get(lang, []) for lang in langs}
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{where} is not {{img_id, sentf: {{source: [sentences]}}}}") from None
    for lang, listed in given.items():
        if not isinstance(listed, list):  # a text would pass the check below, letter by letter
            shown = json.dumps({"img_id": img_id, "sentf": {lang: listed}}, ensure_ascii=False)
            shown = shown if len(shown) <= 160 else f"{shown[:157]}..."
            meant = json.dumps({"img_id": img_id, "sentf": {lang: ["a caption", "another caption"]}}, ensure_ascii=False)
            raise UserError(f"{where}: {shown}, a list of sentences was expected: {meant}")
    sentences = [sentence for lang in langs for sentence in given[lang]]
    if not isinstance(img_id, str) or not all(isinstance(sentence, str) for sentence in sentences):
        raise UserError(f"{where}: img_id and sentences must be texts")
    if not img_id.isprintable():
        raise UserError(f"{where}: img_id {img_id!r} has a character that can't stand in a list of ids")
    return img_id, sentences


def read_conceptual(path: Path, langs: list[str], mend: str) -> Iterator[tuple[str, list[str], set[str]]]:
    """As `read_lxmert`, of lines of a sentence, a tab and an id such as training_00009486, whatever `langs` are."""
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                sentence, tab, img_id = line.partition("\t")
                img_id = img_id.strip()
                if not tab or not img_id or "/" in img_id or not img_id.isprintable():  # a tab more, or the URL of Google's own files
                    wanted = "a sentence, a tab and an id such as training_00009486 were expected"
                    raise UserError(f"{path}: line {number}: {wanted}, as Vokenization's files have them; {_short(line)} is there")
                yield img_id, [sentence], {"cc"}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {mend}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; {mend}") from None


def _short(line: str) -> str:
    return json.dumps(line.strip() if len(line) <= 100 else f"{line[:97]}...", ensure_ascii=False)


def named_file(image_set: str, picture_id: str) -> str:
    """The file, below its folder or in its shard, of an id of a set without captions.

    It is the id itself, but for open_images, whose ids lack the file's .jpg: an id that ends as a picture is one of an older file.
    """
    ending = NO_ENDING.get(image_set)
    return picture_id if ending is None or picture_id.lower().endswith(ENDINGS) else f"{picture_id}{ending}"


def named_id(image_set: str, file: str) -> str:
    """The id of such a file: the one that `named_file` gives it for."""
    ending = NO_ENDING.get(image_set)
    without = file.removesuffix(ending) if ending else file
    return without if named_file(image_set, without) == file else file


def in_folder(folder: Path, file: str) -> Path:
    """The file below a folder where an id may lack the ending, as those of captioned sets and of Maria's lists do; else as it is named."""
    if file.lower().endswith(ENDINGS):
        return folder / file
    return next((path for ending in ("", *ENDINGS) if (path := folder / f"{file}{ending}").is_file()), folder / file)


def listed_sets(words: list[str]) -> list[str]:
    """The image sets of a flag, as several words or with commas; raises UserError for a name given twice."""
    sets = [image_set.strip() for word in words for image_set in word.split(",")]
    name, times = Counter(split_name(image_set)[0] for image_set in sets).most_common(1)[0]
    if times > 1:
        raise UserError(f"image set {name} is given {times} times; put a range of shards in quotes: '{name}=FOLDER/{{00000..00099}}.tar'")
    return sets


def sets_of(ids: Iterable[str]) -> list[str]:
    """The image sets of ids {IMAGE_SET}/{image id}, in the order in which they come."""
    return list(dict.fromkeys(i.partition("/")[0] for i in ids))


def usual_folder(name: str) -> Path | None:
    """The default folder of an image set's pictures; None for a set with captions, whose pictures `Roots` finds."""
    return Path(FOLDERS[name]) if name in FOLDERS else None


def split_name(image_set: str) -> tuple[str, Path | None]:
    """`name` or `name=folder` -> name, folder or tar shards of the pictures (None if not given); raises UserError for a bad name."""
    name, _, folder = image_set.strip().partition("=")
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"image set {image_set!r}: names are made of letters, digits, - _ .; a folder is given as name=folder")
    return name, Path(folder) if folder else None
