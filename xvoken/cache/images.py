"""The outputs of a frozen image tower for pictures, computed once; xvoken/cache/features.py describes the files.

Each cut of the pictures (xvoken/pictures/cuts.py) has a cache of its own, that of the evaluation view under the plain name:

    CACHE/{label}-{tower}-{hash}.npy          the cut `whole`
    CACHE/{label}-{tower}-{cut}-{hash}.npy    another one, which its settings name as `cut`

One pass decodes each picture once and makes all caches that are missing. A cache has the same bytes whichever cuts are made with it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xvoken.cache.features import (
    Cache,
    Features,
    as_float16,
    cache_product,
    left_out,
    load_features,
    make,
    part_arrays,
    same_as_other_shares,
)
from xvoken.encoders.frozen import FrozenImage
from xvoken.encoders.lanes import in_lanes
from xvoken.encoders.matcher import ImageTowerSpec
from xvoken.encoders.running import ALONE
from xvoken.errors import UserError
from xvoken.files.image_ids import hash_of_pictures
from xvoken.files.safe import fingerprint, save_array
from xvoken.machine import IMAGE_BATCH, WORTH_IMAGES, Compute, Pace, pictures_a_part
from xvoken.pictures.batches import Items, batch_readers, on_device, open_pictures
from xvoken.pictures.cuts import Cuts, first_cuts
from xvoken.pictures.sources import Member, plain
from xvoken.towers.hashes import weights_hash
from xvoken.towers.image import ImageTower
from xvoken.work.jobs import TowerJob
from xvoken.work.parts import plan_settings
from xvoken.work.product import Product

IMAGE_CHUNK = 32  # pictures a part, at least
NOT_FINITE = "the tower's output is not finite, or too large for float16"


def leave_out(rows: NDArray[np.floating], start: int, skipped: list[list[Any]]) -> list[list[Any]]:
    """Fill each row of (n, ...) that is not finite throughout with NaN, in place.

    skipped: [start + row, reason] of the rows left out so far; returned with these added, in order.
    """
    known = {item for item, _ in skipped}
    bad = np.flatnonzero(~np.isfinite(rows.reshape(len(rows), -1)).all(1)).tolist()
    rows[bad] = np.nan
    return sorted([*skipped, *([start + row, NOT_FINITE] for row in bad if start + row not in known)])


@dataclass
class Batches:
    """How pictures go through a tower: at_once in a batch; decoded by these threads ahead of it, or, without, by the lanes of `pace`."""

    at_once: int
    threads: ThreadPoolExecutor | None = None
    pace: Pace = ALONE


def tower_rows(
    pictures: Items, how: Batches, embed: Callable[[Tensor], Tensor], shape: tuple[int, int], whole: bool = False
) -> tuple[NDArray[np.floating], list[list[Any]]]:
    """Views of pictures through a tower, in batches: float16 (n, V, width), NaN for a picture that can't be used.

    pictures: items uint8 (V, 3, H, W), or why a picture can't be used (str); shape: (V, width);
    embed: uint8 (B, V, 3, H, W) -> (B, V, width), on the tower's device; whole: float32 rows instead, all that a tower computes.
    Returns [row, reason] of the pictures left out too.
    """
    rows = np.full((len(pictures), *shape), np.nan, np.float32 if whole else np.float16)
    skipped: list[list[Any]] = []

    def one(batch: Callable[[], tuple[int, list[Any]]]) -> tuple[list[int], Tensor | None]:
        first, items = batch()
        good = [i for i, item in enumerate(items) if not isinstance(item, str)]
        skipped.extend([first + i, item] for i, item in enumerate(items) if isinstance(item, str))
        return [first + i for i in good], embed(torch.stack([items[i] for i in good])) if good else None

    found = list(in_lanes(one, batch_readers(pictures, how.at_once, how.threads), how.pace))
    for places, out in found:  # after all batches, so that a GPU is not waited for between them
        if out is not None:
            rows[places] = out.float().cpu().numpy() if whole else as_float16(out)
    return rows, sorted(skipped)


def part_ending(cut: str) -> str:
    """What follows the number of a part in the name of its file for a cut."""
    return ".npy" if cut == "whole" else f".{cut}.npy"


@dataclass
class ImageJob(TowerJob):
    """Pictures -> tower outputs for these cuts of each; see xvoken.work.jobs.Job."""

    spec: ImageTowerSpec
    paths: list[str | Member]
    precision: str
    batch_size: int = IMAGE_BATCH
    workers: int = 1
    decoder: str = "pillow"
    cuts: tuple[str, ...] = first_cuts(1)
    OLD_BATCH: ClassVar[int | None] = 8

    def setup(self, device: str) -> None:
        """Build the tower on the device; sets the batch size and the decoding threads that go with it."""
        self.image = FrozenImage(self.built or self.spec.build(), device, self.precision, self.pace)
        self.batch_size, self.threads = on_device(device, self.batch_size, self.workers)

    def frozen(self) -> Any:
        """The tower at work."""
        return self.image

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        """Write float16 (n, width) for each cut, NaN for pictures skipped in it; returns [row, reason] of all of these as `skipped`."""
        image, shape = self.image, (len(self.cuts), self.image.width)
        pictures = open_pictures(self.paths[start:stop], Cuts(image.view, self.cuts), self.decoder, image.device)
        rows, skipped = tower_rows(pictures, Batches(self.batch_size, self.threads, self.pace), image.features_of_views, shape)
        skipped = [[start + row, reason] for row, reason in skipped]
        for number, cut in enumerate(self.cuts):  # each for itself: its rows must not hang on which others are made with it
            skipped = leave_out(rows[:, number], start, skipped)
            save_array(part.with_suffix(part_ending(cut)), rows[:, number])
        return {"skipped": skipped}


def image_features(
    spec: ImageTowerSpec, tower: ImageTower, ids: list[str], paths: Sequence[Path | Member], compute: Compute, label: str,
    data: str | None = None,
) -> Features | None:  # fmt: skip
    """The tower's output for the evaluation view of each picture: `cut_features` with one view."""
    found = cut_features(spec, tower, ids, paths, compute, label, 1, data)
    return found[0] if found else None


