"""Exact search by matrix products: in fp32, or with a first pass in bf16."""

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from xvoken.search.hubness import Extended, Rows, queries_for

KEY_CHUNK, LOW_CHUNK, QUERY_BLOCK = 8192, 32768, 1024  # keys (in fp32, in bf16) and queries scored at once
CHUNK_ON_GPU = 1 << 17  # keys scored at once on a GPU: after each chunk it is waited for, to see whether scores tie
BLOCK = 64  # columns of a block; the largest score of each block is looked at first
CANDIDATES = 27  # keys scored again in fp32, besides k
BF16_ROUNDING = 2**-8  # largest error of rounding to bf16's 8 significant bits, as a share of the result
SUM_ROUNDING = 2**-23  # largest error for each term of an inner product in fp32, as a share of |q| |k|; half if rounded to nearest


class TorchIndex:
    """A matrix product over chunks of keys with a running top k; works wherever torch does.

    precision "bf16": a first pass takes the products in bf16, and all keys that its rounding could have kept from the top k
    are scored again in fp32, so that the result is the same as in fp32; worth it where bf16 is several times as fast.
    """

    def __init__(self, keys: Rows, device: str = "cpu", precision: str = "fp32"):
        self.keys: torch.Tensor | Extended = keys.on(device) if isinstance(keys, Extended) else torch.from_numpy(keys).to(device)
        self.device = device
        self.search_block = self._search_low if precision == "bf16" else self._search_plain

    @torch.inference_mode()
    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(Q, d) -> scores float32 (Q, k) descending, rows int32 (Q, k); equal scores in the order of their rows."""
        queries = queries_for(self.keys, queries)
        found = [self.search_block(torch.from_numpy(block).to(self.device), k) for block in np.split(queries, _cuts(len(queries)))]
        scores, rows = (torch.cat(both) for both in zip(*found, strict=True))
        return scores.cpu().numpy(), rows.int().cpu().numpy()

    def _search_plain(self, asked: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        return _running_top(asked, self.keys, k)

    def _search_low(self, asked: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        low = asked.bfloat16()
        rough, rows = _rough_top(low, self.keys, min(len(self.keys), CANDIDATES + k))
        rows = rows.sort(1).values  # equal scores by row
        exact = torch.stack([self.keys[row] @ query for row, query in zip(rows, asked, strict=True)])
        scores, columns = _top(exact, k)
        # The rough score of a key left out is at most the last one in `rough`.
        unsure = (_upper_bound(rough[:, -1], asked, low, *self.lengths) >= scores[:, -1]).nonzero()[:, 0]
        rows = rows.gather(1, columns)
        if len(unsure) and rough.shape[1] < len(self.keys):
            scores[unsure], rows[unsure] = _running_top(asked[unsure], self.keys, k)
        return scores, rows

    @cached_property
    def lengths(self) -> tuple[float, float]:
        """Length of the longest key, and of the largest difference between a key and the same key in bf16."""
        longest = largest = 0.0
        for start in range(0, len(self.keys), KEY_CHUNK):
            chunk = self.keys[start : start + KEY_CHUNK]
            longest = max(longest, chunk.norm(dim=1).max().item())
            largest = max(largest, chunk.bfloat16().float().sub_(chunk).norm(dim=1).max().item())
        return longest, largest


def _upper_bound(rough: torch.Tensor, asked: torch.Tensor, low: torch.Tensor, longest: float, largest: float) -> torch.Tensor:
    """The highest fp32 score that a key can have if its bf16 product with the query is at most `rough` (Q,) -> float32 (Q,)

    asked: queries q (Q, d); low: the same in bf16, q^; longest, largest: maximum of |k| and of |k - k^| over the keys k (N, d).
    With q.k = q^.k^ + (q - q^).k + q^.(k - k^), whatever the vectors:

        q.k <= q^.k^ + |q - q^| |k| + |q^| |k - k^|

    and q^.k^ exceeds `rough` by at most the rounding of the result and of the sum. The two fp32 sums that are compared,
    this key's and the k-th best one's, are rounded too. All of this is computed in float32: bf16 could not hold the difference.
    """
    rough, low = rough.float(), low.float()
    cast = (asked - low).norm(dim=1) * longest + low.norm(dim=1) * largest
    sums = 3 * asked.shape[1] * SUM_ROUNDING * asked.norm(dim=1) * longest * (1 + BF16_ROUNDING) ** 2
    return rough + rough.abs() * BF16_ROUNDING + cast + sums


def _cuts(queries: int) -> range:
    return range(QUERY_BLOCK, queries, QUERY_BLOCK)


def _running_top(asked: torch.Tensor, keys: torch.Tensor | Extended, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(Q, d), (N, d) -> the k largest products and their rows (Q, k), equal ones by row"""
    scores = torch.empty(len(asked), 0, dtype=asked.dtype, device=asked.device)
    rows = torch.empty(len(asked), 0, dtype=torch.int64, device=asked.device)
    chunk = KEY_CHUNK if keys.device.type == "cpu" else CHUNK_ON_GPU
    for start in range(0, len(keys), chunk):
        best, columns = _top_by_blocks(asked @ keys[start : start + chunk].T, k)
        scores, columns_now = _top(torch.cat([scores, best], 1), k)  # earlier rows stand first
        rows = torch.cat([rows, columns + start], 1).gather(1, columns_now)
    return scores, rows


