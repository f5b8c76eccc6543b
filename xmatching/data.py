"""Caption-picture pairs, their inputs (cached tower outputs, tokens or pixels), and the batches of an epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from transformers import BatchEncoding

from xvoken.features import Features, Pictures
from xvoken.pictures import View
from xvoken.text_batches import Padding, pad_lines, tokenize


class Inputs(Protocol):
    """Rows of one kind of input. `load` also says which of the rows asked for could be used."""

    def rows_count(self) -> int: ...

    def load(self, rows: Sequence[int]) -> tuple[Any, Tensor]:
        """-> model input for the usable rows (has `.to(device)`), and their positions in `rows`: int64"""


class CachedInputs:
    """Outputs of a frozen tower, of several caches one after another; unusable rows were dropped before."""

    def __init__(self, caches: list[Features]):
        self.blocks = [cache.rows for cache in caches]
        self.starts = np.cumsum([0, *(len(block) for block in self.blocks)])

    def rows_count(self) -> int:
        return int(self.starts[-1])

    def load(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """-> float32 (B, width)"""
        index = np.asarray(rows, np.int64)
        out = np.empty((len(index), self.blocks[0].shape[1]), np.float32)
        for block, start in zip(self.blocks, self.starts, strict=False):
            inside = (index >= start) & (index < start + len(block))
            out[inside] = block[index[inside] - start]
        usable = ~np.isnan(out).any(1)
        return torch.from_numpy(out[usable]), torch.from_numpy(np.flatnonzero(usable))


class TokenInputs:
    """Token ids for a text tower that is trained."""

    def __init__(self, tokenizer: Any, sentences: list[str], max_tokens: int):
        self.tokens, self.offsets = tokenize(tokenizer, sentences)
        self.padding = Padding.of(tokenizer, max_tokens)

    def rows_count(self) -> int:
        return len(self.offsets) - 1

    def load(self, rows: Sequence[int]) -> tuple[BatchEncoding, Tensor]:
        """-> ids and mask, int64 (B, T)"""
        index = np.asarray(rows, np.int64)
        ids, mask = pad_lines(self.tokens, self.offsets[index], np.diff(self.offsets)[index], self.padding)
        return BatchEncoding({"ids": ids, "mask": mask}), torch.arange(len(index))


class PictureInputs:
    """Pixels for an image tower that is trained; pictures that can't be used are left out of the batch."""

    def __init__(self, paths: list[Path], view: View):
        self.pictures = Pictures([str(path) for path in paths], view)

    def rows_count(self) -> int:
        return len(self.pictures)

    def load(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """-> uint8 (B, 3, H, W)"""
        views = [self.pictures[row] for row in rows]
        good = [i for i, view in enumerate(views) if not isinstance(view, str)]
        crop = self.pictures.view.crop
        pixels = default_collate([views[i] for i in good]) if good else torch.empty(0, 3, crop, crop, dtype=torch.uint8)
        return pixels, torch.tensor(good, dtype=torch.int64)


@dataclass
class PairBatches(Dataset):
    """Item i: batch i of the epoch as (text input, image input, picture number of each pair).

    text_rows, image_rows: int64 (C,), the inputs of pair i. `plan` sets the batches.
    """

    text: Inputs
    images: Inputs
    text_rows: Tensor
    image_rows: Tensor

    def __post_init__(self) -> None:
        self.batches: list[NDArray[np.int64]] = []

    def plan(self, epoch: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        """Shuffle all pairs for this epoch and cut them into batches of `batch_size` over all processes.

        The order depends on seed and epoch only; a process takes a contiguous share of each batch, so that the
        shares of all processes, one after another, are the batch that a single process would see.
        """
        order = np.random.default_rng([seed, epoch]).permutation(len(self.text_rows))
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        self.batches = [batch[len(batch) * rank // world : len(batch) * (rank + 1) // world] for batch in batches]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> tuple[Any, Tensor, Tensor]:
        pairs = torch.from_numpy(self.batches[i])
        image, good = self.images.load(self.image_rows[pairs].tolist())
        text, _ = self.text.load(self.text_rows[pairs[good]].tolist())
        return text, image, self.image_rows[pairs[good]]
