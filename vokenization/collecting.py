"""The pictures that a voken file names: which lines want which of them, and their files in one place."""

import io
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xvoken.console import progress
from xvoken.errors import UserError, one_line
from xvoken.files.hdf5 import is_dataset, open_hdf5
from xvoken.files.offsets import Offsets
from xvoken.files.rows import Rows
from xvoken.files.safe import replacing
from xvoken.files.vokens import MAKE
from xvoken.pictures.decode import FORMATS, REDUCED
from xvoken.pictures.sources import ENDINGS, Member, find

SLAB = 1 << 18  # rows, or tokens, in memory at once


@dataclass
class Wanted:
    """Which pictures are wanted by which lines.

    rows: of the index, ascending, each once; lines: from 0, ascending, those of rows[i] from starts[i] to starts[i + 1].
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    lines: NDArray[np.int64]

    def of(self, place: int) -> NDArray[np.int64]:
        """The lines that want the picture rows[place]."""
        return self.lines[self.starts[place] : self.starts[place + 1]]


class LinesOfTokens:
    """The line that each token of a corpus is in. text: the corpus; rows, tokens: how many tokens the rows of the voken file have.

    That tells which tokenizer's FILE.TOK.line is meant. Raises UserError if there is no such file beside the text.
    """

    def __init__(self, text: Path, tokens: int, rows: Rows):
        for path in sorted(text.parent.glob(f"{text.name}.*.line")):
            lines, sentences = Offsets(path, "tokenize again"), path.with_suffix(".sent")
            ends = Offsets(sentences, "tokenize again") if rows.sentences and sentences.is_file() else lines
            # Of sentences of another tokenizer (vokens that were carried over) only the end of all is known.
            if (rows.number < len(ends) and ends[rows.number] == tokens) or (rows.sentences and lines.last == tokens):
                self.starts = lines[0 : len(lines)]
                break
        else:
            what = f"no {text}.TOK.line of {tokens:,} tokens in {rows.number:,} {rows.noun}s"
            raise UserError(f"{what}, which says in which lines the tokens are that have pictures of their own; tokenize {text} again")
        kept = path.with_suffix(".kept")  # where a filter has left lines out
        self.numbers = np.fromfile(kept, np.int64, sep="\n") if kept.is_file() else np.arange(len(self.starts))

    def of(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of each token's line, from 0."""
        return self.numbers[np.searchsorted(self.starts, tokens, "right") - 1]


def token_pictures(hdf5: Path) -> int:
    """How many tokens of a voken file have vokens, where more of them than rows name a picture, else 0.

    On token level they name pictures of their own, and where long lines were cut into segments; else those that `indices` name too.
    """
    with open_hdf5(hdf5, MAKE, indices="i2", vokens="i1") as file:
        rows = sum(int((best >= 0).sum()) for best in _slabs(file["indices"], 0))
        return len(file["vokens"]) if sum(int((slab >= 0).sum()) for slab in _slabs(file["vokens"])) > rows else 0


def _slabs(data: Any, column: int | None = None) -> Iterator[NDArray[Any]]:
    for start in range(0, len(data), SLAB):
        yield data[start : start + SLAB] if column is None else data[start : start + SLAB, column]


def read_wanted(hdf5: Path, topk: int | None, tokens: LinesOfTokens | None) -> Wanted:
    """The pictures that a voken file names: the best `topk` of each row of `indices` (None: all), and, with `tokens`, the tokens' own."""
    pairs = []
    with open_hdf5(hdf5, MAKE, indices="i2", vokens="i1") as file:
        numbers = file["line"] if is_dataset(file.get("line"), "i1") else None  # where a row is a sentence, or a line that a filter kept
        for slab, rows in enumerate(_slabs(file["indices"])):
            start = slab * SLAB
            lines = np.arange(start, start + len(rows)) if numbers is None else numbers[start : start + SLAB]
            pairs.append(_pairs(rows[:, :topk], np.broadcast_to(lines[:, None], rows[:, :topk].shape)))
        for slab, rows in enumerate(_slabs(file["vokens"]) if tokens else ()):
            pairs.append(_pairs(rows, tokens.of(np.arange(slab * SLAB, slab * SLAB + len(rows)))))
    rows, lines = divmod(np.unique(np.concatenate(pairs)), 1 << 32)
    found, starts = np.unique(rows, return_index=True)
    return Wanted(found, np.append(starts, len(rows)), lines)


def _pairs(rows: NDArray[Any], lines: NDArray[Any]) -> NDArray[np.int64]:
    """Row and line in one number, each pair once; a row below 0 is none."""
    there = rows >= 0
    return np.unique((rows[there].astype(np.int64) << 32) + lines[there])


@dataclass
class Pictures:
    """Pictures that are wanted: of each its file's name where it is put, its id ({IMAGE_SET}/{image id}), its place, and its lines."""

    names: list[str]
    ids: list[str]
    places: list[Path | Member]
    lines: list[NDArray[np.int64]]

    def rows(self, files: Sequence[object]) -> Iterator[str]:
        """A line of a list for each, tab-separated: file, id, lines with commas."""
        for file, picture, lines in zip(files, self.ids, self.lines, strict=True):
            yield f"{file}\t{picture}\t{','.join(map(str, lines.tolist()))}"


