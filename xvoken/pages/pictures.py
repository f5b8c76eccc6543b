"""The thumbnails of a page: made once, by several threads, and kept as long as the pictures stay the same."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from xvoken.console import log, progress
from xvoken.errors import UserError, one_line
from xvoken.files.safe import replacing
from xvoken.machine import cores
from xvoken.pictures.decode import BrokenPicture
from xvoken.pictures.sources import Member, find
from xvoken.pictures.thumbnails import ENDING, thumbnail

SIDE = 320  # pixels of the longest side
AT_ONCE = 256  # pictures given to the threads at a time, so that Ctrl-C waits for few


def stamp(path: Path | Member, side: int) -> str:
    """The name of a picture's thumbnail, 16 hex digits: another one if the picture's file has changed."""
    source = _source(path)
    try:
        state = os.stat(source.tar if isinstance(source, Member) else source)
        seen = f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"
    except (OSError, ValueError):  # gone, or no name that a file can have
        seen = "gone"
    where = f"{source} {source.offset}" if isinstance(source, Member) else str(source)
    return hashlib.sha256(f"{where}\t{seen}\t{side}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


def address(path: Path | Member) -> str:
    """Where a browser finds a picture's file, as file://...; "" for a member of a tar, which it can't open."""
    source = _source(path)
    return "" if isinstance(source, Member) else source.absolute().as_uri()


def file_name(path: Path | Member) -> str:
    """The name of a picture's file, without folders."""
    return Path(str(path)).name


def shown_by(path: Path | Member, name: str, why: str | None) -> dict[str, str]:
    """What a page shows of a picture: its thumbnail (name) and its file's address, or why it can't be shown; its file's name."""
    return {"file": file_name(path), **({"why": why} if why else {"thumb": name, "url": address(path)})}


def _source(path: Path | Member) -> Path | Member:
    return path if isinstance(path, Member) else find(path)


def place(folder: Path, name: str) -> Path:
    """The file of a thumbnail; 256 folders share them, as file managers and disks are slow with very many files in one."""
    return folder / name[:2] / f"{name}{ENDING}"


def make(paths: Sequence[Path | Member], names: Sequence[str], folder: Path, side: int) -> dict[int, str]:
    """Write the thumbnails that `folder` lacks; those of an older page stay, until `keep_only` is told that the page is written.

    names: of each path's thumbnail, as of `stamp`. Returns, by number, why a picture can't be shown.
    """
    have = {file.stem for file in folder.glob(f"??/*{ENDING}")}
    wanted = [number for number, name in enumerate(names) if name not in have]
    broken: dict[int, str] = {}
    if wanted:
        pool = ThreadPoolExecutor(cores())
        try:
            with progress(total=len(wanted), desc="thumbnails", unit="pictures") as bar:
                for start in range(0, len(wanted), AT_ONCE):
                    block = wanted[start : start + AT_ONCE]
                    one = partial(_make_one, folder=folder, side=side)
                    reasons = pool.map(one, [paths[i] for i in block], [names[i] for i in block])
                    broken |= {i: reason for i, reason in zip(block, reasons, strict=True) if reason}
                    bar.update(len(block))
        finally:
            pool.shutdown(cancel_futures=True)
    return broken


def keep_only(names: Iterable[str], folder: Path) -> None:
    """Remove the thumbnails that no name asks for, and what killed runs have left."""
    wanted = {f"{name}{ENDING}" for name in names}
    for file in [*folder.glob(f"??/*{ENDING}"), *folder.glob(f"??/.*{ENDING}.*.tmp")]:
        if file.name not in wanted:
            file.unlink(missing_ok=True)


def _make_one(path: Path | Member, name: str, folder: Path, side: int) -> str:
    """Write one thumbnail; returns why there is none, "" if it was written."""
    try:
        data = thumbnail(_source(path), side)
    except (BrokenPicture, UserError) as error:
        return one_line(error)
    with replacing(place(folder, name)) as temporary:
        temporary.write_bytes(data)
    return ""


def tell_broken(reasons: list[str], most: int = 3) -> None:
    """Log how many pictures of a page can't be shown, and why the first ones can't; reasons: each with the picture's id."""
    if reasons:
        more = "; ..." if len(reasons) > most else ""
        log.warning(f"{len(reasons):,} pictures can't be shown, the page has a grey tile for each ({'; '.join(reasons[:most])}{more})")
