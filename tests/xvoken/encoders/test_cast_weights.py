"""Weights cast once give the bits of weights that autocast casts in every batch."""

import copy

import pytest
import torch

from xvoken.towers.image import ImageTower, for_inference
from xvoken.towers.precision import autocast, cast_weights


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


def test_folded_batch_norms_compute_the_same(world):
    pixels = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = ImageTower("resnet18", str(world.resnet), "maps").eval().requires_grad_(False)
    for norm in plain.modules():  # those of a random model are the identity
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1), norm.running_var.uniform_(0.5, 2)
    folded = for_inference(copy.deepcopy(plain), "bf16").float()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(pixels), plain(pixels), rtol=0.02, atol=0.02)  # weights are rounded to bf16
        assert torch.cosine_similarity(folded(pixels), plain(pixels)).min() > 0.9995
