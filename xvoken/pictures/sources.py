"""Sources of pictures: folders, and tar shards as img2dataset and webdataset write them, which are read without unpacking.

A picture in a shard is a `Member`. Its text, /data/00000.tar/000000007.jpg, is the path that it would have if the shard were a
folder.
"""

import io
import os
import posixpath
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from glob import glob
from pathlib import Path
from typing import IO

from xvoken import commands
from xvoken.console import log, printable, progress
from xvoken.errors import UserError, one_line
from xvoken.kinds import SOURCES, made_by

UNREAD = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".svg", ".psd")  # told, not passed over
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
LONG_NAME = 99  # bytes: a plain header cuts longer names at this length or one more
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, slots=True)
class Member:
    """The file `name` inside a tar: `size` bytes from byte `offset` on."""

    tar: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar}/{self.name}"

    def open(self) -> IO[bytes]:
        """The member's content; raises FileNotFoundError if the tar is gone, UserError if it has another file at that place now."""
        start = self.offset - tarfile.BLOCKSIZE  # the member's header comes right before its content; both are read at once
        block = self._read(tarfile.BLOCKSIZE + self.size, start) if start >= 0 else b""
        if not self._is_mine(block[: tarfile.BLOCKSIZE]):
            raise UserError(
                f"{self.tar}: {self.name} was at byte {self.offset} when the headers were read, and is not there now; bring the old tar "
                f"back, or read the headers again (of an image set: {commands.fix_order('NAME=SHARDS')}) and redo what was made from it"
            )
        return io.BytesIO(block[tarfile.BLOCKSIZE :])

    def _read(self, size: int, offset: int) -> bytes:
        tar = _opened(self.tar)  # keep a reference: another thread may push the tar out of the cache meanwhile
        if hasattr(os, "pread"):
            return os.pread(tar.fileno(), size, offset)  # not seek, then read: threads share the file's position
        with open(self.tar, "rb") as own:  # Windows
            own.seek(offset)
            return own.read(size)

    def _is_mine(self, header: bytes) -> bool:
        try:
            found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.TarError:
            return False
        # Long names, and in some tars names beyond ASCII, are in an extra header before this one.
        short = self.name.isascii() and len(found.name) < LONG_NAME
        return found.size == self.size and (not short or posixpath.normpath(found.name.lstrip("/")) == self.name)


@lru_cache(maxsize=2)  # two suffice: pictures in the order of their names come from one shard after another
def _opened(tar: str) -> IO[bytes]:
    return open(tar, "rb", buffering=0)


def is_shards(source: Path) -> bool:
    """Whether pictures are given as tar files: FOLDER/{00000..00099}.tar, FOLDER/*.tar or one of them."""
    return bool(re.search(r"\.(tar(\.\w+)?|tgz)$", source.name)) and not source.is_dir()


def is_folder(source: Path) -> bool:
    """Always True: the last entry of SOURCES takes what no other source fits, and `folder_ids` refuses what is no folder."""
    return True


def list_pictures(source: Path) -> tuple[list[str] | dict[str, Member], int]:
    """Ids of all pictures of a source, in order (for tar shards with their members), and the number of other files in it."""
    fits, listing = next((fits, listing) for fits, listing in SOURCES.values() if made_by(fits)(source))
    return made_by(listing)(source)


def expand(pattern: Path) -> list[str]:
    """The tar files that a range in braces, a glob or a plain path names, in order, each once; raises UserError if one is missing."""
    tars = list(dict.fromkeys(tar for text in _ranges(str(pattern)) for tar in sorted(glob(text)) or [text]))
    missing = [tar for tar in tars if not os.path.isfile(tar)]
    if missing or not tars:
        there = f" ({len(missing)} of {len(tars)} are missing); to use the existing ones give '{RANGE.sub('*', str(pattern))}'"
        raise UserError(f"{missing[0] if missing else pattern}: no such tar file{there if len(tars) > 1 else ''}")
    return tars


def _ranges(text: str) -> list[str]:
    """The text with its ranges expanded as by the shell: x{08..10} -> x08, x09, x10."""
    found = RANGE.search(text)
    if not found:
        return [text]
    numbers = range(int(found[1]), int(found[2]) + 1)
    return [whole for n in numbers for whole in _ranges(f"{text[: found.start()]}{n:0{len(found[1])}}{text[found.end() :]}")]


