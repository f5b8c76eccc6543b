"""Exact search by faiss, on the CPU or a GPU."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xvoken.errors import UserError
from xvoken.search.hubness import Extended, Rows, queries_for

FAISS_GPU_MOST = 2048  # the largest k of faiss on a GPU
CHUNK = 1 << 14  # keys with one more dimension that are made at once: a copy, unlike the keys themselves
TIES = 2048  # at most so many equal scores are put in the order of their rows; faiss gives them in any


@cache
def _gpu_resources() -> Any:
    """The memory that faiss sets aside on a GPU, 1.5 GB: one for all indexes of a process."""
    import faiss

    return faiss.StandardGpuResources()


class FaissIndex:
    """Exact inner products by faiss, on the CPU (where it searches the keys without a copy) or on one GPU."""

    def __init__(self, keys: Rows, device: str = "cpu"):
        import faiss

        self.faiss, self.keys, self.index = faiss, keys, None
        if device != "cpu":
            flat = faiss.IndexFlatIP(keys.shape[1])
            self.index = faiss.index_cpu_to_gpu(_gpu_resources(), torch.device(device).index, flat)
            for _, block in self._blocks():
                self.index.add(block)

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(Q, d) -> scores float32 (Q, k) descending, rows int32 (Q, k); equal scores in the order of their rows.

        Raises UserError for a k that is too large for faiss on a GPU.
        """
        if self.index is not None and k > FAISS_GPU_MOST:
            raise UserError(f"top {k}: faiss on a GPU finds {FAISS_GPU_MOST} at most; take --backend torch")
        most = len(self.keys) if self.index is None else min(len(self.keys), FAISS_GPU_MOST)
        found, more, queries = k, True, np.ascontiguousarray(queries_for(self.keys, queries))
        while more:  # until all keys that score the same as the k-th are among those found
            found = min(most, 2 * found + 8)
            scores, rows = self._nearest(queries, found)
            more = found < min(most, TIES) and bool((scores[:, k - 1] == scores[:, -1]).any())
        return best_first(scores, rows, k)

    def _nearest(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if self.index is not None:
            return self.index.search(queries, k)
        self.faiss.omp_set_num_threads(torch.get_num_threads())
        best, where = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        for start, block in self._blocks():
            scores, rows = self.faiss.knn(queries, block, min(k, len(block)), metric=self.faiss.METRIC_INNER_PRODUCT)
            best, where = np.concatenate([best, scores], 1), np.concatenate([where, rows + start], 1)
            if start:
                best, where = best_first(best, where, k)
        return best, where.astype(np.int64)

    def _blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """First row and keys of each block that is searched at once: all keys, if they are not to be copied."""
        step = CHUNK if isinstance(self.keys, Extended) else max(1, len(self.keys))
        for start in range(0, len(self.keys), step):
            yield start, self.keys[start : start + step]


def best_first(scores: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The best k of candidates (Q, C), which come in any order; equal scores by row -> scores (Q, k), rows int32 (Q, k)"""
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1).astype(np.int32)
