"""Raw features of a torchvision backbone for pictures, as Vokenization extracts them for its --voken_feat_dir: float32, not of length 1.

Pictures in batches are cut as for its ResNets, the shorter side scaled to 256 and the centre of 224; pictures one by one are whole and
larger, the shorter side at most 400 and the longer one at most 600.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvoken.cache.features import part_arrays
from xvoken.cache.images import IMAGE_CHUNK, Batches, ImageJob, leave_out, tower_rows
from xvoken.encoders.matcher import ImageTowerSpec
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files.key_checks import RAW
from xvoken.files.safe import save_array
from xvoken.machine import IMAGE_BATCH, WORTH_IMAGES, Compute, Pace, pictures_a_part
from xvoken.pictures.batches import open_pictures, require_decoder
from xvoken.pictures.cuts import Cuts
from xvoken.pictures.sources import Member, plain
from xvoken.pictures.view import View, WholeView
from xvoken.towers.sources import image_kind
from xvoken.work.parts import Parts, read_skipped
from xvoken.work.product import Product, one_pass

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of its colours, from 0 to 1
CROPPED = Cuts(View(256, 224, *IMAGENET), ("whole",))
WHOLE = WholeView(400, 600)


@dataclass
class RawJob(ImageJob):
    """Pictures -> float32 features; whole: each picture by itself, see WHOLE; see xvoken.work.jobs.Job."""

    whole: bool = False

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        """Write float32 (n, width), NaN for pictures that are skipped; returns [row, reason] of these as `skipped`."""
        pictures = open_pictures(self.paths[start:stop], WHOLE if self.whole else CROPPED, self.decoder, self.image.device)
        how = Batches(1 if self.whole else self.batch_size, self.threads, self.pace)
        rows, skipped = tower_rows(pictures, how, self.image.features_of_views, (1, self.image.width), whole=True)
        skipped = leave_out(rows[:, 0], start, [[start + row, reason] for row, reason in skipped])
        save_array(part.with_suffix(".npy"), rows[:, 0])
        return {"skipped": skipped}


def write_features(
    spec: ImageTowerSpec, product: Product, ids: list[str], paths: list[Path | Member], compute: Compute, whole: bool
) -> tuple[int, int] | None:
    """Make the product, whose path is of a folder and an image set; returns the number of features, and of pictures left out.

    None while other shares of the work are missing. Raises UserError when no picture can be used.
    """
    require_decoder(compute.decoder)
    if spec.name == "efficientnet_lite2" or image_kind(spec.visn) != "torchvision":
        raise UserError(f"--torchvision-model {spec.visn}: not one of torchvision's; resnet101 and resnext101_32x8d, for example, are")
    try:
        tower = spec.build()
    except UserError as error:
        raise UserError(str(error).replace("--visn ", "--torchvision-model ", 1)) from None
    # Views of many sizes: what OpenVINO compiles is for one.
    pace = Pace(threads=1) if whole else compute.pace(len(ids), WORTH_IMAGES)
    job = RawJob(
        spec,
        plain(paths),
        compute.precision,
        compute.batch_size or IMAGE_BATCH,
        len(compute.devices),
        compute.decoder,
        pace=pace,
        whole=whole,
    )
    job.reuse(tower)
    chunk, name = pictures_a_part(len(ids), compute.device, IMAGE_CHUNK), product.path.stem
    with one_pass([product], len(ids), chunk, compute.engine) as made:
        if not made.run(job, compute.devices, desc=name, unit="img"):
            return None
        skipped = read_skipped(made.parts)
        rows = np.delete(np.arange(len(ids)), [row for row, _ in skipped]).tolist()
        if not rows:
            raise UserError(f"{name}: none of the {len(ids)} pictures can be used ({skipped[0][1]}); first: {paths[0]}")
        made.report(items=len(ids))
        key_files.write(
            product.path.parent, name, _usable(made.parts), [ids[r] for r in rows], [str(paths[r]) for r in rows],
            [(ids[r], str(paths[r]), reason) for r, reason in skipped], product.settings, {RAW: spec.name, "image_set": name},
        )  # fmt: skip
    return len(rows), len(skipped)


def _usable(parts: Parts) -> Iterator[NDArray[np.float32]]:
    """The features of each part, without the rows of pictures that can't be used."""
    for block in part_arrays(parts):
        yield block[np.isfinite(block[:, 0])]
