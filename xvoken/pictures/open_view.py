"""The view of a picture that open_clip's own preprocessing makes, for evaluation (open_clip/transform.py, image_transform)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from xvoken.errors import UserError
from xvoken.pictures.view import View, _bounded, _bytes, _scaled

MODES = ("shortest", "squash", "longest")
SAMPLINGS = {"bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}  # random: of training; the library evaluates by bicubic
LARGEST = 4096  # pixels


@dataclass(frozen=True)
class OpenClipView:
    """A picture at `size` (height, width): scaled, and what is outside cut off or, where it is too short, filled with grey `fill`.

    mode: shortest scales it until it covers the size, longest until it fits in, squash to the size without regard to its ratio.
    mean, std: per channel, of values from 0 to 1; resample: bilinear or bicubic.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: str
    mode: str
    fill: int = 0
    resize: ClassVar[None] = None  # full size, so that pixels equal those of open_clip itself

    @classmethod
    def from_config(cls, said: dict[str, Any], name: str) -> "OpenClipView":
        """The view of a model's preprocess_cfg; raises UserError for one that can't be."""
        fill: Any = said.get("fill_color")
        sides, means, stds = _several(said.get("size"), 2), _several(said.get("mean"), 3), _several(said.get("std"), 3)
        sound = {
            "size": len(sides) == 2 and all(type(side) is int and 1 <= side <= LARGEST for side in sides),
            "mean": len(means) == 3 and all(map(_number, means)) and said["mean"] != 0,  # which the library takes for none
            "std": len(stds) == 3 and all(_number(value) and value > 0 for value in stds),
            "interpolation": said.get("interpolation") in SAMPLINGS,
            "resize_mode": said.get("resize_mode") in MODES,
            "fill_color": type(fill) is int and 0 <= fill <= 255,
            "mode": said.get("mode") == "RGB",
        }
        if wrong := [key for key, fits in sound.items() if not fits]:
            raise UserError(f"model {name}: its preprocess_cfg has what pictures can't be made with: {wrong[0]}={said.get(wrong[0])!r}")
        mode = said["resize_mode"]
        # The library passes its choice on, but for one way.
        covers = mode == "shortest" and sides[0] != sides[1]
        return cls((sides[0], sides[1]), means, stds, "bicubic" if covers else SAMPLINGS[said["interpolation"]], mode, fill)

    def __call__(self, picture: Image.Image) -> Tensor:
        """RGB picture -> uint8 (3, height, width)"""
        picture = _bounded(picture)
        width, height = self._target(*picture.size)
        return self._cut(_pixels(picture.resize((width, height), self._sampling)))

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Views of decoded pictures, computed on their device: uint8 (B, 3, H, W) -> uint8 (B, 3, height, width)"""
        height, width = pixels.shape[-2:]
        width, height = self._target(width, height)
        return self._cut(_bytes(_scaled(pixels, [height, width], self.resample)))

    def squeezed(self, picture: Image.Image) -> Tensor:
        """The picture to its edges, scaled to the size without regard to its ratio: RGB picture -> uint8 (3, height, width)"""
        return _pixels(_bounded(picture).resize((self.size[1], self.size[0]), self._sampling))

    def squeezed_of_pixels(self, pixels: Tensor) -> Tensor:
        """The same of decoded pictures, on their device: uint8 (B, 3, H, W) -> uint8 (B, 3, height, width)"""
        return _bytes(_scaled(pixels, list(self.size), self.resample))

    def cropped(self, picture: Image.Image, box: tuple[int, int, int, int]) -> Tensor:
        """A box (left, top, right, bottom) of the picture at the size, for augmented views: RGB picture -> uint8 (3, height, width)"""
        return _pixels(picture.resize((self.size[1], self.size[0]), self._sampling, box=box))

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, H, W)"""
        return View(*self.size, self.mean, self.std).normalize(pixels)

    @property
    def _sampling(self) -> Image.Resampling:
        return Image.Resampling[self.resample.upper()]

    def _target(self, width: int, height: int) -> tuple[int, int]:
        """The size (width, height) that a picture is scaled to, before anything is cut off."""
        rows, columns = self.size
        if self.mode == "squash":
            return columns, rows
        if self.mode == "shortest" and rows == columns:  # as torchvision's Resize, which rounds down
            return (rows, int(rows * height / width)) if width <= height else (int(rows * width / height), rows)
        ratios = height / rows, width / columns
        ratio = max(ratios) if self.mode == "longest" else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def _cut(self, pixels: Tensor) -> Tensor:
        """The middle of pictures (..., 3, H, W), with a margin where they are too short: (..., 3, height, width)"""
        rows, columns = self.size
        height, width = pixels.shape[-2:]
        missing = max(0, columns - width), max(0, rows - height)
        if any(missing):
            across, down = missing
            around = [across // 2, down // 2, (across + 1) // 2, (down + 1) // 2]
            pixels = functional.pad(pixels, around, fill=self.fill)
        height, width = pixels.shape[-2:]
        top, left = round((height - rows) / 2.0), round((width - columns) / 2.0)
        return pixels[..., top : top + rows, left : left + columns].contiguous()


def _pixels(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)


def _several(value: Any, number: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) * number


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
