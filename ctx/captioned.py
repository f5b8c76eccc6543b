"""The captions of the pictures in a context file, found by the pictures' ids.

Context files name pictures by COCO's number (42) or by the file's name without ending (COCO_val2014_000000000042, or 000000000042, as
the pictures of 2017 are named); LXMERT files by their img_id, COCO's own by number and file name.
"""

import os
import re
from pathlib import Path

from ctx.coco import read_sentences
from xvoken.errors import UserError
from xvoken.files.image_sets import COCO_ID, Roots, captioned_sets, is_captioned, read_captioned
from xvoken.files.safe import sha256_of_lines

PADDED, PLAIN = re.compile(r"[0-9]{12}"), re.compile(r"0|[1-9][0-9]*")


class Captioned:
    """The captions of pictures, found by name or by COCO's number. where: what they were read from, for messages."""

    def __init__(self, where: str):
        self.where = where
        self.names: list[str] = []
        self.captions: list[list[str]] = []
        self._named: dict[str, list[int]] = {}
        self._numbered: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self.captions)

    def add(self, name: str, number: int | None, captions: list[str]) -> None:
        """Add a picture; number: COCO's, None for another one's."""
        row = len(self)
        self.names.append(name)
        self.captions.append(captions)
        for called in {name, os.path.basename(name), name.replace("/", "_")}:  # as ctx/coco.py makes ids of names with folders
            self._named.setdefault(called, []).append(row)
        if number is not None:
            self._numbered.setdefault(number, []).append(row)

    def find(self, image_id: str) -> int | None:
        """Which picture a context file means by an id, None if there is none; raises UserError if it could be several."""
        named = self._named.get(image_id, [])
        if len(named) == 1 and not PLAIN.fullmatch(image_id):
            return named[0]
        number = int(image_id) if PLAIN.fullmatch(image_id) else coco_number(image_id)
        found = sorted({*named, *(self._numbered.get(number, []) if number is not None else [])})
        if len(found) > 1:
            which = ", ".join(self.names[row] for row in found)
            raise UserError(f"{self.where}: picture {image_id} could be each of {which}; give only the captions of the context's pictures")
        return found[0] if found else None

    def hash(self) -> str:
        """Stands for all pictures and their captions."""
        return sha256_of_lines(f"{name}\t{text}" for name, texts in zip(self.names, self.captions, strict=True) for text in texts)[:16]


def coco_number(name: str) -> int | None:
    """COCO's number of a picture by its file name without ending, 42 for COCO_val2014_000000000042; None for another name."""
    return int(name[-12:]) if COCO_ID.fullmatch(name) or PADDED.fullmatch(name) else None


def read_image_sets(image_sets: list[str], langs: list[str], roots: Roots) -> Captioned:
    """The captions of LXMERT files; a picture that several of them list has the captions of all. Raises UserError."""
    captions: dict[str, list[str]] = {}
    for name in image_sets:
        if not is_captioned(name, roots):
            raise UserError(f"{name}: has no captions; sets with captions in {roots.lxmert}: {captioned_sets(roots)}")
        found = read_captioned(name, langs, roots)
        for img_id in found.ids:
            captions.setdefault(img_id, [])
        for picture, text in found.captions:
            captions[found.ids[picture]].append(text)
    captioned = Captioned(f"{','.join(image_sets)} in {roots.lxmert}")
    for img_id, texts in captions.items():
        captioned.add(img_id, coco_number(img_id), texts)
    return captioned


def read_coco(root: Path) -> Captioned:
    """The captions of COCO's annotation files; raises UserError if there are none."""
    captioned = Captioned(f"{root}/annotations")
    for number, (file_name, texts) in read_sentences(root).items():
        captioned.add(os.path.splitext(file_name)[0], number, texts)
    return captioned
