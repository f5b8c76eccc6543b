"""The keys of an image set's pictures: the tower's outputs, from the cache or computed now, then the head."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from xvoken.cache.features import Features
from xvoken.cache.images import image_features
from xvoken.encoders.encoder import Encoder, load_encoder
from xvoken.machine import Compute
from xvoken.pictures.sources import Member

BLOCK = 8192  # pictures whose vectors are in memory at once


def tower_features(
    load: str, ids: list[str], paths: list[Path | Member], compute: Compute, label: str, data: str, expected: str | None = None
) -> tuple[Encoder, Features | None]:
    """The encoder with its image tower, and the tower's outputs for the pictures; None while other shares of the work are missing.

    expected: the hash that the model must have, if it is known already.
    """
    encoder = load_encoder(load, ["image"], "cpu", expected=expected)
    return encoder, image_features(encoder.image_spec, encoder.image.tower, ids, paths, compute, label, data)


def key_blocks(encoder: Encoder, features: Features) -> Iterator[NDArray[np.float32]]:
    """Yield blocks (n, dim) of the vectors of the usable rows, each of length 1."""
    rows = features.usable
    for start in range(0, len(rows), BLOCK):
        yield encoder.image_vectors(torch.from_numpy(features.rows[rows[start : start + BLOCK]].astype(np.float32))).numpy()
