"""Holds the numbers of a voken file against its kind, and those in its text file, on token level, against them."""

from itertools import islice
from pathlib import Path

from xvoken.errors import UserError
from xvoken.files.hdf5 import InsideFile
from xvoken.files.voken_kinds import KINDS, TOKEN, kind_of, wrong_voken

SLAB = 1 << 20  # tokens that are looked at at once
LINES = 1 << 14


def check_vokens(file: InsideFile, images: int) -> str | None:
    """Raise UserError if a voken is none of the file's kind, or beyond the images; returns the kind, see kind_of."""
    kind, vokens, last = kind_of(file.attributes(), file.settings()), file["vokens"], -1
    if kind not in (None, TOKEN, *KINDS):
        raise UserError(f"{file.filename}: vokens of an unknown kind ({kind}); {file.mend}")
    for start in range(0, len(vokens), SLAB):
        slab = vokens[start : start + SLAB]
        if (wrong := wrong_voken(slab, images, kind, last)) is not None:
            said = f"of {images} images" if kind is None else f"of {images} images, of the kind `{kind}`"
            raise UserError(f"{file.filename}: the voken of token {start + wrong + 1} ({slab[wrong]}) is none {said}; {file.mend}")
        last = next((int(row) for row in slab[::-1] if row >= 0), last)
    return kind


def check_text(file: InsideFile, text_path: Path, numbers: bool) -> int:
    """The number of lines of the text file; numbers: whether its words must be the vokens in order, else UserError is raised."""
    lines = at = 0
    with open(text_path, encoding="utf-8") as text:
        while block := list(islice(text, LINES)):
            lines += len(block)
            if numbers:
                words = " ".join(block).split()
                if words != list(map(str, file["vokens"][at : at + len(words)].tolist())):
                    where = f"lines {lines - len(block) + 1} to {lines}"
                    raise UserError(f"{text_path}: {where} do not hold the vokens of {file.filename}; {file.mend}")
                at += len(words)
    if numbers and at != len(file["vokens"]):
        raise UserError(f"{text_path}: {at:,} vokens, {file.filename} has {len(file['vokens']):,}; {file.mend}")
    return lines
