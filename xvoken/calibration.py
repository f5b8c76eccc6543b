"""Does the best picture fit? The scores of a query's best pictures as one probability. Functions of numpy arrays alone.

Two numbers tell it: the best score (does any picture fit?), and its share among the best few (is the best one right?). A logistic
regression makes one probability of both; its three coefficients lie in the snapshot.

Scores are inner products. Where hubness is taken off (xvoken/search/hubness.py), the mean of what is taken off over the gallery is added
back to all of them, for `fit` as for `probability`: that mean depends on the bank, the order of the pictures does not depend on that mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvoken.errors import UserError

CANDIDATES = 16  # so many best pictures share; a constant, so that a larger gallery does not lower all shares
TEMPERATURE = 0.1
RIDGE = 1e-3  # times half the squared coefficients, beside a mean loss: it bounds them where the two kinds of queries are far apart
CLEAR = 1e-6  # a share is at least so far from 0 and 1
COVERAGES = (100, 75, 50, 25, 10)  # percent of the queries
BINS = 10

Numbers = NDArray[np.float64]


def features(scores: NDArray[np.floating]) -> Numbers:
    """Scores (Q, m), descending, of each query's best m pictures -> float64 (Q, 2): the best score, and log(share / (1 - share))

    share: softmax at TEMPERATURE of the best among the first CANDIDATES; a smaller gallery takes all of its pictures. A row of NaN,
    of an empty line, gives NaN.
    """
    near = scores[:, :CANDIDATES].astype(np.float64)
    others = np.exp((near[:, 1:] - near[:, :1]) / TEMPERATURE).sum(1)
    share = np.clip(1 / (1 + others), CLEAR, 1 - CLEAR)
    return np.column_stack([near[:, 0], np.log(share / (1 - share))])


@dataclass(frozen=True)
class Calibration:
    """From scores to a probability: sigmoid(bias + best * the best score + share * log(share / (1 - share))), see `features`."""

    bias: float
    best: float
    share: float

    @classmethod
    def from_list(cls, said: Sequence[float]) -> "Calibration":
        """From a snapshot's list; raises UserError for anything but three finite numbers."""
        try:
            found = np.array(said, np.float64)
        except (TypeError, ValueError):
            found = np.empty(0)
        if found.shape != (3,) or not np.isfinite(found).all():
            raise UserError(f"calibration {said!r}: three finite numbers were expected; train again")
        return cls(*found.tolist())

    def to_list(self) -> list[float]:
        """As a snapshot keeps it."""
        return [self.bias, self.best, self.share]

    def probability(self, scores: NDArray[np.floating]) -> NDArray[np.float32]:
        """Scores (Q, m), descending, of each query's best m >= min(CANDIDATES, gallery) pictures -> float32 (Q,), NaN for rows of NaN"""
        return _sigmoid(self.bias + features(scores) @ np.array([self.best, self.share])).astype(np.float32)


def fit(caption_scores: NDArray[np.floating], right: NDArray[Any], other_scores: NDArray[np.floating]) -> Calibration:
    """Learn the probability that a query's best picture is right, from captions and from lines that no picture fits.

    caption_scores (C, m), other_scores (O, m): as for `features`, of the same gallery or galleries of one kind; right: (C,), whether
    each caption's best picture is its own, or from 0 to 1 the expected value among equal scores. All captions together weigh as much as
    all other lines. Raises UserError if either is empty or has a score that is not finite.
    """
    if not len(caption_scores) or not len(other_scores):
        raise UserError(f"a calibration needs captions and other lines; there are {len(caption_scores)} and {len(other_scores)}")
    x = np.concatenate([features(caption_scores), features(other_scores)])
    if not np.isfinite(x).all():
        raise UserError("a calibration needs finite scores; the training diverged: lower --lr or --tower-lr")
    y = np.concatenate([np.asarray(right, np.float64), np.zeros(len(other_scores))])
    weights = np.repeat([0.5 / len(caption_scores), 0.5 / len(other_scores)], [len(caption_scores), len(other_scores)])
    centre = weights @ x
    spread = np.sqrt(weights @ (x - centre) ** 2)
    spread[spread < 1e-12] = 1  # a score that tells nothing
    found = _regression(np.column_stack([np.ones(len(x)), (x - centre) / spread]), y, weights)
    slopes = found[1:] / spread
    return Calibration(float(found[0] - slopes @ centre), *slopes.tolist())


def _regression(x: Numbers, y: Numbers, weights: Numbers) -> Numbers:
    """Coefficients (d,) of least mean log loss plus ridge, by Newton's method; x (n, d), y (n,) from 0 to 1, weights (n,) of sum 1."""

    def loss(at: Numbers) -> float:
        z = x @ at
        return float(weights @ (np.logaddexp(0, z) - y * z) + RIDGE / 2 * at @ at)

    found = np.zeros(x.shape[1])
    for _ in range(100):
        p = _sigmoid(x @ found)
        slope = x.T @ (weights * (p - y)) + RIDGE * found
        curve = (x.T * (weights * p * (1 - p))) @ x + RIDGE * np.eye(len(found))
        step = np.linalg.solve(curve, slope)
        while loss(found - step) > loss(found) and np.abs(step).max() > 1e-12:
            step /= 2
        found = found - step
        if np.abs(step).max() < 1e-10:
            break
    return found


def _sigmoid(z: Numbers) -> Numbers:
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        return np.exp(-np.logaddexp(0, -z))


def auc(positive: NDArray[np.floating], negative: NDArray[np.floating]) -> float:
    """Probability that one of the `positive` (P,) scores higher than one of the `negative` (N,), equal scores counting half; 0 to 1."""
    values, of, times = np.unique(np.concatenate([positive, negative]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(times) - (times - 1) / 2)[of.reshape(-1)]
    pairs = len(positive) * len(negative)
    return float((ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2) / pairs)


def precision_at_coverage(probability: NDArray[np.floating], right: NDArray[Any]) -> dict[str, float]:
    """Percent of right ones among the surer 100, 75, 50, 25, 10 percent of the queries, at least one; (Q,) each, right from 0 to 1."""
    _, sorted_right = _surest_first(probability, right)
    return {str(share): 100 * float(sorted_right[: max(1, round(len(right) * share / 100))].mean()) for share in COVERAGES}


def calibration_error(probability: NDArray[np.floating], right: NDArray[Any]) -> float:
    """Expected calibration error in percent: mean distance of the mean probability from the share of right ones, in BINS of equal size.

    (Q,) each, right from 0 to 1; the bins hold neighbours by probability (Nixon et al., Measuring Calibration in Deep Learning, 2019).
    """
    sure, sorted_right = _surest_first(probability, right)
    bins = zip(np.array_split(sure, BINS), np.array_split(sorted_right, BINS), strict=True)
    return 100 * sum(abs(float(p.sum() - hit.sum())) for p, hit in bins if len(p)) / len(sure)


def _surest_first(probability: NDArray[np.floating], right: NDArray[Any]) -> tuple[Numbers, Numbers]:
    """Both (Q,) by descending probability; where that is equal, each is as right as they are on average, so that no order counts."""
    values, of, times = np.unique(-np.asarray(probability, np.float64), return_inverse=True, return_counts=True)
    mean = np.bincount(of.reshape(-1), np.asarray(right, np.float64)) / times
    return np.repeat(-values, times), np.repeat(mean, times)
