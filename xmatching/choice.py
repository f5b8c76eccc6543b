"""What is chosen for a matcher with closed-form heads, on pictures held out of the training ones in turn.

One thing after another, each by the sum of the six recalls (R@1, 5, 10, both directions), the mean over the folds: ridge and power of the
canonical correlation analysis together, the number of its directions, the number of epochs that a training goes on from it, the heads'
weights, and how much hubness is taken off. Where several do equally well, the first is taken.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from xmatching.cca import Correlated, Directions, Maps, Pairs
from xmatching.folds import Columns, Fold, Pictures
from xvoken.calibration import CANDIDATES, Calibration
from xvoken.calibration import fit as fit_calibration
from xvoken.encoders.heads import mean_of_views
from xvoken.recall import Less, ranks
from xvoken.records import TOP
from xvoken.search.hubness import taken_off

RIDGES = (1.0, 0.3, 3.0, 0.1, 10.0)
POWERS = (1.0, 2.0, 4.0)
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)
CORRECTIONS = (0.0, 0.25, 0.5, 0.75)
Choice = TypeVar("Choice")


@dataclass
class Sides:
    """What both sides of a fold are, in turn: the towers' outputs, their principal directions, one head's vectors, all heads'; float32.

    text: of its gallery's captions (c, ...); image: of all views of its pictures (p, V, ...), once heads are joined, of the pictures
    (p, ...); bank_text, bank_image: of the bank's; others: of lines that no picture fits (o, ...).
    """

    text: Tensor
    image: Tensor
    bank_text: Tensor
    bank_image: Tensor
    others: Tensor

    @classmethod
    def of(cls, pictures: Pictures, fold: Fold, others: Tensor) -> "Sides":
        """The towers' outputs; others: the text tower's for the other lines."""
        said = [pictures.captions(pairs) for pairs in (fold.pairs, fold.bank_pairs)]
        seen = [pictures.views(places) for places in (fold.gallery, fold.bank)]
        return cls(said[0], seen[0], said[1], seen[1], others)

    @torch.inference_mode()
    def by(self, text: Callable[[Tensor], Tensor], image: Callable[[Tensor], Tensor]) -> "Sides":
        """What these functions make of both sides."""
        return Sides(text(self.text), image(self.image), text(self.bank_text), image(self.bank_image), text(self.others))

    @classmethod
    def joined(cls, parts: "list[Sides]", weights: Iterable[float] = (1.0,)) -> "Sides":
        """The vectors of several heads, weighted as xvoken.encoders.heads.JoinedHead does, a picture's the mean over its views."""
        factors = [weight**0.5 for weight in weights]
        columns = [[f * getattr(part, side.name) for f, part in zip(factors, parts, strict=True)] for side in fields(cls)]
        whole = [F.normalize(torch.cat(column, -1), dim=-1) for column in columns]
        return cls(*(mean_of_views(side) if side.ndim == 3 else side for side in whole))

    def less(self, correction: float) -> Less | None:
        """What is taken off the scores of vectors for the hubness in the bank."""
        if not correction:
            return None
        return taken_off(*(side.numpy() for side in (self.text, self.image, self.bank_text, self.bank_image)), correction)


def recall_sum(fold: Fold, vectors: Sides, correction: float = 0.0) -> float:
    """The sum of the six recalls in a fold's gallery, in percent."""
    sides = ranks(vectors.text, vectors.image, fold.owner, vectors.less(correction))
    return sum(100 * side.hit(k).mean().item() for side in sides for k in TOP)


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
    """Canonical correlation analysis of the training pairs, and of the pairs outside each fold; projected: the folds' outputs."""

    text: Directions
    image: Directions
    total: Pairs
    outside: list[Correlated]
    projected: list[Sides]

    @classmethod
    def of(cls, pictures: Pictures, folds: list[Fold], outputs: list[Sides], columns: Columns, rank: int) -> "Analysis":
        text, image = pictures.directions(columns, rank)
        inside = [pictures.sums(fold.held, columns, text, image) for fold in folds]
        total = inside[0]
        for sums in inside[1:]:
            total = total.plus(sums)
        outside = [Correlated(total.less(sums)) for sums in inside]
        projected = [
            sides.by(lambda rows: text(rows[:, slice(*columns.text)]).float(), lambda rows: image(rows[..., slice(*columns.image)]).float())
            for sides in outputs
        ]
        return cls(text, image, total, outside, projected)

    def vectors(self, number: int, maps: Maps) -> Sides:
        """The vectors of fold `number` by these maps."""

        def along(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda rows: F.normalize(F.linear(rows, weight, bias), dim=-1)

        return self.projected[number].by(along(*maps.text), along(*maps.image))

    def choose(self, chooser: Chooser, dim: int, ridge: float | None, power: float | None) -> tuple[float, float, int]:
        """Ridge, power and number of directions; those that are given are not chosen."""

        def scored(option: tuple[float, float], number: int, directions: int = dim) -> float:
            vectors = self.vectors(number, self.outside[number].solve(option[0]).maps(option[1], directions, dim))
            return recall_sum(chooser.folds[number], Sides.joined([vectors]))

        options = [(r, p) for r in (RIDGES if ridge is None else (ridge,)) for p in (POWERS if power is None else (power,))]
        ridge, power = chooser.best("ridge, power", options, scored)
        sizes = [size for size in (dim, dim // 2, dim // 4) if size]
        return ridge, power, chooser.best("directions", sizes, lambda size, number: scored((ridge, power), number, size))


def choose_weights(chooser: Chooser, parts: list[list[Sides]], given: list[float] | None) -> list[float]:
    """The heads' weights, the first one's 1 and the others' one after another; parts: of each head, the vectors of the first folds."""
    if given:
        return given
    weights = [1.0]
    for place in range(1, len(parts)):
        known = list(weights)

        def scored(weight: float, number: int, known: list[float] = known, place: int = place) -> float:
            vectors = [part[number] for part in parts[: place + 1]]
            return recall_sum(chooser.folds[number], Sides.joined(vectors, [*known, weight]))

        weights.append(chooser.best(f"weight of head {place + 1}", WEIGHTS, scored, len(parts[0])))
    return weights


def choose_correction(chooser: Chooser, vectors: list[Sides], given: float | None) -> float:
    """How much of the hubness is taken off."""
    options = CORRECTIONS if given is None else (given,)
    return chooser.best("hubness", options, lambda a, number: recall_sum(chooser.folds[number], vectors[number], a), len(vectors))


def calibrate(folds: list[Fold], vectors: list[Sides], correction: float) -> Calibration:
    """From scores to the probability that the best picture is right; vectors: of the first folds."""
    asked, right, strange = [], [], []
    for fold, sides in zip(folds, vectors, strict=False):
        less = sides.less(correction)
        off = less.image - less.image.mean() if less else 0.0  # the mean depends on the bank, and is no matter of the picture
        asked.append(_best(sides.text @ sides.image.T - off))
        strange.append(_best(sides.others @ sides.image.T - off))
        right.append(ranks(sides.text, sides.image, fold.owner, less)[0].hit(1).numpy())
    return fit_calibration(np.concatenate(asked), np.concatenate(right), np.concatenate(strange))


def _best(scores: Tensor) -> NDArray[np.float32]:
    """The best CANDIDATES scores of each row, descending; -inf where there are fewer pictures."""
    found = scores.topk(min(CANDIDATES, scores.shape[1])).values
    return F.pad(found, (0, CANDIDATES - found.shape[1]), value=-torch.inf).numpy()
