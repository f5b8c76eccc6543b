"""Retrieval measured over a whole gallery, in both directions; equal scores count as they would in a random order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xvoken.errors import UserError
from xvoken.measures import Numbers, average_precision_at_r, hits_by_picture, intervals
from xvoken.records import TOP, rsum

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


@dataclass
class Places:
    """Where each caption stands when its own picture ranks all captions, int64 (C,) each.

    above: captions that the picture scores strictly higher; equal: captions with exactly that score, the caption itself included;
    right_above, right_equal: how many of these are the picture's own.
    """

    above: Tensor
    equal: Tensor
    right_above: Tensor
    right_equal: Tensor


@dataclass
class Less:
    """What is taken off the scores of the candidates: text (C,) off captions, image (N,) off pictures, the same off equal vectors."""

    text: Tensor
    image: Tensor


@dataclass
class _Scored:
    """The scores of all captions with all pictures, a chunk at a time, to the same bits whenever they are asked for.

    Equal vectors are scored once: in two places of one product their scores may differ in the last bit. text (U, d), image (V, d): the
    distinct ones; sentence (C,), look (N,): which of them each caption and each picture is; said (U,), shown (V,): how often each occurs.
    less: what is taken off the distinct ones' scores as candidates, (U,) and (V,); None: nothing.
    """

    text: Tensor
    sentence: Tensor
    said: Tensor
    image: Tensor
    look: Tensor
    shown: Tensor
    less: Less | None = None

    @classmethod
    def of(cls, text: Tensor, image: Tensor, less: Less | None = None) -> "_Scored":
        found = cls(*_distinct(text), *_distinct(image))
        if less:
            # Of equal vectors any number will do: all are the same.
            own, theirs = torch.empty(len(found.text)), torch.empty(len(found.image))
            own[found.sentence], theirs[found.look] = less.text, less.image
            found.less = Less(own, theirs)
        return found

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row of each chunk and its scores (u, V)."""
        for start in range(0, len(self.text), CHUNK):
            yield start, self.text[start : start + CHUNK] @ self.image.T

    def of_sentences(self) -> Iterator[tuple[int, Tensor]]:
        """As `chunks`, the sentences being the candidates."""
        for start, scores in self.chunks():
            yield start, scores - self.less.text[start : start + CHUNK, None] if self.less else scores


def ranks(text: Tensor, image: Tensor, owner: Tensor, less: Less | None = None) -> tuple[Ranks, Ranks]:
    """Rank every query's counterpart, from captions to pictures and from pictures to captions.

    The first Ranks (C,): each caption's own picture among all pictures. The second (P,): the best of a picture's own captions among
    all captions, for the P pictures that have any, in order.
    text: float32 (C, d), image: float32 (N, d), scored by inner product; owner: int64 (C,), each caption's picture; less: what is taken
    off the scores.
    """
    scored = _Scored.of(text, image, less)
    to_image, own = _to_image(scored, owner)
    return to_image, _to_text(scored, owner, own)


def ranks_and_places(text: Tensor, image: Tensor, owner: Tensor, less: Less | None = None) -> tuple[Ranks, Ranks, Places]:
    """As `ranks`, and where each of a picture's captions stands, not only the best one."""
    scored = _Scored.of(text, image, less)
    to_image, own = _to_image(scored, owner)
    return to_image, _to_text(scored, owner, own), _places(scored, owner, own)


def _to_image(scored: _Scored, owner: Tensor) -> tuple[Ranks, Tensor]:
    """Ranks (C,) from captions to pictures, and each caption's score as a candidate for its own picture, float32 (C,)."""
    sentence, shown = scored.sentence, scored.shown
    order = sentence.argsort(stable=True)
    bounds = torch.searchsorted(sentence[order], torch.tensor([*range(0, len(scored.text), CHUNK), len(scored.text)])).tolist()
    own = torch.empty(len(sentence))
    found = Ranks(*torch.ones(3, len(sentence), dtype=torch.int64))
    for number, (start, scores) in enumerate(scored.chunks()):
        for captions in order[bounds[number] : bounds[number + 1]].split(CHUNK):
            rows = scores[sentence[captions] - start]  # (c, V)
            theirs = scored.look[owner[captions], None]
            own[captions] = rows.gather(1, theirs)[:, 0]
            rows = rows - scored.less.image if scored.less else rows
            best = rows.gather(1, theirs)
            found.above[captions] = _weighted(rows > best, shown)
            found.equal[captions] = _weighted(rows == best, shown)
    return found, own - scored.less.text[sentence] if scored.less else own


