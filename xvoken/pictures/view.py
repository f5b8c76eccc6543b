"""The views of a picture that towers expect: `View` for torchvision's towers, `ProcessorView` for transformers' image processors."""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from xvoken.errors import UserError


class PixelsView(Protocol):
    """How a picture becomes pixels: one view of it, or several along an axis in front."""

    @property
    def resize(self) -> int | None:
        """Pixels that a picture's shorter side is scaled to; None if pictures must be decoded at their full size."""
        ...

    def __call__(self, picture: Image.Image, /) -> Tensor:
        """RGB picture -> uint8 (..., 3, height, width), of the tower's size."""
        ...

    def of_pixels(self, pixels: Tensor, /) -> Tensor:
        """Views of decoded pictures, computed on their device: uint8 (B, 3, H, W) -> uint8 (B, ..., 3, height, width)."""
        ...


class AnyView(PixelsView, Protocol):
    """How a picture becomes a tower's input: one view of it, uint8 (3, height, width)."""

    def squeezed(self, picture: Image.Image, /) -> Tensor:
        """The picture to its edges, scaled to a square without regard to its ratio: RGB picture -> uint8 (3, height, width)"""
        ...

    def squeezed_of_pixels(self, pixels: Tensor, /) -> Tensor:
        """The same of decoded pictures, on their device: uint8 (B, 3, H, W) -> uint8 (B, 3, height, width)"""
        ...

    def normalize(self, pixels: Tensor, /) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, H, W), on their device: the first step of the tower."""
        ...


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

        Equals torchvision's Resize and CenterCrop, in one step that computes only the pixels inside the crop: Resize alone
        would turn a picture of 1 x 20000 pixels into one of 256 x 5120000.
        """
        width, height = picture.size
        short = min(width, height)
        scaled = (int(self.resize * width / short), int(self.resize * height / short))
        left, top = (round((side - self.crop) / 2.0) for side in scaled)
        across, down = width / scaled[0], height / scaled[1]
        box = (left * across, top * down, (left + self.crop) * across, (top + self.crop) * down)
        return self._resized(picture, box)

    def of_pixels(self, pictures: Tensor) -> Tensor:
        """Views of decoded pictures, computed on their device: uint8 (B, 3, H, W) -> uint8 (B, 3, crop, crop)

        Computed in float32 on every device, so that the tests against Pillow on a CPU hold for a GPU too.
        """
        height, width = pictures.shape[2:]
        scaled = [int(self.resize * side / min(height, width)) for side in (height, width)]
        resized = _scaled(pictures, scaled, self.resample)
        top, left = (round((side - self.crop) / 2.0) for side in scaled)
        return _bytes(resized[:, :, top : top + self.crop, left : left + self.crop])

    def squeezed(self, picture: Image.Image) -> Tensor:
        """The picture to its edges, without the margin that `resize` leaves around the crop: RGB picture -> uint8 (3, crop, crop)"""
        return self._resized(_bounded(picture))

    def squeezed_of_pixels(self, pictures: Tensor) -> Tensor:
        """The same of decoded pictures, computed as `of_pixels` is: uint8 (B, 3, H, W) -> uint8 (B, 3, crop, crop)"""
        return _bytes(_scaled(pictures, [self.crop, self.crop], self.resample))

    def _resized(self, picture: Image.Image, box: tuple[float, float, float, float] | None = None) -> Tensor:
        """A box of the picture, or all of it, at the size of the crop: uint8 (3, crop, crop)"""
        cut = picture.resize((self.crop, self.crop), Image.Resampling[self.resample.upper()], box=box)
        return torch.from_numpy(np.asarray(cut).copy()).permute(2, 0, 1)

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, H, W)"""
        mean, std = (_per_channel(values, pixels.device) for values in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std


@dataclass(frozen=True)
class WholeView:
    """The whole picture in its own ratio, as large as these limits of its sides allow: shortest, longest, in pixels.

    For one picture at a time: pictures of other ratios become views of other sizes. As Vokenization has it, with 400 and 600.
    """

    shortest: int
    longest: int
    resize: ClassVar[None] = None  # full size: nothing is cut off, and nothing is decoded at less

    def __call__(self, picture: Image.Image) -> Tensor:
        """RGB picture -> uint8 (1, 3, height, width)"""
        cut = picture.resize(self._size(*picture.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(cut).copy()).permute(2, 0, 1)[None]

    def of_pixels(self, pictures: Tensor) -> Tensor:
        """Views of decoded pictures, computed on their device: uint8 (B, 3, H, W) -> uint8 (B, 1, 3, height, width)"""
        width, height = self._size(*reversed(pictures.shape[2:]))
        return _bytes(_scaled(pictures, [height, width], "bilinear"))[:, None]

    def _size(self, width: int, height: int) -> tuple[int, int]:
        scale = min(self.shortest / min(width, height), self.longest / max(width, height))
        return max(1, int(width * scale)), max(1, int(height * scale))


@cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Values as (1, 3, 1, 1) on the device, cached: each copy to a GPU would wait for all its work."""
    with torch.inference_mode(False):  # training uses the tensors too
        return torch.tensor(values, device=device).view(1, 3, 1, 1)


