"""The keys of an image set's pictures: the tower's outputs, from the cache or computed now, then the head, and the mean over views."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from xvoken.cache.features import Features, left_out
from xvoken.cache.images import cut_features
from xvoken.encoders.encoder import Encoder, load_encoder
from xvoken.machine import Compute
from xvoken.pictures.sources import Member

BLOCK = 8192  # pictures whose vectors are in memory at once


def tower_features(
    load: str, ids: list[str], paths: list[Path | Member], compute: Compute, label: str, data: str, expected: str, views: int
) -> tuple[Encoder, list[Features] | None]:
    """The encoder with its image tower, and the tower's outputs for the first `views` cuts of the pictures, see cut_features.

    expected: the hash that the model must have.
    """
    encoder = load_encoder(load, ["image"], "cpu", expected=expected)
    return encoder, cut_features(encoder.image_spec, encoder.image.tower, ids, paths, compute, label, views, data)


def key_blocks(encoder: Encoder, features: Sequence[Features]) -> Iterator[NDArray[np.float32]]:
    """Yield blocks (n, dim) of the keys, each of length 1, of the pictures that have features of all views."""
    rows = np.delete(np.arange(len(features[0].rows)), [row for row, _ in left_out(features)])
    for start in range(0, len(rows), BLOCK):
        views = np.stack([view.rows[rows[start : start + BLOCK]] for view in features], 1)
        yield encoder.mean_vectors(torch.from_numpy(views.astype(np.float32))).numpy()
