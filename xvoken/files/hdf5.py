"""HDF5 files: written so that they survive a full disk, read so that a stranger's file opens no other one.

Left to itself, the HDF5 library writes its cached chunks and metadata when a file is closed; where the disk is full, that
fails once more, over and over, and ends the process with a segmentation fault.
"""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5l  # ty: ignore[missing-module-member]  # compiled, without types

from xvoken.errors import UserError, one_line
from xvoken.files.safe import replacing

# How much more than what is stored a packed dataset may claim to hold: gzip gets 1,032 to one at the very most.
PACKED, SLACK = 1100, 1 << 20
KINDS = {"f": "floats", "i": "whole numbers", "s": "texts"}
# The attributes that stages write and read.
OURS = (
    "settings", "sha256", "snapshot", "snapshot_hash", "corpus", "tokenizer", "tokenizer_hash", "limit", "source", "model", "model_hash",
    "fdim",
)  # fmt: skip


@contextmanager
def writing_hdf5(path: Path) -> Generator[h5py.File]:
    """A new hdf5 file that takes the place of `path` when it is whole; raises OSError where the disk is full."""
    with replacing(path) as temporary, open(temporary, "wb+", buffering=0) as raw:
        output = _Output(raw)
        try:
            with h5py.File(output, "w") as file:
                try:
                    yield file
                    file.flush()  # what fails on closing can't be helped any more
                except BaseException:
                    output.given_up = True
                    raise
        except Exception:
            if output.error:
                raise output.error from None
            raise


class Inside(h5py.Group):
    """A group that gives out only what lies in its own file; raises UserError for links, external storage and virtual datasets.

    Whoever makes a file chooses what they point at: /etc/passwd, say, whose lines would come out as captions.
    A path goes down from here, name by name, and nothing is opened before its link is known, so that reading stays lazy.
    """

    mend = ""  # what to do about a file that is not as it should be

    def __getitem__(self, name: str) -> Any:
        found: Any = self
        for part in filter(None, name.split("/")):  # "/" is the group itself: h5py looks for a file's attributes there
            if not isinstance(found, Inside):
                raise KeyError(name)
            found = found._child(part)
        return found

    # items() and values() go this way; h5py's own takes another one in each version, and more arguments, which we do not give.
    def get(self, name: str, default: Any = None) -> Any:  # ty: ignore[incompatible-method-override]
        try:
            return self[name]
        except KeyError:
            return default

    def __contains__(self, name: Any) -> bool:
        above, _, last = name.strip("/").rpartition("/")
        group = self.get(above) if above else self
        return isinstance(group, Inside) and group._holds(last)

    def _child(self, name: str) -> Any:
        if not self._holds(name):
            raise KeyError(name)
        found = super().__getitem__(name)
        if isinstance(found, h5py.Group):
            inside = Inside(found.id)
            inside.mend = self.mend
            return inside
        if isinstance(found, h5py.Dataset):
            self._check(found, name)
        return found

    def _holds(self, name: str) -> bool:
        """Whether the name is here; raises UserError where it is only a link."""
        encoded = name.encode("utf-8", "surrogateescape")
        if not encoded or not self.id.links.exists(encoded):
            return False
        link = self.id.links.get_info(encoded)
        if link.type == h5l.TYPE_SOFT:
            self._refuse(name, "points elsewhere in the file (a soft link), which is never followed")
        if link.type != h5l.TYPE_HARD:
            self._refuse(name, "points out of the file (an external link), which is never followed")
        return True

    def _check(self, dataset: h5py.Dataset, name: str) -> None:
        plan = dataset.id.get_create_plist()
        if plan.get_external_count():
            self._refuse(name, "points out of the file (external storage), which is never followed")
        layout = plan.get_layout()
        if layout == h5py.h5d.VIRTUAL:
            self._refuse(name, "points out of the file (a virtual dataset), which is never followed")
        # Not by h5py's shape and dtype: making those costs as much as the rest of opening a dataset.
        claimed = dataset.id.get_space().get_simple_extent_npoints() * dataset.id.get_type().get_size()
        stored = dataset.id.get_storage_size()
        if claimed > (PACKED if layout == h5py.h5d.CHUNKED else 1) * stored + SLACK:
            self._refuse(name, f"claims {claimed:,} bytes, of which only {stored:,} are stored")

    def _refuse(self, name: str, reason: str) -> None:
        where = f"{self.name.rstrip('/')}/{name}"
        raise UserError(f"{self.file.filename}: {where} {reason}; {self.mend}")


