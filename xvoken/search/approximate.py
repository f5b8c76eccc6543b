"""Approximate search by faiss, for galleries in which exact search would take longer than the text tower.

    keys/{IMAGE_SETS}.{KIND}.faiss    the trained index, mapped into memory by all workers
    keys/{IMAGE_SETS}.{KIND}.json     its receipt: the hash of the keys in it, their number, parameters, the index file's own
                                      hash, and the recalls measured with it; written last

ivf: the keys in cells of k-means, of which the nearest `nprobe` are searched (Sivic & Zisserman, ICCV 2003).
hnsw: a graph of neighbours, walked with a list of `efSearch` best ones (Malkov & Yashunin, TPAMI 2020).
ivfpq: as ivf, each key cut to dim / 8 bytes by product quantization (Jégou et al., TPAMI 2011): 32 times smaller.
Whatever faiss finds is scored again from the keys themselves, so that scores are exact inner products for all kinds.
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
from xvoken.files.indexes import CELL_POINTS, EFFORT, FEWEST_KEYS, parameters_of, receipt_file
from xvoken.files.keys import joined
from xvoken.files.safe import read_json, replacing, sha256_of_file, sha256_of_rows, write_json
from xvoken.machine import cores
from xvoken.search.faiss_exact import best_first
from xvoken.search.index import Index, build_index

FIRST_EFFORT = {"ivf": 1, "hnsw": 16, "ivfpq": 1}
CODE_POINTS = 1 << 16  # keys that product quantization is trained on: 256 a centroid
ROUNDING = 1e-6  # of an inner product of normalized vectors in fp32
SAMPLE = 256  # queries that an index is tuned on
ADDED, RESCORED = 1 << 14, 64  # keys added, queries scored again at once


def import_faiss(kind: str) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UserError(f"--index {kind}: needs faiss ({one_line(error)}); {commands.install()}, or --index flat") from None
    return faiss


@dataclass(frozen=True)
class SavedIndex:
    """An index on disk and how hard to search it: nprobe or efSearch, see EFFORT."""

    path: Path
    kind: str
    effort: int


class ApproximateIndex:
    """An index of faiss and the keys that it was built of; see xvoken.search.index.Index."""

    def __init__(self, keys: NDArray[np.float32], index: Any, kind: str, effort: int):
        self.faiss, self.keys, self.index, self.kind, self.effort = import_faiss(kind), keys, index, kind, effort
        self.most = len(keys) if self.kind == "hnsw" else self.index.nlist  # the effort that leaves nothing out

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """(Q, d) -> scores float32 (Q, k) descending, rows int32 (Q, k); lines for which fewer are found are searched wider."""
        effort, queries = self.effort, np.ascontiguousarray(queries)
        scores, rows = self._nearest(queries, k, effort)
        while len(short := np.flatnonzero(rows[:, -1] < 0)) and effort < self.most:
            effort = min(2 * effort, self.most)
            scores[short], rows[short] = self._nearest(queries[short], k, effort)
        if len(short):  # a graph can have parts that no link leads to
            scores[short], rows[short] = build_index(self.keys, "torch", "cpu").search(queries[short], k)
        return scores, rows

    def _nearest(self, queries: NDArray[np.float32], k: int, effort: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The best k of the candidates; row -1 and score -inf where there are fewer."""
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


def open_saved(keys: NDArray[np.float32], saved: SavedIndex) -> ApproximateIndex:
    """An index from the disk, mapped; raises UserError when faiss is missing or the file is damaged."""
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
    """An index in memory, searched as hard as it takes to find the share `target` of the exact best 10 of the queries (Q, dim).

    queries: by default some of the keys. Exact where there are fewer than FEWEST_KEYS keys; always on the CPU.
    """
    keys = joined(blocks)
    if len(keys) < FEWEST_KEYS:
        return build_index(keys, "auto", "cpu")
    index = ApproximateIndex(keys, build(keys, kind, parameters_of(kind, *keys.shape), show_progress), kind, 1)
    if queries is None:
        queries = np.array(keys[:: max(1, len(keys) // SAMPLE)][:SAMPLE])
    reached = tune(index, queries, build_index(keys, "auto", "cpu").search(queries, 10)[0], target)
    if reached < target:
        log.warning(f"{kind}: finds {reached:.3f} of the exact best 10 with all of it searched, {target} were asked for")
    return index


def ensure_index(keys: NDArray[np.float32], path: Path, kind: str) -> dict[str, Any]:
    """The receipt of the index at `path`; it is built where there is none, and again where it is of other keys.

    The caller is its sole_writer. The receipt is removed first and written last: where it stands, the index is whole.
    """
    number, dim = keys.shape
    made_of = {"kind": kind, "keys": sha256_of_rows(keys), "number": number, "dim": dim, "parameters": parameters_of(kind, number, dim)}
    mend = f"remove it, and the index is built again: rm {receipt_file(path)}"
    then = read_json(receipt_file(path), mend) if receipt_file(path).exists() else None
    if then and path.exists():
        changed = [name for name in made_of if then.get(name) != made_of[name]]
        if not changed:
            return then
        log.info(f"{path}: built of others than now ({', '.join(changed)}), so once more")
    receipt_file(path).unlink(missing_ok=True)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a killed build, and it can be large
        leftover.unlink(missing_ok=True)
    faiss = import_faiss(kind)
    index = build(keys, kind, made_of["parameters"])
    with replacing(path) as temporary:
        faiss.write_index(index, str(temporary))
    receipt = {**made_of, "faiss": faiss.__version__, "index": sha256_of_file(path), "recall": {}}
    write_json(receipt_file(path), receipt)
    return receipt


def build(keys: NDArray[np.float32], kind: str, parameters: dict[str, int], show_progress: bool = True) -> Any:
    """Train a faiss index on a sample of the keys, the same one every time, and add all of them."""
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
            index.pq.cp.min_points_per_centroid = 1  # no warning of few keys: what is found is scored again
            # Its many small products run fifteen times slower on two threads, which wait for those of the cells' k-means.
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
    """Share of the scores found (Q, k) that reach the last of the exact ones (Q, k).

    By score, as Aumüller et al. (ANN-Benchmarks, 2020), since which of several equal keys is found does not matter.
    """
    return float((scores >= exact[:, -1:] - ROUNDING).mean())


def tune(index: ApproximateIndex, queries: NDArray[np.float32], exact: NDArray[np.float32], target: float) -> float:
    """Double the index' effort until its recall of the exact scores (Q, k) reaches `target`, or nothing is left out.

    Returns the recall reached.
    """
    index.effort = FIRST_EFFORT[index.kind]
    while (reached := recall(index.search(queries, exact.shape[1])[0], exact)) < target and index.effort < index.most:
        index.effort = min(2 * index.effort, index.most)
    return reached
