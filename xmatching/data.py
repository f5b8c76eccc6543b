"""Caption-picture pairs, their inputs (cached tower outputs, tokens or pixels), and the batches of an epoch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from transformers import BatchEncoding

from xvoken.cache.features import Features
from xvoken.cache.texts import TokenFeatures, flat_rows
from xvoken.pictures.batches import Pictures
from xvoken.pictures.view import AnyView
from xvoken.towers.padding import Padding, pad_lines, with_prompt
from xvoken.towers.tokenizer import tokenize


class Inputs(Protocol):
    """Rows of one kind of input, texts or pictures, of which some may be unusable."""

    def rows_count(self) -> int: ...

    def draw(self, epoch: int, seed: int) -> None:
        """Choose the inputs of an epoch, where they differ between epochs."""

    def load(self, rows: NDArray[np.int64]) -> tuple[Any, Tensor]:
        """-> model input for the usable rows (it has `.to(device)`), and the positions of these in `rows`: int64"""


class CachedInputs:
    """Cached outputs of a frozen tower; the rows of several caches follow each other.

    views: float16 (N, V, width) for each cache, used instead of its rows: every epoch draws one of the V views of each row.
    """

    def __init__(self, caches: list[Features], views: list[NDArray[np.float16]] | None = None):
        self.blocks = views or [cache.rows for cache in caches]
        self.starts = np.cumsum([0, *(len(block) for block in self.blocks)])
        self.usable = np.concatenate([np.isin(np.arange(len(cache.rows)), cache.usable) for cache in caches])
        self.views = views[0].shape[1] if views else 0
        self.drawn = np.zeros(len(self.usable), np.int64)

    def rows_count(self) -> int:
        return int(self.starts[-1])

    def draw(self, epoch: int, seed: int) -> None:
        """Choose the view of each row for this epoch."""
        if self.views:
            self.drawn = np.random.default_rng([seed, epoch, self.views]).integers(self.views, size=len(self.usable))

    def load(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """-> float32 (B, width)"""
        good = np.flatnonzero(self.usable[rows])
        index = rows[good]
        out = torch.empty(len(index), self.blocks[0].shape[-1])
        for block, start in zip(self.blocks, self.starts, strict=False):
            inside = np.flatnonzero((index >= start) & (index < start + len(block)))
            local = index[inside] - start
            chosen = block[local, self.drawn[index[inside]]] if self.views else block[local]
            out[torch.from_numpy(inside)] = torch.from_numpy(chosen).float()
        return out, torch.from_numpy(good)


class TokenInputs(Inputs):
    """Token ids for a text tower that is trained."""

    def __init__(self, tokenizer: Any, sentences: list[str], max_tokens: int, prompt: str = ""):
        padding = Padding.for_tokenizer(tokenizer, max_tokens, prompt=prompt)
        self.tokens, self.offsets, self.padding = with_prompt(tokenizer, prompt, padding, *tokenize(tokenizer, sentences))

    def rows_count(self) -> int:
        return len(self.offsets) - 1

    def load(self, rows: NDArray[np.int64]) -> tuple[BatchEncoding, Tensor]:
        """-> ids and mask, int64 (B, T)"""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        ids, mask = pad_lines(self.tokens, self.offsets[rows], lengths, self.padding)
        return BatchEncoding({"ids": ids, "mask": mask}), torch.arange(len(rows))


class TokenStates(Inputs):
    """Cached states of every token; the texts of several caches follow each other."""

    def __init__(self, caches: list[TokenFeatures]):
        self.blocks = [cache.rows for cache in caches]
        self.starts = np.concatenate([cache.offsets[:-1] for cache in caches])
        self.lengths = np.concatenate([np.diff(cache.offsets) for cache in caches])
        self.block = np.repeat(np.arange(len(caches)), [len(cache.offsets) - 1 for cache in caches])

    def rows_count(self) -> int:
        return len(self.starts)

    def load(self, rows: NDArray[np.int64]) -> tuple[BatchEncoding, Tensor]:
        """-> states float32 (B, T, width), mask int64 (B, T)"""
        lengths = self.lengths[rows]
        mask = torch.from_numpy(np.arange(lengths.max(initial=1)) < lengths[:, None])
        states = torch.zeros(*mask.shape, self.blocks[0].shape[1])
        for number, block in enumerate(self.blocks):
            here = self.block[rows] == number
            wanted = block[flat_rows(self.starts[rows[here]], lengths[here])]
            states[mask & torch.from_numpy(here)[:, None]] = torch.from_numpy(wanted).float()
        return BatchEncoding({"states": states, "mask": mask.long()}), torch.arange(len(rows))


class PictureInputs(Inputs):
    """Pixels for an image tower that is trained; pictures that can't be used are left out of the batch."""

    def __init__(self, paths: list[Path], view: AnyView):
        self.pictures = Pictures([str(path) for path in paths], view)

    def rows_count(self) -> int:
        return len(self.pictures)

    def load(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """-> (B, 3, H, W), as the view makes them: uint8 or float32"""
        views = [self.pictures[row] for row in rows.tolist()]
        good = [i for i, view in enumerate(views) if not isinstance(view, str)]
        pixels = default_collate([views[i] for i in good] or [self.pictures.view(Image.new("RGB", (64, 64)))])[: len(good)]
        return pixels, torch.tensor(good, dtype=torch.int64)


@dataclass
class PairBatches(Dataset):
    """Item i: batch i of the epoch as (text input, image input, picture number of each pair).

    text_rows, image_rows: int64 (C,), the inputs of pair i; others: further views of the same pictures, where a picture's vector is the
    mean over several. `plan` sets the batches.
    """

    text: Inputs
    images: Inputs
    text_rows: NDArray[np.int64]
    image_rows: NDArray[np.int64]
    others: list[Inputs] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.batches: list[NDArray[np.int64]] = []

    def plan(self, epoch: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        """Shuffle all pairs for this epoch and cut them into batches of `batch_size` over all processes.

        The order depends on seed and epoch only; a process takes a contiguous share of each batch, so that the
        shares of all processes, one after another, are the batch that a single process would see.
        """
        self.images.draw(epoch, seed)
        order = np.random.default_rng([seed, epoch]).permutation(len(self.text_rows))
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        self.batches = [batch[len(batch) * rank // world : len(batch) * (rank + 1) // world] for batch in batches]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> tuple[Any, Tensor, Tensor]:
        pairs = self.batches[i]
        image, good = self.images.load(self.image_rows[pairs])
        pairs = pairs[good.numpy()]
        text, _ = self.text.load(self.text_rows[pairs])
        return text, image, torch.from_numpy(self.image_rows[pairs])


class SelectedInputs(Inputs):
    """Some rows of other inputs, under new numbers."""

    def __init__(self, inputs: Inputs, rows: NDArray[np.int64]):
        self.inputs, self.rows = inputs, rows

    def rows_count(self) -> int:
        return len(self.rows)

    def load(self, rows: NDArray[np.int64]) -> tuple[Any, Tensor]:
        return self.inputs.load(self.rows[rows])


def carve(train: PairBatches, evaluation: PairBatches, share: float, seed: int) -> tuple[PairBatches, PairBatches]:
    """Hold out a share of the pictures, drawn by `seed`; returns the pairs left to train on, and a gallery to validate on.

    evaluation: the same pairs without augmentation, from which the gallery is taken.
    """
    pictures = np.unique(train.image_rows)
    held = np.random.default_rng(seed).permutation(pictures)[: max(1, round(share * len(pictures)))]
    inside = np.isin(train.image_rows, held)
    kept = PairBatches(train.text, train.images, train.text_rows[~inside], train.image_rows[~inside], train.others)
    images, owner = np.unique(evaluation.image_rows[inside], return_inverse=True)
    texts, sentence = np.unique(evaluation.text_rows[inside], return_inverse=True)
    views = [SelectedInputs(inputs, images) for inputs in (evaluation.images, *evaluation.others)]
    gallery = PairBatches(SelectedInputs(evaluation.text, texts), views[0], sentence, owner, views[1:])
    return kept, gallery