def _to_text(scored: _Scored, owner: Tensor, own: Tensor) -> Ranks:
    """Ranks (P,) from pictures to captions; own: as from `_to_image`."""
    pictures, of = owner.unique(return_inverse=True)
    best = torch.full((len(pictures),), -torch.inf).scatter_reduce_(0, of, own, "amax")
    right = torch.zeros(len(pictures), dtype=torch.int64).index_add_(0, of, (own == best[of]).long())
    found = Ranks(torch.zeros_like(right), torch.zeros_like(right), right)
    for start, scores in scored.of_sentences():
        scores, times = scores[:, scored.look[pictures]], scored.said[start : start + CHUNK]
        found.above += _weighted((scores > best).T, times)
        found.equal += _weighted((scores == best).T, times)
    return found


def _places(scored: _Scored, owner: Tensor, own: Tensor) -> Places:
    """Places (C,), in rounds with one caption of each picture; own: as from `_to_image`."""
    pictures, of, counts = owner.unique(return_inverse=True, return_counts=True)
    order, first = of.argsort(stable=True), counts.cumsum(0) - counts
    turn = torch.empty_like(of)
    turn[order] = torch.arange(len(of)) - first[of[order]]
    rounds = [(turn == number).nonzero()[:, 0] for number in range(int(counts.max()))]
    theirs = torch.full((len(pictures), len(rounds)), torch.nan)  # each picture's own scores; nan is neither above nor equal
    theirs[of, turn] = own
    found = Places(*torch.zeros(4, len(of), dtype=torch.int64))
    for captions in rounds:
        found.right_above[captions] = (theirs[of[captions]] > own[captions, None]).sum(1)
        found.right_equal[captions] = (theirs[of[captions]] == own[captions, None]).sum(1)
    for start, scores in scored.of_sentences():
        times = scored.said[start : start + CHUNK]
        for captions in rounds:
            columns = scores.index_select(1, scored.look[owner[captions]])  # (u, c)
            found.above[captions] += _weighted((columns > own[captions]).T, times)
            found.equal[captions] += _weighted((columns == own[captions]).T, times)
    return found


