"""Exact search: the rows of largest inner product, best first, equal scores ordered by row."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xvoken.errors import UserError, out_of_memory
from xvoken.machine import cpu_has_bf16
from xvoken.search.faiss_exact import FaissIndex
from xvoken.search.torch_exact import TorchIndex

BACKENDS = ("auto", "faiss", "torch")


class Index(Protocol):
    """Keys ready to be searched."""

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(Q, d) -> scores float32 (Q, k) descending, rows int32 (Q, k)"""


class JoinedIndex:
    """Several indexes searched as one, the rows of each after those of the one before it.

    The keys of several files stay where they are mapped: joined to one array, every process would hold a copy.
    """

    def __init__(self, indexes: list[Index], sizes: list[int]):
        self.indexes, self.sizes, self.starts = indexes, sizes, np.cumsum([0, *sizes])

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        found = [index.search(queries, min(k, size)) for index, size in zip(self.indexes, self.sizes, strict=True)]
        scores = np.concatenate([scores for scores, _ in found], 1)
        rows = np.concatenate([rows + np.int32(start) for (_, rows), start in zip(found, self.starts, strict=False)], 1)
        order = np.argsort(-scores, 1, "stable")[:, :k]  # equal scores stay in the order of their rows
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def build_joined(blocks: list[NDArray[np.float32]], backend: str, device: str) -> Index:
    """An exact index of the rows of all blocks, one block after another."""
    indexes = [build_index(block, backend, device) for block in blocks]
    return indexes[0] if len(indexes) == 1 else JoinedIndex(indexes, [len(block) for block in blocks])


def require_backend(backend: str) -> None:
    """Raise UserError for faiss where it can't be imported."""
    if backend == "faiss":
        try:
            import faiss  # noqa: F401
        except ImportError as error:
            raise UserError(f"--backend faiss: can't be imported ({error}); pip install -r requirements.txt, or --backend torch") from None


def build_index(keys: NDArray[np.float32], backend: str, device: str) -> Index:
    """An exact index.

    auto: torch on a CPU with bf16 units, where it is the fastest; else faiss if it can be imported (and drive the
    device), else torch.
    """
    low = device == "cpu" and cpu_has_bf16()
    if backend == "auto":
        try:
            import faiss
        except ImportError:
            backend = "torch"
        else:
            backend = "faiss" if not low and (device == "cpu" or hasattr(faiss, "StandardGpuResources")) else "torch"
    require_backend(backend)
    try:
        return TorchIndex(keys, device, "bf16" if low else "fp32") if backend == "torch" else FaissIndex(keys, device)
    except Exception as error:
        if device == "cpu" or not out_of_memory(error):
            raise
        size = f"{len(keys):,} keys, {keys.nbytes / 1e9:.1f} GB"
        raise UserError(f"{device}: has no room for {size}; take --index ivf, which stays in the CPU's memory, or --device cpu") from None
