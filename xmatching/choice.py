"""What is chosen for a matcher with closed-form heads, on pictures held out of the training ones in turn.

One thing after another, each by the sum of the six recalls (R@1, 5, 10, both directions), the mean over the folds: ridge and power of the
canonical correlation analysis together, the number of its directions, the number of epochs that a training goes on from it, the heads'
weights, and how much hubness is taken off. Where several do equally well, the first is taken.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xmatching.cca import Correlated, Directions, Maps, Pairs, Solution
from xmatching.folds import Columns, Fold, Pictures
from xmatching.metric import taken_off
from xvoken.encoders.snapshot import Bank
from xvoken.recall import Less, ranks
from xvoken.records import TOP

RIDGES = (1.0, 0.3, 3.0, 0.1, 10.0)
POWERS = (1.0, 2.0, 4.0)
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
CORRECTIONS = (0.0, 0.25, 0.5, 0.75)
Choice = TypeVar("Choice")


@dataclass
class Vectors:
    """One head's vectors of a fold, float32, each of length 1: of its gallery's captions (c, d) and pictures (p, d), and of the bank's."""

    text: Tensor
    image: Tensor
    bank_text: Tensor
    bank_image: Tensor

    @classmethod
    def of(cls, fold: Fold, text: Callable[[Any], Tensor], image: Callable[[Any], Tensor]) -> "Vectors":
        """text: from the numbers of pairs to vectors (c, d); image: from places to vectors of all views (p, V, d)."""
        images = [F.normalize(image(places).mean(1), dim=-1) for places in (fold.gallery, fold.bank)]
        return cls(text(fold.pairs), images[0], text(fold.bank_pairs), images[1])

    @classmethod
    def joined(cls, parts: "list[Vectors]", weights: Iterable[float]) -> "Vectors":
        """Weighted as xvoken.encoders.heads.JoinedHead does."""
        factors = [weight**0.5 for weight in weights]
        names = ("text", "image", "bank_text", "bank_image")
        columns = [[f * getattr(part, name) for f, part in zip(factors, parts, strict=True)] for name in names]
        return cls(*(F.normalize(torch.cat(column, -1), dim=-1) for column in columns))

    def less(self, correction: float) -> Less:
        """What is taken off the scores for the hubness in the bank."""
        return taken_off(self.text, self.image, Bank(self.bank_text, self.bank_image), correction)


def recall_sum(fold: Fold, vectors: Vectors, correction: float = 0.0) -> float:
    """The sum of the six recalls in a fold's gallery, in percent."""
    less = vectors.less(correction) if correction else None
    return sum(100 * side.hit(k).mean().item() for side in ranks(vectors.text, vectors.image, fold.owner, less) for k in TOP)


@dataclass
class Chooser:
    """Tries candidates in all folds, and keeps what each scored."""

    folds: list[Fold]
    scores: dict[str, dict[str, float]] = field(default_factory=dict)

    def best(self, what: str, options: Iterable[Choice], score: Callable[[Choice, int], float], folds: int | None = None) -> Choice:
        """The option whose mean score over the folds (the first so many) is highest; score: of an option and the number of a fold."""
        options, numbers = list(options), range(folds or len(self.folds))
        if len(options) == 1:
            return options[0]
        found = [round(float(np.mean([score(option, number) for number in numbers])), 3) for option in options]
        self.scores[what] = {str(option): value for option, value in zip(options, found, strict=True)}
        return options[int(np.argmax(found))]


@dataclass
class Analysis:
    """Canonical correlation analysis of the training pairs, and of the pairs outside each fold."""

    columns: Columns
    text: Directions
    image: Directions
    total: Pairs
    outside: list[Correlated]
    projected: "list[Projected]"

    @classmethod
    def of(cls, pictures: Pictures, folds: list[Fold], columns: Columns, rank: int) -> "Analysis":
        text, image = pictures.directions(columns, rank)
        inside = [pictures.sums(fold.held, columns, text, image) for fold in folds]
        total = inside[0]
        for sums in inside[1:]:
            total = total.plus(sums)
        outside = [Correlated(total.less(sums)) for sums in inside]
        return cls(columns, text, image, total, outside, [Projected.of(pictures, fold, columns, text, image) for fold in folds])

    def vectors(self, number: int, maps: Maps) -> Vectors:
        """The vectors of fold `number` by these maps."""
        return self.projected[number].vectors(maps)

    def choose(self, chooser: Chooser, dim: int, ridge: float | None, power: float | None) -> tuple[float, float, int]:
        """Ridge, power and number of directions; those that are given are not chosen."""
        solutions: dict[tuple[float, int], Solution] = {}

        def scored(option: tuple[float, float], number: int, directions: int = dim) -> float:
            if (key := (option[0], number)) not in solutions:
                solutions[key] = self.outside[number].solve(option[0])
            return recall_sum(chooser.folds[number], self.vectors(number, solutions[key].maps(option[1], directions, dim)))

        options = [(r, p) for r in (RIDGES if ridge is None else (ridge,)) for p in (POWERS if power is None else (power,))]
        ridge, power = chooser.best("ridge, power", options, scored)
        sizes = [size for size in (dim, dim // 2, dim // 4) if size]
        return ridge, power, chooser.best("directions", sizes, lambda size, number: scored((ridge, power), number, size))


@dataclass
class Projected:
    """A fold's outputs in the principal directions, float32: its gallery's captions (c, s) and views (p, V, r), and the bank's."""

    text: Tensor
    image: Tensor
    bank_text: Tensor
    bank_image: Tensor

    @classmethod
    def of(cls, pictures: Pictures, fold: Fold, columns: Columns, text: Directions, image: Directions) -> "Projected":
        said = [text(pictures.captions(pairs)[:, slice(*columns.text)]).float() for pairs in (fold.pairs, fold.bank_pairs)]
        seen = [image(pictures.views(places)[..., slice(*columns.image)]).float() for places in (fold.gallery, fold.bank)]
        return cls(said[0], seen[0], said[1], seen[1])

    def vectors(self, maps: Maps) -> Vectors:
        said = [F.normalize(F.linear(rows, *maps.text), dim=-1) for rows in (self.text, self.bank_text)]
        seen = [F.normalize(F.linear(rows, *maps.image), dim=-1) for rows in (self.image, self.bank_image)]
        means = [F.normalize(vectors.mean(1), dim=-1) for vectors in seen]
        return Vectors(said[0], means[0], said[1], means[1])


def choose_weights(chooser: Chooser, parts: list[list[Vectors]], given: list[float] | None) -> list[float]:
    """The heads' weights, the first one's 1 and the others' one after another; parts: of each head, the vectors of the first folds."""
    if given:
        return given
    weights = [1.0]
    for place in range(1, len(parts)):
        known = list(weights)

        def scored(weight: float, number: int, known: list[float] = known, place: int = place) -> float:
            vectors = [part[number] for part in parts[: place + 1]]
            return recall_sum(chooser.folds[number], Vectors.joined(vectors, [*known, weight]))

        weights.append(chooser.best(f"weight of head {place + 1}", WEIGHTS, scored, len(parts[0])))
    return weights


def choose_correction(chooser: Chooser, vectors: list[Vectors], given: float | None) -> float:
    """How much of the hubness is taken off."""
    options = CORRECTIONS if given is None else (given,)
    return chooser.best("hubness", options, lambda a, number: recall_sum(chooser.folds[number], vectors[number], a), len(vectors))