def _distinct(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct rows of (N, d): themselves (U, d), which of them each row equals (N,), and how often each occurs (U,)."""
    rows = np.ascontiguousarray(vectors.numpy() + 0.0)  # -0.0 and 0.0 are equal
    _, first, of, times = np.unique(
        rows.view(f"V{rows.itemsize * rows.shape[1]}")[:, 0], return_index=True, return_inverse=True, return_counts=True
    )
    return torch.from_numpy(rows[first]), torch.from_numpy(of), torch.from_numpy(times)


def _weighted(where: Tensor, times: Tensor) -> Tensor:
    """The marked candidates of each query, where column u stands for times[u] of them: bool (Q, U), int64 (U,) -> int64 (Q,)"""
    if times.max() == 1:
        return torch.from_numpy(np.count_nonzero(where.numpy(), axis=1))  # several times as fast as a sum by torch
    return (where.double() @ times.double()).long()


def recall(found: Ranks) -> dict[str, float]:
    """Expected share of queries with a hit within the top 1, 5, 10, in percent, and the median of the expected ranks."""
    return _rounded(_recall(found))


def _recall(found: Ranks) -> dict[str, float]:
    return {**_at(found), "median_rank": found.expected().quantile(0.5).item()}


def _at(found: Ranks) -> dict[str, float]:
    return {f"R{k}": 100 * found.hit(k).mean().item() for k in TOP}


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    """To three digits, but for the median, which is one of the expected ranks, or lies in the middle of two."""
    return {name: value if name == "median_rank" else round(value, 3) for name, value in figures.items()}


def chance(owner: Tensor, pictures: int) -> dict[str, dict[str, float]]:
    """Recall of a random order, in percent: the recall if all scores were equal. owner: as for `ranks`; pictures: in the gallery."""
    captions, of = len(owner), owner.unique(return_counts=True)[1]
    none = torch.zeros_like(of)
    to_image = Ranks(*torch.tensor([[0], [pictures], [1]]))
    return {"text_to_image": _rounded(_at(to_image)), "image_to_text": _rounded(_at(Ranks(none, none + captions, of)))}


def evaluate(text: Tensor, image: Tensor, owner: Tensor) -> dict[str, Any]:
    """The record that metrics.jsonl and eval/*.json share; arguments as for `ranks`.

    Raises UserError for vectors that are not finite: they can't be ranked.
    """
    _require_finite(text, image)
    to_image, to_text = ranks(text, image, owner)
    return {
        "images": len(image),
        "captions": len(text),
        "text_to_image": recall(to_image),
        "image_to_text": recall(to_text),
        "chance": chance(owner, len(image)),
    }


def judge(text: Tensor, image: Tensor, owner: Tensor, fold: Tensor | None = None, less: Less | None = None) -> dict[str, Any]:
    """The record of `evaluate` with all that is measured once: mean_rank and mAP_R of both directions, rsum, and their intervals.

    mean_rank: the mean of the expected ranks; mAP_R: in percent, see xvoken.measures; from captions to pictures it is R@1, since a
    caption has one picture. interval: see xvoken.measures. fold: int64 (N,), each picture's fold (None: all in one): pictures and
    captions are ranked within their fold, and the figures are the means over the folds. less: what is taken off the scores, pictures being
    the candidates for captions, captions those for pictures (None: nothing). Raises UserError as `evaluate` does.
    """
    _require_finite(text, image)
    fold = torch.zeros(len(image), dtype=torch.int64) if fold is None else fold
    found = [_judge_fold(text, image, owner, fold == number, less) for number in fold.unique()]
    sides = {side: _rounded(_mean([figures[side] for figures, _ in found])) for side in ("text_to_image", "image_to_text")}
    by_chance = {side: _rounded(_mean([figures["chance"][side] for figures, _ in found])) for side in sides}
    record = {"images": len(image), "captions": len(text), **({"folds": len(found)} if len(found) > 1 else {}), **sides}
    return {**record, "rsum": round(rsum(record), 3), "chance": by_chance, "interval": intervals([hits for _, hits in found])}


def _judge_fold(text: Tensor, image: Tensor, owner: Tensor, pictures: Tensor, less: Less | None) -> tuple[dict[str, Any], Numbers]:
    """Figures of the marked pictures (N,) and their captions alone, not rounded, and their rows of `hits_by_picture`."""
    captions = pictures[owner]
    text, image, owner = text[captions], image[pictures], (pictures.cumsum(0) - 1)[owner[captions]]
    less = less and Less(less.text[captions], less.image[pictures])
    to_image, to_text, places = ranks_and_places(text, image, owner, less)
    of = owner.unique(return_inverse=True)[1].numpy()
    hits = hits_by_picture(_hits(to_image), of, _hits(to_text))
    precision = average_precision_at_r(
        places.above.numpy(), places.equal.numpy(), places.right_above.numpy(), places.right_equal.numpy(), of
    )
    first = to_image.hit(1).mean().item()
    figures = {
        "text_to_image": {**_recall(to_image), "mean_rank": to_image.expected().mean().item(), "mAP_R": 100 * first},
        "image_to_text": {**_recall(to_text), "mean_rank": to_text.expected().mean().item(), "mAP_R": 100 * float(precision.mean())},
        "chance": chance(owner, len(image)),
    }
    return figures, hits


def _hits(found: Ranks) -> Numbers:
    return np.column_stack([found.hit(k).numpy() for k in TOP])


def _mean(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(each[name] for each in figures) / len(figures) for name in figures[0]}


def _require_finite(text: Tensor, image: Tensor) -> None:
    for what, vectors in (("sentences", text), ("pictures", image)):
        if bad := int((~vectors.isfinite().all(1)).sum()):
            raise UserError(
                f"the vectors of {bad} of {len(vectors)} {what} are not finite; the training diverged: lower --lr or --tower-lr"
            )
