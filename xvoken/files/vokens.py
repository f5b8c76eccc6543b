"""The images retrieved for a corpus.

{corpus}.{IMAGE_SET}         sentence level, line i: file names of the best images of line i, best first, tab-separated; empty for
                             an empty line, and for one that was left without a picture
                             token level, line i: the vokens of its tokens, separated by blanks, as Vokenization writes them (files of
                             earlier versions hold names as above)
{corpus}.{IMAGE_SET}.hdf5    indices int32 (L, k), scores float32 (L, k) (inner products, or less what the attribute `scores` says; -1
                             and NaN for an empty line), vokens int32 (N,), one a token, see xvoken/files/voken_kinds.py.
                             Attributes `level`, sentence or token; `index`, after approximate search: the index' kind and its recall
                             of the exact images.
                             By a matcher with a calibration also probability float32 (L,), that the best
                             image is right, NaN for an empty line. With --min-probability, a line below it
                             has -1 and NaN in indices and scores, and NO_PICTURE for each of its tokens:
                             a line's first token tells, as -100 behind one with a picture is row 99
                             Where row i is not line i of the corpus, after a filter or of sentences
                             (xvoken/files/rows.py), also line int64 (L,), the number of each row's line,
                             from 0, and span int32 (L, 2), which of its characters are the row
{corpus}.{IMAGE_SET}.ids     line r + 1: {IMAGE_SET}/{image id} of row r of the index, see xvoken/files/ids.py

Where several sets are searched together, {IMAGE_SET} is their names, sorted and joined with `_`. Where --max-img-num N is given, the
number of images that are searched follows behind a point: at most N, and less where there are not so many.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvoken import commands
from xvoken.errors import UserError
from xvoken.files.corpus import same_text
from xvoken.files.hdf5 import InsideFile, is_dataset, open_hdf5, writing_hdf5
from xvoken.files.ids import decoded, is_marked, mark, row_id
from xvoken.files.rows import Rows, read_rows, rows_in, warn_of_left_lines
from xvoken.files.safe import quoted, replacing, write_lines
from xvoken.files.voken_check import check_text, check_vokens
from xvoken.files.voken_kinds import NO_PICTURE, SIGNED, TOKEN, kind_of, line_vokens

MAKE = commands.vokenize()
PER_ROW = ("probability", "line", "span")  # of each row, where there is such a thing


def folder(load: Path) -> Path:
    """The default folder of the images retrieved with a snapshot; load: its folder or its .safetensors file."""
    return (load.parent if load.suffix == ".safetensors" else load) / "vokens"


def text_file(where: Path, corpus_name: str, sets: str) -> Path:
    """The file names of the images; sets: the image sets' names as they stand in the file name."""
    return where / f"{corpus_name}.{sets}"


def hdf5_file(where: Path, corpus_name: str, sets: str) -> Path:
    """The rows, scores and vokens."""
    return where / f"{corpus_name}.{sets}.hdf5"


def ids_file(where: Path, corpus_name: str, sets: str) -> Path:
    """The ids of the rows."""
    return where / f"{corpus_name}.{sets}.ids"


def write(
    path: Path, parts: Iterable[Mapping[str, NDArray]], lines: int, tokens: int, k: int, names: list[str],
    settings: dict[str, Any], attributes: dict[str, Any],
) -> None:  # fmt: skip
    """Join parts to the text file `path` and the hdf5 file beside it, which is renamed last.

    parts: of each, indices (l, k), scores (l, k), token counts (l,), on token level vokens (t,), on sentence level, where lines are cut
    into segments, their best rows `best` (s,) and numbers of tokens `sizes` (s,), probability (l,) if the model has a calibration, and
    what Rows.arrays gives; lines, tokens: in all parts; names: the picture's file name of each row of the index; attributes: `level`
    among them.
    """
    kind = kind_of(attributes, settings)
    with writing_hdf5(_beside(path, "hdf5")) as file, replacing(path) as text_temporary:
        with open(text_temporary, "w", encoding="utf-8", newline="\n") as text:
            indices = file.create_dataset("indices", (lines, k), np.int32)
            scores = file.create_dataset("scores", (lines, k), np.float32)
            vokens = file.create_dataset("vokens", (tokens,), np.int32)
            line = token = 0
            for part in parts:
                rows, counts = part["indices"], part["counts"]
                part_vokens = _vokens_of(part, kind)
                indices[line : line + len(counts)] = rows
                scores[line : line + len(counts)] = part["scores"]
                vokens[token : token + len(part_vokens)] = part_vokens
                for name in filter(part.__contains__, PER_ROW):
                    array = part[name]
                    file.require_dataset(name, (lines, *array.shape[1:]), array.dtype)[line : line + len(counts)] = array
                if kind == TOKEN:
                    text.writelines(number_lines(part_vokens, counts))
                else:
                    text.writelines("\t".join(names[r] for r in row if r >= 0) + "\n" for row in rows)
                line, token = line + len(counts), token + len(part_vokens)
            file.attrs.update({**attributes, "settings": json.dumps(settings, sort_keys=True)})