MAX_RATIO = 64  # of a picture's sides; longer pictures are cut to it first: resizing 1 x 20000 whole would take gigabytes


@dataclass
class ProcessorView:
    """The view that a model's own image processor makes; config: the processor's settings, as in its JSON file."""

    config: dict[str, Any]
    resize: ClassVar[None] = None  # full size, so that features equal those with the processor itself

    def __post_init__(self) -> None:
        self.processor: Any = None  # not a field: a cache's settings are made of the fields, here the config alone

    @classmethod
    def from_processor(cls, processor: Any, name: str) -> "ProcessorView":
        """The view of an image processor of transformers; raises UserError if it does not bring all pictures to one size."""
        size = processor.size
        cut = size.shortest_edge and getattr(processor, "do_center_crop", None)
        if not processor.do_resize or not (cut or size.height and size.width):
            raise UserError(f"model {name}: its image processor does not bring pictures to one size ({size})")
        view = cls(json.loads(processor.to_json_string()))
        view.processor = processor
        return view

    def __call__(self, picture: Image.Image) -> Tensor:
        """RGB picture -> uint8 (3, H, W)"""
        return self.of_pixels(torch.from_numpy(np.array(_bounded(picture))).permute(2, 0, 1))

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Views of decoded pictures, computed on their device: uint8 (..., 3, H, W) of any size -> uint8 (..., 3, height, width)"""
        own = self.processor
        pixels = own.resize(pixels, size=own.size, resample=own.resample)
        if getattr(own, "do_center_crop", None):
            pixels = own.center_crop(pixels, own.crop_size)
        return pixels.contiguous()

    def squeezed(self, picture: Image.Image) -> Tensor:
        """The processor's view of the picture scaled to a square of its shorter side: RGB picture -> uint8 (3, H, W)

        What the processor cuts off a square is part of the model.
        """
        picture = _bounded(picture)
        side = min(picture.size)
        return self(picture.resize((side, side), Image.Resampling.BICUBIC))

    def squeezed_of_pixels(self, pixels: Tensor) -> Tensor:
        """The same of decoded pictures, on their device: uint8 (..., 3, H, W) -> uint8 (..., 3, height, width)"""
        side = min(pixels.shape[-2:])
        return self.of_pixels(_bytes(_scaled(pixels, [side, side], "bicubic")))

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, H, W)"""
        own = self.processor
        return own.rescale_and_normalize(pixels, own.do_rescale, own.rescale_factor, own.do_normalize, own.image_mean, own.image_std)


def _scaled(pixels: Tensor, size: list[int], resample: str) -> Tensor:
    """Pictures (..., 3, H, W) at another (height, width): float32, in which bicubic ones reach outside 0 to 255."""
    return functional.resize(pixels.float(), size, InterpolationMode(resample), antialias=True)


def _bytes(pixels: Tensor) -> Tensor:
    return pixels.round().clamp(0, 255).to(torch.uint8)


def _bounded(picture: Image.Image) -> Image.Image:
    """The picture, or the middle of one longer than MAX_RATIO."""
    width, height = picture.size
    most = MAX_RATIO * min(width, height)
    if max(width, height) <= most:
        return picture
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return picture.crop((left, top, left + min(width, most), top + min(height, most)))
