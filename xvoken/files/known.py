"""What was once found out of files that take seconds to load, as a model's hash: kept with the files' stamps, and found again by them.

    ~/.cache/xvoken/known/{HASH}.json    key, facts, and of each file its size, times and inode; XDG_CACHE_HOME is heeded

Another stamp, another version of a library that had a part in it, or no right to write there: then it is found out once more.
"""

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xvoken.errors import RunError, UserError
from xvoken.files.safe import fingerprint, write_json

# Those that decide what a model or tokenizer comes out as.
LIBRARIES = ("torch", "torchvision", "transformers", "tokenizers")
FORMAT = 1  # of the facts; another one is not read
MOST = 1000  # files whose stamps are kept


@dataclass(frozen=True)
class Start:
    """When files begin to be read, in seconds, and what stood at their names then: folders may be moved, links switched meanwhile."""

    since: float
    places: dict[Path, tuple[int, int]]

    @classmethod
    def now(cls, paths: Iterable[Path]) -> "Start":
        return cls(time.time(), {path: _place(path) for path in paths})

    def holds(self, stamps: Iterable[list[int]]) -> bool:
        """Whether nothing has changed since then."""
        same = all(_place(path) == at for path, at in self.places.items())
        return same and all(changed < self.since * 1e9 for _, _, changed, _ in stamps)


def known(key: dict[str, Any]) -> dict[str, Any] | None:
    """The facts kept under a key, None where there are none or a file has changed since."""
    try:
        if not (file := _file(key)).is_file():
            return None
        kept = json.loads(file.read_text(encoding="utf-8"))
        stamps = kept["files"]
        sound = kept["key"] == _whole(key) and isinstance(kept["facts"], dict) and bool(stamps)
        return kept["facts"] if sound and all(_stamp(Path(path)) == stamp for path, stamp in stamps.items()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):  # RuntimeError: no home, or nested without end
        return None


def remember(key: dict[str, Any], files: Iterable[Path], facts: dict[str, Any], start: Start | None = None) -> None:
    """Keep facts that follow from the key and from these files; a folder stands for all that is in it.

    start: of their reading; where one was changed after that, nothing is kept, nor of a folder of very many files.
    """
    # A full disk, a home that is read only or none, a name that is no UTF-8: it was only to save time.
    with suppress(OSError, RunError, UserError, RuntimeError, ValueError):
        listed = [found for path in files for found in _all_in(path.absolute())]
        stamps = {str(path): _stamp(path) for path in listed[: MOST + 1]}
        if len(stamps) <= MOST and (start is None or start.holds(stamps.values())):
            write_json(_file(key), {"key": _whole(key), "files": stamps, "facts": facts})


def _all_in(path: Path) -> list[Path]:
    """A file, or a folder with all that is in it, links followed; a bit more than MOST where it is more."""
    found = [path]
    for folder, folders, names in os.walk(path, followlinks=True):
        found += [Path(folder, name) for name in sorted([*folders, *names])]
        if len(found) > MOST:  # or links that lead back
            break
    return found


def _file(key: dict[str, Any]) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "xvoken" / "known" / f"{fingerprint(_whole(key))}.json"


def _whole(key: dict[str, Any]) -> dict[str, Any]:
    return {**key, "format": FORMAT, "libraries": {library: _version(library) for library in LIBRARIES}}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


def _place(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return found.st_dev, found.st_ino


def _stamp(path: Path) -> list[int]:
    """Of a link, what it leads to. The time of change of its entry can't be set back, as that of its content can."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
