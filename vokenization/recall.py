"""Recall of captions against keys: encode the captions, and count how many find their pictures."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xvoken.cache.texts import sentence_means, text_features, token_features
from xvoken.encoders.encoder import Encoder
from xvoken.machine import Compute
from xvoken.recall import judge


def measure(
    encoder: Encoder,
    captions: list[tuple[int, str]],
    keys: NDArray[np.float32],
    compute: Compute,
    label: str,
    folds: list[int] | None = None,
) -> dict[str, Any]:
    """The record of xvoken.recall.judge for all captions against all keys.

    captions: (row of its picture's key, text) of each; keys: (N, dim); encoder: loaded with its text tower; label: for progress bars;
    folds: of each key, for figures that are means over folds.
    """
    sentences = list(dict.fromkeys(text for _, text in captions))
    by_token = encoder.level == "token"
    # Captions are cut at the length of training: the recall compares with validation's, and training's cache is used again.
    made = token_features if by_token else text_features
    features = made(encoder.text_spec, encoder.text.tower, encoder.tokenizer, sentences, encoder.max_len, compute, label)
    if by_token:
        text = sentence_means(features, encoder.text_head)
    else:
        text = encoder.text_vectors(torch.from_numpy(features.rows.astype("float32")))
    text_row = {sentence: row for row, sentence in enumerate(sentences)}
    rows = torch.tensor([text_row[sentence] for _, sentence in captions])
    owner = torch.tensor([row for row, _ in captions])
    return judge(text[rows], torch.from_numpy(keys), owner, None if folds is None else torch.tensor(folds))
