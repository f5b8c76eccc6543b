"""Keys of an image set: one vector of length 1 a picture, in the joint space of a snapshot.

snap/xmatching/NAME/keys/{IMAGE_SET}.hdf5    keys float32 (N, dim), ids (N,) texts; attributes say what made them
snap/xmatching/NAME/keys/{IMAGE_SET}.ids     id of each row (see ids.py)   {IMAGE_SET}.path    its file
snap/xmatching/NAME/keys/{IMAGE_SET}.skipped.tsv    id, path and reason of pictures without a row
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from xvoken import commands
from xvoken.errors import UserError
from xvoken.files.hdf5 import InsideFile, is_dataset, open_hdf5, writing_hdf5
from xvoken.files.ids import encoded, stand_for
from xvoken.files.image_sets import split_name
from xvoken.files.key_checks import describe, require_keys
from xvoken.files.locks import sole_writer
from xvoken.files.safe import all_written, quoted, sha256_of_lines, sha256_of_rows, write_lines


@dataclass
class Keys:
    """keys: float32 (N, dim); ids and paths: one of each a row; attributes: those of the file."""

    keys: NDArray[np.float32]
    ids: list[str]
    paths: list[str]
    attributes: dict[str, Any]

    @property
    def identity(self) -> str:
        """Hash of the ids and the keys, all that files made of them depend on."""
        content = self.attributes.get("sha256") or sha256_of_rows(self.keys)  # files of other tools do not name it
        return sha256_of_lines([str(content), *self.ids])[:16]


def folder(load: Path) -> Path:
    """The default folder of the keys of a snapshot; load: its folder or its .safetensors file."""
    return (load.parent if load.suffix == ".safetensors" else load) / "keys"


def keys_file(where: Path, image_set: str) -> Path:
    """The hdf5 file of an image set in the folder `where`."""
    return where / f"{image_set}.hdf5"


def companions(where: Path, image_set: str) -> tuple[Path, Path]:
    """The files without which the hdf5 file can't be used."""
    return where / f"{image_set}.ids", where / f"{image_set}.path"


def skipped_file(where: Path, image_set: str) -> Path:
    """The list of pictures without a key."""
    return where / f"{image_set}.skipped.tsv"


def write(
    where: Path, image_set: str, blocks: Iterable[NDArray[np.float32]], ids: list[str], paths: list[str],
    skipped: list[tuple[str, str, str]], settings: dict[str, Any], attributes: dict[str, Any],
) -> None:  # fmt: skip
    """Write all files of an image set; the hdf5 file is renamed last.

    blocks: arrays (n, dim), one after another, at least one; settings: those that decide whether a later run may skip the set.
    """
    write_lines(where / f"{image_set}.ids", map(encoded, ids))
    write_lines(where / f"{image_set}.path", paths)
    write_lines(skipped_file(where, image_set), ("\t".join(row) for row in skipped))
    with writing_hdf5(keys_file(where, image_set)) as file:
        blocks = iter(blocks)
        first = next(blocks)
        keys = file.create_dataset("keys", (len(ids), first.shape[1]), np.float32)
        row, digest = 0, hashlib.sha256()
        for block in chain([first], blocks):
            keys[row : row + len(block)] = block
            digest.update(np.ascontiguousarray(block, np.float32).data)
            row += len(block)
        file.create_dataset("ids", data=ids, dtype=h5py.string_dtype())
        file.attrs.update({**attributes, "settings": json.dumps(settings, sort_keys=True), "sha256": digest.hexdigest()})


def require(where: Path, image_set: str, load: str) -> None:
    """Raise UserError with the command that makes the keys, if they are missing; load: the model as the user gave it."""
    path = keys_file(where, image_set)
    if not path.is_file():
        mend = commands.extract_keys(load, image_set, None if where == folder(Path(load)) else where)
        raise UserError(f"{path} does not exist; make it with: {mend}")


def read_settings(where: Path, image_set: str) -> dict[str, Any]:
    """The settings that the keys were made with, see InsideFile.settings."""
    with _open(where, image_set) as file:
        return file.settings()


