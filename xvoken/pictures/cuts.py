"""Cuts of a picture: views whose vectors' mean is its key, where one view would leave the ends of a long picture out.

whole       the tower's evaluation view, the centre of the picture
mirrored    the same, left and right exchanged
start       the square of the picture's shorter side at its left or upper end, to its edges
end         the same at its right or lower end; of a square picture, both squares are the picture
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from PIL import Image
from torch import Tensor

from xvoken.errors import UserError
from xvoken.pictures.view import AnyView

CUTS = ("whole", "mirrored", "start", "end")
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, right and bottom not included


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
        """Pixels that the shorter side is scaled to; the squares are scaled to fewer, so that a picture is decoded once for all cuts."""
        return self.view.resize

    def __call__(self, picture: Image.Image) -> Tensor:
        """RGB picture -> uint8 (len(names), 3, height, width)"""
        square = self.view.without_margin()
        return self._made(lambda: self.view(picture), lambda box: square(picture.crop(box)), *picture.size)

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Cuts of decoded pictures, computed on their device: uint8 (B, 3, H, W) -> uint8 (B, len(names), 3, height, width)"""
        square = self.view.without_margin()

        def end(box: Box) -> Tensor:
            left, top, right, bottom = box
            return square.of_pixels(pixels[:, :, top:bottom, left:right])

        return self._made(lambda: self.view.of_pixels(pixels), end, pixels.shape[3], pixels.shape[2])

    def _made(self, whole: Callable[[], Tensor], square: Callable[[Box], Tensor], width: int, height: int) -> Tensor:
        """The cuts in the order of their names, along an axis before (3, height, width)."""
        whole, side = cache(whole), min(width, height)
        ways = {
            "whole": whole,
            "mirrored": lambda: whole().flip(-1),
            "start": lambda: square((0, 0, side, side)),
            "end": lambda: square((width - side, height - side, width, height)),
        }
        return torch.stack([ways[name]() for name in self.names], -4)