def sort_out(wanted: Wanted, ids: list[str], paths: list[Path | Member]) -> tuple[Pictures, Pictures]:
    """The wanted pictures that are there, and those that are missing; ids, paths: of each row of the index.

    A picture's name is its file's, as the text of a voken file has it, or, where two have the same, made of its id. Raises UserError
    where these are the same too.
    """
    rows = wanted.rows.tolist()
    base = [os.path.basename(str(paths[row])) for row in rows]
    times = Counter(base)
    names = [name if times[name] == 1 else _long_name(ids[row], name) for row, name in zip(rows, base, strict=True)]
    twice, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise UserError(f"{twice}: {count} pictures would have this name; rename one of them, or collect their image sets one by one")
    there, missing = Pictures([], [], [], []), Pictures([], [], [], [])
    for place, (row, name) in enumerate(zip(rows, names, strict=True)):
        path = paths[row]
        found = find(path) if isinstance(path, Path) else path
        to = there if isinstance(found, Member) or found.is_file() else missing
        to.names.append(name)
        to.ids.append(ids[row])
        to.places.append(found)
        to.lines.append(wanted.of(place))
    return there, missing


def _long_name(picture: str, name: str) -> str:
    """As NAME, with image set and folders in front: album_a_x.jpg for album/a/x.jpg."""
    _, ending = os.path.splitext(name)
    long = picture.replace("/", "_")
    return long if long.lower().endswith(ENDINGS) else f"{long}{ending}"


def require_files(pictures: Pictures, way: str) -> None:
    """Raise UserError for pictures in tar shards that are to be linked to."""
    inside = next((place for place in pictures.places if isinstance(place, Member)), None)
    if inside and way.endswith("links"):
        raise UserError(f"{inside}: a picture inside a tar can't be linked to; take --as copies, or --as shards")


def put(pictures: Pictures, folder: Path, how: str) -> list[Path]:
    """Put the pictures into a folder as symlinks, hardlinks or copies; returns their paths. Raises UserError for links that can't be."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, place in progress(list(zip(pictures.names, pictures.places, strict=True)), desc=how, unit="img"):
        paths.append(path := folder / name)
        if isinstance(place, Member) or how == "copies":
            with replacing(path) as temporary, open(temporary, "wb") as out, _opened(place) as file:
                shutil.copyfileobj(file, out)
        else:
            _link(place, path, how)
    return paths


def _opened(place: Path | Member) -> IO[bytes]:
    return place.open() if isinstance(place, Member) else open(place, "rb")


def _link(place: Path, path: Path, how: str) -> None:
    """A link at `path` to a picture, whatever is there."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(place.resolve(), temporary) if how == "hardlinks" else os.symlink(place.absolute(), temporary)
    except OSError as error:
        with suppress(OSError):  # not empty
            path.parent.rmdir()  # so that another way of --as may write here
        raise UserError(f"{place}: can't be linked to from {path.parent} ({error.strerror}); take --as copies, or --as shards") from None
    os.replace(temporary, path)
    temporary.unlink(missing_ok=True)  # still there where both were the same file


def write_shards(pictures: Pictures, folder: Path, size: int) -> list[str]:
    """Write tar shards of `size` pictures, 00000.tar and so on, each picture with a .json of its id and lines; returns its place in them.

    A place is SHARD/NAME. In names a dot before the ending is written as %2E, since readers of webdataset take what is before the first
    dot for a sample's key; a file without an ending gets that of its kind. Of names that differ in their ending alone, keys have it too.
    """
    places, times = [], Counter(os.path.splitext(name)[0] for name in pictures.names)
    starts = range(0, len(pictures.names), size)
    with progress(total=len(pictures.names), desc="shards", unit="img") as bar:
        for number, start in enumerate(starts):
            path = folder / f"{number:05d}.tar"
            with replacing(path) as temporary, tarfile.open(temporary, "w") as tar:
                for row in range(start, min(start + size, len(pictures.names))):
                    with _opened(pictures.places[row]) as file:
                        data = file.read()
                    name = pictures.names[row]
                    stem, ending = _stem(name, data)
                    if times[os.path.splitext(name)[0]] > 1:
                        stem = name.replace(".", "%2E")
                    _add(tar, f"{stem}{ending}", data)
                    _add(tar, f"{stem}.json", dumps({"id": pictures.ids[row], "lines": pictures.lines[row].tolist()}).encode())
                    places.append(f"{path}/{stem}{ending}")
                    bar.update()
    return places


def _stem(name: str, data: bytes) -> tuple[str, str]:
    """The name without its ending, dots as %2E, and the ending; that of the content's kind for a name without one."""
    stem, ending = os.path.splitext(name)
    if ending.lower() in ENDINGS:
        return stem.replace(".", "%2E"), ending
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            kind = ".jpg" if picture.format in REDUCED else f".{str(picture.format).lower()}"
    except (OSError, Image.DecompressionBombError) as error:
        what = f"{name}: has no ending, and what it holds is no picture ({one_line(error)[:80]})"
        raise UserError(f"{what}; bring the picture back, or take --as copies") from None
    return name.replace(".", "%2E"), kind


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.addfile(header, io.BytesIO(data))
