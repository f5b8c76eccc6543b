"""Augmented views of pictures through a frozen tower, cached beside the evaluation view.

    CACHE/{label}-{tower}-views-{hash}.npy     float16 (N, V, width), NaN where a picture could not be used
    CACHE/{label}-{tower}-views-{hash}.json    settings (with the crops and their seed) and skipped rows

One pass over the pictures makes both caches. It decodes each picture once, but a large JPEG twice: crops are cut at full size.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xvoken.cache.features import Features, as_float16, cache_product, load_features, part_arrays, write_rows
from xvoken.cache.images import IMAGE_CHUNK, image_cache, leave_out
from xvoken.encoders.frozen import FrozenImage
from xvoken.encoders.image import ImageTower
from xvoken.encoders.matcher import ImageTowerSpec
from xvoken.files.safe import fingerprint, save_array, write_json
from xvoken.machine import IMAGE_BATCH, Compute
from xvoken.pictures.augment import AugmentedPictures, Crops
from xvoken.pictures.batches import batches_ahead, on_device
from xvoken.work.parts import Parts, read_skipped
from xvoken.work.product import one_pass


@dataclass
class AugmentedFeatures:
    """rows: float16 (N, V, width), memory-mapped; evaluation: the features of the same pictures without augmentation."""

    rows: NDArray[np.float16]
    evaluation: Features


@dataclass
class AugmentedJob:
    """Pictures -> tower outputs of all their views, the evaluation view first; see xvoken.work.local.Job."""

    spec: ImageTowerSpec
    paths: list[str]
    crops: Crops
    precision: str
    batch_size: int
    workers: int

    def setup(self, device: str) -> None:
        """Build the tower on the device; sets the batch size and the decoding threads that go with it."""
        tower = self.spec.build()
        self.view, self.image = tower.view, FrozenImage(tower, device, self.precision)
        self.batch_size, self.threads = on_device(device, self.batch_size, self.workers)

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        """Write PART.npy, float16 (n, 1 + crops, width), NaN for skipped pictures; returns their [row, reason] as `skipped`."""
        rows = np.full((stop - start, 1 + self.crops.count, self.image.width), np.nan, np.float16)
        skipped: list[list[Any]] = []
        found: list[tuple[list[int], Tensor]] = []
        pictures = AugmentedPictures(self.paths, range(start, stop), self.view, self.crops)
        for first, items in batches_ahead(pictures, max(1, self.batch_size // (1 + self.crops.count)), self.threads):
            good = [i for i, item in enumerate(items) if not isinstance(item, str)]
            skipped += [[start + first + i, item] for i, item in enumerate(items) if isinstance(item, str)]
            if good:
                found.append(([first + i for i in good], self._embed(torch.cat([items[i] for i in good]))))
        for places, views in found:  # after all batches, so that a GPU is not waited for between them
            rows[places] = as_float16(views).reshape(len(places), -1, self.image.width)
        skipped = leave_out(rows, start, skipped)
        save_array(part.with_suffix(".npy"), rows)
        return {"skipped": skipped}

    def _embed(self, views: Tensor) -> Tensor:
        batches = views.tensor_split(math.ceil(len(views) / self.batch_size))
        return torch.cat([self.image.features(batch) for batch in batches])


def augmented_features(
    spec: ImageTowerSpec, tower: ImageTower, ids: list[str], paths: Sequence[Path], crops: Crops, compute: Compute, label: str
) -> AugmentedFeatures:
    """The tower's output for all views of each picture, from the cache or made now; crops: the augmented views.

    The other arguments are those of `image_features`; it is no error here if no picture can be used.
    """
    plain, plain_settings = image_cache(spec, tower, ids, paths, compute, label)
    settings = {**plain_settings, "crops": asdict(crops)}
    path = compute.cache / f"{label}-{spec.name}-views-{fingerprint(settings)}.npy"
    views, evaluation = cache_product(path, settings), cache_product(plain, plain_settings)
    if not views.finished():
        wanted = [*([] if evaluation.finished() else [evaluation]), views]
        job = AugmentedJob(spec, [str(p) for p in paths], crops, compute.precision, compute.batch_size or IMAGE_BATCH, len(compute.devices))
        with one_pass(wanted, len(ids), max(1, IMAGE_CHUNK // (1 + crops.count))) as made:
            made.run(job, compute.devices, desc=f"{label}, {crops.count} views", unit="img")
            skipped = read_skipped(made.parts)
            made.report(items=len(ids))
            if evaluation in made.todo:
                _join(made.parts, plain, (len(ids), tower.width), 0)
                write_json(evaluation.last, {"settings": plain_settings, "skipped": skipped})
            _join(made.parts, path, (len(ids), crops.count, tower.width), slice(1, None))
            write_json(views.last, {"settings": settings, "skipped": skipped})
    return AugmentedFeatures(np.load(path, mmap_mode="r"), load_features(plain))


def _join(parts: Parts, path: Path, shape: tuple[int, ...], views: slice | int) -> None:
    """Write these views (index or slice along axis 1) of all parts into one file of `shape`."""
    write_rows(path, shape, (rows[:, views] for rows in part_arrays(parts)))
