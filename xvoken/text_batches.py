"""Token ids of many lines in one array, cut into padded batches of similar length."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xvoken.text_towers import special_ids


@dataclass(frozen=True)
class Padding:
    """The ids around and behind a sentence, and the longest input of the tower, special ids counted in."""

    start: int
    end: int
    pad: int
    max_tokens: int

    @classmethod
    def of(cls, tokenizer: Any, max_tokens: int) -> "Padding":
        return cls(*special_ids(tokenizer), tokenizer.pad_token_id or 0, max_tokens)


def tokenize(tokenizer: Any, sentences: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Token ids without special ones, one sentence after another: (N,), and offsets (len(sentences) + 1,)."""
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(sentences, add_special_tokens=False)
    ids = [encoding.ids for encoding in encodings]
    offsets = np.zeros(len(ids) + 1, np.int64)
    np.cumsum(list(map(len, ids)), out=offsets[1:])
    return np.fromiter(chain.from_iterable(ids), np.int32, offsets[-1]), offsets


def batches_by_length(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Rows (positions in `lengths`) of batches, shortest lines first, rows of length 0 left out."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def pad_lines(tokens: NDArray[np.int32], starts: NDArray[np.int64], lengths: NDArray[np.int64], padding: Padding) -> tuple[Tensor, Tensor]:
    """The lines tokens[starts[i] : starts[i] + lengths[i]], cut to fit the tower -> ids, mask: int64 (B, T)"""
    lengths = np.minimum(lengths, padding.max_tokens - 2)
    columns = np.arange(lengths.max(initial=0))
    inside = columns < lengths[:, None]  # (B, T - 2)
    ids = np.full((len(lengths), len(columns) + 2), padding.pad, np.int64)
    ids[:, 0] = padding.start
    ids[:, 1:-1][inside] = tokens[(starts[:, None] + columns)[inside]]
    ids[np.arange(len(ids)), lengths + 1] = padding.end
    mask = np.arange(ids.shape[1]) < (lengths + 2)[:, None]
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))
