"""How far the probability that a caption's best picture is right can be relied on, and whether it tells captions from other lines."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xvoken.calibration import CANDIDATES, Calibration, auc, calibration_error, precision_at_coverage
from xvoken.recall import Less, ranks
from xvoken.search.hubness import extended
from xvoken.search.index import build_joined


def fitting(
    calibration: Calibration, text: NDArray[np.float32], image: NDArray[np.float32], owner: NDArray[np.int64], *,
    fold: NDArray[np.int64] | None = None, less: Less | None = None, others: NDArray[np.float32] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The record of the probability from text to image: precision by coverage, calibration_error, and, with others, what it makes of them.

    text (C, d), image (N, d), owner (C,), fold (N,), less: as for xvoken.recall.judge, captions ranked within their fold; others (O, d):
    lines that no picture fits, searched in every fold. A best picture is right by expectation where several score the same.
    """
    fold = np.zeros(len(image), np.int64) if fold is None else fold
    sure, right, strange = [], [], [np.empty(0, np.float32)]
    for number in np.unique(fold):
        pictures = fold == number
        captions = pictures[owner]
        own, gallery, off = (np.cumsum(pictures) - 1)[owner[captions]], image[pictures], None
        if less:
            off = Less(less.text[torch.from_numpy(captions)], less.image[torch.from_numpy(pictures)])
        found, _ = ranks(torch.from_numpy(text[captions]), torch.from_numpy(gallery), torch.from_numpy(own), off)
        index = build_joined(extended([gallery], off.image.numpy()) if off else [gallery], "auto", "cpu")
        lift = off.image.numpy().mean() if off else np.float32(0)  # see xvoken/calibration.py
        right.append(found.hit(1).numpy())
        for asked, answers in ((text[captions], sure), (others, strange)):
            if asked is not None:
                answers.append(calibration.probability(index.search(asked, min(CANDIDATES, len(gallery)))[0] + lift))
    return _figures(np.concatenate(sure), np.concatenate(right), None if others is None else np.concatenate(strange))


def _figures(sure: NDArray[np.float32], right: NDArray[np.float64], strange: NDArray[np.float32] | None) -> dict[str, Any]:
    record = {
        "precision": {share: round(value, 3) for share, value in precision_at_coverage(sure, right).items()},
        "calibration_error": round(calibration_error(sure, right), 3),
    }
    if strange is None:
        return record
    # As many of the one as of the other, evenly spread, as the calibration was fitted.
    many = min(len(sure), len(strange))
    some, most = np.arange(many) * len(sure) // many, np.arange(many) * len(strange) // many
    error = calibration_error(np.concatenate([sure[some], strange[most]]), np.concatenate([right[some], np.zeros(many)]))
    told = {"auc": round(auc(sure, strange), 4), "calibration_error": round(error, 3)}
    return {**record, "other_lines": {"lines": len(strange), **told}}
