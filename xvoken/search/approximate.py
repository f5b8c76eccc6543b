"""Approximate search by faiss, for galleries in which exact search would take longer than the text tower.

    keys/{IMAGE_SETS}.{KIND}.faiss    the trained index, mapped into memory by all workers
    keys/{IMAGE_SETS}.{KIND}.json     its receipt: the hash of the keys in it, their number, parameters, the index file's own
                                      hash, and the recalls measured with it; written last

ivf: the keys in cells of k-means, of which the nearest `nprobe` are searched (Sivic & Zisserman, ICCV 2003).
hnsw: a graph of neighbours, walked with a list of `efSearch` best ones (Malkov & Yashunin, TPAMI 2020).
ivfpq: as ivf, each key cut to dim / 8 bytes by product quantization (Jégou et al., TPAMI 2011): 32 times smaller.
The keys that faiss finds are scored again in fp32, so that scores are exact inner products for all kinds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xvoken import commands
from xvoken.console import log, progress
from xvoken.errors import UserError, one_line
from xvoken.files.indexes import CELL_POINTS, EFFORT, FEWEST_KEYS, made_of, parameters_of, read_receipt, receipt_file
from xvoken.files.keys import joined
from xvoken.files.safe import replacing, sha256_of_file, write_json
from xvoken.machine import cores
from xvoken.search.faiss_exact import best_first
from xvoken.search.hubness import Rows, queries_for
from xvoken.search.index import Index, build_index

FIRST_EFFORT = {"ivf": 1, "hnsw": 16, "ivfpq": 1}
CODE_POINTS = 1 << 16  # keys that product quantization is trained on: 256 a centroid
ROUNDING = 1e-6  # how far an inner product of normalized vectors in fp32 may be off
SAMPLE = 256  # queries that an index is tuned on
ADDED, RESCORED = 1 << 14, 64  # keys added at once, queries scored again at once


def import_faiss(kind: str) -> Any:
    """The module faiss; raises UserError where it can't be imported. kind: of the index that needs it, for the message."""
    try:
        import faiss
    except ImportError as error:
        raise UserError(f"--index {kind}: needs faiss ({one_line(error)}); run: {commands.install()}, or take --index flat") from None
    return faiss


@dataclass(frozen=True)
class SavedIndex:
    """An index on disk and how hard to search it: nprobe or efSearch, see EFFORT."""

    path: Path
    kind: str
    effort: int


