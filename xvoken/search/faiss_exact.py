"""Exact search by faiss, on the CPU or a GPU."""

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xvoken.errors import UserError

FAISS_GPU_MOST = 2048  # the largest k of faiss on a GPU
TIES = 2048  # at most so many equal scores are put in the order of their rows; faiss gives them in any


@cache
def _gpu_resources() -> Any:
    """The memory that faiss sets aside on a GPU, 1.5 GB: one for all indexes of a process."""
    import faiss

    return faiss.StandardGpuResources()


class FaissIndex:
    """Exact inner products by faiss, on the CPU (where it searches the keys without a copy) or on one GPU."""

    def __init__(self, keys: NDArray[np.float32], device: str = "cpu"):
        import faiss

        self.faiss, self.keys, self.index = faiss, keys, None
        if device != "cpu":
            flat = faiss.IndexFlatIP(keys.shape[1])
            self.index = faiss.index_cpu_to_gpu(_gpu_resources(), torch.device(device).index, flat)
            self.index.add(keys)

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(Q, d) -> scores float32 (Q, k) descending, rows int32 (Q, k); equal scores in the order of their rows.

        Raises UserError for a k that is too large for faiss on a GPU.
        """
        if self.index is not None and k > FAISS_GPU_MOST:
            raise UserError(f"top {k}: faiss on a GPU finds {FAISS_GPU_MOST} at most; take --backend torch")
        most = len(self.keys) if self.index is None else min(len(self.keys), FAISS_GPU_MOST)
        found, more, queries = k, True, np.ascontiguousarray(queries)
        while more:  # until all keys that score the same as the k-th are among those found
            found = min(most, 2 * found + 8)
            scores, rows = self._nearest(queries, found)
            more = found < min(most, TIES) and bool((scores[:, k - 1] == scores[:, -1]).any())
        return best_first(scores, rows, k)

    def _nearest(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if self.index is not None:
            return self.index.search(queries, k)
        self.faiss.omp_set_num_threads(torch.get_num_threads())
        return self.faiss.knn(queries, self.keys, k, metric=self.faiss.METRIC_INNER_PRODUCT)


def best_first(scores: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The best k of candidates (Q, C), which come in any order; equal scores by row -> scores (Q, k), rows int32 (Q, k)"""
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1).astype(np.int32)
