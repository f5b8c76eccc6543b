"""The view of SigLIP 2's NaFlex models: a picture in its own ratio, as a row of square patches of pixels."""

import json
import math
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from xvoken.errors import UserError
from xvoken.pictures.view import ProcessorView

MOST = 4096  # patches; the published models have 256


class PatchView(ProcessorView):
    """As uint8 (3, 1 + N, P * P): behind a row with the number of patches down and across come N patches of P x P pixels each.

    A picture has at most N patches, as many as its ratio allows; those behind them are 0. A side of the grid is written as two bytes.
    """

    @classmethod
    def from_processor(cls, processor: Any, name: str) -> "PatchView":
        """The view of an image processor of SigLIP 2; raises UserError for settings that can't be."""
        side, most = processor.patch_size, processor.max_num_patches
        sound = type(side) is int and type(most) is int and 2 <= side <= 64 and 1 <= most <= MOST
        if not (sound and processor.do_resize and processor.resample in tuple(Image.Resampling)):
            wrong = f"patch_size={side!r}, max_num_patches={most!r}, do_resize={processor.do_resize!r}, resample={processor.resample!r}"
            raise UserError(f"model {name}: its image processor has settings that no picture can be made with ({wrong})")
        view = cls(json.loads(processor.to_json_string()))
        view.processor = processor
        return view

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Views of decoded pictures, computed on their device: uint8 (..., 3, H, W) of one size -> uint8 (..., 3, 1 + N, P * P)"""
        from transformers.image_utils import SizeDict
        from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

        own, side = self.processor, self.processor.patch_size
        height, width = get_image_size_for_max_num_patches(*pixels.shape[-2:], side, own.max_num_patches)
        resized = own.resize(pixels, size=SizeDict(height=height, width=width), resample=own.resample)
        down, across = height // side, width // side
        patches = resized.unflatten(-1, (across, side)).unflatten(-3, (down, side)).transpose(-3, -2).flatten(-2).flatten(-3, -2)
        packed = patches.new_zeros((*patches.shape[:-2], 1 + own.max_num_patches, side * side))
        packed[..., 0, 0, :4] = torch.tensor([*divmod(down, 256), *divmod(across, 256)], dtype=torch.uint8)
        packed[..., 1 : 1 + down * across, :] = patches
        return packed

    def cropped(self, picture: Image.Image, box: tuple[int, int, int, int]) -> Tensor:
        """A box (left, top, right, bottom) of the picture, in its own ratio too: RGB picture -> uint8 (3, 1 + N, P * P)"""
        return self(picture.crop(box))

    def grids(self, packed: Tensor) -> Tensor:
        """Patches down and across, of pictures (B, 3, 1 + N, P * P): int64 (B, 2)"""
        high_low = packed[:, 0, 0, :4].long().unflatten(-1, (2, 2))
        return high_low[..., 0] * 256 + high_low[..., 1]

    def patches(self, packed: Tensor) -> Tensor:
        """Normalized patches, as the model takes them: uint8 (B, 3, 1 + N, P * P) -> float32 (B, N, P * P * 3)

        Those behind a picture's own are 0, as the processor pads: no patch looks at them.
        """
        found = self.normalize(packed[:, :, 1:]).permute(0, 2, 3, 1).flatten(2)
        return found * self.inside(packed)[..., None]

    def inside(self, packed: Tensor) -> Tensor:
        """Which patches belong to a picture: bool (B, N)"""
        return torch.arange(packed.shape[2] - 1, device=packed.device) < self.grids(packed).prod(1, keepdim=True)


def square(positions: int) -> bool:
    """Whether so many positions are a square, as SigLIP 2 has them before they are scaled to a picture's grid."""
    return positions > 0 and math.isqrt(positions) ** 2 == positions
