"""How much of a dual encoder's own score is left where heads learnt from captions are joined with it: --head own,cca.

The idea is that of WiSE-FT (Wortsman et al., CVPR 2022), which interpolates the weights of the model before and after fine-tuning; here
scores are interpolated. The share is chosen on held-out pictures, from none to all of the score. Where what is learnt finds no more there
than the own score does, by more than chance explains, nothing of it is taken.
"""

import torch
from torch import Tensor

from xmatching.choice import Chooser, Sides, choose_correction, choose_weights, recall_sum
from xmatching.folds import Fold
from xvoken.recall import ranks
from xvoken.records import TOP

SHARES = tuple(number / 20 for number in range(21))  # of the score that a head gets, the rest being that of the heads before it
ERRORS = 2.0  # so many standard errors has the gain to be above 0: shares, ridge and power were chosen on the same pictures


def weights_of(names: list[str], chooser: Chooser, vectors: list[list[Sides]], given: list[float] | None) -> list[float]:
    """The weights of the heads of these names: given, else chosen; of a dual encoder's own score, its share is."""
    if "own" in names and not given:
        return choose_shares(chooser, vectors, names.index("own"))
    return choose_weights(chooser, vectors, given)


def choose_shares(chooser: Chooser, parts: list[list[Sides]], own: int) -> list[float]:
    """The heads' weights, 1 in all, one head's share after another; parts: of each head, the vectors of the first folds.

    own: the number of the head `own`. Its weight is 1 and the others' 0 where they find no more than it does.
    """
    weights, folds = [1.0], len(parts[0])
    for place in range(1, len(parts)):
        options = {share: mixed(weights, share) for share in SHARES}

        def scored(share: float, number: int, options: dict[float, list[float]] = options, place: int = place) -> float:
            return recall_sum(chooser.folds[number], Sides.joined([part[number] for part in parts[: place + 1]], options[share]))

        weights = options[chooser.best(f"share of head {place + 1}", SHARES, scored, folds)]
    alone = [float(number == own) for number in range(len(parts))]

    def by(weights: list[float]) -> list[Sides]:
        return [Sides.joined([part[number] for part in parts], weights) for number in range(folds)]

    return weights if _is_gain(chooser, "gain over its own score", (by(weights), 0.0), (by(alone), 0.0)) else alone


def mixed(weights: list[float], share: float) -> list[float]:
    """The weights of heads before one that gets a share of the whole, and its own."""
    return [*(round(weight * (1 - share), 6) for weight in weights), share]


def correction_of(names: list[str], chooser: Chooser, vectors: list[Sides], given: float | None) -> float:
    """How much hubness is taken off: given, else chosen; off a dual encoder's own score only what is a gain, too."""
    found = choose_correction(chooser, vectors, given)
    if given is not None or "own" not in names or not found:
        return found
    return found if _is_gain(chooser, "gain by hubness", (vectors, found), (vectors, 0.0)) else 0.0


def _is_gain(chooser: Chooser, what: str, found: tuple[list[Sides], float], plain: tuple[list[Sides], float]) -> bool:
    """Whether vectors, with a correction, find more than the plain ones do, by ERRORS standard errors over the pictures.

    Of a single picture there is no standard error: then not.
    """
    one, other = (
        torch.cat([by_picture(fold, sides, correction) for fold, sides in zip(chooser.folds, vectors, strict=False)])
        for vectors, correction in (found, plain)
    )
    more = one - other
    gain, error = more.mean().item(), more.std().item() / len(more) ** 0.5 if len(more) > 1 else 0.0
    chooser.scores[what] = {"recall": round(gain, 3), "standard error": round(error, 3)}
    return len(more) > 1 and gain > ERRORS * error


def by_picture(fold: Fold, vectors: Sides, correction: float = 0.0) -> Tensor:
    """Each gallery picture's part in the sum of the six recalls, in percent: float64 (p,), whose mean is the sum."""
    sides = ranks(vectors.text, vectors.image, fold.owner, vectors.less(correction))
    to_image, to_text = (100 * torch.stack([side.hit(k) for k in TOP]).sum(0) for side in sides)
    said = torch.zeros_like(to_text).index_add_(0, fold.owner, to_image)
    return said * len(to_text) / len(to_image) + to_text
