"""From a file to pixels: safe decoding."""

import errno
import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from xvoken.errors import Error, one_line
from xvoken.pictures.sources import Member, size_of

MAX_PIXELS = 100_000_000  # more than any camera's; a small file can claim far more and fill the memory
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none that starts another program
REDUCED = ("JPEG", "MPO")  # formats that are decoded at a fraction; MPO: a JPEG with more pictures behind it
# What the system says of a file that can't be had, whatever the machine's state; EINVAL: a broken file points far behind its end.
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EINVAL)
# Pillow warns of every odd picture. Once and for all: filters belong to the process, and pictures are decoded in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BrokenPicture(Exception):
    """A picture that can't be used; its text is the reason, fit for a list."""


def load_picture(path: str | Path | Member | Image.Image, short_side: int | None = None) -> Image.Image:
    """Decode a file of any usual format to RGB, upright, transparency on white, first frame of an animation.

    path: of a file, a member of a tar, or a picture that is open already, which is not changed.

    short_side: pixels that the caller will scale the shorter side to, if that is known. A JPEG of several times that is decoded at a
    half, a quarter or an eighth, still twice as large: the same to the eye and to a grey level on average, and faster.

    The content decides the format, not the ending. Raises BrokenPicture, and what is not the picture's fault as it is.
    """
    try:
        with _opened(path) as picture:
            width, height = picture.size
            if not width * height:
                raise BrokenPicture(f"empty: {width} x {height}")
            if width * height > MAX_PIXELS:
                raise BrokenPicture(f"too large: {width} x {height}")
            if picture is not path and (by := _fraction(picture, short_side)) > 1:
                picture.draft(None, (width // by, height // by))
            picture.load()
            upright = _rgb(ImageOps.exif_transpose(picture))
            upright.format = picture.format  # lost on the way; for `reduced`
            return upright
    except BrokenPicture:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        if not at_fault(error):
            raise
        raise BrokenPicture(_reason(error, path)) from None


@contextmanager
def _opened(path: str | Path | Member | Image.Image) -> Generator[Image.Image]:
    if isinstance(path, Image.Image):
        yield path
        return
    with path.open() if isinstance(path, Member) else open(path, "rb") as file, Image.open(file, formats=FORMATS) as picture:
        yield picture


def _fraction(picture: Image.Image, short_side: int | None) -> int:
    """n, where a picture is decoded at 1/n, or at the next power of two above that; whole for less than 2."""
    return min(picture.size) // (2 * short_side) if short_side and picture.format in REDUCED else 1


def reduced(whole: Image.Image, short_side: int) -> bool:
    """Whether `load_picture` with this short side gives another picture than `whole`, which it gave without one."""
    return _fraction(whole, short_side) > 1


def at_fault(error: Exception) -> bool:
    """Whether the picture is, which is then left out for good, and not the machine.

    That is out of memory, has too many open files or a disk that fails. What Pillow itself finds wrong is an OSError without a number.
    """
    return not isinstance(error, (MemoryError, Error)) and getattr(error, "errno", None) in (None, *NO_FILE)


def _reason(error: Exception, path: str | Path | Member | Image.Image) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "missing"
    if isinstance(error, UnidentifiedImageError) and not isinstance(path, Image.Image):  # one that is open has been identified
        return "not a picture" if size_of(path if isinstance(path, Member) else Path(path)) else "empty file"
    if isinstance(error, Image.DecompressionBombError):
        return "too large"
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return f"can't be read: {os.strerror(error.errno)}"
    return f"can't be decoded: {one_line(error)[:80] or type(error).__name__}"


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion clips instead of scaling
        grey = np.asarray(picture).astype(np.int64)
        return Image.fromarray((grey // 257 if grey.max() > 255 else grey).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")
