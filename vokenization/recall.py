"""Captions against keys: their vectors, and how many find their pictures."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xvoken.cache.texts import sentence_means, text_features, token_features
from xvoken.encoders.encoder import Encoder
from xvoken.machine import Compute
from xvoken.recall import evaluate


def measure(encoder: Encoder, captions: list[tuple[int, str]], keys: NDArray[np.float32], compute: Compute, label: str) -> dict[str, Any]:
    """The record of all captions (row of the key, text) against all keys (N, dim). encoder: with its text tower."""
    sentences = list(dict.fromkeys(text for _, text in captions))
    by_token = encoder.level == "token"
    # Cut as in training, whose validation measured the same, and whose cache is found again.
    made = token_features if by_token else text_features
    features = made(encoder.text_spec, encoder.text.tower, encoder.tokenizer, sentences, encoder.max_len, compute, label)
    if by_token:
        text = sentence_means(features, encoder.text_head)
    else:
        text = encoder.text_vectors(torch.from_numpy(features.rows.astype("float32")))
    text_row = {sentence: row for row, sentence in enumerate(sentences)}
    rows = torch.tensor([text_row[sentence] for _, sentence in captions])
    return evaluate(text[rows], torch.from_numpy(keys), torch.tensor([row for row, _ in captions]))
