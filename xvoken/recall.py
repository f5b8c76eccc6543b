"""Retrieval measured over a whole gallery, in both directions; equal scores count as they would in a random order."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xvoken.errors import UserError
from xvoken.records import TOP

CHUNK = 4096  # sentences scored at once: memory stays at CHUNK x pictures


@dataclass
class Ranks:
    """The counts that decide each query's rank, int64 (Q,) each.

    above: candidates that score strictly higher than the query's best correct one; equal: candidates with exactly that score, the
    correct one included; right: how many of the `equal` ones are correct (a picture has several captions).
    """

    above: Tensor
    equal: Tensor
    right: Tensor

    def hit(self, k: int) -> Tensor:
        """Probability that a correct candidate is among the first k when equal scores are put in random order: float64 (Q,)

        With a above and t equal, of which m are right: 1 - C(t - m, k - a) / C(t, k - a), 0 where k <= a.
        """
        equal, wrong = self.equal.double(), (self.equal - self.right).double()
        missed = torch.ones_like(equal)
        for drawn in range(k):  # C(t - m, n) / C(t, n) is the product of (t - m - i) / (t - i) for i < n
            share = (wrong - drawn).clamp(min=0) / (equal - drawn).clamp(min=1)
            missed = torch.where(self.above + drawn < k, missed * share, missed)
        return 1 - missed

    def expected(self) -> Tensor:
        """Mean rank of the first correct candidate over all orders of the equal scores, a + (t + 1) / (m + 1): float64 (Q,)"""
        return self.above + (self.equal + 1) / (self.right.double() + 1)


def ranks(text: Tensor, image: Tensor, owner: Tensor) -> tuple[Ranks, Ranks]:
    """Rank every query's counterpart, from captions to pictures and from pictures to captions.

    The first Ranks (C,): each caption's own picture among all pictures. The second (P,): the best of a picture's own captions among
    all captions, for the P pictures that have any, in order.
    text: float32 (C, d), image: float32 (N, d), scored by inner product; owner: int64 (C,), each caption's picture.
    """
    # Equal vectors are scored once: in two places of one product their scores may differ in the last bit.
    text, sentence, said = _distinct(text)
    image, look, shown = _distinct(image)
    pictures, of = owner.unique(return_inverse=True)
    starts = range(0, len(text), CHUNK)
    order = sentence.argsort(stable=True)
    bounds = torch.searchsorted(sentence[order], torch.tensor([*starts, len(text)])).tolist()

    own = torch.empty(len(sentence))
    to_image = Ranks(*torch.ones(3, len(sentence), dtype=torch.int64))
    for number, start in enumerate(starts):
        scores = text[start : start + CHUNK] @ image.T  # (u, V)
        for captions in order[bounds[number] : bounds[number + 1]].split(CHUNK):
            rows = scores[sentence[captions] - start]  # (c, V)
            own[captions] = rows.gather(1, look[owner[captions], None])[:, 0]
            to_image.above[captions] = _weighted(rows > own[captions, None], shown)
            to_image.equal[captions] = _weighted(rows == own[captions, None], shown)

    best = torch.full((len(pictures),), -torch.inf).scatter_reduce_(0, of, own, "amax")
    right = torch.zeros(len(pictures), dtype=torch.int64).index_add_(0, of, (own == best[of]).long())
    to_text = Ranks(torch.zeros_like(right), torch.zeros_like(right), right)
    for start in starts:  # the same products as in the loop above, so that equal scores stay equal to the bit
        scores, times = (text[start : start + CHUNK] @ image.T)[:, look[pictures]], said[start : start + CHUNK]
        to_text.above += _weighted((scores > best).T, times)
        to_text.equal += _weighted((scores == best).T, times)
    return to_image, to_text


def _distinct(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct rows of (N, d): themselves (U, d), which of them each row equals (N,), and how often each occurs (U,)."""
    rows = np.ascontiguousarray(vectors.numpy() + 0.0)  # -0.0 and 0.0 are equal
    _, first, of, times = np.unique(
        rows.view(f"V{rows.itemsize * rows.shape[1]}")[:, 0], return_index=True, return_inverse=True, return_counts=True
    )
    return torch.from_numpy(rows[first]), torch.from_numpy(of), torch.from_numpy(times)


def _weighted(where: Tensor, times: Tensor) -> Tensor:
    """The marked candidates of each query, where column u stands for times[u] of them: bool (Q, U), int64 (U,) -> int64 (Q,)"""
    return where.sum(1) if times.max() == 1 else (where.double() @ times.double()).long()


def recall(found: Ranks) -> dict[str, float]:
    """Expected share of queries with a hit within the top 1, 5, 10, in percent, and the median of the expected ranks."""
    return {**_at(found), "median_rank": found.expected().quantile(0.5).item()}


def _at(found: Ranks) -> dict[str, float]:
    return {f"R{k}": round(100 * found.hit(k).mean().item(), 3) for k in TOP}


def chance(owner: Tensor, pictures: int) -> dict[str, dict[str, float]]:
    """Recall of a random order, in percent: the recall if all scores were equal. owner: as for `ranks`; pictures: in the gallery."""
    captions, of = len(owner), owner.unique(return_counts=True)[1]
    none = torch.zeros_like(of)
    to_image = Ranks(*torch.tensor([[0], [pictures], [1]]))
    return {"text_to_image": _at(to_image), "image_to_text": _at(Ranks(none, none + captions, of))}


def evaluate(text: Tensor, image: Tensor, owner: Tensor) -> dict[str, Any]:
    """The record that metrics.jsonl and eval/*.json share; arguments as for `ranks`.

    Raises UserError for vectors that are not finite: they can't be ranked.
    """
    for what, vectors in (("sentences", text), ("pictures", image)):
        if bad := int((~vectors.isfinite().all(1)).sum()):
            raise UserError(
                f"the vectors of {bad} of {len(vectors)} {what} are not finite; the training diverged: lower --lr or --tower-lr"
            )
    to_image, to_text = ranks(text, image, owner)
    return {
        "images": len(image),
        "captions": len(text),
        "text_to_image": recall(to_image),
        "image_to_text": recall(to_text),
        "chance": chance(owner, len(image)),
    }
