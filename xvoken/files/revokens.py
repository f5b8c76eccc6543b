"""Voken files of another tokenizer's tokens: what was retrieved for the lines stays, each token has another voken."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvoken.files import vokens as voken_files
from xvoken.files.hdf5 import open_hdf5, writing_hdf5
from xvoken.files.safe import replacing
from xvoken.files.voken_kinds import TOKEN

ROWS = 1 << 16


def write(
    made_of: Path, path: Path, parts: Iterable[Mapping[str, NDArray]], tokens: int, settings: dict[str, Any], attributes: dict[str, Any]
) -> None:
    """Write the text file `path` and the .hdf5 and .ids beside it, the .hdf5 last.

    made_of: the text file of the vokens of the first tokenizer; parts: of each, token counts (l,) and vokens (t,); tokens: in all parts;
    settings, attributes: those that the new file keeps besides the old one's attributes.
    """
    old, ids = (made_of.with_name(f"{made_of.name}.{ending}") for ending in ("hdf5", "ids"))
    with replacing(path.with_name(f"{path.name}.ids")) as temporary:
        shutil.copyfile(ids, temporary)
    with (
        open_hdf5(old, voken_files.MAKE, indices="i2", scores="f2", vokens="i1") as source,
        writing_hdf5(path.with_name(f"{path.name}.hdf5")) as file,
        replacing(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="\n") as text,
    ):
        for name in sorted({*source} - {"vokens"}):
            copy = file.create_dataset(name, source[name].shape, source[name].dtype)
            for start in range(0, len(copy), ROWS):
                copy[start : start + ROWS] = source[name][start : start + ROWS]
        vokens, at = file.create_dataset("vokens", (tokens,), np.int32), 0
        for part in parts:
            vokens[at : at + len(part["vokens"])] = part["vokens"]
            at += len(part["vokens"])
            if attributes["level"] == TOKEN:
                text.writelines(voken_files.number_lines(part["vokens"], part["counts"]))
        if attributes["level"] != TOKEN:
            with open(made_of, encoding="utf-8", newline="") as names:
                shutil.copyfileobj(names, text)
        file.attrs.update({**source.attributes(), **attributes, "settings": json.dumps(settings, sort_keys=True)})
