"""`open_index`, and exact search: the rows of largest inner product, best first, equal scores ordered by row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xvoken import commands
from xvoken.errors import UserError, out_of_memory
from xvoken.files.safe import matrix
from xvoken.kinds import INDEXES, made_by
from xvoken.machine import cpu_has_bf16, one_device
from xvoken.search.faiss_exact import FaissIndex
from xvoken.search.hubness import Rows
from xvoken.search.torch_exact import TorchIndex


class Index(Protocol):
    """Keys ready to be searched."""

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(Q, d) -> scores float32 (Q, k) descending, rows int32 (Q, k)"""


class JoinedIndex:
    """Several indexes searched as one; the rows of each are numbered on from the last row of the index before it.

    So the keys of several files stay mapped: if they were joined to one array, every process would hold a copy.
    """

    def __init__(self, indexes: list[Index], sizes: list[int]):
        self.indexes, self.sizes, self.starts = indexes, sizes, np.cumsum([0, *sizes])

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(Q, d) -> scores float32 (Q, k) descending, rows int32 (Q, k); equal scores in the order of their rows."""
        found = [index.search(queries, min(k, size)) for index, size in zip(self.indexes, self.sizes, strict=True)]
        scores = np.concatenate([scores for scores, _ in found], 1)
        rows = np.concatenate([rows + np.int32(start) for (_, rows), start in zip(found, self.starts, strict=False)], 1)
        order = np.argsort(-scores, 1, "stable")[:, :k]  # equal scores stay in the order of their rows
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


@dataclass(frozen=True)
class Hits:
    """The best keys of each query, best first: scores float32 (Q, k), inner products; rows int32 (Q, k) of the keys; ids of these rows."""

    scores: NDArray[np.float32]
    rows: NDArray[np.int32]
    ids: list[list[str]]


class OpenIndex:
    """Keys ready to be searched, made by `open_index`."""

    def __init__(self, index: Index, ids: list[str] | None, number: int, dim: int):
        self.index, self.ids, self.number, self.dim = index, ids, number, dim

    def __len__(self) -> int:
        return self.number

    def search(self, queries: NDArray[np.float32], k: int = 5) -> Hits:
        """Find the k keys of largest inner product for each query; equal scores come in the order of their rows.

        queries: float (Q, dim), as Encoder.encode_texts gives them. Raises xvoken.Error for vectors that have another size or are
        not finite, and for a k beyond the number of keys.
        """
        queries = matrix(queries, "queries")
        if queries.shape[1] != self.dim:
            raise UserError(f"queries of shape {queries.shape}: (Q, {self.dim}) was expected, as the keys have {self.dim} dimensions")
        if len(bad := np.flatnonzero(~np.isfinite(queries).all(1))):
            raise UserError(f"query {bad[0]} is not finite")
        if not isinstance(k, int | np.integer) or isinstance(k, bool) or not 1 <= k <= self.number:
            raise UserError(f"k={k}: a whole number from 1 to {self.number}, the number of keys, was expected")
        if not len(queries):
            return Hits(np.empty((0, k), np.float32), np.empty((0, k), np.int32), [])
        scores, rows = self.index.search(queries, int(k))
        return Hits(scores, rows, [[self.ids[row] if self.ids else str(row) for row in line] for line in rows.tolist()])


def open_index(
    keys: Any,
    kind: str = "flat",
    device: str = "auto",
    queries: NDArray[np.float32] | None = None,
    recall: float = 0.95,
    show_progress: bool = False,
) -> OpenIndex:
    """Make keys ready to be searched.

    keys: what xvoken.read_keys returns, or any float32 (N, dim); kind: flat for exact search, or ivf, hnsw, ivfpq, faiss' approximate
    ones, which are built and tuned here, in memory; device, for flat only: auto (a GPU, else the CPU), cpu, cuda, or a GPU's number.
    queries, recall: an approximate index is tuned to find this share of the exact best 10 keys of these queries float32 (Q, dim),
    which should be like those to come (default: some of the keys). show_progress: a bar while an approximate index is built.
    Raises xvoken.Error for an unknown kind, keys or queries of another shape or not finite, or no room on the device.
    """
    if kind not in INDEXES:
        raise UserError(f"kind={kind!r}: not one of {', '.join(INDEXES)}")
    blocks = keys.blocks if hasattr(keys, "blocks") else [matrix(keys, "keys")]
    if not blocks or any(block.ndim != 2 or not block.size for block in blocks):
        shape = blocks[0].shape if blocks else (0,)
        raise UserError(f"keys of shape {shape}: float32 (N, dim) was expected, with at least one row")
    if not hasattr(keys, "blocks") and len(bad := np.flatnonzero(~np.isfinite(blocks[0]).all(1))):
        raise UserError(f"key {bad[0]} is not finite")
    if not isinstance(recall, int | float) or not 0 < recall <= 1:
        raise UserError(f"recall={recall}: a share above 0 and at most 1 was expected")
    if queries is not None:
        queries, dim = matrix(queries, "queries"), blocks[0].shape[1]
        if queries.ndim != 2 or queries.shape[1] != dim or not len(queries) or not np.isfinite(queries).all():
            raise UserError(f"queries of shape {queries.shape}: at least one row of (Q, {dim}), all finite, was expected")
    build = made_by(INDEXES[kind])
    index = build(blocks, "auto", one_device(device)) if kind == "flat" else build(blocks, kind, queries, recall, show_progress)
    return OpenIndex(index, getattr(keys, "ids", None), sum(map(len, blocks)), blocks[0].shape[1])


def build_joined(blocks: Sequence[Rows], backend: str, device: str, few: bool = False) -> Index:
    """An exact index of the rows of all blocks, float32 (n, dim) each, one block after another; arguments as for `build_index`."""
    indexes = [build_index(block, backend, device, few) for block in blocks]
    return indexes[0] if len(indexes) == 1 else JoinedIndex(indexes, [len(block) for block in blocks])


def require_backend(backend: str) -> None:
    """Raise UserError if the backend is faiss and it can't be imported."""
    if backend == "faiss":
        try:
            import faiss  # noqa: F401
        except ImportError as error:
            raise UserError(f"--backend faiss: can't be imported ({error}); run: {commands.install()}, or take --backend torch") from None


def build_index(keys: Rows, backend: str, device: str, few: bool = False) -> Index:
    """An exact index of keys float32 (N, dim), or of such with one more dimension, which its queries get too.

    backend: faiss, torch, or auto: torch on a CPU with bf16 units, where it is the fastest; else faiss if it can be imported (and
    drive the device), else torch. few: queries come by the dozen at most, and go without a first pass in bf16, which casts all keys: of
    50,000 keys for one query 20 ms instead of 7. Raises UserError where faiss is asked for and missing, or a GPU has no room for the keys.
    """
    low = device == "cpu" and cpu_has_bf16() and not few
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
