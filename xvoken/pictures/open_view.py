"""The view of a picture that open_clip's own preprocessing makes, for evaluation (open_clip/transform.py, image_transform)."""

import math
from typing import Any

from xvoken.errors import UserError
from xvoken.pictures.framed import FramedView
from xvoken.pictures.view import LARGEST

MODES = {"shortest": "center", "squash": "squash", "longest": "border"}
SAMPLINGS = {"bicubic": "bicubic", "bilinear": "bilinear", "random": "bicubic"}  # random: of training; the library evaluates by bicubic


def open_clip_view(said: dict[str, Any], name: str) -> FramedView:
    """The view of a model's preprocess_cfg; raises UserError for one that can't be."""
    fill: Any = said.get("fill_color")
    sides, means, stds = _several(said.get("size"), 2), _several(said.get("mean"), 3), _several(said.get("std"), 3)
    sound = {
        "size": len(sides) == 2 and all(type(side) is int and 1 <= side <= LARGEST for side in sides),
        "mean": len(means) == 3 and all(map(_number, means)) and said["mean"] != 0,  # which the library takes for none
        "std": len(stds) == 3 and all(_number(value) and value > 0 for value in stds),
        "interpolation": said.get("interpolation") in tuple(SAMPLINGS),  # it may be anything
        "resize_mode": said.get("resize_mode") in tuple(MODES),
        "fill_color": type(fill) is int and 0 <= fill <= 255,
        "mode": said.get("mode") == "RGB",
    }
    if wrong := [key for key, fits in sound.items() if not fits]:
        raise UserError(f"model {name}: its preprocess_cfg has what pictures can't be made with: {wrong[0]}={said.get(wrong[0])!r}")
    mode, size = said["resize_mode"], (sides[0], sides[1])
    # The library passes its choice on, but for one way.
    resample = "bicubic" if mode == "shortest" and sides[0] != sides[1] else SAMPLINGS[said["interpolation"]]
    return FramedView(size, size, means, stds, MODES[mode], resample, fill)


def _several(value: Any, number: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) * number


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