def read(where: Path, image_set: str, raw: bool = False) -> Keys:
    """The keys of one image set, mapped into memory, so that all processes share one copy.

    raw: whether raw features are taken too. Raises UserError for a file that is missing or damaged, for raw features where they are not
    taken, and for a key that is not finite or, in a file of another tool, which does not say what it holds, not of length 1.
    """
    keys, attributes = read_vectors(where, image_set)
    ids, paths = (_lines(where / f"{image_set}.{ending}", len(keys)) for ending in ("ids", "path"))
    with _open(where, image_set) as file:  # files of other tools may have no ids
        inside = file["ids"].asstr(errors="surrogateescape")[:].tolist() if is_dataset(file.get("ids"), "s1") else ids
    mend = "remove the set's files beside it and extract it again"
    if not stand_for(ids, inside):
        raise UserError(f"{where / f'{image_set}.ids'}: its ids differ from those in {keys_file(where, image_set)}; {mend}")
    require_keys(keys_file(where, image_set), keys, attributes, raw)
    return Keys(keys, inside, paths, attributes)


def read_vectors(where: Path, image_set: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Keys and attributes, as `read` gives them; without ids and paths, which take longer, and memory in every process."""
    with _open(where, image_set) as file:
        return _mapped(file["keys"]), file.attributes()


def _mapped(dataset: h5py.Dataset) -> NDArray[np.float32]:
    """A dataset as an array: mapped if it is contiguous in the file, as in our files, else read (other tools may compress)."""
    at = dataset.id.get_offset()
    if at is None or dataset.dtype != np.float32:
        return dataset[:].astype(np.float32, copy=False)
    # Copy on write, since torch warns of arrays that it could not write to.
    return np.memmap(dataset.file.filename, np.float32, "c", at, dataset.shape)


def _folder(where: Any) -> Path:
    if not isinstance(where, str | Path) or not str(where):
        raise UserError(f"{where!r}: the folder of the keys was expected, such as snap/xmatching/NAME/keys")
    return Path(where)


def _make(where: Path, image_set: str) -> str:
    return commands.extract_keys(where.parent, image_set)


def _open(where: Path, image_set: str) -> InsideFile:
    if not keys_file(where, image_set).exists() and (there := sorted(path.stem for path in where.glob("*.hdf5"))):
        raise UserError(
            f"{keys_file(where, image_set)} does not exist; make it with: {_make(where, image_set)} (there are: {', '.join(there)})"
        )
    return open_hdf5(keys_file(where, image_set), _make(where, image_set), keys="f2")


def _lines(path: Path, rows: int) -> list[str]:
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    if len(lines) != rows:
        raise UserError(f"{path}: has {len(lines)} lines for {rows} keys; remove the set's files beside it and extract it again")
    return lines


def check(where: Path, image_set: str) -> str:
    """Compare the files of a set with each other; returns a line that describes them, or raises UserError."""
    read_back = read(where, image_set, raw=True)
    return describe(keys_file(where, image_set), read_back.keys, read_back.attributes)


@dataclass(repr=False)
class Gallery:
    """The keys of several image sets, one set after another, as the rows of one index.

    blocks: float32 (n, dim) of each set, mapped into memory; ids: `{IMAGE_SET}/{image id}` of each row; paths: its picture's file;
    made_by: of each set, its name and the hashes of its snapshot and its keys.
    """

    blocks: list[NDArray[np.float32]]
    ids: list[str]
    paths: list[str]
    made_by: list[str]

    @property
    def vectors(self) -> NDArray[np.float32]:
        """All keys: float32 (N, dim), each of length 1; a copy if there are several sets."""
        return joined(self.blocks)

    @property
    def names(self) -> list[str]:
        """File name of each row."""
        return [Path(path).name for path in self.paths]

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<keys of {len(self):,} pictures, {self.blocks[0].shape[1]} dimensions: {', '.join(self.ids[:2])}, ...>"


def joined(blocks: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """All blocks in one array; a copy if there are several."""
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def read_keys(where: str | Path, image_sets: Sequence[str], encoder: Any = None, limit: int | None = None) -> Gallery:
    """Read the keys of image sets, one set after another, for open_index.

    where: their folder, such as snap/xmatching/NAME/keys; image_sets: names, such as ["open_images"]; limit: only the first rows.
    encoder: the one that must have made them: an xvoken.Encoder, or anything with its hash and dim (None: any).
    Raises xvoken.Error for a missing or damaged file, keys of another encoder, or sets that do not go together.
    """
    if isinstance(image_sets, str) or not isinstance(image_sets, Iterable):
        raise UserError(f'image_sets={image_sets!r}: a list of names was expected, such as ["open_images"]')
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise UserError(f"limit={limit!r}: a whole number of at least 1 was expected")
    where = _folder(where)
    if encoder is not None and not (hasattr(encoder, "hash") and hasattr(encoder, "dim")):
        raise UserError(f"encoder={encoder!r}: an encoder from load_encoder was expected")
    keys, ids, paths, made_by = [], [], [], []
    dim, expected = (encoder.dim, encoder.hash) if encoder else (None, None)
    whose = ("the snapshot's sentences have", "this one is") if encoder else ("the keys of the first set have", "the first set's is")
    for image_set in image_sets:
        found, path = read(where, image_set), keys_file(where, image_set)
        mend = f"remove it, then: {_make(where, image_set)}"
        dim = dim or found.keys.shape[1]
        if found.keys.shape[1] != dim:
            raise UserError(f"{path}: keys of {found.keys.shape[1]} dimensions, {whose[0]} {dim}; {mend}")
        maker = found.attributes.get("snapshot_hash", expected)  # files of the predecessors do not name it
        expected = expected or maker
        if maker != expected:
            raise UserError(f"{path}: keys of another snapshot ({maker}, {whose[1]} {expected}); take the one that made them, or {mend}")
        keys.append(found.keys)
        ids += [f"{image_set}/{i}" for i in found.ids]
        paths += found.paths
        made_by.append(f"{image_set} {maker} {found.identity}")
    if not keys:
        raise UserError("no image set is given")
    return Gallery(_first(keys, limit), ids[:limit], paths[:limit], made_by)


def write_keys(
    where: str | Path, image_set: str, vectors: NDArray[np.float32], ids: Sequence[str], paths: Sequence[str] | None = None,
    encoder: Any = None,
) -> Path:  # fmt: skip
    """Write vectors that were made elsewhere as the keys of an image set; returns the hdf5 file.

    vectors: float (N, dim), each of length 1; ids, paths: one of each a row (paths default to the ids); encoder: the xvoken.Encoder
    that made them; its name and hash are kept, so that a search with another encoder refuses them.
    Raises xvoken.Error for vectors, ids or paths of a wrong form, and if the set exists already.
    """
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise UserError(f"ids={ids!r}: a list was expected, one id a row")
    if encoder is not None and not hasattr(encoder, "hash"):
        raise UserError(f"encoder={encoder!r}: an encoder from load_encoder was expected")
    where, vectors, ids = _folder(where), np.asarray(vectors), [str(i) for i in ids]
    paths, path = ids if paths is None else [str(one) for one in paths], keys_file(where, image_set)
    if not isinstance(image_set, str) or split_name(image_set)[0] != image_set:
        raise UserError(f"image set {image_set!r}: a name alone was expected")
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or not len(vectors):
        raise UserError(f"vectors: {vectors.dtype} of shape {vectors.shape}; floats of shape (N, dim) were expected")
    if not len(vectors) == len(ids) == len(paths):
        raise UserError(f"{len(vectors)} vectors, {len(ids)} ids and {len(paths)} paths: the same number of each was expected")
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if len(bad := np.flatnonzero(~(abs(lengths - 1) < 1e-3))):
        raise UserError(f"vectors: row {bad[0]} has length {lengths[bad[0]]:.4g}, length 1 was expected")
    if encoder and vectors.shape[1] != encoder.dim:
        raise UserError(f"vectors of {vectors.shape[1]} dimensions, but those of {encoder.name} have {encoder.dim}")
    if (strange := next((name for name in [*ids, *paths] if not name or not name.isprintable()), None)) is not None:
        raise UserError(f"{strange!r} can't stand in a list of ids and paths: it is empty or has a character that can't be printed")
    if len(set(ids)) < len(ids):
        raise UserError("ids: the same id is given twice")
    made_by = {"snapshot": encoder.name, "snapshot_hash": encoder.hash} if encoder else {}
    with sole_writer(path):
        if path.exists():
            raise UserError(f"{path} is there already; choose another name, or make it again after: rm {quoted(path)}")
        settings = {**made_by, "pictures": len(ids), "ids": sha256_of_lines(ids)[:16], "written": "by xvoken.write_keys"}
        block = vectors.astype(np.float32)
        write(where, image_set, [block], ids, list(paths), [], settings, {**made_by, "image_set": image_set})
        all_written(path, *companions(where, image_set))
    return path


def read_blocks(keys_dir: Path, image_sets: list[str], most: int | None = None) -> list[NDArray[np.float32]]:
    """The blocks of `read_keys`, unchecked, for workers: the process that started them has checked the files. most: rows in all."""
    return _first([read_vectors(keys_dir, image_set)[0] for image_set in image_sets], most)


def _first(blocks: list[NDArray[np.float32]], most: int | None) -> list[NDArray[np.float32]]:
    """The first `most` rows of all blocks together."""
    if most is None:
        return blocks
    starts = np.cumsum([0, *map(len, blocks)])
    return [block[: most - start] for block, start in zip(blocks, starts.tolist(), strict=False) if start < most]