class ApproximateIndex:
    """A faiss index and the keys (N, d) that it was built of; an xvoken.search.index.Index."""

    def __init__(self, keys: Rows, index: Any, kind: str, effort: int):
        self.faiss, self.keys, self.index, self.kind, self.effort = import_faiss(kind), keys, index, kind, effort
        self.most = len(keys) if self.kind == "hnsw" else self.index.nlist  # the effort that leaves nothing out

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(Q, d) -> scores float32 (Q, k) descending, rows int32 (Q, k); queries with fewer than k found are searched with more effort."""
        effort, queries = self.effort, np.ascontiguousarray(queries_for(self.keys, queries))
        scores, rows = self._nearest(queries, k, effort)
        while len(short := np.flatnonzero(rows[:, -1] < 0)) and effort < self.most:
            effort = min(2 * effort, self.most)
            scores[short], rows[short] = self._nearest(queries[short], k, effort)
        if len(short):  # a graph can have parts that no link leads to
            scores[short], rows[short] = build_index(self.keys, "torch", "cpu").search(queries[short], k)
        return scores, rows

    def _nearest(self, queries: NDArray[np.float32], k: int, effort: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The best k that faiss finds with this effort, scored again; row -1 and score -inf where it finds fewer."""
        candidates = 8 * k + 64 if self.kind == "ivfpq" else 2 * k + 8  # compressed keys come in a rough order only
        name = "SearchParametersHNSW" if self.kind == "hnsw" else "SearchParametersIVF"
        parameters = getattr(self.faiss, name)(**{EFFORT[self.kind]: effort})
        self.faiss.omp_set_num_threads(torch.get_num_threads())
        rows = self.index.search(queries, min(len(self.keys), candidates), params=parameters)[1]
        scores = np.where(rows < 0, -np.inf, self._scores(queries, rows))
        return best_first(scores, rows, k)

    def _scores(self, queries: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(Q, d), rows (Q, C) -> inner products (Q, C)"""
        scores = np.empty(rows.shape, np.float32)
        for at in range(0, len(rows), RESCORED):
            block = slice(at, at + RESCORED)
            # Unlike a matrix product, einsum adds up equal keys to equal scores, wherever they stand.
            scores[block] = np.einsum("qcd,qd->qc", self.keys[rows[block]], queries[block])
        return scores


def open_saved(keys: Rows, saved: SavedIndex) -> ApproximateIndex:
    """Open an index on disk, mapped into memory; raises UserError when faiss is missing or the file is damaged."""
    faiss = import_faiss(saved.kind)
    try:
        index = faiss.read_index(str(saved.path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        reason = one_line(error)[-120:]
        raise UserError(f"{saved.path}: no whole faiss index ({reason}); build it again after: rm {saved.path}") from None
    return ApproximateIndex(keys, index, saved.kind, saved.effort)


def build_tuned(
    blocks: list[NDArray[np.float32]], kind: str, queries: NDArray[np.float32] | None, target: float, show_progress: bool
) -> Index:
    """Build an index in memory, and choose the effort with which it finds the share `target` of the exact best 10 keys.

    blocks: float32 (n, dim) each; queries: float32 (Q, dim), those to tune it on (None: some of the keys). With fewer than
    FEWEST_KEYS keys the index is an exact one. Always on the CPU. Raises UserError where faiss is missing.
    """
    keys = joined(blocks)
    if len(keys) < FEWEST_KEYS:
        return build_index(keys, "auto", "cpu")
    index = ApproximateIndex(keys, build(keys, kind, parameters_of(kind, *keys.shape), show_progress), kind, 1)
    if queries is None:
        queries = np.array(keys[:: max(1, len(keys) // SAMPLE)][:SAMPLE])
    reached = tune(index, queries, build_index(keys, "auto", "cpu").search(queries, 10)[0], target)
    if reached < target:
        log.warning(f"{kind}: finds {reached:.3f} of the exact best 10 even when all of the index is searched; {target} was asked for")
    return index


def ensure_index(keys: Rows, path: Path, kind: str, bank: str = "") -> dict[str, Any]:
    """Build the index at `path`, unless it is there and was built of these keys (N, dim); returns its receipt.

    bank: see xvoken.files.indexes.made_of.
    The caller must be the sole_writer of `path`. The receipt is removed first and written last: where it exists, the index is whole.
    Raises UserError where faiss is missing.
    """
    now, then = made_of(keys, kind, bank), read_receipt(path)
    if then:
        changed = [name for name in now if then.get(name) != now[name]]
        if not changed:
            return then
        log.info(f"{path}: its {', '.join(changed)} differ from the present ones; building it again")
    receipt_file(path).unlink(missing_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # left by a killed build, can be large
        leftover.unlink(missing_ok=True)
    faiss = import_faiss(kind)
    index = build(keys, kind, now["parameters"])
    with replacing(path) as temporary:
        faiss.write_index(index, str(temporary))
    receipt = {**now, "faiss": faiss.__version__, "index": sha256_of_file(path), "recall": {}}
    write_json(receipt_file(path), receipt)
    return receipt


def build(keys: Rows, kind: str, parameters: dict[str, int], show_progress: bool = True) -> Any:
    """Train a faiss index on a sample of the keys (N, dim), drawn with a fixed seed, then add all of them."""
    faiss, (number, dim) = import_faiss(kind), keys.shape
    faiss.omp_set_num_threads(cores())
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, parameters["links"], faiss.METRIC_INNER_PRODUCT)
    else:
        cells, coarse = parameters["cells"], faiss.IndexFlatIP(dim)
        sample = min(number, max(CELL_POINTS * cells, CODE_POINTS if kind == "ivfpq" else 0))
        log.info(f"training {cells:,} cells on {sample:,} of {number:,} keys")
        points = keys[np.sort(np.random.default_rng(0).choice(number, sample, replace=False))]
        index = faiss.IndexIVFFlat(coarse, dim, cells, faiss.METRIC_INNER_PRODUCT)
        index.train(points)
        if kind == "ivfpq":
            index = faiss.IndexIVFPQ(coarse, dim, cells, parameters["bytes"], 8, faiss.METRIC_INNER_PRODUCT)
            index.pq.cp.min_points_per_centroid = 1  # no warning of few keys: the keys found are scored again
            # Its many small products run fifteen times slower on two threads, which wait for the threads left from the cells' k-means.
            faiss.omp_set_num_threads(1)
            index.train(points)
            faiss.omp_set_num_threads(cores())
    with progress(total=number, desc=f"building {kind}", unit="keys", disable=not show_progress) as bar:
        for start in range(0, number, ADDED):
            block = keys[start : start + ADDED]
            index.add(block)
            bar.update(len(block))
    return index


def recall(scores: NDArray[np.float32], exact: NDArray[np.float32]) -> float:
    """Share of the scores found (Q, k) that reach the query's k-th exact score, the last of `exact` (Q, k).

    Counted by score, as in ANN-Benchmarks (Aumüller et al., 2020), since it does not matter which of several equal keys is found.
    """
    return float((scores >= exact[:, -1:] - ROUNDING).mean())


def tune(index: ApproximateIndex, queries: NDArray[np.float32], exact: NDArray[np.float32], target: float) -> float:
    """Set the least effort with which the index' recall of the exact scores (Q, k) reaches `target`, or the highest one.

    Doubled until it does, then lowered by halves of what lies between the last two, to within a sixteenth. Returns the recall reached.
    """

    def reached(effort: int) -> float:
        index.effort = effort
        return recall(index.search(queries, exact.shape[1])[0], exact)

    short, effort = 0, FIRST_EFFORT[index.kind]
    while (found := reached(effort)) < target and effort < index.most:
        short, effort = effort, min(2 * effort, index.most)
    while found >= target and short and effort - short > max(1, effort // 16):
        middle = (effort + short) // 2
        if (lower := reached(middle)) < target:
            short = middle
        else:
            effort, found = middle, lower
    index.effort = effort
    return found
