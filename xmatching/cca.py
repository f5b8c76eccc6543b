"""Regularized canonical correlation analysis in closed form (Hotelling, 1936; Hardoon et al., 2004).

Sums over pictures and captions are all that is kept of them: one pass each over any number, in float64.

1. `Moments` of a tower's outputs give `Directions`: standardized, then projected to the principal directions of largest variance.
2. `Pairs` are the sums over pairs in these directions; those of a part of the data can be taken off again.
3. `Correlated` finds, for a ridge r, the directions in which both sides correlate most: the singular vectors of
   (C_xx + r m_x)^(-1/2) C_xy (C_yy + r m_y)^(-1/2), with m the mean variance of a side's directions before the projection, which is 1.
   Scaled by powers of the correlations (Gong et al., IJCV 2014; the weighted cosine of CSA, ICLR 2025, has the first power).
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

TINY = 1e-9  # share of the largest variance below which a direction has none
ROUNDED = 1e-12  # share of a column's mean square below which its variance is an error of rounding


class Moments:
    """Number, sum and products of rows of `width` numbers, float64."""

    def __init__(self, width: int):
        self.number, self.sum, self.products = 0.0, torch.zeros(width).double(), torch.zeros(width, width).double()

    def add(self, rows: Tensor, times: Tensor) -> None:
        """rows (n, width), each counted times (n,)"""
        rows, times = rows.double(), times.double()
        self.number += times.sum().item()
        self.sum += times @ rows
        self.products.addmm_((rows * times[:, None]).T, rows)


def _signs(columns: Tensor) -> Tensor:
    """The sign of each column's largest entry, 1 for a column of zeros: (1, k). Solvers leave signs to the library and its threads."""
    signs = columns.gather(0, columns.abs().argmax(0, keepdim=True)).sign()
    return torch.where(signs == 0, 1, signs)


@dataclass
class Directions:
    """The principal directions of standardized outputs: mean, scale (width,), basis (width, rank); float32, as a head keeps them."""

    mean: Tensor
    scale: Tensor
    basis: Tensor

    @classmethod
    def of(cls, moments: Moments, rank: int) -> "Directions":
        """The first min(width, rank) directions; those without variance are 0."""
        mean = moments.sum / moments.number
        covariance = moments.products / moments.number - mean[:, None] * mean
        variance = covariance.diagonal().clamp(min=0)
        least = torch.maximum(TINY * variance.max(), ROUNDED * moments.products.diagonal() / moments.number)
        scale = torch.where(variance > least, variance, torch.inf) ** -0.5
        values, vectors = torch.linalg.eigh(covariance * scale[:, None] * scale)
        first = torch.arange(len(values) - 1, max(-1, len(values) - 1 - rank), -1)
        vectors = vectors[:, first] * (values[first] > TINY * values[-1])
        return cls(mean.float(), scale.float(), (vectors * _signs(vectors)).float())

    def __call__(self, rows: Tensor) -> Tensor:
        """(..., width) -> float64 (..., rank), as a head computes it but for the precision"""
        return ((rows - self.mean) * self.scale).double() @ self.basis.double()


@dataclass
class Pairs:
    """Sums over pairs of x (r,) and y (s,) and of their products xx (r, r), yy (s, s), xy (r, s); each view of a picture is in a pair."""

    number: float
    x: Tensor
    y: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor

    @classmethod
    def none(cls, x: int, y: int) -> "Pairs":
        return cls(0.0, *(torch.zeros(*shape).double() for shape in ((x,), (y,), (x, x), (y, y), (x, y))))

    def add(self, views: Tensor, captions: Tensor, owner: Tensor) -> None:
        """views (p, v, r) of p pictures; captions (c, s); owner int64 (c,): each caption's picture"""
        times = torch.bincount(owner, minlength=len(views)).double()
        number = views.shape[1]
        flat, each = views.flatten(0, 1), times.repeat_interleave(number)
        said = torch.zeros(len(views), captions.shape[1]).double().index_add_(0, owner, captions)
        self.number += number * len(captions)
        self.x += each @ flat
        self.y += number * captions.sum(0)
        self.xx.addmm_((flat * each[:, None]).T, flat)
        self.yy.addmm_(captions.T, captions, alpha=number)
        self.xy.addmm_(views.sum(1).T, said)

    def plus(self, other: "Pairs") -> "Pairs":
        return Pairs(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def less(self, other: "Pairs") -> "Pairs":
        return Pairs(*(getattr(self, field.name) - getattr(other, field.name) for field in fields(self)))


@dataclass
class Maps:
    """The maps of both sides to the joint space: weight (dim, rank) and bias (dim,) of each, float32."""

    image: tuple[Tensor, Tensor]
    text: tuple[Tensor, Tensor]


class Correlated:
    """The correlated directions of pairs for any ridge: what they share is computed once, and each ridge's solution once too."""

    def __init__(self, pairs: Pairs):
        self.solutions: dict[float, Solution] = {}
        self.mean_x, self.mean_y = pairs.x / pairs.number, pairs.y / pairs.number
        self.x = torch.linalg.eigh(pairs.xx / pairs.number - self.mean_x[:, None] * self.mean_x)
        self.y = torch.linalg.eigh(pairs.yy / pairs.number - self.mean_y[:, None] * self.mean_y)
        cross = pairs.xy / pairs.number - self.mean_x[:, None] * self.mean_y
        self.cross = self.x.eigenvectors.T @ cross @ self.y.eigenvectors

    def solve(self, ridge: float) -> "Solution":
        """The solution for a ridge, which is added to every variance; directions without variance have no part in it."""
        if ridge not in self.solutions:
            self.solutions[ridge] = self._solve(ridge)
        return self.solutions[ridge]

    def _solve(self, ridge: float) -> "Solution":
        x, y = (torch.where(found > TINY * found.max(), found + ridge, torch.inf) ** -0.5 for found, _ in (self.x, self.y))
        left, correlations, right = torch.linalg.svd(x[:, None] * self.cross * y, full_matrices=False)
        one, other = self.x.eigenvectors @ (x[:, None] * left), self.y.eigenvectors @ (y[:, None] * right.T)
        return Solution(one * _signs(one), other * _signs(one), correlations, self.mean_x, self.mean_y)


@dataclass
class Solution:
    """Directions of both sides as columns, x (r, k) and y (s, k), most correlated first; correlations (k,); the sides' means."""

    x: Tensor
    y: Tensor
    correlations: Tensor
    mean_x: Tensor
    mean_y: Tensor

    def maps(self, power: float, directions: int, dim: int) -> Maps:
        """The first `directions` of them, each scaled by its correlation to the `power`; the rest of `dim` is 0."""
        kept = min(directions, dim, len(self.correlations))
        scale = self.correlations[:kept] ** power
        scale /= scale.square().sum().sqrt().clamp(min=1e-12)  # so that outputs have a length of about 1, for a training from here on
        found = []
        for columns, mean in ((self.x, self.mean_x), (self.y, self.mean_y)):
            weight = torch.zeros(dim, len(columns)).double()
            weight[:kept] = (columns[:, :kept] * scale).T
            found.append((weight.float(), -(weight @ mean).float()))
        return Maps(*found)
