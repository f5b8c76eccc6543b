"""The view of a picture that a transformers image processor makes, by that processor's own steps."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xvoken.messages import UserError

MAX_RATIO = 64  # longer pictures are cut to this ratio of their sides first: resizing 1 x 20000 whole would take gigabytes


@dataclass
class ProcessorView:
    """The view that a model's own image processor makes; config: the processor's settings, as in its JSON file."""

    config: dict[str, Any]
    resize = None  # pictures are decoded whole, so that features agree with those of the processor itself

    @classmethod
    def of(cls, processor: Any, name: str) -> "ProcessorView":
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
