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
    """A file's content as a picture of that name."""
    return Held("", name, 0, len(data), data)


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
