"""HDF5 files: written so that a full disk does no harm, read so that a file from a stranger can't have other files opened.

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

# The claimed size of a compressed dataset may be this many times its stored size (gzip reaches 1,032), of any other one once;
# and SLACK bytes more.
PACKED, SLACK = 1100, 1 << 20
KINDS = {"f": "floats", "i": "whole numbers", "s": "texts"}
# The attributes that stages write and read.
OURS = (
    "settings", "sha256", "snapshot", "snapshot_hash", "corpus", "tokenizer", "tokenizer_hash", "limit", "source", "model", "model_hash",
    "fdim", "level", "ids", "filter", "sentences",
)  # fmt: skip


@contextmanager
def writing_hdf5(path: Path) -> Generator[h5py.File]:
    """Open a new hdf5 file that replaces `path` when it is whole; raises OSError or RunError if the disk is full."""
    with replacing(path) as temporary, open(temporary, "wb+", buffering=0) as raw:
        output = _Output(raw)
        try:
            with h5py.File(output, "w") as file:
                try:
                    yield file
                    file.flush()  # here, since a failure while closing can't be handled
                except BaseException:
                    output.given_up = True
                    raise
        except Exception:
            if output.error:
                raise output.error from None
            raise


class Inside(h5py.Group):
    """A group that reads only from its own file; raises UserError for links, external storage and virtual datasets.

    Whoever makes a file chooses what these point at: /etc/passwd, say, whose lines would come out as captions.
    A path is followed down from this group name by name; each name's link is checked before the object is opened, and no others are.
    """

    mend = ""  # for messages: what to do about a file that is refused

    def __getitem__(self, name: str) -> Any:
        found: Any = self
        for part in filter(None, name.split("/")):  # "/" is the group itself: h5py looks for a file's attributes there
            if not isinstance(found, Inside):
                raise KeyError(name)
            found = found._child(part)
        return found

    # h5py's items() and values() call it. Its own has more parameters, other ones in each version; nothing here gives them.
    def get(self, name: str, default: Any = None) -> Any:  # ty: ignore[incompatible-method-override]
        """The group or dataset at a path below this group, `default` if there is none; raises UserError as reading it does."""
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
        """Whether this group has the name; raises UserError if it is a soft or external link."""
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
        # Not by h5py's shape and dtype: computing those takes as long as the rest of opening a dataset.
        claimed = dataset.id.get_space().get_simple_extent_npoints() * dataset.id.get_type().get_size()
        stored = dataset.id.get_storage_size()
        if claimed > (PACKED if layout == h5py.h5d.CHUNKED else 1) * stored + SLACK:
            self._refuse(name, f"claims {claimed:,} bytes, of which only {stored:,} are stored")

    def _refuse(self, name: str, reason: str) -> None:
        where = f"{self.name.rstrip('/')}/{name}"
        raise UserError(f"{self.file.filename}: {where} {reason}; {self.mend}")


class InsideFile(Inside, h5py.File):
    """An HDF5 file open for reading, protected like Inside."""

    def attributes(self) -> dict[str, Any]:
        """Its attributes that are a single text or number, as Python values; raises UserError if one of OURS is anything else."""
        found = {}
        for name in self.attrs:
            try:
                value = self.attrs[name]
                value = value.item() if isinstance(value, np.generic) else value
                value = value.decode() if isinstance(value, bytes) else value
                if isinstance(value, str):
                    value.encode()
            except (UnicodeError, OSError, TypeError):  # OSError, TypeError: of a type that numpy does not have
                value = None
            if isinstance(value, str | int | float):
                found[name] = value
            elif name in OURS:
                raise UserError(f"{self.filename}: its attribute {name} is not one text or number, as a stage writes it; {self.mend}")
        return found

    def settings(self) -> dict[str, Any]:
        """The settings that decide whether a run may skip the file, {} if it has none; raises UserError if they are not a JSON object."""
        try:
            settings = json.loads(self.attributes().get("settings", "{}"))
        except (TypeError, ValueError, RecursionError):
            settings = None
        if not isinstance(settings, dict):
            raise UserError(f"{self.filename}: its attribute settings is not a JSON object, as a stage writes it; {self.mend}")
        return settings


def is_dataset(found: Any, kind: str) -> bool:
    """Whether `found` is a dataset of a kind: letters of numpy's dtype.kind, s for texts, then the number of dimensions; such as "f2"."""
    if not isinstance(found, h5py.Dataset) or found.ndim != int(kind[-1]):
        return False
    return (found.dtype.kind in kind[:-1] and found.dtype.names is None) or ("s" in kind and bool(h5py.check_string_dtype(found.dtype)))


def open_hdf5(path: Path, mend: str, **datasets: str) -> InsideFile:
    """Open a file for reading; raises UserError if it is missing, damaged or lacks one of the datasets.

    mend: the command that makes the file, for messages; datasets: the names that it must have, with their kinds, see is_dataset.
    """
    if not path.is_file():
        what = "is not a file; move it away, then make one with" if path.exists() else "does not exist; make it with"
        raise UserError(f"{path} {what}: {mend}")
    open(path, "rb").close()  # without the right to read it, this raises PermissionError: the file is not damaged
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
    """A file whose first failing write raises; after that, or once given_up is set, it ignores writes, so that HDF5 can close it.

    raw: unbuffered: a buffer would try to write again when it is closed, and fail again.
    """

    def __init__(self, raw: FileIO):
        self.raw, self.given_up = raw, False
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        while len(rest) and not self.given_up:  # on a disk that is almost full, a write may take only a part
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
