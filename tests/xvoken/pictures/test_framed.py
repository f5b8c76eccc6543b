"""Views as timm describes them, against timm's own transforms."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from tests.builder import blurred_noise
from xvoken.pictures.framed import FramedView
from xvoken.pictures.view import as_pixels

COLOURS = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
SIZES = ((160, 97), (61, 148), (96, 96), (33, 1), (3, 2), (1200, 901))


@pytest.mark.parametrize(
    ("mode", "size", "crop"),
    [
        ("center", (48, 48), 0.9), ("center", (48, 48), 1.0), ("center", (40, 56), 0.875), ("squash", (48, 48), 1.0),
        ("squash", (47, 40), 0.9), ("border", (48, 48), 1.0), ("border", (41, 56), 0.8),
    ],
)  # fmt: skip
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_pixels_are_those_of_timm(mode: str, size: tuple[int, int], crop: float, resample: str):
    how: dict[str, Any] = {"interpolation": resample, "mean": COLOURS[0], "std": COLOURS[1], "crop_pct": crop, "crop_mode": mode}
    plain, whole = (create_transform((3, *size), normalize=normalize, **how) for normalize in (False, True))
    scaled = tuple(int(side / crop) for side in size)
    view = FramedView(scaled, size, *COLOURS, mode, resample)
    for number, sides in enumerate(SIZES):
        picture = blurred_noise(*sides, np.random.default_rng(number))
        found = view(picture)
        assert found.shape == (3, *size) and torch.equal(found, plain(picture)), sides
        assert torch.allclose(view.normalize(found[None])[0], whole(picture), atol=1e-6)
        decoded = view.of_pixels(as_pixels(picture)[None])[0]
        assert (decoded.float() - found.float()).abs().mean() < 1.5, sides  # as torch resizes bytes
        assert view.squeezed(picture).shape == view.squeezed_of_pixels(as_pixels(picture)[None])[0].shape == found.shape


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_a_very_long_picture(mode: str):
    """It is not scaled whole, and is nearly what it would be."""
    picture = blurred_noise(2600, 40, np.random.default_rng(0))
    how: dict[str, Any] = {"mean": COLOURS[0], "std": COLOURS[1], "crop_pct": 0.8, "crop_mode": mode}
    plain = create_transform((3, 32, 32), normalize=False, interpolation="bicubic", **how)
    found = FramedView((40, 40), (32, 32), *COLOURS, mode)(picture)
    assert (found.float() - plain(picture).float()).abs().max() <= 1
    assert FramedView((256, 256), (224, 224), *COLOURS, mode)(Image.new("RGB", (1, 20000))).shape == (3, 224, 224)
