"""Small copies of the gallery's pictures, made when they are first asked for and kept in memory."""

import threading
from collections import OrderedDict
from pathlib import Path

from xvoken.ask.searcher import Searcher
from xvoken.errors import UserError
from xvoken.pictures.decode import BrokenPicture
from xvoken.pictures.sources import find, size_of
from xvoken.pictures.thumbnails import thumbnail

SIDES = (400, 800)  # pixels of the longest side that can be asked for
LARGE = 2048
KEPT = 64 << 20  # bytes of thumbnails in memory


class NoPicture(UserError):
    """A row that does not exist, or whose picture can't be shown."""


class Thumbs:
    """Copies of pictures as WebP files without metadata, the latest ones kept. Used by several threads.

    What a browser gets is always encoded here: a file that is no picture never reaches it, formats that browsers do not know are shown,
    and no place or name of a camera leaves the machine.
    """

    def __init__(self, searcher: Searcher, kept: int = KEPT):
        self.paths = searcher.gallery.paths if searcher.gallery else []
        self.kept, self.held = kept, 0
        self._made: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, row: int, side: int) -> bytes | None:
        """A copy that is in memory already."""
        with self._lock:
            if (row, side) in self._made:
                self._made.move_to_end((row, side))
            return self._made.get((row, side))

    def make(self, row: int, side: int) -> bytes:
        """The picture of a row, its longest side at most `side` pixels; raises NoPicture. LARGE ones are not kept."""
        if not 0 <= row < len(self.paths):
            raise NoPicture(f"row {row}: there is no such picture")
        if (found := self.known(row, side)) is not None:
            return found
        source = find(Path(self.paths[row]))
        try:
            if size_of(source) < 0:  # a pipe or a device would be waited for without end
                raise BrokenPicture("missing")
            small = thumbnail(source, side)
        except (BrokenPicture, UserError) as error:
            raise NoPicture(f"row {row}: its picture can't be shown ({error})") from None
        if side <= max(SIDES):
            with self._lock:
                self.held += len(small) - len(self._made.pop((row, side), b""))
                self._made[row, side] = small
                while self.held > self.kept:
                    self.held -= len(self._made.popitem(last=False)[1])
        return small
