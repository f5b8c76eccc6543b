"""Heads: from a frozen tower's output to the joint space, each vector of length 1."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mean_of_views(vectors: Tensor) -> Tensor:
    """Vectors of length 1 of each picture's V views (..., V, dim) -> its own (..., dim), of length 1; of a single view, that one's."""
    return vectors[..., 0, :] if vectors.shape[-2] == 1 else F.normalize(vectors.mean(-2), dim=-1)


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


class AlignedHead(nn.Module):
    """A linear map of the input's principal directions: what canonical correlation analysis finds (xmatching/cca.py).

    The input is standardized by `mean` and `scale` and projected to `rank` directions (fewer if it has fewer numbers); only the map
    behind that, `out`, is trained, where a training goes on from there.
    """

    mean: Tensor
    scale: Tensor
    basis: Tensor

    def __init__(self, width: int, dim: int, rank: int, **_: object):
        super().__init__()
        rank = min(width, rank)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("basis", torch.eye(width, rank))
        self.out = nn.Linear(rank, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., dim), each of length 1"""
        return F.normalize(self.out(((x - self.mean) * self.scale) @ self.basis), dim=-1)


class JoinedHead(nn.Module):
    """Several heads, each on some columns of the tower's output; their vectors one after another.

    columns: [start, stop] of each; weights: of each, not all 0. An inner product of two joined vectors is the weighted mean of the
    parts' inner products.
    """

    def __init__(self, heads: Sequence[nn.Module], columns: Sequence[Sequence[int]], weights: Sequence[float]):
        super().__init__()
        self.heads, self.columns = nn.ModuleList(heads), [slice(*pair) for pair in columns]
        self.factors = [math.sqrt(weight / sum(weights)) for weight in weights]

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., sum of the heads' dim), each of length 1"""
        parts = zip(self.heads, self.columns, self.factors, strict=True)
        return torch.cat([factor * head(x[..., columns]) for head, columns, factor in parts], -1)


class UnitHead(nn.Module):
    """The tower's output itself: no weights, the joint space is the text tower's."""

    def __init__(self, width: int, **_: object):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width), each of length 1"""
        return F.normalize(x, dim=-1)


class OwnHead(nn.Module):
    """A dual encoder's own projection, its weights in the snapshot; of a tower that ends in the joint space, the identity."""

    def __init__(self, width: int, dim: int, **_: object):
        super().__init__()
        self.projection = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., dim), each of length 1"""
        return F.normalize(self.projection(x), dim=-1)


class ClassNamesHead(nn.Module):
    """A picture as the mean of its likeliest classes' names, in the space of a sentence encoder (ConSE; Norouzi et al., ICLR 2014).

    The classifier that the image tower was trained with gives the probabilities p of K classes; sum_k p_k n_k over the `kept`
    likeliest ones is the picture's vector, n_k: the sentence encoder's vector of the name of class k, of length 1. A temperature
    softens the probabilities: the classifier is surer of its first class than a caption is.
    """

    TEMPERATURE, KEPT = 2.0, 20  # of new snapshots; each keeps its own
    names: Tensor
    temperature: Tensor
    kept: Tensor

    def __init__(self, width: int, dim: int, classes: int, **_: object):
        super().__init__()
        self.classifier = nn.Linear(width, classes)
        self.register_buffer("names", torch.zeros(classes, dim))
        self.register_buffer("temperature", torch.tensor(self.TEMPERATURE))
        self.register_buffer("kept", torch.tensor(self.KEPT))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., dim), each of length 1"""
        shares = (self.classifier(x) / self.temperature).softmax(-1)
        best, which = shares.topk(min(int(self.kept), shares.shape[-1]), -1)
        return F.normalize(torch.zeros_like(shares).scatter(-1, which, best) @ self.names, dim=-1)
