"""The views of a picture that towers expect: ours, and those of transformers' image processors, by their own steps."""

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


class AnyView(Protocol):
    """How a picture becomes a tower's input; resize: pixels of its shorter side then, None where a picture is to be decoded whole."""

    @property
    def resize(self) -> int | None: ...

    def __call__(self, picture: Image.Image, /) -> Tensor:
        """RGB picture -> uint8 (3, height, width), of the tower's size."""
        ...

    def of_pixels(self, pixels: Tensor, /) -> Tensor:
        """The same of decoded pictures, on their device: uint8 (B, 3, H, W) -> uint8 (B, 3, height, width)."""
        ...

    def normalize(self, pixels: Tensor, /) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, H, W), on their device; what the tower does with its input first."""
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


MAX_RATIO = 64  # longer pictures are cut to this ratio of their sides first: resizing 1 x 20000 whole would take gigabytes


@dataclass
class ProcessorView:
    """The view that a model's own image processor makes; config: the processor's settings, as in its JSON file."""

    config: dict[str, Any]
    resize: ClassVar[None] = None  # pictures are decoded whole, so that features agree with those of the processor itself

    def __post_init__(self) -> None:
        self.processor: Any = None  # no field: a cache's settings name the config alone

    @classmethod
    def from_processor(cls, processor: Any, name: str) -> "ProcessorView":
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
        """The same of decoded pictures, on their device: uint8 (..., 3, H, W) of any size -> (..., 3, H, W)"""
        own = self.processor
        pixels = own.resize(pixels, size=own.size, resample=own.resample)
        if getattr(own, "do_center_crop", None):
            pixels = own.center_crop(pixels, own.crop_size)
        return pixels.contiguous()

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, H, W)"""
        own = self.processor
        return own.rescale_and_normalize(pixels, own.do_rescale, own.rescale_factor, own.do_normalize, own.image_mean, own.image_std)


def _bounded(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    most = MAX_RATIO * min(width, height)
    if max(width, height) <= most:
        return picture
    left, top = max(0, (width - most) // 2), max(0, (height - most) // 2)
    return picture.crop((left, top, left + min(width, most), top + min(height, most)))
