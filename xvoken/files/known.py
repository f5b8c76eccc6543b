"""Facts about files that take seconds to load, such as a model's hash, kept on disk for as long as the files do not change.

    ~/.cache/xvoken/known/{HASH}.json    key, facts, and of each file its size, times and inode; see `cache_folder`

A fact is found out once more when the stamp of a file or the version of one of LIBRARIES has changed, or when nothing can be written.
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

# The libraries that a fact about a model or tokenizer may depend on.
LIBRARIES = ("torch", "torchvision", "transformers", "tokenizers")
FORMAT = 1  # of the facts; those in another format are not read
MOST = 1000  # files whose stamps are kept


@dataclass(frozen=True)
class Start:
    """The state before files are read, to see afterwards whether they changed meanwhile.

    since: the time, in seconds; places: device and inode of each path then, since folders may be moved and links switched.
    """

    since: float
    places: dict[Path, tuple[int, int]]

    @classmethod
    def now(cls, paths: Iterable[Path]) -> "Start":
        """The present state of these paths."""
        return cls(time.time(), {path: _place(path) for path in paths})

    def holds(self, stamps: Iterable[list[int]]) -> bool:
        """Whether nothing has changed since: the paths lead to the same files, and no stamp, see _stamp, is of a later change."""
        same = all(_place(path) == at for path, at in self.places.items())
        return same and all(changed < self.since * 1e9 for _, _, changed, _ in stamps)


def known(key: dict[str, Any]) -> dict[str, Any] | None:
    """The facts kept under a key; None if there are none, or a file has changed since."""
    try:
        if not (file := _file(key)).is_file():
            return None
        kept = json.loads(file.read_text(encoding="utf-8"))
        stamps = kept["files"]
        sound = kept["key"] == _whole(key) and isinstance(kept["facts"], dict) and bool(stamps)
        return kept["facts"] if sound and all(_stamp(Path(path)) == stamp for path, stamp in stamps.items()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):  # RuntimeError: no home, or JSON nested too deeply
        return None


def remember(key: dict[str, Any], files: Iterable[Path], facts: dict[str, Any], start: Start | None = None) -> None:
    """Keep facts that follow from the key and from these files; a folder stands for everything in it.

    start: the state before the files were read. Nothing is kept if one has changed since then, or if they are more than MOST.
    """
    # A full disk, no home or one that is read-only, a name that is not UTF-8: the facts are then found out again, which only takes time.
    with suppress(OSError, RunError, UserError, RuntimeError, ValueError):
        listed = [found for path in files for found in _all_in(path.absolute())]
        stamps = {str(path): _stamp(path) for path in listed[: MOST + 1]}
        if len(stamps) <= MOST and (start is None or start.holds(stamps.values())):
            write_json(_file(key), {"key": _whole(key), "files": stamps, "facts": facts})


def cache_folder() -> Path:
    """The folder of what is kept for this user: ~/.cache/xvoken on Linux, where XDG_CACHE_HOME is heeded.

    Raises RuntimeError for a user without a home, or where the package that knows the place is missing.
    """
    try:
        from platformdirs import user_cache_path
    except ImportError as error:
        raise RuntimeError(f"platformdirs can't be imported ({error})") from None

    folder = user_cache_path("xvoken")
    if folder.parts[0].startswith("~"):  # of a user whom the system does not know, as in some containers
        raise RuntimeError("this user has no home folder")
    return folder


def _all_in(path: Path) -> list[Path]:
    """A file, or a folder with everything in it, links followed; stops soon after MOST."""
    found = [path]
    for folder, folders, names in os.walk(path, followlinks=True):
        found += [Path(folder, name) for name in sorted([*folders, *names])]
        if len(found) > MOST:  # or links that lead in a circle
            break
    return found


def _file(key: dict[str, Any]) -> Path:
    return cache_folder() / "known" / f"{fingerprint(_whole(key))}.json"


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
    """Size, mtime, ctime (ns) and inode of the file, links followed. Unlike mtime, a program can't set ctime back."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
