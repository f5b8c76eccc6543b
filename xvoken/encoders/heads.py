"""Trainable heads: from a frozen tower's output to the joint space, each vector of length 1."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class MLPHead(nn.Module):
    """Hidden layers with ReLU and dropout: two in Maria (Liang et al., ACL 2021), one in Vokenization (EMNLP 2020)."""

    def __init__(self, width: int, hidden: int = 1024, dim: int = 512, dropout: float = 0.2, hidden_layers: int = 2):
        super().__init__()
        sizes = [width, *[hidden] * hidden_layers]
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout))]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., dim), each of length 1"""
        return F.normalize(self.layers(x), dim=-1)


class LinearHead(nn.Module):
    """One linear map of the layer-normalized input, dropout before it; `hidden` is ignored."""

    def __init__(self, width: int, hidden: int = 1024, dim: int = 512, dropout: float = 0.2):
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), nn.Dropout(dropout), nn.Linear(width, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., dim), each of length 1"""
        return F.normalize(self.layers(x), dim=-1)


class GLUHead(nn.Module):
    """A linear map plus a gated linear unit beside it, (x V) * sigmoid(x W) (Dauphin et al., ICML 2017).

    The input is layer-normalized: tower outputs differ in scale by orders of magnitude.
    """

    def __init__(self, width: int, hidden: int = 1024, dim: int = 512, dropout: float = 0.2):
        super().__init__()
        self.norm = nn.Sequential(nn.LayerNorm(width, elementwise_affine=False), nn.Dropout(dropout))
        self.straight = nn.Linear(width, dim)
        self.gated = nn.Sequential(nn.Linear(width, 2 * hidden), nn.GLU(), nn.Dropout(dropout), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., dim), each of length 1"""
        x = self.norm(x)
        return F.normalize(self.straight(x) + self.gated(x), dim=-1)
