"""Weights cast once give the bits of weights that autocast casts in every batch."""

import pytest
import torch

from xvoken.devices import autocast, cast_weights
from xvoken.image_towers import ImageTower


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite2"])
def test_same_bits_as_autocast_alone(name, world):
    weights = str(world.resnet) if name == "resnet18" else None
    pixels = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = []
    for cast in (False, True):
        tower = ImageTower(name, weights).eval().requires_grad_(False)
        if cast:
            cast_weights(tower, "bf16")
        with torch.inference_mode(), autocast("cpu", "bf16"):
            found.append(tower(pixels))
    assert torch.equal(*found)