def number_lines(vokens: NDArray[np.int32], counts: NDArray[np.int64]) -> Iterator[str]:
    """Vokens (t,) of lines with so many tokens (l,) as Vokenization writes them: a line each, numbers separated by blanks."""
    return (" ".join(map(str, own.tolist())) + "\n" for own in np.split(vokens, np.cumsum(counts)[:-1]))


def _vokens_of(part: Mapping[str, NDArray], kind: str | None) -> NDArray[np.int32]:
    if kind == TOKEN:  # parts of earlier versions have -1 for tokens without a picture
        return np.where(part["vokens"] < 0, NO_PICTURE, part["vokens"])
    return line_vokens(part.get("best", part["indices"][:, 0]), part.get("sizes", part["counts"]), kind or SIGNED)


def write_ids(path: Path, ids: list[str]) -> dict[str, str]:
    """Write the ids of the rows, one a line; returns attributes for the .hdf5, which say how they are written."""
    split = [i.partition("/") for i in ids]
    write_lines(path, (row_id(image_set, image_id) for image_set, _, image_id in split))
    return mark(image_id for _, _, image_id in split)


def read_attributes(hdf5_path: Path) -> dict[str, Any]:
    """What the file says of itself: snapshot, scores, ...; see InsideFile.attributes."""
    with open_hdf5(hdf5_path, MAKE) as file:
        return file.attributes()


def read_settings(hdf5_path: Path) -> dict[str, Any]:
    """The settings that the images were retrieved with, see InsideFile.settings."""
    with open_hdf5(hdf5_path, MAKE) as file:
        return file.settings()


@dataclass(repr=False)
class Vokens:
    """The images retrieved for a corpus; indices int32 (L, k) and scores float32 (L, k), best first, -1 and NaN for a line without.

    vokens: int32 (N,), one a token, see above; ids: `{IMAGE_SET}/{image id}` of each row of the index; attributes: the hdf5 file's;
    probability: float32 (L,), that a line's best image is right, NaN for an empty line; None if the model had no calibration; rows: where
    they stand in the text; path: of the hdf5 file.
    """

    indices: NDArray[np.int32]
    scores: NDArray[np.float32]
    vokens: NDArray[np.int32]
    ids: list[str]
    attributes: dict[str, Any]
    probability: NDArray[np.float32] | None = None
    rows: Rows = field(default_factory=lambda: Rows(0))
    path: Path = Path()

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def lines(self) -> NDArray[np.int64]:
        """The number of the line, from 0, that each row is, or is a sentence of: int64 (L,)"""
        return self.rows.numbers(0, len(self))

    def texts(self, corpus: str | Path) -> Iterator[str]:
        """Yield the text of each row; raises UserError if the corpus is not the one that images were retrieved for."""
        then = json.loads(self.attributes.get("settings", "{}")).get("corpus")
        same_text(text := Path(corpus), self.path, then, f"rm {quoted(self.path)} && {MAKE}")
        if text.is_file():
            warn_of_left_lines(text, self.path, then, self.rows)
        return self.rows.texts(text)

    def __repr__(self) -> str:
        return f"<images of {len(self):,} {self.rows.noun}s, top {self.indices.shape[1]} of {len(self.ids):,}>"

    def images(self, line: int) -> list[str]:
        """Ids of the images of a line, best first; an empty list for an empty line, or one that was left without."""
        return [self.ids[row] for row in self.indices[line] if row >= 0]


def read_vokens(path: str | Path) -> Vokens:
    """Read what vokenize_corpus_mp.py wrote; path: its text file, {corpus}.{IMAGE_SET}, or the .hdf5 beside that.

    Raises xvoken.Error for files that are missing or do not belong together.
    """
    if not isinstance(path, str | Path) or not str(path):
        raise UserError(f"{path!r}: the name of a file was expected, such as snap/xmatching/NAME/vokens/CORPUS.IMAGE_SET")
    path = Path(path)
    text = path.with_suffix("") if path.suffix == ".hdf5" else path
    if not _beside(text, "hdf5").exists() and (there := sorted(path.stem for path in text.parent.glob("*.hdf5"))):
        raise UserError(f"{_beside(text, 'hdf5')} does not exist; there are: {', '.join(there)}")
    with open_hdf5(_beside(text, "hdf5"), MAKE, indices="i2", scores="f2", vokens="i1") as file:
        sure = file["probability"][:] if _has_probability(file) else None
        ids, arrays = _read_ids(text, is_marked(file.attributes())), (file[name][:] for name in ("indices", "scores", "vokens"))
        found = Vokens(*arrays, ids, file.attributes(), sure, rows_in(file), _beside(text, "hdf5"))
    if found.indices.shape != found.scores.shape or found.indices.max(initial=-1) >= len(found.ids):
        raise UserError(f"{text}.hdf5: does not belong to {text}.ids; make both again with: {MAKE}, after: rm {quoted(text)}.hdf5")
    return found


