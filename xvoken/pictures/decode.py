"""Safe decoding of picture files to pixels."""

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

MAX_PIXELS = 100_000_000  # more than any camera has; a small file can claim far more, and decoding it would fill the memory
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none of which Pillow decodes by starting another program
REDUCED = ("JPEG", "MPO")  # formats that can be decoded at a fraction of their size; MPO: a JPEG with more pictures behind it
# Errors that are the file's fault and not the machine's; EINVAL: a broken file that points far behind its end.
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EINVAL)
# Pillow warns of every odd picture. Set here once, as filters belong to the process and pictures are decoded in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BrokenPicture(Exception):
    """A picture that can't be used; its text is the reason, in one line."""


def load_picture(path: str | Path | Member | Image.Image, short_side: int | None = None) -> Image.Image:
    """Decode a file of any usual format to RGB, upright, transparency on white, first frame of an animation.

    path: a file, a member of a tar, or a Pillow image, which is not changed. The content decides the format, not the file's ending.

    short_side: pixels that the caller will scale the shorter side to, if known. A JPEG that is several times as large is decoded
    faster, at a half, a quarter or an eighth of its sides, the shorter one at least 2 * short_side: the same to the eye, and within a
    grey level on average.

    Raises BrokenPicture if the picture can't be used; errors that are not its fault (out of memory, a failing disk) are passed on.
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
    """The number n: the picture is decoded at 1/n of its sides, or at the next larger power of 1/2; below 2, at its full size."""
    return min(picture.size) // (2 * short_side) if short_side and picture.format in REDUCED else 1


def reduced(whole: Image.Image, short_side: int | None) -> bool:
    """Whether `load_picture` with this short side would give another picture than `whole`, its result without a short side."""
    return _fraction(whole, short_side) > 1


def at_fault(error: Exception) -> bool:
    """Whether the picture caused the error, and is left out for good, rather than the machine.

    The machine's errors: out of memory, too many open files, a failing disk. Pillow's own findings are OSErrors without a number.
    """
    return not isinstance(error, (MemoryError, Error)) and getattr(error, "errno", None) in (None, *NO_FILE)


def _reason(error: Exception, path: str | Path | Member | Image.Image) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "missing"
    if isinstance(error, UnidentifiedImageError) and not isinstance(path, Image.Image):  # a Pillow image has been identified already
        return "not a picture" if size_of(path if isinstance(path, Member) else Path(path)) else "empty file"
    if isinstance(error, Image.DecompressionBombError):
        return "too large"
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return f"can't be read: {os.strerror(error.errno)}"
    return f"can't be decoded: {one_line(error)[:80] or type(error).__name__}"


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion clips instead of scaling
        grey = np.array(picture, np.int32)  # changed in place: a picture of 100 megapixels has 400 MB here
        if grey.max() > 255:
            grey //= 257
        return Image.fromarray(grey.clip(0, 255, out=grey).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")
