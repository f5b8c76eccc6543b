"""The pass over the pictures, shared by the three entry scripts that write one context file or both."""

import argparse
import datetime
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from xvoken.interrupts import importing

import numpy as np
from numpy.typing import NDArray

from ctx.coco import PictureSet, read_pictures
from ctx.crops import VIEWS
from ctx.hubness import PictureBank, prepare
from ctx.options import compute_of, source_of
from xvoken.console import progress, say
from xvoken.encoders.identity import Identity, identify, said
from xvoken.errors import RunError, UserError
from xvoken.files import context as files
from xvoken.files import hubness
from xvoken.files import phrases as caption_db
from xvoken.files.image_ids import hash_of_pictures
from xvoken.files.phrases import CaptionDB
from xvoken.files.safe import save_array
from xvoken.machine import WORTH_IMAGES, Compute
from xvoken.pictures.sources import plain
from xvoken.work.parts import Parts, read_skipped
from xvoken.work.product import Product, begun_with, one_pass, settled

CHUNK = {"cpu": 64, "gpu": 2048}  # pictures per part, at most
BATCH = {"cpu": 16, "gpu": 960}  # views per batch; on a CPU, the activations of more views would not fit a core's cache
ROOM = 1.02  # factor on the estimated size, which must be free on the disk


@dataclass
class Inputs:
    """What all three scripts need.

    pictures: the first --limit of those that are listed; decoders: threads that decode for each process, see ctx.options.compute_of.
    """

    model: str
    identity: Identity
    pictures: PictureSet
    listed: PictureSet
    compute: Compute
    decoders: int


@dataclass
class Phrases:
    """The phrases that are retrieved, the best k for each view; bank: in which hubness is measured, None if nothing is taken off."""

    db: CaptionDB
    k: int
    bank: PictureBank | None

    def settings(self) -> dict[str, Any]:
        """What the scores depend on, besides the pictures."""
        bank = {"hubness": self.bank.alpha, "bank": self.bank.hash} if self.bank else {}
        return {"caption_db": self.db.identity, "k": self.k, **bank}

    def told(self) -> dict[str, str]:
        """Attributes of the file: what scores are, where they are not plain inner products."""
        return {"scores": self.bank.told()} if self.bank else {}

    def keys(self, textual: Path, compute: Compute) -> NDArray[np.float32]:
        """What pictures are compared with, float32 (n, D): the keys, with one more dimension where hubness is taken off."""
        if not self.bank:
            return self.db.keys
        from xvoken.search.hubness import Extended

        path = self.bank.numbers_file(textual)
        prepare(self.bank, self.db.keys, path, compute)
        return Extended(self.db.keys, hubness.read(path))[:]


def load_inputs(args: argparse.Namespace, *outputs: Path) -> Inputs:
    """The inputs that the flags name; cheap checks come first. Raises UserError. outputs: the files to be written."""
    source = source_of(args)
    compute, decoders = compute_of(args, BATCH)
    for path in reversed(outputs):
        compute = settled(compute, begun_with(path, partial(files.read_settings, path)))
    listed = read_pictures(source)
    if not listed.ids:
        raise UserError("there are no images to encode; check --dataset_root, --images or --image-sets")
    pictures = PictureSet(listed.ids[: args.limit], listed.paths[: args.limit])
    return Inputs(args.model, identify(args.model, args.key_views), pictures, listed, compute, decoders)


def load_phrases(args: argparse.Namespace, inputs: Inputs) -> Phrases:
    """The phrases that the flags name, and how they are to be searched. Raises UserError."""
    identity = inputs.identity
    db = caption_db.read(args.caption_db, args.model, identity.name, identity.hash, identity.dim)
    if args.k > (most := len(db.keys)):
        raise UserError(
            f"--k {args.k}: the caption database has only {most} phrases; take --k {most} or fewer (K={most} for the bash script)"
        )
    alpha = identity.hubness if args.hubness is None else args.hubness
    return Phrases(db, args.k, PictureBank.of(alpha, args.model, identity, inputs.listed, inputs.compute.precision, db))


def make_context(inputs: Inputs, visual: Path | None = None, textual: Path | None = None, phrases: Phrases | None = None) -> None:
    """Write the context files asked for, unless they exist already, in one pass over the pictures.

    visual, textual: paths of the two files (None: not asked for); phrases: those for textual. Raises UserError if no picture can be used.
    """
    asked = _products(inputs, visual, textual, phrases)
    wanted = [product for product in asked if not product.finished()]
    if wanted:
        # Parts of a run for both files go to both: by a share for one of them, the other file would never be written.
        plan = {**said(wanted[-1].settings), **({"files": [product.path.name for product in asked]} if len(asked) > 1 else {})}
        _write_context(inputs, wanted, plan, textual, phrases)


