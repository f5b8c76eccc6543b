"""The training pairs as canonical correlation analysis and its choices take them: picture by picture, in blocks, and in folds."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xmatching.cca import Directions, Moments, Pairs
from xmatching.data import PairBatches
from xvoken.measures import spread

FOLDS = 5
BLOCK = 256  # pictures in memory at once
PROBES = 8
GALLERY, BANK = 500, 1024  # most pictures of a fold that a choice ranks; most captions, and pictures, of the rest that it corrects with


@dataclass
class Columns:
    """[start, stop] of the towers' outputs."""

    text: list[int]
    image: list[int]


class Pictures:
    """The pictures of training pairs that have captions; `place` numbers below count within these.

    rows: int64 (P,), their rows; owner: int64 (C,), each pair's place, ascending; texts: int64 (C,), each pair's text row.
    """

    def __init__(self, data: PairBatches):
        self.data = data
        order = np.argsort(data.image_rows, kind="stable")
        self.rows, self.owner = np.unique(data.image_rows[order], return_inverse=True)
        self.texts = data.text_rows[order]
        self.ends = np.concatenate([[0], np.cumsum(np.bincount(self.owner, minlength=len(self.rows)))])

    def __len__(self) -> int:
        return len(self.rows)

    def views(self, places: NDArray[np.int64]) -> Tensor:
        """The image tower's outputs for all views of these pictures: float32 (p, V, width)"""
        inputs = [self.data.images, *self.data.others]
        return torch.stack([one.load(self.rows[places])[0] for one in inputs], 1)

    def pairs(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor]:
        """The numbers of these pictures' pairs, and which of `places` each is of: int64 (c,), int64 (c,)"""
        pairs = np.concatenate([np.arange(self.ends[place], self.ends[place + 1]) for place in places])
        return pairs, torch.from_numpy(np.repeat(np.arange(len(places)), self.ends[places + 1] - self.ends[places]))

    def captions(self, pairs: NDArray[np.int64]) -> Tensor:
        """The text tower's outputs for the captions of these pairs: float32 (c, width)"""
        return self.data.text.load(self.texts[pairs])[0]

    def blocks(self, places: NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield views (p, V, width), captions (c, width) and the captions' pictures within the block (c,)."""
        for start in range(0, len(places), BLOCK):
            some = places[start : start + BLOCK]
            pairs, owner = self.pairs(some)
            yield self.views(some), self.captions(pairs), owner

    def copies(self) -> NDArray[np.int64]:
        """For each place the first one of the same picture, by the image tower's output: int64 (P,)

        In PROBES random directions, to a thousandth of their spread: a batch of another size rounds otherwise.
        """
        outputs = (self.data.images.load(self.rows[start : start + BLOCK])[0].double() for start in range(0, len(self), BLOCK))
        draw = torch.Generator()
        found = torch.cat([rows @ torch.randn(rows.shape[1], PROBES, generator=draw.manual_seed(0)).double() for rows in outputs])
        steps = (1000 * (found - found.mean(0)) / found.std(0, correction=0).clamp_min(1e-9)).round().numpy()
        _, first, which = np.unique(steps, axis=0, return_index=True, return_inverse=True)
        return first[which.reshape(-1)]

    def directions(self, columns: Columns, rank: int) -> tuple[Directions, Directions]:
        """The principal directions of the captions' and of the pictures' outputs, a picture counted once for each caption."""
        text, image = Moments(columns.text[1] - columns.text[0]), Moments(columns.image[1] - columns.image[0])
        for views, captions, owner in self.blocks(np.arange(len(self))):
            text.add(captions[:, slice(*columns.text)], torch.ones(len(captions)))
            times = torch.bincount(owner, minlength=len(views)).repeat_interleave(views.shape[1])
            image.add(views.flatten(0, 1)[:, slice(*columns.image)], times)
        return Directions.of(text, rank), Directions.of(image, rank)

    def sums(self, places: NDArray[np.int64], columns: Columns, text: Directions, image: Directions) -> Pairs:
        """The sums over the pairs of these pictures, in these directions."""
        found = Pairs.none(image.basis.shape[1], text.basis.shape[1])
        for views, captions, owner in self.blocks(places):
            found.add(image(views[..., slice(*columns.image)]), text(captions[:, slice(*columns.text)]), owner)
        return found


@dataclass
class Fold:
    """Pictures held out, and the rest.

    held, rest: int64, places; gallery: at most GALLERY of `held`, pairs (c,) and owner (c,): their captions; bank_pairs, bank: at most
    BANK pairs and places of the rest. All are evenly spread, as image sets follow each other.
    """

    held: NDArray[np.int64]
    rest: NDArray[np.int64]
    gallery: NDArray[np.int64]
    pairs: NDArray[np.int64]
    owner: Tensor
    bank_pairs: NDArray[np.int64]
    bank: NDArray[np.int64]

    @classmethod
    def of(cls, pictures: Pictures, held: NDArray[np.int64]) -> "Fold":
        rest = np.setdiff1d(np.arange(len(pictures)), held)
        gallery = held[spread(len(held), GALLERY)]
        pairs, owner = pictures.pairs(gallery)
        others = pictures.pairs(rest)[0]
        return cls(held, rest, gallery, pairs, owner, others[spread(len(others), BANK)], rest[spread(len(rest), BANK)])


def folds_of(pictures: Pictures, seed: int) -> list[Fold]:
    """The pictures in FOLDS parts drawn by `seed` (fewer if there are fewer pictures), each held out in turn.

    Copies of a picture go with the first one: what was learnt from the one would be found again by the other.
    """
    order, number = np.random.default_rng(seed).permutation(len(pictures)), np.empty(len(pictures), np.int64)
    parts = np.array_split(order, min(FOLDS, len(pictures)))
    for fold, places in enumerate(parts):
        number[places] = fold
    number = number[pictures.copies()]
    held = [np.flatnonzero(number == fold) for fold in range(len(parts))]
    some = [places for places in held if 0 < len(places) < len(pictures)]  # none where all are one picture
    return [Fold.of(pictures, places) for places in some or map(np.sort, parts)]
