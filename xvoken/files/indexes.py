"""Approximate indexes on the disk, beside the keys that they are built of.

keys/{IMAGE_SETS}.{KIND}.faiss    the trained index, mapped into memory by all workers
keys/{IMAGE_SETS}.{KIND}.json     its receipt: the hash of the keys in it, their number, parameters, the index file's own
                                  hash, and the recalls measured with it; written last
keys/{IMAGE_SETS}.{BANK}.{KIND}.faiss    the same of keys with one more dimension, which takes hubness off their scores: see
                                         xvoken/files/hubness.py; its receipt names the bank
"""

import math
from pathlib import Path
from typing import Any

from xvoken.errors import UserError
from xvoken.files.safe import fingerprint, read_json, sha256_of_file, sha256_of_rows

EFFORT = {"ivf": "nprobe", "hnsw": "efSearch", "ivfpq": "nprobe"}  # kinds, and faiss' name for the effort of a search
FEWEST_KEYS = 256  # product quantization trains 256 centroids a subquantizer
CELL_POINTS = 40  # fewest keys of a cell, and how many it is trained on: faiss asks for 39
MOST_CELLS = 1 << 16  # the time of k-means grows with keys x cells
LINKS = 32  # neighbours of a key in the graph
# What an index of cells costs on real keys, as benchmarks/real_keys.py measures it (benchmarks/RESULTS.md).
PROBES = 64  # cells that a query has to search to find 95% of the best keys
READ_PRICE = 16  # one key read from a cell takes as long as so many in a matrix product over all keys
TRAIN_PRICE = 4  # the same for an operation of k-means, always in fp32
ROUNDS = 10  # of k-means


def index_file(where: Path, sets: str, kind: str, bank: str = "") -> Path:
    """The index of image sets (names joined as in the file name) in the folder of keys `where`; bank: its hash, "" without one."""
    return where / (f"{sets}.{bank}.{kind}.faiss" if bank else f"{sets}.{kind}.faiss")


def receipt_file(path: Path) -> Path:
    """The receipt of the index at `path`."""
    return path.with_suffix(".json")


def parameters_of(kind: str, number: int, dim: int) -> dict[str, int]:
    """The parameters that an index of `number` keys is built with: about 4 sqrt(number) cells, as faiss advises."""
    if kind == "hnsw":
        return {"links": LINKS}
    cells = {"cells": max(1, min(round(4 * math.sqrt(number)), number // CELL_POINTS, MOST_CELLS))}
    if kind == "ivf":
        return cells
    return {**cells, "bytes": max(n for n in range(1, max(1, dim // 8) + 1) if dim % n == 0)}


def costs(number: int, dim: int) -> tuple[float, float]:
    """What an ivf index of `number` keys is expected to cost, in inner products of exact search: a query, and building it once."""
    cells = parameters_of("ivf", number, dim)["cells"]
    query = cells + READ_PRICE * min(PROBES, cells) * number / cells
    return query, TRAIN_PRICE * cells * (ROUNDS * CELL_POINTS * cells + number)


def identity(receipt: dict[str, Any]) -> str:
    """Name an index by its receipt without the recalls, which are measured later: 12 hex digits."""
    return fingerprint({name: value for name, value in receipt.items() if name != "recall"})


def check(path: Path) -> str:
    """Compare an index with its receipt; returns a line that describes it, or raises UserError."""
    mend = f"build it again after: rm {path}"
    receipt = read_json(receipt_file(path), mend)
    if sha256_of_file(path) != receipt["index"]:
        raise UserError(f"{path}: not the file that {receipt_file(path)} describes; {mend}")
    recalls = ", ".join(f"{record['recall']:.3f}" for record in receipt["recall"].values()) or "not measured"
    return f"{receipt['kind']} index of {receipt['number']:,} keys of {receipt['dim']} dimensions, recall {recalls}"


def made_of(keys: Any, kind: str, bank: str = "") -> dict[str, Any]:
    """The part of a receipt that follows from the keys: they and the parameters decide whether an index is built again.

    keys: float32 (N, dim), or anything that gives blocks of such rows; bank: the hash of the bank behind their last dimension, if any.
    """
    number, dim = keys.shape
    named = {"bank": bank} if bank else {}
    parameters = parameters_of(kind, number, dim)
    return {"kind": kind, "keys": sha256_of_rows(keys), "number": number, "dim": dim, "parameters": parameters, **named}


def read_receipt(path: Path) -> dict[str, Any] | None:
    """The receipt of the index at `path`; None if the index or its receipt is missing."""
    mend = f"remove it, and the index is built again: rm {receipt_file(path)}"
    return read_json(receipt_file(path), mend) if receipt_file(path).exists() and path.exists() else None
