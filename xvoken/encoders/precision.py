"""In which precision a tower computes, and how its input gets to its device."""

from contextlib import AbstractContextManager
from typing import TypeVar

import torch
from torch import Tensor, nn

from xvoken.encoders.towers import Tower

SomeTower = TypeVar("SomeTower", bound=Tower)


def upload(tensor: Tensor, device: str) -> Tensor:
    """A copy on the device. A GPU goes on with what it has to do meanwhile, and so does the caller."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def autocast(device: str, precision: str) -> AbstractContextManager:
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def cast_weights(tower: SomeTower, precision: str) -> SomeTower:
    """Keep the weights of a frozen tower's matrix products in the precision that `autocast` computes them in.

    The same bits as without, but autocast would cast all of them again in every batch (on 2 cores, a fifth of
    ViT-B/32's time). Returns the tower.
    """
    if precision == "bf16":
        kept = {module for part in getattr(tower, "fp32_parts", []) for module in part.modules()}
        for module in tower.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and module not in kept:
                module.to(torch.bfloat16)
    return tower
