"""Which outputs of the towers canonical correlation analysis takes: those whose neighbourhoods agree most.

The measure is mutual k-nearest-neighbour agreement (Huh et al., The Platonic Representation Hypothesis, ICML 2024), by which STRUCTURE
(Gröger et al., NeurIPS 2025) chooses the layers to align.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xmatching.folds import Columns, Pictures
from xvoken.measures import spread

NEIGHBOURS, MOST = 10, 1000  # of each picture; pictures compared


def agreement(one: Tensor, other: Tensor, neighbours: int = NEIGHBOURS) -> float:
    """Mean share of each row's nearest neighbours (by cosine of standardized columns) that (n, a) and (n, b) have in common."""
    neighbours = min(neighbours, len(one) - 1)
    found = []
    for rows in (one, other):
        rows = F.normalize((rows - rows.mean(0)) / rows.std(0).clamp(min=1e-6), dim=-1)
        nearest = (rows @ rows.T).fill_diagonal_(-torch.inf).topk(neighbours).indices
        found.append(torch.zeros(len(rows), len(rows)).scatter_(1, nearest, 1))
    return (found[0] * found[1]).sum().item() / (neighbours * len(one))


def choose(pictures: Pictures, text: list[list[int]], image: list[list[int]]) -> tuple[Columns, dict[str, float]]:
    """The columns of both towers that agree most; text, image: the candidates, [start, stop].

    Returns what each combination's agreement is too.
    """
    places = spread(len(pictures), MOST)
    pairs, owner = pictures.pairs(places)
    captions = pictures.captions(pairs)
    said = torch.zeros(len(places), captions.shape[1]).index_add_(0, owner, captions) / owner.bincount()[:, None]
    seen = pictures.views(places)[:, 0]
    options = [Columns(a, b) for a in text for b in image]
    if len(options) == 1 or len(places) < 3:
        return options[0], {}
    found = [agreement(said[:, slice(*option.text)], seen[:, slice(*option.image)]) for option in options]
    scores = {f"text {o.text[0]}:{o.text[1]}, image {o.image[0]}:{o.image[1]}": round(a, 4) for o, a in zip(options, found, strict=True)}
    return options[int(np.argmax(found))], scores
