"""What was once found out of files that take seconds to load, as a model's hash: kept with the files' stamps, and found again by them.

    ~/.cache/xvoken/known/{HASH}.json    key, facts, and of each file its size, times and inode; XDG_CACHE_HOME is heeded

Another stamp, another version of a library that had a part in it, or no right to write there: then it is found out once more.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xvoken.errors import RunError, UserError
from xvoken.files.safe import fingerprint, write_json

# Those that decide what a model or tokenizer comes out as.
LIBRARIES = ("torch", "torchvision", "transformers", "tokenizers")
FORMAT = 1  # of the facts; another one is not read


def known(key: dict[str, Any]) -> dict[str, Any] | None:
    """The facts kept under a key, None where there are none or a file has changed since."""
    try:
        kept = json.loads(_file(key).read_text(encoding="utf-8"))
        stamps = kept["files"]
        sound = kept["key"] == _whole(key) and isinstance(kept["facts"], dict) and bool(stamps)
        return kept["facts"] if sound and all(_stamp(Path(path)) == stamp for path, stamp in stamps.items()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remember(key: dict[str, Any], files: Iterable[Path], facts: dict[str, Any], since: float | None = None) -> None:
    """Keep facts that follow from the key and from these files; a folder stands for the files in it.

    since: when they began to be read, in seconds; where one was changed after that, nothing is kept.
    """
    paths = [path.absolute() for path in files]
    listed = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    with suppress(OSError, RunError, UserError):  # a full disk, a home that is read only: it was only to save time
        stamps = {str(path): _stamp(path) for path in [*(path for path in paths if path.is_dir()), *listed]}
        if since is None or all(changed < since * 1e9 for _, _, changed, _ in stamps.values()):
            write_json(_file(key), {"key": _whole(key), "files": stamps, "facts": facts})


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


def _stamp(path: Path) -> list[int]:
    """Of a link, what it leads to. The time of change of its entry can't be set back, as that of its content can."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
