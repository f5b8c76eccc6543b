"""Pictures through the image tower, each decoded once: the work on one range of pictures."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctx import crops
from xvoken.cache.images import leave_out
from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.frozen import of_length_one
from xvoken.encoders.lanes import in_lanes
from xvoken.files.safe import save_array, save_arrays
from xvoken.pictures.batches import batches_ahead
from xvoken.pictures.cuts import Cuts, first_cuts
from xvoken.pictures.decode import BrokenPicture, load_picture
from xvoken.pictures.sources import Member
from xvoken.pictures.view import AnyView
from xvoken.search.torch_exact import TorchIndex
from xvoken.work.jobs import TowerJob


class CroppedPictures(torch.utils.data.Dataset):
    """Item i: the views of picture i as uint8 (V, 3, H, W), with several cuts of each in a row, or why it can't be used (str)."""

    def __init__(self, paths: list[str | Member], view: AnyView, number: int, cuts: int = 1):
        self.paths, self.number = paths, number
        self.cuts = Cuts(view, first_cuts(cuts))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Tensor | str:
        try:
            picture = load_picture(self.paths[i])
        except BrokenPicture as error:
            return str(error)
        return torch.cat([self.cuts(view) for view in crops.views(picture, self.number)])


def full_batches(items: Iterator[tuple[int, Tensor]], size: int) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Put the views of successive pictures together in full batches for the tower.

    items: (number of the picture, its views (V, ...)); yields batches of `size` views, the last one smaller, and the places of
    the views, int64 (size,): picture * V + view.
    """
    waiting: list[Tensor] = []
    places: list[NDArray[np.int64]] = []
    count = 0
    for picture, views in items:
        waiting.append(views)
        places.append(picture * len(views) + np.arange(len(views)))
        count += len(views)
        if count >= size:
            pixels, where = torch.cat(waiting), np.concatenate(places)
            whole = count - count % size
            for start in range(0, whole, size):
                yield pixels[start : start + size], where[start : start + size]
            waiting, places, count = [pixels[whole:]], [where[whole:]], count - whole
    if count:
        yield torch.cat(waiting), np.concatenate(places)


@dataclass
class ContextJob(TowerJob):
    """Computes pooled features of whole pictures, and finds the k best phrases of each view; see xvoken.work.jobs.Job.

    key_views: cuts of each view whose mean stands for it, of their features as of their vectors.
    keys: .npy file of the phrases' keys (n, d), or None for the features alone, which need only one view of each picture.
    """

    model: str
    paths: list[str | Member]
    precision: str
    batch_size: int
    decoders: int  # threads that decode for the worker; 0: it decodes by itself
    keys: str | None = None
    k: int = 0
    expected: str | None = None  # the hash that the model must have
    key_views: int = 1

    def setup(self, device: str) -> None:
        self.threads = ThreadPoolExecutor(self.decoders) if self.decoders else None
        self.encoder = load_encoder(self.model, ["image"], device, self.precision, self.expected, self.pace)
        # Memory-mapped: all workers of the machine share one copy.
        self.index = TorchIndex(np.load(self.keys, mmap_mode="c"), device) if self.keys else None

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        count, views = stop - start, crops.VIEWS if self.index else 1
        pooled = np.full((count, self.encoder.image.width), np.nan, np.float32)
        best = np.full((count * views, self.k), -1, np.int32)
        scores = np.full((count * views, self.k), np.nan, np.float32)
        skipped: list[list[Any]] = []
        cuts = self.key_views
        size = max(1, self.batch_size // cuts) * cuts  # all cuts of a view in one batch
        batches = full_batches(self._pictures(start, stop, views, skipped), size)
        for places, features, sound, found in in_lanes(self._one_batch, batches, self.pace):
            if found:
                scores[places], best[places] = found
            whole = places % views == 0
            pooled[places[whole] // views] = features[whole]
            # One bad view spoils its picture. Its whole view came first, so its features do not overwrite the NaN later.
            pooled[places[~sound] // views] = np.nan
        skipped = leave_out(pooled, start, skipped)
        save_arrays(
            part.with_suffix(".npz"), pooled=pooled, best=best.reshape(count, views, self.k), scores=scores.reshape(count, views, self.k)
        )
        return {"skipped": skipped}

    def _one_batch(self, batch: tuple[Tensor, NDArray[np.int64]]) -> tuple[Any, ...]:
        """Pixels of views and the places of their cuts -> places of the views, features, which are sound, scores and rows of phrases."""
        pixels, cut_places = batch
        by_cut = self.encoder.image.features(pixels).float().unflatten(0, (-1, self.key_views))
        features = by_cut.mean(1) if self.key_views > 1 else by_cut[:, 0]
        sound, found = features.isfinite().all(1).cpu().numpy(), None
        if self.index:
            keys = self.encoder.mean_vectors(by_cut).cpu().numpy()
            found = self.index.search(keys, self.k)
            sound &= of_length_one(keys)
        return cut_places[:: self.key_views] // self.key_views, features.cpu().numpy(), sound, found

    def _pictures(self, start: int, stop: int, views: int, skipped: list[list[Any]]) -> Iterator[tuple[int, Tensor]]:
        pictures = CroppedPictures(self.paths[start:stop], self.encoder.image.view, views, self.key_views)
        at_once = max(1, self.batch_size // (views * self.key_views))
        for first, items in batches_ahead(pictures, at_once, self.threads):
            for number, item in enumerate(items, first):
                if isinstance(item, str):
                    skipped.append([start + number, item])
                else:
                    yield number, item


@dataclass
class WholeJob(TowerJob):
    """Vectors of whole pictures, NaN for those that can't be used; see xvoken.work.jobs.Job. Fields as those of ContextJob."""

    model: str
    paths: list[str | Member]
    precision: str
    batch_size: int
    expected: str
    key_views: int

    def setup(self, device: str) -> None:
        self.encoder = load_encoder(self.model, ["image"], device, self.precision, self.expected, self.pace)

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        at_once = max(1, self.batch_size // self.key_views)
        save_array(part.with_suffix(".npy"), self.encoder.encode_images(self.paths[start:stop], at_once, "nan", views=self.key_views))
        return {}