def _rough_top(asked: torch.Tensor, keys: torch.Tensor | Extended, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`_running_top` in bf16; equal products, which are frequent in bf16, come in any order.

    The keys are cast chunk by chunk, so that processes that share them need no copy of their own.
    """
    best, rows = [], []
    for start in range(0, len(keys), LOW_CHUNK):
        products = asked @ keys[start : start + LOW_CHUNK].bfloat16().T
        columns = torch.arange(products.shape[1], device=products.device).expand(len(products), -1)
        if (whole := products.shape[1] // BLOCK * BLOCK) > 2 * k * BLOCK:  # as in _top_by_blocks
            blocks = products[:, :whole].unflatten(1, (-1, BLOCK)).amax(2).topk(k, 1).indices
            columns = torch.cat([(blocks[:, :, None] * BLOCK + columns[0, :BLOCK]).flatten(1), columns[:, whole:]], 1)
            products = products.gather(1, columns)
        top = products.topk(min(k, products.shape[1]), 1)
        best.append(top.values)
        rows.append(columns.gather(1, top.indices) + start)
    top = torch.cat(best, 1).topk(k, 1)
    return top.values, torch.cat(rows, 1).gather(1, top.indices)


def _top_by_blocks(products: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`_top` of many columns, by way of the maximum of each BLOCK columns, which is computed at the memory's speed.

    The top k lie in the k blocks of the largest maxima, equal maxima by block: each of these holds a column that
    stands before all columns of any block left out.
    """
    whole = products.shape[1] // BLOCK * BLOCK
    if whole < 2 * k * BLOCK:
        return _top(products, k)
    blocks = _top(products[:, :whole].unflatten(1, (-1, BLOCK)).amax(2), k)[1].sort(1).values  # (Q, k)
    columns = (blocks[:, :, None] * BLOCK + torch.arange(BLOCK, device=products.device)).flatten(1)  # (Q, k * BLOCK)
    rest = torch.arange(whole, products.shape[1], device=products.device).expand(len(products), -1)
    columns = torch.cat([columns, rest], 1)
    scores, among = _top(products.gather(1, columns), k)
    return scores, columns.gather(1, among)


def _top(products: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Top k of each line, equal scores by column: torch.topk alone takes any of several equal ones."""
    k = min(k, products.shape[1])
    best = products.topk(k, 1)
    order = best.indices.sort(1).indices  # by column first, then stably by score
    scores, columns = best.values.gather(1, order), best.indices.gather(1, order)
    order = scores.sort(dim=1, descending=True, stable=True).indices
    scores, columns = scores.gather(1, order), columns.gather(1, order)
    # Where the last score taken also occurs among those left out, the wrong equals may have been taken: sort that line whole.
    tied = ((products == scores[:, -1:]).sum(1) > (scores == scores[:, -1:]).sum(1)).nonzero()[:, 0]
    for line in tied.tolist():
        whole = products[line].sort(descending=True, stable=True)
        scores[line], columns[line] = whole.values[:k], whole.indices[:k]
    return scores, columns
