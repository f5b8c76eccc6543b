"""Pictures that users gave: encoded when they come, then known by an id for an hour."""

import io
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from xvoken.errors import UserError
from xvoken.pictures.sources import Member

KEPT, SECONDS = 500, 3600.0  # pictures that are kept, and since their last use how long
SCANS = 100  # of a JPEG; progressive ones have some ten. A small file may have thousands, each of which goes through all pixels again


class Gone(UserError):
    """A picture that is not kept any more."""


@dataclass(frozen=True, slots=True)
class Held(Member):
    """A picture's file that is in memory alone; `tar` is empty."""

    data: bytes = b""

    def __str__(self) -> str:
        return self.name

    def open(self) -> IO[bytes]:
        """The content."""
        return io.BytesIO(self.data)


def held(name: str, data: bytes) -> Held:
    """A file's content as a picture of that name; raises UserError for one that is made to be decoded without end."""
    if data.startswith(b"\xff\xd8") and _scans(data) > SCANS:
        raise UserError(f"picture {name}: a JPEG of more than {SCANS} scans")
    return Held("", name, 0, len(data), data)


def _scans(jpeg: bytes) -> int:
    """How many scans a decoder finds up to the JPEG's end."""
    place, number = 2, 0
    while (place := jpeg.find(b"\xff", place)) >= 0 and jpeg[place + 1 : place + 2] != b"\xd9":
        kind, length = jpeg[place + 1 : place + 2], int.from_bytes(jpeg[place + 2 : place + 4], "big")
        number += kind == b"\xda"
        alone = kind in (b"\x00", b"\x01") or b"\xd0" <= kind <= b"\xd8"  # bytes of pixels, and markers without a length
        place += 1 if kind == b"\xff" else 2 if alone else 2 + length
    return number


@dataclass(frozen=True)
class Upload:
    """What is kept of a picture: its name, its vector float32 (dim,), a thumbnail (WebP); not the picture."""

    name: str
    vector: NDArray[np.float32]
    small: bytes


class Uploads:
    """The latest pictures by their ids, in memory alone. Used by several threads."""

    def __init__(self, kept: int = KEPT, seconds: float = SECONDS):
        self.kept, self.seconds = kept, seconds
        self._by_id: OrderedDict[str, tuple[float, Upload]] = OrderedDict()  # the longest unused one first
        self._lock = threading.Lock()

    def add(self, upload: Upload) -> str:
        """Keep a picture; returns its id, which can't be guessed."""
        name = secrets.token_urlsafe(12)
        with self._lock:
            self._by_id[name] = (time.monotonic(), upload)
            while len(self._by_id) > self.kept:
                self._by_id.popitem(last=False)
        return name

    def get(self, name: str) -> Upload:
        """The picture of an id; raises Gone for one that is not kept."""
        with self._lock:
            then, upload = self._by_id.pop(name, (0.0, None))
            if upload is None or time.monotonic() - then > self.seconds:
                raise Gone("this picture is no longer kept (an hour after its last use, or when the server starts again); choose it again")
            self._by_id[name] = (time.monotonic(), upload)
            return upload