def _write_context(
    inputs: Inputs, wanted: list[Product], plan: dict[str, Any], textual: Path | None, phrases: Phrases | None
) -> None:  # fmt: skip
    identity, pictures, compute = inputs.identity, inputs.pictures, inputs.compute
    if textual in (product.path for product in wanted):
        _room_for(textual, files.textual_bytes(len(pictures.ids), phrases.k, phrases.db.features.shape[1]))
    paths = plain(pictures.paths)
    with one_pass(wanted, len(paths), part_size(len(paths), compute.device), compute.engine, plan) as made:
        if not made.todo:
            return
        main, parts = made.todo[-1].path, made.parts
        with importing():
            from ctx.context_job import ContextJob
        job = ContextJob(inputs.model, paths, compute.precision, compute.batch_size, inputs.decoders, expected=identity.hash)
        job.key_views, views = identity.key_views, VIEWS if textual in (product.path for product in made.todo) else 1
        job.pace = compute.pace(len(paths) * views, WORTH_IMAGES)
        if textual in (product.path for product in made.todo):
            job.keys, job.k = str(parts.folder / "keys.npy"), phrases.k
            if parts.missing() and not compute.engine.join:
                save_array(Path(job.keys), phrases.keys(textual, compute))
        if not made.run(job, compute.devices, desc=main.name, unit="img"):
            return
        skipped = [(pictures.ids[row], str(paths[row]), reason) for row, reason in read_skipped(parts)]
        if len(skipped) == len(paths):
            raise UserError(f"none of the {len(paths)} pictures can be used, for example {paths[0]}: {skipped[0][2]}")
        about = {"model": inputs.model, "model_hash": identity.hash, "revision": identity.revision, "date": today()}
        attributes = said({**about, "key_views": identity.key_views})
        made.report(pictures=len(paths))
        for path, settings in [(product.path, json.dumps(said(product.settings), sort_keys=True)) for product in made.todo]:
            rows = _rows(parts, pictures.ids, path)
            if path == textual:
                found = ((image_id, best, scores) for image_id, _, best, scores in rows)
                files.write_textual(path, found, phrases.db, skipped, {**attributes, **phrases.told(), "settings": settings})
            else:
                pooled = ((image_id, features) for image_id, features, _, _ in rows)
                files.write_visual(path, pooled, identity.image_width, skipped, {**attributes, "settings": settings})
    left_out = f"; {len(skipped)} left out, listed in {files.skipped_file(main)}" if skipped else ""
    written = " and ".join(str(product.path) for product in made.todo)
    print(f"wrote the context of {len(paths) - len(skipped):,} pictures to {written}{left_out}")


def part_size(pictures: int, device: str) -> int:
    """Pictures per part, small enough that even few pictures keep many processes busy.

    It does not depend on the number of processes, because that must not change the bytes of the output.
    """
    return min(CHUNK["cpu" if device == "cpu" else "gpu"], max(8, pictures // 64))


def today() -> str:
    """The date that is written into the files; only the day, so that a killed and continued run gives the bytes of an undisturbed one."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _products(inputs: Inputs, visual: Path | None, textual: Path | None, phrases: Phrases | None) -> list[Product]:
    """The files asked for; if both are, the textual one comes last, as its parts serve both."""
    identity, pictures = inputs.identity, inputs.pictures
    settings = {
        "model": identity.name, "model_hash": identity.hash, "precision": inputs.compute.precision, "pictures": len(pictures.ids),
        "data": hash_of_pictures(pictures.ids, pictures.paths)[:16], "key_views": identity.key_views,
    }  # fmt: skip
    wanted = {visual: settings} if visual else {}
    wanted |= {textual: {**settings, **phrases.settings()}} if textual and phrases else {}
    holds = f"the context of these {len(pictures.ids):,} pictures"
    return [
        Product(
            path, made_with, partial(files.read_settings, path), holds, extras=(files.skipped_file(path),), unsaid={"key_views": 1},
            own_lock=True,  # a run for both files and a run for one of them may work at the same time
        )
        for path, made_with in wanted.items()
    ]  # fmt: skip


def _room_for(path: Path, size: int) -> None:
    """Report the size of a large file before it is made; raise RunError if the disk can't hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if size * ROOM > free:
        raise RunError(
            f"{path} will take about {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; make room, or take fewer phrases with --k"
        )
    if size > 1e9:
        say(f"{path} will take about {size / 1e9:.0f} GB")


def _rows(parts: Parts, ids: list[str], path: Path) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]]:
    """Yield id, pooled features (width,), best (V, k) and scores (V, k) of each usable picture."""
    with progress(total=len(ids), desc=f"writing {path.name}", unit="img") as bar:
        for number, (start, stop) in enumerate(parts.ranges):
            arrays = parts.load(number)
            pooled, best, scores = arrays["pooled"], arrays["best"], arrays["scores"]
            for row in range(stop - start):
                bar.update()
                if not np.isnan(pooled[row, 0]):
                    yield ids[start + row], pooled[row], best[row], scores[row]
