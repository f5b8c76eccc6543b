"""The outputs of a frozen image tower for pictures, computed once; xvoken/cache/features.py describes the files."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xvoken.cache.features import Features, as_float16, cached
from xvoken.encoders.frozen import FrozenImage
from xvoken.encoders.image import ImageTower
from xvoken.encoders.matcher import ImageTowerSpec
from xvoken.encoders.text import weights_hash
from xvoken.errors import UserError
from xvoken.files.image_ids import hash_of_pictures
from xvoken.files.safe import fingerprint, save_array
from xvoken.machine import IMAGE_BATCH, ON_GPU, Compute
from xvoken.pictures.batches import batches_ahead, on_device, open_pictures
from xvoken.pictures.sources import Member, plain

IMAGE_CHUNK = 256  # pictures a part
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
class ImageJob:
    """Pictures -> tower outputs; see xvoken.work.local.Job."""

    spec: ImageTowerSpec
    paths: list[str | Member]
    precision: str
    batch_size: int
    workers: int
    decoder: str = "pillow"

    def setup(self, device: str) -> None:
        """Build the tower on the device; sets the batch size and the decoding threads that go with it."""
        self.image = FrozenImage(self.spec.build(), device, self.precision)
        self.batch_size, self.threads = on_device(device, self.batch_size, self.workers)

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        """Write PART.npy, float16 (n, width), NaN for skipped pictures; returns their [row, reason] as `skipped`."""
        rows = np.full((stop - start, self.image.width), np.nan, np.float16)
        skipped: list[list[Any]] = []
        found: list[tuple[list[int], Tensor]] = []
        pictures = open_pictures(self.paths[start:stop], self.image.view, self.decoder, self.image.device)
        for first, items in batches_ahead(pictures, self.batch_size, self.threads):
            good = [i for i, item in enumerate(items) if not isinstance(item, str)]
            skipped += [[start + first + i, item] for i, item in enumerate(items) if isinstance(item, str)]
            if good:
                found.append(([first + i for i in good], self.image.features(torch.stack([items[i] for i in good]))))
        for places, out in found:  # after all batches, so that a GPU is not waited for between them
            rows[places] = as_float16(out)
        skipped = leave_out(rows, start, skipped)
        save_array(part.with_suffix(".npy"), rows)
        return {"skipped": skipped}


def image_features(
    spec: ImageTowerSpec, tower: ImageTower, ids: list[str], paths: Sequence[Path | Member], compute: Compute, label: str,
    data: str | None = None,
) -> Features | None:  # fmt: skip
    """The tower's output for each picture, from the cache or made now; None while other shares of the work are missing.

    ids and paths: one of each a picture; pictures with the same ids and file sizes count as the same data. data: their
    hash_of_pictures, if the caller has it already; label: the beginning of the file's name.
    Raises UserError when none of the pictures can be used.
    """
    path, settings = image_cache(spec, tower, ids, paths, compute, label, data)
    job = ImageJob(spec, plain(paths), compute.precision, compute.batch_size or IMAGE_BATCH, len(compute.devices), compute.decoder)
    chunk = IMAGE_CHUNK if compute.device == "cpu" else IMAGE_CHUNK * ON_GPU
    features = cached(path, label, settings, job, (len(ids), tower.width), chunk, compute, "img")
    if features and len(features.skipped) == len(ids):
        reasons = sorted({reason for _, reason in features.skipped})
        raise UserError(f"{label}: none of the {len(ids)} pictures can be used ({', '.join(reasons[:3])}); first: {paths[0]}")
    return features


def image_cache(
    spec: ImageTowerSpec, tower: ImageTower, ids: list[str], paths: Sequence[Path | Member], compute: Compute, label: str,
    data: str | None = None,
) -> tuple[Path, dict[str, Any]]:  # fmt: skip
    """The cache file for the evaluation view of these pictures, whether it exists or not, and the settings that it depends on."""
    settings = {
        "tower": spec.name, "weights": weights_hash(tower), "view": asdict(tower.view), "precision": compute.precision,
        "pictures": len(ids), "data": data or hash_of_pictures(ids, paths),
    }  # fmt: skip
    # Left out at their defaults: older caches, from before there was a choice, do not name them.
    settings |= {} if spec.pool == "avg" else {"pool": spec.pool}
    settings |= {} if compute.decoder == "pillow" else {"decoder": compute.decoder}
    return compute.cache / f"{label}-{spec.name}-{fingerprint(settings)}.npy", settings
