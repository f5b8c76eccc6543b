"""HDF5 files that survive a full disk.

Left to itself, the HDF5 library writes its cached metadata when a file is closed; where the disk is full, that fails
once more, over and over, and ends the process with a segmentation fault.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import h5py

from xvoken.disk import replacing


@contextmanager
def writing_hdf5(path: Path) -> Iterator[h5py.File]:
    """A new hdf5 file that takes the place of `path` when it is whole; raises OSError where the disk is full."""
    with replacing(path) as temporary, open(temporary, "wb+") as raw:
        output = _Output(raw)
        try:
            with h5py.File(output, "w") as file:
                yield file
        except Exception:
            if output.error:
                raise output.error from None
            raise


class _Output:
    """A file whose first failing write raises, and which then swallows what is written, so that it can be closed."""

    def __init__(self, raw: IO[bytes]):
        self.raw = raw
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self.raw.write(data)
                self.raw.flush()
            except OSError as error:
                self.error = error
                raise
        return len(data)

    def flush(self) -> None:
        if self.error is None:
            self.raw.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)
