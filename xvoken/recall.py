"""Retrieval measured over a whole gallery, in both directions."""

from typing import Any

import torch
from torch import Tensor

from xvoken.messages import UserError

TOP = (1, 5, 10)
CHUNK = 4096  # captions scored at once: memory stays at CHUNK x pictures


def ranks(text: Tensor, image: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Rank of what belongs together: 1 + the number of scores strictly above it, so that ties are hits.

    text: float32 (C, d), image: float32 (N, d), scored by inner product; owner: int64 (C,), each caption's picture.
    Returns, int64: (C,) rank of its picture for each caption; and for each picture that has captions, in order,
    the rank of the best of them among all captions.
    """
    to_image = torch.empty(len(text), dtype=torch.int64)
    best = torch.full((len(image),), -torch.inf)
    for start in range(0, len(text), CHUNK):
        owners = owner[start : start + CHUNK]
        scores = text[start : start + CHUNK] @ image.T  # (c, N)
        own = scores.gather(1, owners[:, None])  # (c, 1)
        to_image[start : start + CHUNK] = 1 + (scores > own).sum(1)
        best.scatter_reduce_(0, owners, own[:, 0], "amax")
    above = torch.zeros(len(image), dtype=torch.int64)
    for start in range(0, len(text), CHUNK):  # the same products again: equal scores must stay equal to the bit
        above += (text[start : start + CHUNK] @ image.T > best).sum(0)
    return to_image, 1 + above[owner.unique()]


def recall(rank: Tensor) -> dict[str, float]:
    """Share of ranks within the top 1, 5, 10, in percent, and the median rank."""
    at = {f"R{k}": round(100 * (rank <= k).double().mean().item(), 3) for k in TOP}
    return {**at, "median_rank": rank.double().quantile(0.5).item()}


def chance(owner: Tensor, pictures: int) -> dict[str, dict[str, float]]:
    """Expected recall of a random order, in percent.

    Text to image k / N. Image to text, for a picture with n of the C captions: 1 - C(C-n, k) / C(C, k).
    """
    captions, of = len(owner), owner.unique(return_counts=True)[1].double()
    to_image = {f"R{k}": round(100 * min(1.0, k / pictures), 3) for k in TOP}
    to_text = {}
    for k in TOP:
        missed = torch.ones_like(of)
        for i in range(min(k, captions)):
            missed *= ((captions - of - i) / (captions - i)).clamp(min=0)
        to_text[f"R{k}"] = round(100 * (1 - missed).mean().item(), 3)
    return {"text_to_image": to_image, "image_to_text": to_text}


def evaluate(text: Tensor, image: Tensor, owner: Tensor) -> dict[str, Any]:
    """The record that metrics.jsonl and eval/*.json share; arguments as for `ranks`.

    Raises UserError for vectors that are not finite: no score is above theirs, so that each would count as a hit.
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


def table(record: dict[str, Any]) -> str:
    """The record as a small table."""
    rows = [f"{record['captions']:,} captions, {record['images']:,} images {'R@1':>8} {'R@5':>7} {'R@10':>7} {'median rank':>12}"]
    margin = len(rows[0]) - 38
    for direction in ("text_to_image", "image_to_text"):
        found, by_chance = record[direction], record["chance"][direction]
        name = direction.replace("_", " ")
        numbers = "".join(f"{found[f'R{k}']:8.2f}" for k in TOP)
        rows.append(f"{name:<{margin}}{numbers} {found['median_rank']:12.1f}")
        rows.append(f"{'  chance':<{margin}}" + "".join(f"{by_chance[f'R{k}']:8.2f}" for k in TOP))
    return "\n".join(rows)
