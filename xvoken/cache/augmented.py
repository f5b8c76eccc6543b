"""Augmented views of pictures through a frozen tower, cached beside the evaluation view.

    CACHE/{label}-{tower}-views-{hash}.npy     float16 (N, V, width), NaN where a picture could not be used
    CACHE/{label}-{tower}-views-{hash}.json    settings (with the crops and their seed) and skipped rows

One pass over the pictures makes both caches. It decodes each picture once, but a large JPEG twice: crops are cut at full size.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xvoken.cache.features import Cache, Features, cache_product, load_features, make, part_arrays
from xvoken.cache.images import IMAGE_CHUNK, Batches, cut_cache, image_settings, leave_out, tower_rows
from xvoken.encoders.frozen import FrozenImage
from xvoken.encoders.matcher import ImageTowerSpec
from xvoken.files.safe import fingerprint, save_array
from xvoken.machine import IMAGE_BATCH, WORTH_IMAGES, Compute, pictures_a_part
from xvoken.pictures.augment import AugmentedPictures, Crops
from xvoken.pictures.batches import on_device
from xvoken.towers.image import ImageTower
from xvoken.work.jobs import TowerJob
from xvoken.work.parts import Parts


@dataclass
class AugmentedFeatures:
    """rows: float16 (N, V, width), memory-mapped; evaluation: the features of the same pictures without augmentation."""

    rows: NDArray[np.float16]
    evaluation: Features


@dataclass
class AugmentedJob(TowerJob):
    """Pictures -> tower outputs of all their views, the evaluation view first; see xvoken.work.jobs.Job."""

    spec: ImageTowerSpec
    paths: list[str]
    crops: Crops
    precision: str
    batch_size: int = IMAGE_BATCH
    workers: int = 1
    OLD_BATCH: ClassVar[int | None] = 8

    def setup(self, device: str) -> None:
        """Build the tower on the device; sets the batch size and the decoding threads that go with it."""
        tower = self.built or self.spec.build()
        self.view, self.image = tower.view, FrozenImage(tower, device, self.precision, self.pace)
        self.batch_size, self.threads = on_device(device, self.batch_size, self.workers)

    def frozen(self) -> Any:
        """The tower at work."""
        return self.image

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        """Write PART.npy, float16 (n, 1 + crops, width), NaN for skipped pictures; returns their [row, reason] as `skipped`."""
        views = 1 + self.crops.count
        pictures = AugmentedPictures(self.paths, range(start, stop), self.view, self.crops)
        shape = views, self.image.width
        rows, skipped = tower_rows(pictures, Batches(max(1, self.batch_size // views), self.threads, self.pace), self._embed, shape)
        skipped = leave_out(rows, start, [[start + row, reason] for row, reason in skipped])
        save_array(part.with_suffix(".npy"), rows)
        return {"skipped": skipped}

    def _embed(self, views: Tensor) -> Tensor:
        """uint8 (B, V, 3, H, W) -> (B, V, width), the views of few pictures in batches that hold several views of each"""
        together = views.flatten(0, 1)
        batches = together.tensor_split(math.ceil(len(together) / self.batch_size))
        return torch.cat([self.image.features(batch) for batch in batches]).unflatten(0, views.shape[:2])


def augmented_features(
    spec: ImageTowerSpec, tower: ImageTower, ids: list[str], paths: Sequence[Path], crops: Crops, compute: Compute, label: str
) -> AugmentedFeatures:
    """The tower's output for all views of each picture, from the cache or made now; crops: the augmented views.

    The other arguments are those of `image_features`; it is no error here if no picture can be used.
    """
    plain = image_settings(spec, tower, ids, paths, compute)
    settings = {**plain, "crops": asdict(crops)}
    evaluation = cut_cache(plain, compute, label)
    views = cache_product(compute.cache / f"{label}-{spec.name}-views-{fingerprint(settings)}.npy", settings)
    if not views.finished():
        size, pace = compute.batch_size or IMAGE_BATCH, compute.pace(len(ids) * (1 + crops.count), WORTH_IMAGES)
        job = AugmentedJob(spec, [str(p) for p in paths], crops, compute.precision, size, len(compute.devices), pace=pace)
        job.reuse(tower)
        wanted = [Cache(views, (len(ids), crops.count, tower.width), partial(_blocks, slice(1, None)))]
        if not evaluation.finished():
            wanted.insert(0, Cache(evaluation, (len(ids), tower.width), partial(_blocks, 0)))
        chunk = max(1, pictures_a_part(len(ids), "cpu", IMAGE_CHUNK) // (1 + crops.count))
        made = make(wanted, job, chunk, compute, f"{label}, {crops.count} views", "img")
        assert made, "augmented views are not done in shares"
    return AugmentedFeatures(np.load(views.path, mmap_mode="r"), load_features(evaluation.path))


def _blocks(views: slice | int, parts: Parts) -> Iterator[NDArray[np.float16]]:
    """These views (index or slice along axis 1) of all parts."""
    return (rows[:, views] for rows in part_arrays(parts))
