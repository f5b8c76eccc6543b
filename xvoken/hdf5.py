"""HDF5 files that survive a full disk.

Left to itself, the HDF5 library writes its cached chunks and metadata when a file is closed; where the disk is full, that
fails once more, over and over, and ends the process with a segmentation fault.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py

from xvoken.disk import replacing
from xvoken.messages import UserError, one_line


@contextmanager
def writing_hdf5(path: Path) -> Iterator[h5py.File]:
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


def open_hdf5(path: Path, mend: str, **datasets: int) -> h5py.File:
    """Open a file for reading; raises UserError with `mend`, the way to make it, when it is missing, not whole or another one.

    datasets: names that it must have, and their numbers of dimensions.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; make it with: {mend}")
    open(path, "rb").close()  # a file that must not be read is a whole one, and this error names it
    try:
        file = h5py.File(path, "r")
        for name, dimensions in datasets.items():
            found = file.get(name)
            if not isinstance(found, h5py.Dataset) or found.ndim != dimensions:
                file.close()
                raise UserError(f"{path}: has no dataset `{name}` of {dimensions} dimensions; remove it, then make it with: {mend}")
    except OSError as error:
        raise UserError(f"{path}: no whole hdf5 file ({one_line(error)}); remove it, then make it with: {mend}") from None
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
