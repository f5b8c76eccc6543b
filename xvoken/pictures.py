"""From a file to pixels: safe decoding, and the view that an image tower expects."""

import errno
import os
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from xvoken.messages import one_line
from xvoken.shards import Member

MAX_PIXELS = 100_000_000  # more than any camera's; a small file can claim far more and fill the memory
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none that starts another program
REDUCED = ("JPEG", "MPO")  # formats that are decoded at a fraction; MPO: a JPEG with more pictures behind it
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
# What the system says of a file that can't be had, whatever the machine's state; EINVAL: a broken file points far behind its end.
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EISDIR, errno.EINVAL)
# Pillow warns of every odd picture. Once and for all: filters belong to the process, and pictures are decoded in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class BrokenPicture(Exception):
    """A picture that can't be used; its text is the reason, fit for a list."""


def size_of(path: Path | Member) -> int:
    """Bytes of a picture's file, wherever it lies; -1 if there is none."""
    if isinstance(path, Member):
        return path.size
    return path.stat().st_size if path.is_file() else -1


def load_picture(path: str | Path | Member, short_side: int = 0) -> Image.Image:
    """Decode a file of any usual format to RGB, upright, transparency on white, first frame of an animation.

    short_side: pixels that the caller will scale the shorter side to. A JPEG of several times that is decoded at a
    half, a quarter or an eighth, still twice as large: the same to the eye and to a grey level on average, and faster.

    The content decides the format, not the ending. Raises BrokenPicture, and what is not the picture's fault as it is.
    """
    try:
        with path.open() if isinstance(path, Member) else open(path, "rb") as file, Image.open(file, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise BrokenPicture(f"too large: {width} x {height}")
            if (by := _fraction(picture, short_side)) > 1:
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


def _fraction(picture: Image.Image, short_side: int) -> int:
    """n, where a picture is decoded at 1/n, or at the next power of two above that; whole for less than 2."""
    return min(picture.size) // (2 * short_side) if short_side and picture.format in REDUCED else 1


def reduced(whole: Image.Image, short_side: int) -> bool:
    """Whether `load_picture` with this short side gives another picture than `whole`, which it gave without one."""
    return _fraction(whole, short_side) > 1


def at_fault(error: Exception) -> bool:
    """Whether the picture is, which is then left out for good, and not the machine: out of memory, too many open files, a
    disk that fails. What Pillow itself finds wrong is an OSError without a number."""
    return not isinstance(error, MemoryError) and getattr(error, "errno", None) in (None, *NO_FILE)


def _reason(error: Exception, path: str | Path | Member) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "missing"
    if isinstance(error, UnidentifiedImageError):
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


@dataclass(frozen=True)
class View:
    """The deterministic view of a picture: shorter side to `resize`, centre of `crop`, normalized.

    resize, crop: pixels; mean, std: per channel, of values from 0 to 1; resample: bilinear or bicubic.
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: str = "bilinear"

    def __call__(self, picture: Image.Image) -> Tensor:
        """RGB picture -> uint8 (3, crop, crop)

        Equals torchvision's Resize and CenterCrop, in one step that only touches the pixels it needs: the
        usual way turns a picture of 1 x 20000 pixels into one of 256 x 5120000 first.
        """
        width, height = picture.size
        short = min(width, height)
        scaled = (int(self.resize * width / short), int(self.resize * height / short))
        left, top = (round((side - self.crop) / 2.0) for side in scaled)
        across, down = width / scaled[0], height / scaled[1]
        box = (left * across, top * down, (left + self.crop) * across, (top + self.crop) * down)
        cut = picture.resize((self.crop, self.crop), Image.Resampling[self.resample.upper()], box=box)
        return torch.from_numpy(np.asarray(cut).copy()).permute(2, 0, 1)

    def of_pixels(self, pictures: Tensor) -> Tensor:
        """The same of decoded pictures, on their device: uint8 (B, 3, H, W) -> uint8 (B, 3, crop, crop)

        In float32 on every device: what the tests hold against Pillow on a CPU is what a GPU computes.
        """
        height, width = pictures.shape[2:]
        scaled = [int(self.resize * side / min(height, width)) for side in (height, width)]
        resized = functional.resize(pictures.float(), scaled, InterpolationMode(self.resample), antialias=True)
        top, left = (round((side - self.crop) / 2.0) for side in scaled)
        return resized[:, :, top : top + self.crop, left : left + self.crop].round().clamp(0, 255).to(torch.uint8)

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, H, W)"""
        mean, std = (_per_channel(values, pixels.device) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std


@cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(1, 3, 1, 1), kept: a GPU would have to end all its work before each copy."""
    with torch.inference_mode(False):  # training uses them too
        return torch.tensor(values, device=device).view(1, 3, 1, 1)
