"""Exact search: the rows of largest inner product, best first, equal scores ordered by row."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from xvoken.messages import UserError

BACKENDS = ("auto", "faiss", "torch")
KEY_CHUNK = 65536  # keys scored at once by the torch backend


class Index(Protocol):
    """Keys ready to be searched."""

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(Q, d) -> scores float32 (Q, k) descending, rows int32 (Q, k)"""


class TorchIndex:
    """A matrix product over chunks of keys with a running top k; works wherever torch does."""

    def __init__(self, keys: NDArray[np.float32], device: str = "cpu"):
        self.keys, self.device = torch.from_numpy(keys), device
        if device != "cpu":
            self.keys = self.keys.to(device)

    @torch.inference_mode()
    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        asked = torch.from_numpy(queries).to(self.device)
        scores = torch.empty(len(asked), 0, device=self.device)
        rows = torch.empty(len(asked), 0, dtype=torch.int64, device=self.device)
        for start in range(0, len(self.keys), KEY_CHUNK):
            products = asked @ self.keys[start : start + KEY_CHUNK].T  # (Q, chunk)
            best, columns = _top(products, k)
            scores = torch.cat([scores, best], 1)
            rows = torch.cat([rows, columns + start], 1)
            order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]  # earlier rows stand first
            scores, rows = scores.gather(1, order), rows.gather(1, order)
        return scores.float().cpu().numpy(), rows.int().cpu().numpy()


def _top(products: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Top k of each line, equal scores by column: torch.topk alone takes any of several equal ones."""
    k = min(k, products.shape[1])
    best = products.topk(k, 1)
    order = best.indices.sort(1).indices  # by column first, then stably by score
    scores, columns = best.values.gather(1, order), best.indices.gather(1, order)
    order = scores.sort(dim=1, descending=True, stable=True).indices
    scores, columns = scores.gather(1, order), columns.gather(1, order)
    # Where the last score taken stands outside too, the choice among its equals may be wrong: sort that line whole.
    tied = ((products == scores[:, -1:]).sum(1) > (scores == scores[:, -1:]).sum(1)).nonzero()[:, 0]
    for line in tied.tolist():
        whole = products[line].sort(descending=True, stable=True)
        scores[line], columns[line] = whole.values[:k], whole.indices[:k]
    return scores, columns


class FaissIndex:
    """faiss flat inner product, on the CPU or on one GPU."""

    def __init__(self, keys: NDArray[np.float32], device: str = "cpu"):
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        self.index = faiss.IndexFlatIP(keys.shape[1])
        if device != "cpu":
            self.index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), int(device.split(":")[1]), self.index)
        self.index.add(keys)

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        found, more = k, True
        while more:  # until all equals of the k-th score are in sight
            found = min(self.index.ntotal, 2 * found + 8)
            scores, rows = self.index.search(np.ascontiguousarray(queries), found)
            more = found < min(self.index.ntotal, 2048) and bool((scores[:, k - 1] == scores[:, -1]).any())
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1).astype(np.int32)


def build_index(keys: NDArray[np.float32], backend: str, device: str) -> Index:
    """An exact index. auto: faiss if it can be imported (and drive the device), else torch."""
    if backend == "auto":
        try:
            import faiss
        except ImportError:
            backend = "torch"
        else:
            backend = "faiss" if device == "cpu" or hasattr(faiss, "StandardGpuResources") else "torch"
    if backend == "torch":
        return TorchIndex(keys, device)
    try:
        return FaissIndex(keys, device)
    except ImportError as error:
        raise UserError(f"--backend faiss: can't be imported ({error}); pip install -r requirements.txt, or --backend torch") from None
