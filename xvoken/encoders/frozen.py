"""Towers that are not trained, ready on a device: the one place where tower, padding, precision and TF32 meet."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from xvoken.encoders.batches import Padding, pad_lines
from xvoken.encoders.image import for_inference
from xvoken.encoders.precision import autocast, cast_weights, upload
from xvoken.encoders.tokenizer import tokenize


@contextmanager
def _computing(device: str, precision: str) -> Iterator[None]:
    """No gradients, in this precision; fp32 is fp32 on a GPU too, where convolutions are in TF32, of 10 bits, if nothing is said."""
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.inference_mode(), autocast(device, precision):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32


class FrozenText:
    """A text tower and its tokenizer.

    tower: ids, mask -> features, see xvoken.encoders.text.TextTower; it is changed for the precision.
    max_tokens: the longest input, special tokens counted in; the tower's own at most, which is also the default.
    """

    def __init__(
        self, tower: nn.Module, tokenizer: PreTrainedTokenizerBase, device: str = "cpu", precision: str = "fp32",
        max_tokens: int | None = None,
    ):  # fmt: skip
        self.tokenizer, self.device, self.precision, self.width = tokenizer, device, precision, tower.width
        self.tower = cast_weights(tower, precision).to(device)
        self.padding = Padding.for_tokenizer(tokenizer, min(max_tokens or tower.max_tokens, tower.max_tokens), tower.fixed_length)

    def tokenize(self, sentences: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Token ids without special ones, one sentence after another: (N,), and offsets (len(sentences) + 1,)."""
        return tokenize(self.tokenizer, sentences)

    def cut(self, lengths: NDArray[np.int64]) -> int:
        """How many texts of these lengths, in tokens, are longer than the tower takes."""
        return int((lengths + self.padding.specials > self.padding.max_tokens).sum())

    def features(
        self, tokens: NDArray[np.int32], offsets: NDArray[np.int64], batches: Iterable[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Batches of lines (rows of offsets) -> rows (B,), features (B, width) on the device; empty batches are left out.

        On a GPU the output may still be in the making: take all batches before the first is copied back, and it never waits.
        """
        for rows, ids, mask in self._inputs(tokens, offsets, batches):
            with _computing(self.device, self.precision):
                out = self.tower(ids, mask)
            yield rows, out

    def states(
        self, tokens: NDArray[np.int32], offsets: NDArray[np.int64], batches: Iterable[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
        """The same for every token: rows (B,), states (B, T, width), mask int64 (B, T), special tokens counted in."""
        for rows, ids, mask in self._inputs(tokens, offsets, batches):
            with _computing(self.device, self.precision):
                out = self.tower.tokens(ids, mask)
            yield rows, out, mask

    def _inputs(
        self, tokens: NDArray[np.int32], offsets: NDArray[np.int64], batches: Iterable[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
        lengths = np.diff(offsets)
        for rows in filter(len, batches):
            ids, mask = (upload(tensor, self.device) for tensor in pad_lines(tokens, offsets[rows], lengths[rows], self.padding))
            yield rows, ids, mask


class FrozenImage:
    """An image tower.

    tower: pixels -> features, see xvoken.encoders.image.ImageTower; it is changed for the precision. view: how a picture becomes pixels.
    """

    def __init__(self, tower: nn.Module, device: str = "cpu", precision: str = "fp32"):
        self.device, self.precision, self.view, self.width = device, precision, tower.view, tower.width
        self.tower = for_inference(tower, precision).to(device)

    def features(self, pixels: Tensor) -> Tensor:
        """pixels: uint8 (B, 3, H, W), on any device -> (B, width) on the tower's; may still be in the making there"""
        with _computing(self.device, self.precision):
            return self.tower(upload(pixels, self.device))
