"""The view of timm's and open_clip's transforms for evaluation: pictures scaled in one of three ways, and the centre of that."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from xvoken.errors import UserError
from xvoken.pictures.view import LARGEST, MAX_RATIO, Box, _bounded, _bytes, _scaled, as_pixels, normalized

MODES = ("center", "squash", "border")
RESAMPLES = ("bilinear", "bicubic")


@dataclass(frozen=True)
class FramedView:
    """A picture scaled to a frame of which the centre is taken. As timm and open_clip do it for evaluation, to the byte.

    scaled: (height, width) of the frame; size: of its centre; both in pixels. mean, std: per channel, of values from 0 to 1.
    mode: "center" scales until the frame is filled, "squash" each side by itself, "border" until the picture fits into it.
    resample: bilinear or bicubic. fill: what is around a picture that does not fill its frame, None for the mean colour.
    """

    scaled: tuple[int, int]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str = "center"
    resample: str = "bicubic"
    fill: int | None = None
    resize: ClassVar[None] = None  # decoded at full size, so that the pixels are those of the library

    def __post_init__(self) -> None:
        for what, value, known in (("crop_mode", self.mode, MODES), ("interpolation", self.resample, RESAMPLES)):
            if value not in known:
                raise UserError(f"{what} {value}: not known here; {' and '.join(known)} are")
        inside = all(1 <= size <= frame <= LARGEST for size, frame in zip(self.size, self.scaled, strict=True))
        if not inside or len(self.mean) != 3 or len(self.std) != 3 or not all(self.std):
            raise UserError(f"pictures of {self.size} pixels out of {self.scaled}, colours by {self.mean} and {self.std}: can't be made")

    def __call__(self, picture: Image.Image) -> Tensor:
        """RGB picture -> uint8 (3, height, width)

        Of a picture longer than MAX_RATIO in one step that computes only what is inside, to a grey level, as it would take gigabytes.
        """
        width, height = picture.size
        frame = self._frame(height, width)
        (top, down), (left, across) = (self._inside(side, axis) for axis, side in enumerate(frame))
        high, wide = (min(size, side) for size, side in zip(self.size, frame, strict=True))
        if max(picture.size) <= MAX_RATIO * min(picture.size):
            whole = picture.resize(frame[::-1], Image.Resampling[self.resample.upper()])
            cut = as_pixels(whole.crop((left, top, left + wide, top + high)))
        else:
            y, x = height / frame[0], width / frame[1]
            cut = self._resized(picture, (left * x, top * y, (left + wide) * x, (top + high) * y), (wide, high))
        if (high, wide) == self.size:
            return cut
        framed = self._colour(cut).expand(3, *self.size).clone()
        framed[:, down : down + high, across : across + wide] = cut
        return framed

    def of_pixels(self, pictures: Tensor) -> Tensor:
        """Views of decoded pictures, computed on their device: uint8 (B, 3, H, W) -> uint8 (B, 3, height, width)"""
        frame = self._frame(*pictures.shape[2:])
        (top, down), (left, across) = (self._inside(side, axis) for axis, side in enumerate(frame))
        high, wide = (min(size, side) for size, side in zip(self.size, frame, strict=True))
        cut = _bytes(_scaled(pictures, list(frame), self.resample))[:, :, top : top + high, left : left + wide]
        if (high, wide) == self.size:
            return cut
        framed = self._colour(cut).expand(len(cut), 3, *self.size).clone()
        framed[:, :, down : down + high, across : across + wide] = cut
        return framed

    def squeezed(self, picture: Image.Image) -> Tensor:
        """The picture to its edges, without regard to its ratio: RGB picture -> uint8 (3, height, width)"""
        return self._resized(_bounded(picture))

    def squeezed_of_pixels(self, pictures: Tensor) -> Tensor:
        """The same of decoded pictures, on their device: uint8 (B, 3, H, W) -> uint8 (B, 3, height, width)"""
        return _bytes(_scaled(pictures, list(self.size), self.resample))

    def cropped(self, picture: Image.Image, box: Box) -> Tensor:
        """A box of the picture at the tower's size: RGB picture -> uint8 (3, height, width)"""
        return self._resized(picture, box)

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, H, W)"""
        return normalized(pixels, self.mean, self.std)

    def _frame(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a picture of this height and width is scaled to."""
        tall, wide = self.scaled
        if self.mode == "squash":
            return tall, wide
        if self.mode == "center" and tall == wide:  # torchvision's Resize, which cuts off the fraction
            short = min(height, width)
            return int(tall * height / short), int(wide * width / short)
        ratio = (max if self.mode == "border" else min)(height / tall, width / wide)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _inside(self, frame: int, axis: int) -> tuple[int, int]:
        """Where the centre begins in a frame of this side, and where the frame begins in the centre, if it is smaller."""
        size = self.size[axis]
        return (round((frame - size) / 2.0), 0) if frame >= size else (0, (size - frame) // 2)

    def _resized(
        self, picture: Image.Image, box: tuple[float, float, float, float] | None = None, size: tuple[int, int] | None = None
    ) -> Tensor:
        """A box of the picture, or all of it, at a size (width, height), else the tower's: uint8 (3, height, width)"""
        return as_pixels(picture.resize(size or self.size[::-1], Image.Resampling[self.resample.upper()], box=box))

    def _colour(self, like: Tensor) -> Tensor:
        """What is around a picture: uint8 (3, 1, 1), on the device of other pixels."""
        colour = [round(255 * value) if self.fill is None else self.fill for value in self.mean]
        return torch.tensor(colour, dtype=torch.uint8, device=like.device)[:, None, None]
