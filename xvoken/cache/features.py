"""The outputs of frozen towers for pictures and sentences, computed once and kept on disk.

    CACHE/{label}-{hash}.npy     float16 (N, width), one row an item; NaN where a picture could not be used
    CACHE/{label}-{hash}.json    settings (tower, its weights' hash, view, precision, data) and skipped rows

The hash follows from the settings, so that training, key extraction and evaluation find each other's caches.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xvoken.errors import UserError
from xvoken.files.safe import differences, quoted, read_json, replacing, write_json
from xvoken.machine import Compute
from xvoken.work.jobs import Job
from xvoken.work.parts import Parts, read_skipped
from xvoken.work.product import Product, one_pass


@dataclass
class Features:
    """rows: float16 (N, width), memory-mapped; skipped: [row, reason] of rows that hold NaN; path: the file."""

    rows: NDArray[np.float16]
    skipped: list[tuple[int, str]]
    path: Path

    @property
    def usable(self) -> NDArray[np.int64]:
        """Row numbers that hold features."""
        return np.delete(np.arange(len(self.rows)), [row for row, _ in self.skipped])


def as_float16(out: Tensor) -> NDArray[np.float16]:
    """A tower's output as float16 on the CPU, as caches keep it; numbers beyond 65,504 become infinite."""
    with np.errstate(over="ignore"):
        return out.float().cpu().numpy().astype(np.float16)


def precision_of(features: Features, compute: Compute) -> str:
    """The precision that features were computed in, where `auto` has left it open."""
    if not compute.any_precision:
        return compute.precision
    receipt = features.path.with_suffix(".json")
    return str(read_json(receipt, f"remove {receipt} to make it again")["settings"]["precision"])


def left_out(views: Sequence[Features]) -> list[tuple[int, str]]:
    """[row, reason] of the pictures that any of the views lacks, in order; views: of the same pictures."""
    return sorted({row: reason for features in reversed(views) for row, reason in features.skipped}.items())


def cached(
    path: Path, label: str, settings: dict[str, Any], job: Job, shape: tuple[int, int], chunk: int, compute: Compute, unit: str
) -> Features | None:
    """The features at `path`, from the disk or made now by the job; None while other shares of the work are missing.

    label: for the progress bar; settings: those in the name of `path`; shape: (N, width); chunk, unit: items in a part, their name.
    Raises UserError when unfinished shares of the same work have other settings.
    """
    product = cache_product(path, settings)
    if not product.finished():
        if compute.engine.share or compute.engine.join:
            same_as_other_shares(path, settings)
        if not make([Cache(product, shape)], job, chunk, compute, label, unit):
            return None
    return load_features(path)


@dataclass
class Cache:
    """A cache that a pass makes. shape: of its array; blocks: the rows of each part, in order (default: the part's PART.npy)."""

    product: Product
    shape: tuple[int, ...]
    blocks: "Callable[[Parts], Iterable[NDArray[np.float16]]]" = lambda parts: part_arrays(parts)


def make(caches: Sequence[Cache], job: Job, chunk: int, compute: Compute, label: str, unit: str) -> bool:
    """Make caches of the same items in one pass, which lies beside the last one; False while other shares of the work are missing.

    Of the items that the job skipped, the receipt of a cache names those whose row begins with NaN in it.
    """
    items = caches[0].shape[0]
    with one_pass([cache.product for cache in caches], items, chunk, compute.engine) as made:
        if not made.run(job, compute.devices, desc=label, unit=unit):
            return False
        skipped = read_skipped(made.parts)
        made.report(items=items)
        # One that another run has finished since we asked is as it should be; shares that began after that have made no parts of it.
        for cache in [cache for cache in caches if not cache.product.last.exists()]:
            write_rows(cache.product.path, cache.shape, cache.blocks(made.parts))
            rows = np.load(cache.product.path, mmap_mode="r")
            missing = [row for row in skipped if np.isnan(rows[row[0]].flat[0])]
            write_json(cache.product.last, {"settings": cache.product.settings, "skipped": missing})
    return True


def cache_product(path: Path, settings: dict[str, Any], companions: tuple[Path, ...] = ()) -> Product:
    """A cache as a product: its name holds the fingerprint of its settings, its receipt (.json) is written last."""
    return Product(path, settings, companions=companions, done=path.with_suffix(".json"))


def same_as_other_shares(path: Path, settings: dict[str, Any]) -> None:
    """Raise UserError if unfinished shares have other settings: their cache has another name, so they would never be joined with ours.

    path: of the cache; all names that begin as it does before its hash are looked at.
    """
    kind, _, _ = path.stem.rpartition("-")
    for other in sorted(path.parent.glob(f"{escape(kind)}-*.npy.parts/plan.json")):
        then = read_json(other, f"remove {other.parent} to start over")["settings"]
        if changed := differences(then, json.loads(json.dumps(settings))):  # through JSON, which turns tuples into lists
            mend = f"give all shares the same, or, if that run is given up: rm -r {quoted(other.parent)}"
            raise UserError(f"{other.parent}: holds shares of the same work with other settings ({changed}); {mend}")


def load_features(path: Path) -> Features:
    """Open a finished cache; raises UserError if its receipt is missing or damaged."""
    receipt = path.with_suffix(".json")
    facts = read_json(receipt, f"remove {receipt} to make it again")
    return Features(np.load(path, mmap_mode="r"), [tuple(row) for row in facts["skipped"]], path)


def write_rows(path: Path, shape: tuple[int, ...], blocks: Iterable[NDArray[np.float16]]) -> None:
    """Write float16 blocks of rows, one after another, as one .npy file of `shape`, atomically.

    Not through a memory map, where a full disk is a SIGBUS instead of an error.
    """
    with replacing(path) as temporary, open(temporary, "wb") as out:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        for block in blocks:
            out.write(np.ascontiguousarray(block).data)


def part_arrays(parts: Parts, ending: str = ".npy") -> Iterator[NDArray[np.float16]]:
    """The array of each part with this ending, in order, mapped into memory; raises UserError for a damaged one."""
    for number in range(len(parts.ranges)):
        yield parts.load(number, ending)