class InsideFile(Inside, h5py.File):
    """A file open for reading, of which only what lies in it is given out."""

    def attributes(self) -> dict[str, Any]:
        """Its attributes that are one text or number, as Python's own; raises UserError where one of OURS is not that."""
        found = {}
        for name in self.attrs:
            try:
                value = self.attrs[name]
                value = value.item() if isinstance(value, np.generic) else value
                value = value.decode() if isinstance(value, bytes) else value
                if isinstance(value, str):
                    value.encode()
            except (UnicodeError, OSError, TypeError):  # the two last: types that numpy has not
                value = None
            if isinstance(value, str | int | float):
                found[name] = value
            elif name in OURS:
                raise UserError(f"{self.filename}: its attribute {name} is not one text or number, as a stage writes it; {self.mend}")
        return found

    def settings(self) -> dict[str, Any]:
        """What decides whether a later run may skip the file, {} in files of others; raises UserError for what is none of that."""
        try:
            settings = json.loads(self.attributes().get("settings", "{}"))
        except (TypeError, ValueError, RecursionError):
            settings = None
        if not isinstance(settings, dict):
            raise UserError(f"{self.filename}: its attribute settings is not as a stage writes it; {self.mend}")
        return settings


def is_dataset(found: Any, kind: str) -> bool:
    """Whether something of a file is a dataset of a kind: numpy's letters for its numbers, s for texts, and its dimensions, as "f2"."""
    if not isinstance(found, h5py.Dataset) or found.ndim != int(kind[-1]):
        return False
    return (found.dtype.kind in kind[:-1] and found.dtype.names is None) or ("s" in kind and bool(h5py.check_string_dtype(found.dtype)))


def open_hdf5(path: Path, mend: str, **datasets: str) -> InsideFile:
    """Open a file for reading; raises UserError with `mend`, the way to make it, when it is missing, not whole or another one.

    datasets: names that it must have, and their kinds, see is_dataset.
    """
    if not path.is_file():
        what = "is no file; move it away, then make one with" if path.exists() else "does not exist; make it with"
        raise UserError(f"{path} {what}: {mend}")
    open(path, "rb").close()  # a file that must not be read is a whole one, and this error names it
    again = f"remove it, then make it with: {mend}"
    try:
        file = InsideFile(path, "r")
    except OSError as error:
        raise UserError(f"{path}: no whole hdf5 file ({one_line(error)}); {again}") from None
    file.mend = again
    try:
        for name, kind in datasets.items():
            if not is_dataset(file.get(name), kind):
                raise UserError(f"{path}: has no dataset `{name}` of {kind[-1]} dimensions and of {KINDS[kind[0]]}; {again}")
    except OSError as error:
        file.close()
        raise UserError(f"{path}: no whole hdf5 file ({one_line(error)}); {again}") from None
    except UserError:
        file.close()
        raise
    return file


class _Output:
    """A file whose first failing write raises, and which then, or given up, swallows what is written, so that it can be closed.

    raw: without a buffer, or what could not be written would fail once more wherever the file is moved to.
    """

    def __init__(self, raw: FileIO):
        self.raw, self.given_up = raw, False
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        while len(rest) and not self.given_up:  # near the end of the disk, a part of it is written first
            rest = rest[self._unless_it_fails(self.raw.write, rest) :]
        return len(data)

    def truncate(self, size: int) -> int:  # also to a larger size
        return size if self.given_up else self._unless_it_fails(self.raw.truncate, size)

    def _unless_it_fails(self, do: Callable[[Any], int], what: Any) -> int:
        try:
            return do(what)
        except OSError as error:
            self.error, self.given_up = error, True
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)
