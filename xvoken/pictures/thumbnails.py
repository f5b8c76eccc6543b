"""Thumbnails: small copies of pictures, for pages and terminals."""

import io
from pathlib import Path

from PIL import Image

from xvoken.pictures.decode import load_picture
from xvoken.pictures.sources import Member

MIME = "image/webp"  # of what `thumbnail` gives
ENDING = ".webp"
QUALITY, EFFORT = 80, 2  # WebP's: at effort 4, its default, encoding takes twice as long and saves one byte in forty


def thumbnail(source: str | Path | Member | Image.Image, side: int) -> bytes:
    """A picture as a small WebP file, its longest side at most `side` pixels: upright, transparency on white, without metadata.

    source: as of `load_picture`, which decodes it; a picture that is smaller already keeps its size.
    Raises BrokenPicture for a picture that can't be used.
    """
    picture = load_picture(source, side)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    picture.info = {}  # else Pillow writes the colour profile and more into the small file
    small = io.BytesIO()
    picture.save(small, "WEBP", quality=QUALITY, method=EFFORT)
    return small.getvalue()
