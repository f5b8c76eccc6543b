"""A text file of growing offsets, one a line, read in slabs: memory does not grow with the file.

A sparse index holds the byte at which every EVERY-th line starts: 8 bytes for EVERY lines.
"""

import warnings
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from xvoken.errors import UserError

EVERY = 4096
BLOCK = 1 << 22  # bytes read at once


class Offsets:
    """The numbers in the file `path`; they must start with 0 and never shrink, which is checked on opening.

    Raises UserError for any other file; mend: what to do about it, for the message. offsets[i] is an int, offsets[a:b] int64 (b - a,).
    rising: they may start with any number from 0 on, and none may stand there twice.
    """

    def __init__(self, path: Path, mend: str, rising: bool = False):
        self.path, self.rising = path, rising
        what = "rising numbers" if rising else "growing offsets that starts with 0"
        self.wrong = UserError(f"{path}: not a list of {what}; {mend}")
        self.starts, self.size, self.last = [0], 0, 0
        with open(path, "rb") as file:
            at = 0
            while block := file.read(BLOCK):
                block += file.readline()
                self._index(block, at)
                at += len(block)
        if not self.size:
            raise self.wrong

    def _index(self, block: bytes, at: int) -> None:
        """Check a block of whole lines that starts at byte `at`, and note where every EVERY-th of its lines starts."""
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
        lines = len(ends) + (not block.endswith(b"\n"))
        numbers = self._parse(block, lines)
        least = int(self.rising)  # from one number to the next
        begins = numbers[0] >= self.last + least if self.size else numbers[0] >= 0 if self.rising else numbers[0] == 0
        if not begins or (np.diff(numbers) < least).any():
            raise self.wrong
        ahead = range(EVERY - self.size % EVERY, len(ends) + 1, EVERY)  # lines of this block before each start
        self.starts += [at + int(ends[line - 1]) + 1 for line in ahead]
        self.size, self.last = self.size + lines, int(numbers[-1])

    def _parse(self, text: bytes, lines: int) -> NDArray[np.int64]:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            try:
                numbers = np.fromstring(text, np.int64, sep="\n")
            except (ValueError, DeprecationWarning):
                raise self.wrong from None
        if len(numbers) != lines:
            raise self.wrong
        return numbers

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, which: int) -> int: ...

    @overload
    def __getitem__(self, which: slice) -> NDArray[np.int64]: ...

    def __getitem__(self, which: int | slice) -> int | NDArray[np.int64]:
        if not isinstance(which, slice):
            line = range(self.size)[which]  # negative ones and IndexError as for a list
            return int(self[line : line + 1][0])
        start, stop, step = which.indices(self.size)
        if stop <= start:
            return np.zeros(0, np.int64)
        first, last = start // EVERY, -(-stop // EVERY)
        with open(self.path, "rb") as file:
            file.seek(self.starts[first])
            text = file.read(self.starts[last] - self.starts[first] if last < len(self.starts) else -1)
        numbers = self._parse(text, min(last * EVERY, self.size) - first * EVERY)
        return numbers[start - first * EVERY : stop - first * EVERY : step]
