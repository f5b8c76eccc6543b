"""Cuts of a picture: views whose vectors' mean is its key, where one view would leave the ends of a long picture out.

whole       the tower's evaluation view, the centre of the picture
squeezed    the picture to its edges, scaled to a square without regard to its ratio
start       the square of the picture's shorter side at its left or upper end, to its edges
end         the same at its right or lower end

Of a square picture, the last three are the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from PIL import Image
from torch import Tensor

from xvoken.errors import UserError
from xvoken.pictures.view import AnyView, Box

CUTS = ("whole", "squeezed", "start", "end")


def first_cuts(number: int) -> tuple[str, ...]:
    """The first `number` entries of CUTS; raises UserError for a number that is not from 1 to 4."""
    if not isinstance(number, int) or not 1 <= number <= len(CUTS):
        raise UserError(f"{number!r} views of a picture: a whole number from 1 to {len(CUTS)} was expected")
    return CUTS[:number]


@dataclass(frozen=True)
class Cuts:
    """Several cuts of a picture as one view, see xvoken.pictures.view.PixelsView; names: entries of CUTS; view: the tower's."""

    view: AnyView
    names: tuple[str, ...]

    @property
    def resize(self) -> int | None:
        """Pixels that the shorter side is scaled to; the others are scaled to fewer, so that a picture is decoded once for all cuts."""
        return self.view.resize

    def __call__(self, picture: Image.Image) -> Tensor:
        """RGB picture -> uint8 (len(names), 3, height, width)"""
        return self._made(lambda: self.view(picture), lambda box: self.view.squeezed(picture.crop(box)), *picture.size)

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Cuts of decoded pictures, computed on their device: uint8 (B, 3, H, W) -> uint8 (B, len(names), 3, height, width)"""

        def squeezed(box: Box) -> Tensor:
            left, top, right, bottom = box
            return self.view.squeezed_of_pixels(pixels[:, :, top:bottom, left:right])

        return self._made(lambda: self.view.of_pixels(pixels), squeezed, pixels.shape[3], pixels.shape[2])

    def _made(self, whole: Callable[[], Tensor], squeezed: Callable[[Box], Tensor], width: int, height: int) -> Tensor:
        """The cuts in the order of their names, along an axis before (3, height, width); squeezed: makes the view of a box."""
        squeezed, side = cache(squeezed), min(width, height)  # cached: the boxes of a square picture are equal
        ways = {
            "whole": whole,
            "squeezed": lambda: squeezed((0, 0, width, height)),
            "start": lambda: squeezed((0, 0, side, side)),
            "end": lambda: squeezed((width - side, height - side, width, height)),
        }
        return torch.stack([ways[name]() for name in self.names], -4)
