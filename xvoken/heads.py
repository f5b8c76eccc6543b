"""Trainable heads: from a frozen tower's output to the joint space."""

import torch.nn.functional as F
from torch import Tensor, nn


class MLPHead(nn.Module):
    """Two hidden layers with ReLU and dropout, L2-normalized output, as in Maria (Liang et al., ACL 2021)."""

    def __init__(self, width: int, hidden: int = 1024, dim: int = 512, dropout: float = 0.2):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, dim),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., dim), each of length 1"""
        return F.normalize(self.layers(x), dim=-1)
