"""The 15 views of a picture: the whole, five crops, nine crops.

Sides and rounding are those of Xmodal-Ctx (Kuo & Kira, CVPR 2022), so that its context files and ours agree.
"""

import itertools

from PIL import Image

FIVE, NINE = 0.6, 0.4  # share of height and width
VIEWS = 15
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, right and bottom not included


def boxes(width: int, height: int) -> list[Box]:
    """The 15 boxes of a picture: whole; top left, top right, bottom left, bottom right, centre; 3 x 3 grid, row by row.

    Each is inside the picture and at least one pixel wide and high.
    """
    return [(0, 0, width, height), *_five(width, height), *_nine(width, height)]


def views(picture: Image.Image, number: int = VIEWS) -> list[Image.Image]:
    """The first `number` views of a picture; the first one is the picture itself, not a copy."""
    return [picture, *(picture.crop(box) for box in boxes(*picture.size)[1:number])]


def _five(width: int, height: int) -> list[Box]:
    wide, high = FIVE * width, FIVE * height
    corners = [(0, 0), (width - wide, 0), (0, height - high), (width - wide, height - high)]
    centre = (round((width - wide) / 2), round((height - high) / 2))
    return [_inside(round(x), round(y), round(x + wide), round(y + high), width, height) for x, y in [*corners, centre]]


def _nine(width: int, height: int) -> list[Box]:
    rows, columns = _thirds(height), _thirds(width)
    return [_inside(x0, y0, x1, y1, width, height) for (y0, y1), (x0, x1) in itertools.product(rows, columns)]


def _thirds(side: int) -> list[tuple[int, int]]:
    """Starts and ends of the grid along one side: at 0, in the middle, and at the end."""
    middle = int((0.5 - NINE / 2) * side), int((0.5 + NINE / 2) * side)
    return [(0, int(NINE * side)), middle, (int((1.0 - NINE) * side), side)]


def _inside(left: int, top: int, right: int, bottom: int, width: int, height: int) -> Box:
    """The box, kept inside the picture and at least one pixel wide and high, which matters for tiny pictures."""
    left, top = min(left, width - 1), min(top, height - 1)
    return left, top, min(max(right, left + 1), width), min(max(bottom, top + 1), height)