def read(where: Path, corpus_name: str, sets: str) -> Vokens:
    """`read_vokens` by folder, corpus and image sets."""
    return read_vokens(text_file(where, corpus_name, sets))


def read_ids(where: Path, corpus_name: str, sets: str) -> list[str]:
    """The ids of the rows; raises UserError if the file is missing."""
    return _read_ids(text_file(where, corpus_name, sets), is_marked(read_attributes(hdf5_file(where, corpus_name, sets))))


def _read_ids(text: Path, marked: bool) -> list[str]:
    path = _beside(text, "ids")
    _require(path, _beside(text, "hdf5"))
    try:
        ids = path.read_text(encoding="utf-8").split("\n")[:-1]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8, which it was written in; make it again with its .hdf5: {MAKE}") from None
    return list(map(decoded, ids)) if marked else ids


def _has_probability(file: InsideFile) -> bool:
    """Whether it has the dataset; raises UserError if that is not one number a line."""
    if (found := file.get("probability")) is None:
        return False
    if not is_dataset(found, "f1") or len(found) != len(file["indices"]):
        raise UserError(f"{file.filename}: its dataset `probability` is not one number a line; {file.mend}")
    return True


def _beside(text: Path, ending: str) -> Path:
    return text.with_name(f"{text.name}.{ending}")


def _require(path: Path, hdf5_path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} does not exist, {hdf5_path} does; make both again with: {MAKE}, after: rm {quoted(hdf5_path)}")


def slabs(hdf5_path: Path, lines: int = 1 << 16) -> Iterator[tuple[int, NDArray[np.int32], NDArray[np.float32]]]:
    """Yield the number of the first line, indices (l, k) and scores (l, k) of l <= `lines` lines, so that memory stays bounded."""
    with open_hdf5(hdf5_path, MAKE, indices="i2", scores="f2") as file:
        for start in range(0, len(file["indices"]), lines):
            yield start, file["indices"][start : start + lines], file["scores"][start : start + lines]


def read_probability(hdf5_path: Path) -> NDArray[np.float32] | None:
    """float32 (L,), that a line's best image is right, NaN for an empty line; None if the model had no calibration."""
    with open_hdf5(hdf5_path, MAKE, indices="i2") as file:
        return file["probability"][:].astype(np.float32) if _has_probability(file) else None


def check(where: Path, corpus_name: str, sets: str) -> str:
    """Compare the files with each other; returns a line that describes them, or raises UserError."""
    path = hdf5_file(where, corpus_name, sets)
    ids, total, k = read_ids(where, corpus_name, sets), 0, 0
    if (images := read_settings(path).get("images", len(ids))) != len(ids):
        ids_path = ids_file(where, corpus_name, sets)
        raise UserError(
            f"{ids_path}: {len(ids)} ids, {images} images were searched; make both again with: {MAKE}, after: rm {quoted(path)}"
        )
    rows = read_rows(path, MAKE)
    for start, indices, scores in slabs(path):
        if indices.max(initial=-1) >= len(ids):
            raise UserError(f"{path}: row {indices.max()} is beyond the {len(ids)} ids")
        if (rising := (np.diff(scores, axis=1) > 0).any(1)).any():
            raise UserError(f"{path}: scores of {rows.named(start + int(rising.argmax()))} do not descend")
        if not ((indices < 0) == np.isnan(scores)).all():
            raise UserError(f"{path}: an empty line with scores, or a line without")
        total, k = start + len(indices), indices.shape[1]
    text_path = text_file(where, corpus_name, sets)
    _require(text_path, path)
    with open_hdf5(path, MAKE, indices="i2", vokens="i1") as file:
        lines = check_text(file, text_path, numbers=check_vokens(file, len(ids)) == TOKEN)
    of_lines = rows.sentences and "vokens_of" in read_settings(path)  # vokens of a second tokenizer, which knows no sentences
    if lines != total and not of_lines:
        raise UserError(f"{text_path}: {lines} lines, the hdf5 file has {total}; make both again with: {MAKE}, after: rm {quoted(path)}")
    answered = _check_probability(path)
    return f"top {k} of {len(ids):,} images for {total:,} {rows.noun}s{answered}"


def _check_probability(path: Path, lines: int = 1 << 16) -> str:
    """Hold probabilities against the rows, and say how many lines were left without a picture; "" where the model had no calibration."""
    with open_hdf5(path, MAKE, indices="i2") as file:
        least = file.settings().get("min_probability", 0)
        if not _has_probability(file):
            if least:
                raise UserError(f"{path}: has a least probability and no dataset `probability`; {file.mend}")
            return ""
        without = 0
        for start in range(0, len(file["indices"]), lines):
            sure, empty = file["probability"][start : start + lines], file["indices"][start : start + lines, 0] < 0
            if (bad := (sure < 0) | (sure > 1) | (empty & (sure >= least)) | (~empty & ~(sure >= least))).any():
                raise UserError(f"{path}: the probability of line {start + int(bad.argmax()) + 1} does not go with its images; {file.mend}")
            without += int((sure < least).sum())
    return f", {without:,} of them left without a picture" if least else ", with probabilities"
