"""Figures of retrieval that are measured once, not each epoch: mAP@R, and intervals by the bootstrap. Functions of numpy arrays alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xvoken.records import TOP

SAMPLES = 1000  # resamples behind an interval
SEED = 0
LEVEL = 95  # percent of the resamples that lie in an interval

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]


def spread(number: int, most: int) -> Counts:
    """At most so many of the numbers below `number`, evenly spread, ascending."""
    return np.unique(np.arange(most) * number // most)


def average_precision_at_r(above: Counts, equal: Counts, right_above: Counts, right_equal: Counts, query: Counts) -> Numbers:
    """mAP@R of each query: float64 (Q,), from 0 to 1, a mean over all orders of the equal scores.

    With R correct candidates of a query: 1/R times the sum, over those of the first R places that hold a correct candidate, of the
    precision up to that place (Musgrave et al., A Metric Learning Reality Check, ECCV 2020; used for captions by Chun et al., ECCV
    Caption, ECCV 2022). Int64 (C,) each, an entry a correct candidate: above, equal: candidates with a higher, with exactly its score;
    right_above, right_equal: how many of these are correct ones of the same query; query: which one it is, from 0 to Q - 1.

    Of t equal scores with a above, m and c of them correct, place a + j holds a correct one with probability m / t, and then
    c + 1 + (j - 1) (m - 1) / (t - 1) correct ones are expected up to it; each of the m candidates is given its share of that.
    """
    correct = np.bincount(query)
    most = correct[query]
    others = np.where(equal > 1, (right_equal - 1) / np.maximum(equal - 1, 1), 0.0)
    found = np.zeros(len(query))
    for j in range(1, int(correct.max()) + 1):
        precision = (right_above + 1 + (j - 1) * others) / (above + j)
        found += np.where((j <= equal) & (above + j <= most), precision / equal, 0.0)
    return np.bincount(query, found) / correct


def hits_by_picture(text_hits: Numbers, picture: Counts, image_hits: Numbers) -> Numbers:
    """What the recalls are made of, a row a picture, so that pictures can be drawn anew with all that belongs to them: float64 (P, 8)

    text_hits: (C, 3), the probability that each caption finds its picture within the top 1, 5, 10; picture: (C,), its row;
    image_hits: (P, 3), the same for the pictures. Columns: the sums of a picture's captions, their number, the picture's own, and 1.
    """
    sums = [np.bincount(picture, column, len(image_hits)) for column in text_hits.T]
    each = np.ones(len(image_hits))
    number = np.bincount(picture, minlength=len(image_hits))
    return np.column_stack([*sums, number, image_hits, each]).astype(np.float64)


def recalls(sums: Numbers) -> Numbers:
    """From the sums of such rows (8,) to the six recalls in percent: from text to image R@1, 5, 10, then from image to text."""
    return 100 * np.concatenate([sums[:3] / sums[3], sums[4:7] / sums[7]])


def resampled(folds: Sequence[Numbers], samples: int = SAMPLES, seed: int = SEED) -> Numbers:
    """The six recalls in resamples of the pictures: float64 (samples, 6), each the mean over the folds, as the recalls themselves.

    folds: rows of `hits_by_picture` for each. As many pictures as a fold has are drawn from it, with replacement, as queries; the
    gallery they are ranked in stays whole (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).
    """
    numbers, found = np.random.default_rng(seed), np.zeros((samples, 2 * len(TOP)))
    for rows in folds:
        for sample in found:
            sample += recalls(drawn(len(rows), numbers) @ rows)
    return found / len(folds)


def drawn(pictures: int, numbers: np.random.Generator) -> Counts:
    """How often each of so many pictures is drawn when as many are drawn with replacement: (pictures,)"""
    return np.bincount(numbers.integers(pictures, size=pictures), minlength=pictures)


def bounds(samples: Numbers) -> Numbers:
    """The bounds between which the middle 95% of the resamples of each figure lie (percentile method): (S, ...) -> (2, ...)"""
    return np.percentile(samples, [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)


def interval(samples: Numbers) -> list[float]:
    """The bounds of one figure (S,), to three digits."""
    return [round(float(bound), 3) for bound in bounds(samples)]


def intervals(folds: Sequence[Numbers], samples: int = SAMPLES, seed: int = SEED) -> dict[str, object]:
    """Intervals of the recalls and of their sum, as a record keeps them; arguments as for `resampled`."""
    found = resampled(folds, samples, seed)
    sides = {side: found[:, at : at + len(TOP)] for side, at in (("text_to_image", 0), ("image_to_text", len(TOP)))}
    each = {side: {f"R{k}": interval(column) for k, column in zip(TOP, half.T, strict=True)} for side, half in sides.items()}
    return {"level": LEVEL, "samples": samples, "seed": seed, **each, "rsum": interval(found.sum(1))}
