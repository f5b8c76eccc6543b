"""The pass over the pictures that three entry scripts share: for one context file, the other, or both."""

import argparse
import datetime
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctx.coco import Pictures, read_pictures
from ctx.options import compute_of
from ctx.views import ViewsJob
from xvoken.console import progress, say
from xvoken.encoders.encoder import Encoder, load_encoder
from xvoken.errors import RunError, UserError
from xvoken.files import context as files
from xvoken.files.image_ids import hash_of_pictures
from xvoken.files.locks import sole_writer
from xvoken.files.phrases import CaptionDB
from xvoken.files.safe import same_settings, save_array
from xvoken.machine import Compute
from xvoken.work.parts import Parts, read_skipped, remove_leftover

CHUNK = {"cpu": 64, "gpu": 2048}  # pictures a part, at most
BATCH = {"cpu": 16, "gpu": 960}  # views a batch: the activations of more of them leave a core's cache
ROOM = 1.02  # of the estimate that must be free on the disk


@dataclass
class Inputs:
    """What all three scripts need. decoders: threads beside each process, see ctx.options.compute_of."""

    model: str
    encoder: Encoder
    pictures: Pictures
    compute: Compute
    decoders: int


def load_inputs(args: argparse.Namespace) -> Inputs:
    """From the flags; cheap checks first."""
    compute, decoders = compute_of(args, BATCH)
    pictures = read_pictures(args.images, args.dataset_root, args.limit)
    return Inputs(args.model, load_encoder(args.model, ["image"], "cpu"), pictures, compute, decoders)


def make_context(inputs: Inputs, visual: Path | None = None, textual: Path | None = None, db: CaptionDB | None = None, k: int = 16) -> None:
    """Write the files asked for, unless they stand there already, in one pass over the pictures.

    textual needs db. Raises UserError when no picture can be used.
    """
    if not inputs.pictures.ids:
        raise UserError("no images to encode; look at --dataset_root or --images")
    if db and k > len(db.keys):
        most = len(db.keys)
        raise UserError(f"--k {k}: the caption database has {most} phrases only; take --k {most} or fewer (K={most} for the bash script)")
    with ExitStack() as stack:
        for path in (visual, textual):  # the lock of the parts is one file's only
            if path:
                stack.enter_context(sole_writer(path))
        if wanted := _unfinished(inputs, visual, textual, db, k):
            _write_context(inputs, visual, textual, db, k, wanted)


def _write_context(
    inputs: Inputs, visual: Path | None, textual: Path | None, db: CaptionDB | None, k: int, wanted: dict[Path, dict[str, Any]]
) -> None:
    """wanted: the files to write, with their settings."""
    encoder, pictures, compute = inputs.encoder, inputs.pictures, inputs.compute
    with_crops = textual in wanted
    main = textual if with_crops else visual
    if with_crops:
        _room_for(textual, files.textual_bytes(len(pictures.ids), k, db.features.shape[1]))
    paths = [str(path) for path in pictures.paths]
    also = tuple(path for path in wanted if path != main)
    with Parts(main, len(paths), part_size(len(paths), compute.device), wanted[main], also) as parts:
        job = ViewsJob(inputs.model, paths, compute.precision, compute.batch_size, inputs.decoders)
        if with_crops:
            job.keys, job.k = str(parts.folder / "keys.npy"), k
            save_array(Path(job.keys), db.keys)
        parts.run(job, compute.devices, desc=main.name, unit="img")
        skipped = [(pictures.ids[row], paths[row], reason) for row, reason in read_skipped(parts)]
        if len(skipped) == len(paths):
            raise UserError(f"none of the {len(paths)} pictures can be used, {paths[0]} for one: {skipped[0][2]}")
        attributes = {"model": inputs.model, "model_hash": encoder.hash, "revision": encoder.revision, "date": today()}
        if visual in wanted:
            rows = ((image_id, pooled) for image_id, pooled, _, _ in _rows(parts, pictures.ids, visual))
            settings = json.dumps(wanted[visual], sort_keys=True)
            files.write_visual(visual, rows, encoder.image.width, skipped, {**attributes, "settings": settings})
        if with_crops:
            found = ((image_id, best, scores) for image_id, _, best, scores in _rows(parts, pictures.ids, textual))
            settings = json.dumps(wanted[textual], sort_keys=True)
            files.write_textual(textual, found, db, skipped, {**attributes, "settings": settings})
    left_out = f"; {len(skipped)} left out, listed in {files.skipped_file(main)}" if skipped else ""
    print(f"wrote the context of {len(paths) - len(skipped):,} pictures to {' and '.join(map(str, wanted))}{left_out}")


def part_size(pictures: int, device: str) -> int:
    """Pictures a part: small enough that a few pictures still are work for many processes. Not by their number, which
    must not change the bytes."""
    return min(CHUNK["cpu" if device == "cpu" else "gpu"], max(8, pictures // 64))


def today() -> str:
    """The date that goes into the files: days only, so that a run that was killed gives the bytes of one that was not."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _unfinished(inputs: Inputs, visual: Path | None, textual: Path | None, db: CaptionDB | None, k: int) -> dict[Path, dict[str, Any]]:
    """Settings of each file that is not there yet; raises UserError for one made with other settings."""
    encoder, pictures = inputs.encoder, inputs.pictures
    settings = {
        "model": encoder.name, "model_hash": encoder.hash, "precision": inputs.compute.precision, "pictures": len(pictures.ids),
        "data": hash_of_pictures(pictures.ids, pictures.paths)[:16],
    }  # fmt: skip
    wanted = {visual: settings} if visual else {}
    if textual:
        wanted[textual] = {**settings, "caption_db": db.identity, "k": k}
    for path in list(wanted):
        if path.exists():
            same_settings(path, files.read_settings(path), wanted.pop(path))
            say(f"skipped: {path} holds the context of these {len(pictures.ids):,} pictures already")
            if not wanted:
                remove_leftover(path)
    return wanted


def _room_for(path: Path, size: int) -> None:
    """Say how large a large file gets; refuse to start what the disk can't hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if size * ROOM > free:
        raise RunError(
            f"{path} will take about {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; make room, or take fewer phrases with --k"
        )
    if size > 1e9:
        say(f"{path} will take about {size / 1e9:.0f} GB")


def _rows(parts: Parts, ids: list[str], path: Path) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]]:
    """id, pooled features (width,), best (V, k), scores (V, k) of each picture that could be used."""
    with progress(total=len(ids), desc=f"writing {path.name}", unit="img") as bar:
        for number, (start, stop) in enumerate(parts.ranges):
            arrays = parts.load(number)
            pooled, best, scores = arrays["pooled"], arrays["best"], arrays["scores"]
            for row in range(stop - start):
                bar.update()
                if not np.isnan(pooled[row, 0]):
                    yield ids[start + row], pooled[row], best[row], scores[row]
