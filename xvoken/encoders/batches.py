"""Token ids of many lines in one array, cut into padded batches of similar length."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xvoken.encoders.tokenizer import end_id, special_ids
from xvoken.errors import UserError


@dataclass(frozen=True)
class Padding:
    """The ids around and behind a sentence, and the longest input of the tower, special ids counted in.

    start: None where nothing stands before a sentence (SigLIP); fixed: every input is max_tokens long and the
    tower looks at the padding too, as SigLIP was trained.
    """

    start: int | None
    end: int
    pad: int
    max_tokens: int
    fixed: bool = False

    @classmethod
    def for_tokenizer(cls, tokenizer: Any, max_tokens: int, fixed: bool = False) -> "Padding":
        start, end = (None, end_id(tokenizer)) if fixed else special_ids(tokenizer)
        return cls(start, end, tokenizer.pad_token_id or 0, max_tokens, fixed)

    def lengths(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of the inputs made of sentences of so many tokens, special ids counted in, cut to fit the tower."""
        return np.minimum(tokens + self.specials, self.max_tokens)

    @property
    def specials(self) -> int:
        """How many special ids a sentence gets."""
        return 1 if self.start is None else 2


def batches_by_length(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Rows (positions in `lengths`) of batches, shortest lines first, rows of length 0 left out."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def all_batches(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """The same with the rows of length 0 in a batch of their own, first: a text without tokens is [CLS][SEP] then, and keeps its row."""
    yield np.flatnonzero(lengths == 0)
    yield from batches_by_length(lengths, batch_size)


def require_finite(vectors: NDArray[np.floating], name: Callable[[int], str], precision: str, mend: str = "", unit: bool = False) -> None:
    """Raise UserError for texts without a vector: (n, d) with a row that is not finite, or not of length 1 where it should be (`unit`).

    Not left out, as pictures are: a model that fails on one text is not to be trusted with the others unseen. Not kept: a score
    that is NaN stands above all others. name: what a row is called; mend: what else has to be done then.
    """
    sound = np.isfinite(vectors).all(1)
    if unit:
        sound &= np.linalg.norm(vectors, axis=1) > 0.5  # NaN or 0 where a product or the length overflows
    if len(bad := np.flatnonzero(~sound)):
        others = f" and of {len(bad) - 1} more" if len(bad) > 1 else ""
        lower = "" if precision == "fp32" else ", or take --precision fp32"
        raise UserError(f"{name(int(bad[0]))}: the model's output for it{others} is not finite; leave it out{lower}{mend}")


def shown(text: str) -> str:
    """A text for a message, in quotes."""
    return json.dumps(text if len(text) <= 100 else f"{text[:97]}...", ensure_ascii=False)


def pad_lines(tokens: NDArray[np.int32], starts: NDArray[np.int64], lengths: NDArray[np.int64], padding: Padding) -> tuple[Tensor, Tensor]:
    """The lines tokens[starts[i] : starts[i] + lengths[i]], cut to fit the tower -> ids, mask: int64 (B, T)"""
    lengths = np.minimum(lengths, padding.max_tokens - padding.specials)
    columns = np.arange(lengths.max(initial=0))
    inside = columns < lengths[:, None]  # (B, longest line)
    first = padding.specials - 1  # column of the first token
    ids = np.full((len(lengths), padding.max_tokens if padding.fixed else len(columns) + padding.specials), padding.pad, np.int64)
    if first:
        ids[:, 0] = padding.start
    ids[:, first : first + len(columns)][inside] = tokens[(starts[:, None] + columns)[inside]]
    ids[np.arange(len(ids)), lengths + first] = padding.end
    mask = np.arange(ids.shape[1]) < (lengths + padding.specials)[:, None]
    return torch.from_numpy(ids), torch.from_numpy((mask | padding.fixed).astype(np.int64))