def cut_features(
    spec: ImageTowerSpec, tower: ImageTower, ids: list[str], paths: Sequence[Path | Member], compute: Compute, label: str,
    views: int, data: str | None = None,
) -> list[Features] | None:  # fmt: skip
    """The tower's output for the first `views` CUTS of each picture, from the caches or made now, one after another.

    ids and paths: one of each a picture; pictures with the same ids and file sizes count as the same data. data: their
    hash_of_pictures, if the caller has it already; label: the beginning of the files' names.
    None while other shares of the work are missing. Raises UserError when no picture can be used in all views.
    """
    cuts, settings = first_cuts(views), image_settings(spec, tower, ids, paths, compute, data)
    compute = settled_caches(settings, compute, label, cuts)
    settings["precision"] = compute.precision
    caches = {cut: cut_cache(settings, compute, label, cut) for cut in cuts}
    missing = {cut: product for cut, product in caches.items() if not product.finished()}
    if missing:
        if compute.engine.share or compute.engine.join:
            same_as_other_shares(caches["whole"].path, list(missing.values())[-1].settings)
        shape = len(ids), tower.width
        wanted = [Cache(product, shape, partial(part_arrays, ending=part_ending(cut))) for cut, product in missing.items()]
        size, workers = compute.batch_size or IMAGE_BATCH, len(compute.devices)
        pace = compute.pace(len(ids), WORTH_IMAGES)
        job = ImageJob(spec, plain(paths), compute.precision, size, workers, compute.decoder, tuple(missing), pace=pace)
        job.reuse(tower)
        chunk = pictures_a_part(len(ids), compute.device, IMAGE_CHUNK)
        if not make(wanted, job, chunk, compute, label if len(missing) == 1 else f"{label}, {len(missing)} views", "img"):
            return None
    found = [load_features(product.path) for product in caches.values()]
    if len(skipped := left_out(found)) == len(ids):
        reasons = sorted({reason for _, reason in skipped})
        raise UserError(f"{label}: none of the {len(ids)} pictures can be used ({', '.join(reasons[:3])}); first: {paths[0]}")
    return found


def image_settings(
    spec: ImageTowerSpec, tower: ImageTower, ids: list[str], paths: Sequence[Path | Member], compute: Compute, data: str | None = None
) -> dict[str, Any]:
    """The settings that the tower's output for the evaluation view of these pictures depends on; arguments as of `cut_features`."""
    settings = {
        "tower": spec.name, "weights": weights_hash(tower), "view": asdict(tower.view), "precision": compute.precision,
        "pictures": len(ids), "data": data or hash_of_pictures(ids, paths),
    }  # fmt: skip
    # Left out at their defaults: older caches, from before there was a choice, do not name them.
    settings |= {} if spec.pool == "avg" else {"pool": spec.pool}
    return settings | ({} if compute.decoder == "pillow" else {"decoder": compute.decoder})


def settled_caches(settings: dict[str, Any], compute: Compute, label: str, cuts: Sequence[str]) -> Compute:
    """The same, in the precision in which these caches are finished or begun, where `auto` has left it open."""
    if not compute.any_precision:
        return compute
    for precision in sorted({"bf16", "fp32"}, key=lambda one: one != compute.precision):
        caches = [cut_cache({**settings, "precision": precision}, compute, label, cut) for cut in cuts]
        if all(cache.last.exists() for cache in caches) or any(plan_settings(cache.path) for cache in caches):
            return replace(compute, precision=precision)
    return compute


def cut_cache(settings: dict[str, Any], compute: Compute, label: str, cut: str = "whole") -> Product:
    """The cache for a cut of pictures, whether it exists or not; settings: those of their evaluation view."""
    if cut != "whole":
        settings = {**settings, "cut": cut}
    name = "-".join([label, settings["tower"], *([] if cut == "whole" else [cut]), fingerprint(settings)])
    return cache_product(compute.cache / f"{name}.npy", settings)