def scan(tars: list[str], wanted: Callable[[str], bool]) -> tuple[dict[str, Member], int]:
    """The files in the tars for whose names `wanted` is true, by name, and the number of other files; reads only headers.

    Names are those that unpacking would give. Raises UserError for a file that is no tar, and for a name that is in two tars.
    """
    found: dict[str, Member] = {}
    others = done = 0
    with progress(total=sum(map(os.path.getsize, tars)), desc="tar headers", unit="B") as bar:
        for tar in tars:
            for header in _headers(tar, lambda text: bar.write(text, file=sys.stderr)):
                bar.update(done + header.offset_data - bar.n)
                name = posixpath.normpath(header.name.lstrip("/"))
                if not header.isreg() or header.issparse() or ".." in header.name.split("/") or not wanted(name):
                    others += not header.isdir()
                    continue
                if name in found and found[name].tar != tar:
                    raise UserError(f"{name} is in {found[name].tar} and in {tar}: give them as two image sets, or rename the files")
                found[name] = Member(tar, name, header.offset_data, header.size)
            done += os.path.getsize(tar)
            bar.update(done - bar.n)
    return found, others


def _headers(tar: str, tell: Callable[[str], None]) -> Iterator[tarfile.TarInfo]:
    """The headers of all complete members; of a cut or damaged tar those before the damage, then tells a warning."""
    size = os.path.getsize(tar)
    count, ended = 0, False
    try:
        with tarfile.open(tar, "r:") as file:
            # file.offset is where the next header starts, behind the data of this member.
            while (header := file.next()) is not None and header.offset_data <= file.offset <= size:
                file.members.clear()  # ty: ignore[missing-attribute]  # else it keeps all headers; the type stubs lack it
                count += 1
                yield header
            if header is None:  # at the end, and at an unreadable header; only a whole tar has a block of zeros there
                file.fileobj.seek(file.offset)
                ended = not any(file.fileobj.read(tarfile.BLOCKSIZE) or b"cut")
    except OSError as error:
        raise UserError(f"{tar}: can't be read ({error.strerror})") from None
    except (tarfile.TarError, ValueError, OverflowError) as error:
        if size and not count:
            reason = f"can't be read as a tar file ({one_line(error)})"
            raise UserError(f"{tar}: {reason}; decompress it if it is compressed, else make it again or leave it out") from None
    if not ended:
        tell(
            f"warning: {tar} is cut off or damaged after {count:,} members; only these are used. If it is still being written, wait "
            "and run again"
        )


@lru_cache(maxsize=8)
def _contents(tar: str) -> dict[str, Member]:
    return scan([tar], lambda name: True)[0]


def find(path: Path) -> Path | Member:
    """The picture that a line of keys/{IMAGE_SET}.path names: a member of a tar, or else the path itself."""
    tar = next((str(parent) for parent in path.parents if parent.suffix == ".tar" and parent.is_file()), None)
    return _contents(tar).get(path.relative_to(tar).as_posix(), path) if tar else path


def plain(paths: Sequence[Path | Member]) -> list[str | Member]:
    """Paths made ready to be sent to another process: as texts, which pickle smaller; members stay members."""
    return [path if isinstance(path, Member) else str(path) for path in paths]


def size_of(path: Path | Member) -> int:
    """Bytes of a picture's file or member; -1 if there is no such file."""
    if isinstance(path, Member):
        return path.size
    return path.stat().st_size if path.is_file() else -1


def folder_ids(folder: Path) -> tuple[list[str], int]:
    """Ids (paths below the folder) of all pictures, sorted, and the number of other files; raises UserError if there are no pictures.

    Pictures whose names can't stand in a list are other files, which is told.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of pictures; put them there, or give the set as name=folder")
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    names = [path.relative_to(folder).as_posix() for path in files]
    usable = sorted(filter(_is_id, names))
    if strange := [name for name in names if _ends_as_picture(name) and not _is_id(name)]:
        why = "their names hold characters that no list takes"
        log.warning(f"{folder}: {len(strange):,} pictures left out, as {why}; rename them: {', '.join(map(printable, strange[:3]))}")
    if unread := Counter(ending for name in names if (ending := os.path.splitext(name)[1].lower()) in UNREAD):
        kinds = ", ".join(f"{number:,} {ending}" for ending, number in unread.most_common())
        log.warning(f"{folder}: pictures of kinds that are not read here are left out ({kinds}); convert them to JPEG")
    if not usable:
        hint = f"; its tar shards are given as '{folder}/*.tar'" if any(folder.glob("*.tar")) else ""
        raise UserError(f"{folder}: no pictures in it ({', '.join(ENDINGS)}){hint}")
    return usable, len(files) - len(usable)


def shard_ids(pattern: Path) -> tuple[dict[str, Member], int]:
    """As `folder_ids`, for tar shards: the member of each id, in the order that a folder with the unpacked files would have."""
    found, others = scan(expand(pattern), _is_id)
    if not found:
        raise UserError(f"{pattern}: no pictures in it ({', '.join(ENDINGS)})")
    return {name: found[name] for name in sorted(found)}, others


def _is_id(name: str) -> bool:
    """Whether a file below a folder is a picture whose name can stand in a list."""
    hidden = os.path.basename(name).startswith(".")
    return _ends_as_picture(name) and not hidden and name.isprintable() and not name.startswith(" ")


def _ends_as_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in ENDINGS
