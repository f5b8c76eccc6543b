"""From the pictures of an image set to their keys: the tower's output from the cache or made now, then the head."""

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
    """The encoder with its image tower, and what that makes of the pictures; None while other shares of the work are missing.

    expected: the hash of the model, where it is known already.
    """
    encoder = load_encoder(load, ["image"], "cpu", expected=expected)
    return encoder, image_features(encoder.image_spec, encoder.image.tower, ids, paths, compute, label, data)


def key_blocks(encoder: Encoder, features: Features) -> Iterator[NDArray[np.float32]]:
    """Vectors of the usable rows, (n, dim) at a time, each of length 1."""
    rows = features.usable
    for start in range(0, len(rows), BLOCK):
        yield encoder.image_vectors(torch.from_numpy(features.rows[rows[start : start + BLOCK]].astype(np.float32))).numpy()
