"""How varied the pictures are that tokens got: pure functions of (token type, picture) counts, and the record as a table."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvoken.records import TOP

NAMES = ("Num Images", "Max Cnt", "Avg Cnt", "Std Cnt")  # as Vokenization's evaluate_diversity.py prints them
HEAD = 100  # the most used pictures are one in so many


@dataclass
class Pairs:
    """The distinct pairs of token type and picture, in order of the types, then of the pictures.

    types, rows: int64 (P,), a token id and a row of the gallery; times: int64 (P,), how many tokens of the type got the picture.
    """

    types: NDArray[np.int64]
    rows: NDArray[np.int64]
    times: NDArray[np.int64]

    @classmethod
    def count(cls, types: NDArray[np.integer], rows: NDArray[np.integer], pictures: int) -> "Pairs":
        """Token id and row of its picture, of each token: (n,) each; pictures: in the gallery, so that all rows are below it."""
        pairs, times = np.unique(types.astype(np.int64) * pictures + rows, return_counts=True)
        return cls(pairs // pictures, pairs % pictures, times)


def per_type(pairs: Pairs) -> dict[str, dict[str, float]]:
    """What Vokenization (Tan & Bansal, 2020) reports, averaged over token types, and how the first of its figures is spread.

    `averages`: of each type's number of different pictures (Num Images), and of the largest, the mean and the standard deviation (of a
    population) of how often it got each of them (Max, Avg, Std Cnt). `pictures_per_type`: the median and the largest Num Images.
    """
    _, starts, different = np.unique(pairs.types, return_index=True, return_counts=True)
    most = np.maximum.reduceat(pairs.times, starts)
    mean = np.add.reduceat(pairs.times, starts) / different
    deviation = np.sqrt(np.add.reduceat((pairs.times - np.repeat(mean, different)) ** 2, starts) / different)
    averages = {name: round(float(of.mean()), 4) for name, of in zip(NAMES, (different, most, mean, deviation), strict=True)}
    return {"averages": averages, "pictures_per_type": {"median": float(np.median(different)), "most": int(different.max())}}


def usage(pairs: Pairs, pictures: int) -> dict[str, float]:
    """How the tokens are shared out among all `pictures` of the gallery; those that no token got count as 0.

    `used`: pictures that any token got; `head`: the most used 1% of the gallery, at least one picture, and `head_share`, its share of all
    tokens in percent; `entropy_bits`: -sum p log2 p; `entropy_share`: of log2(pictures), 1 if all are used equally often;
    `gini`: see `gini`.
    """
    times = np.bincount(pairs.rows, weights=pairs.times, minlength=pictures)
    head = -(-pictures // HEAD)
    share = times[times > 0] / times.sum()
    bits = float(-(share * np.log2(share)).sum()) + 0.0  # no -0.0 where one picture has all
    return {
        "pictures": pictures,
        "used": len(share),
        "head": head,
        "head_share": round(100 * float(np.sort(times)[-head:].sum() / times.sum()), 3),
        "entropy_bits": round(bits, 4),
        "entropy_share": round(bits / np.log2(max(pictures, 2)), 4),
        "gini": round(gini(times), 4),
    }


def gini(times: NDArray[np.floating | np.integer]) -> float:
    """Gini coefficient of (N,), not all 0: 0 if all are equal, (N - 1) / N if one has everything.

    The mean difference of two of them over twice their mean, which is sum_i (2 i - N - 1) x_i / (N sum x) for x_1 <= ... <= x_N.
    """
    ranks = np.arange(1, len(times) + 1)
    return float(((2 * ranks - len(times) - 1) * np.sort(times)).sum() / (len(times) * times.sum()))


def token_recall(hits: NDArray[np.float64], captions: int, tokens: int, pictures: int) -> dict[str, Any]:
    """The record of recalls of tokens, in percent; hits: (3,), how many tokens found their own picture within the top 1, 5, 10."""
    recalls = {f"R{k}": round(100 * float(found) / tokens, 3) for k, found in zip(TOP, hits, strict=True)}
    chance = {f"R{k}": round(100 * min(k, pictures) / pictures, 3) for k in TOP}
    return {"captions": captions, "tokens": tokens, **recalls, "chance": chance}


def table(record: dict[str, Any]) -> str:
    """The record of vokenization/assignments.py as a small table."""
    used, spread, found = record["usage"], record["pictures_per_type"], record["recall"]
    rows = [(f"average {name}, over token types", f"{value:.2f}") for name, value in record["averages"].items()]
    rows += [
        ("pictures per token type: median, most", f"{spread['median']:,.1f}, {spread['most']:,}"),
        ("pictures used (cover)", f"{used['used']:,} of {used['pictures']:,}, {100 * used['used'] / used['pictures']:.2f}%"),
        (f"tokens that the most used 1% ({used['head']:,}) have", f"{used['head_share']:.2f}%"),
        ("entropy, and as a share of its maximum", f"{used['entropy_bits']:.2f} bits, {used['entropy_share']:.4f}"),
        ("Gini coefficient over all pictures", f"{used['gini']:.4f}"),
    ]
    if found:
        of_tokens = f"recall of {found['tokens']:,} captions' tokens"
        for name, of in ((of_tokens, found), ("  chance", found["chance"])):
            rows.append((f"{name}: R@1, R@5, R@10", ", ".join(f"{of[f'R{k}']:.2f}" for k in TOP)))
    read = f"{record['lines']:,} {record.get('rows', 'line')}s"
    title = f"{read}, {record['tokens']:,} tokens of {record['types']:,} types, a picture for each {record['level']}"
    return "\n".join([title, *(f"  {label:<48} {value:>24}" for label, value in rows)])
