"""A folder of pictures, searched without preparation: what is new in it is encoded, and remembered in the user's cache."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xvoken.ask.searcher import Searcher, made_ready
from xvoken.cache.images import Batches, leave_out, tower_rows
from xvoken.console import log, progress
from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.frozen import FrozenImage, of_length_one
from xvoken.encoders.identity import identify
from xvoken.errors import RunError, UserError
from xvoken.files import folder_keys
from xvoken.files.folder_keys import FolderKeys, Stamp
from xvoken.files.keys import Gallery
from xvoken.files.locks import sole_writer
from xvoken.files.safe import remove_temporary
from xvoken.machine import IMAGE_BATCH, WORTH_IMAGES, Compute, one_device, resolve_precision
from xvoken.pictures.batches import on_device, open_pictures
from xvoken.pictures.cuts import Cuts, first_cuts
from xvoken.pictures.sources import Member, expand, is_shards, list_pictures, plain

SAVED = 5.0  # seconds of work after which it is saved, at least
SHARE = 20  # and at least so many times as long as saving took
AHEAD = 16  # batches after which the bar moves on and it may be saved; among them lanes are balanced, or decoding goes ahead


@dataclass
class Listed:
    """The pictures that a folder holds: by id, in order, where each lies and its stamp; name: of the folder, the beginning of the ids."""

    name: str
    paths: dict[str, Path | Member]
    stamps: dict[str, Stamp]


@dataclass
class Remembered:
    """What is known of pictures: the vector of each (float32 (dim,), NaN if it can't be used), its stamp and why it can't be used."""

    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    stamps: dict[str, Stamp] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def holds(self, name: str, stamp: Stamp) -> bool:
        """Whether the picture is known as it is now: by ctime too, as another one may have taken its name with equal size and mtime."""
        return self.stamps.get(name) == stamp

    def add(self, found: FolderKeys) -> None:
        """Add what a file holds, or what was just found out."""
        self.vectors.update(zip(found.ids, found.keys, strict=True))
        self.stamps.update(zip(found.ids, found.stamps, strict=True))
        self.reasons.update(zip(found.ids, found.reasons, strict=True))

    def of(self, names: list[str], dim: int) -> FolderKeys:
        """These pictures, in this order, as a file keeps them."""
        keys = np.stack([self.vectors[name] for name in names]) if names else np.empty((0, dim), np.float32)
        return FolderKeys(keys, names, [self.stamps[name] for name in names], [self.reasons[name] for name in names])


def listed(folder: Path) -> Listed:
    """The pictures in a folder and below, or in tar shards; raises UserError if there are none."""
    shards = is_shards(folder)
    if not shards and not folder.is_dir():
        raise UserError(f"{folder}: no such folder of pictures; check the name")
    found, _ = list_pictures(folder)
    if isinstance(found, dict):
        tars = {tar: os.stat(tar) for tar in expand(folder)}
        stamps = {name: (one.size, tars[one.tar].st_mtime_ns, one.offset) for name, one in found.items()}
        return Listed(folder.resolve().parent.name or "pictures", dict(found), stamps)
    paths, stamps = {}, {}
    for name in found:
        path = folder / name
        try:
            now = path.stat()
        except OSError:  # removed since it was listed
            continue
        paths[name], stamps[name] = path, (now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    return Listed(folder.resolve().name or "pictures", paths, stamps)


def open_folder(
    load: str | Path, folder: str | Path, device: str = "auto", precision: str = "auto", show_progress: bool = False,
    hubness: float | None = None, phrases: Path | None = None, tower_engine: str = "auto",
) -> Searcher:  # fmt: skip
    """Make a folder of pictures ready to be asked: those that are new or changed are encoded, the others are remembered.

    load: a snapshot or a CLIP-like model; folder: looked through with all below it, or tar shards FOLDER/{00..99}.tar; device, precision:
    as for `load_encoder`. By default bf16 where the device has units for it, as somebody waits for the first answer; what was encoded in
    another precision is remembered apart, so that a folder's vectors are all of one kind. show_progress: a bar while pictures are
    encoded; hubness, phrases: as for `open_searcher`; tower_engine: what encodes many of them on a CPU. Ctrl-C keeps what is encoded.
    Raises UserError for a folder without pictures that can be used.
    """
    folder, identity, device = Path(folder), identify(load), one_device(device)
    there, precision = listed(folder), resolve_precision(precision, device)
    settings = {
        "folder": str(folder.resolve()), "snapshot_hash": identity.hash, "key_views": identity.key_views, "precision": precision,
    }  # fmt: skip
    path, searcher = folder_keys.keys_file(settings), Searcher(str(load), identity, None, device, precision)
    found = _read(path, identity.dim, told=False)
    if _missing(there, found) or len(found.ids) > len(there.paths):
        compute = Compute((device,), precision, tower_engine=tower_engine)
        found = _up_to_date(searcher, there, path, settings, compute, show_progress)
    rows = [row for row in found.usable if found.ids[row] in there.paths]
    if not rows:
        raise UserError(f"{folder}: none of its {len(there.paths):,} pictures can be used ({_counted(found.reasons)})")
    _tell_left_out(found.reasons, folder_keys.skipped_file(path))
    ids = [found.ids[row] for row in rows]
    keys = found.keys if len(rows) == len(found.ids) else found.keys[rows]
    made_by = [f"{there.name} {identity.hash} {found.identity}"]
    searcher.show(Gallery([keys], [f"{there.name}/{i}" for i in ids], [str(there.paths[i]) for i in ids], made_by))
    return made_ready(searcher, path.parent, "keys", hubness, phrases)


def _read(path: Path, dim: int, told: bool) -> FolderKeys:
    """What is remembered; nothing if there is no file, or it is damaged; told: whether that is said."""
    try:
        found = folder_keys.read(path, dim)
    except UserError as error:
        found = None
        if told:
            log.warning(f"{error}; the pictures are encoded again")
    return found or Remembered().of([], dim)


def _missing(there: Listed, found: FolderKeys) -> list[str]:
    """The pictures that are new or changed."""
    known = Remembered(stamps=dict(zip(found.ids, found.stamps, strict=True)))
    return [name for name, stamp in there.stamps.items() if not known.holds(name, stamp)]


def _up_to_date(
    searcher: Searcher, there: Listed, path: Path, settings: dict[str, Any], compute: Compute, show_progress: bool
) -> FolderKeys:
    """Encode what is missing and keep it; another run at the same folder is waited for, and what it has done is taken over."""
    dim, known = searcher.identity.dim, Remembered()

    def so_far() -> FolderKeys:
        return known.of([name for name, stamp in there.stamps.items() if known.holds(name, stamp)], dim)

    with ExitStack() as stack:
        keeps = _may_keep(stack, path)
        known.add(found := _read(path, dim, told=True))
        todo = _missing(there, found)
        if not todo and len(found.ids) == len(there.paths):
            return found
        save = partial(_save, path, paths=there.paths, settings=settings) if keeps else lambda found: None
        saved, took, unsaved = time.monotonic(), 0.0, not todo  # without work, pictures were removed
        try:
            for found in _encoded(searcher, there, todo, compute, show_progress) if todo else ():
                known.add(found)
                began, unsaved = time.monotonic(), True
                if began - saved > max(SAVED, SHARE * took):
                    save(so_far())
                    saved, unsaved = time.monotonic(), False
                    took = saved - began
        finally:  # after Ctrl-C too
            if unsaved:
                save(so_far())
    return so_far()


def _may_keep(stack: ExitStack, path: Path) -> bool:
    """Take the lock of the keys; False, with a warning, where they can't be written."""
    try:
        stack.enter_context(sole_writer(path, wait=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_temporary(path)
    except OSError as error:
        _warn(path, error.strerror)
        return False
    if not os.access(path.parent, os.W_OK):
        _warn(path, "it can't be written to")
        return False
    return True


def _save(path: Path, found: FolderKeys, paths: dict[str, Path | Member], settings: dict[str, Any]) -> None:
    try:
        for old in path.parent.glob("keys.*.hubness.*"):  # of the pictures as they were
            old.unlink(missing_ok=True)
        folder_keys.write(path, found, [str(paths[name]) for name in found.ids], settings)
    except (OSError, RunError) as error:
        _warn(path, str(error))


def _warn(path: Path, why: str | None) -> None:
    log.warning(f"{path}: can't be kept ({why}); the pictures are encoded again by the next run")


def _encoded(searcher: Searcher, there: Listed, names: list[str], compute: Compute, show_progress: bool) -> Iterator[FolderKeys]:
    """Batches of pictures with their keys, as extract_vision_keys.py makes them."""
    size, threads = on_device(searcher.device, IMAGE_BATCH, 1)
    pace = compute.pace_here(len(names), WORTH_IMAGES)
    if pace.engine == "openvino" and searcher.precision == "bf16":  # the searcher's tower is cast, OpenVINO takes one in fp32
        encoder = load_encoder(searcher.load, ["image"], searcher.device, searcher.precision, searcher.identity.hash, pace)
    else:
        encoder = searcher.encoder("image")
    assert encoder.image
    image = FrozenImage(encoder.image.tower, searcher.device, searcher.precision, pace)
    cuts, step = Cuts(image.view, first_cuts(searcher.identity.key_views)), AHEAD * size
    embed = partial(_as_many, image.features_of_views, size)
    with ExitStack() as stack:
        if threads:
            stack.enter_context(threads)
        bar = stack.enter_context(progress(total=len(names), desc="pictures", unit="img", disable=not show_progress))
        for start in range(0, len(names), step):
            batch = names[start : start + step]
            pictures = open_pictures(plain([there.paths[name] for name in batch]), cuts, "pillow", searcher.device)
            rows, skipped = tower_rows(pictures, Batches(size, threads, pace), embed, (len(cuts.names), image.width))
            reasons = dict(leave_out(rows, 0, skipped))
            keys = _as_many(encoder.mean_vectors, step, torch.from_numpy(rows.astype(np.float32))).cpu().numpy()
            for row in np.flatnonzero(~of_length_one(keys)).tolist():
                reasons.setdefault(row, "the model's output for it is not finite")
                keys[row] = np.nan
            yield FolderKeys(keys, batch, [there.stamps[name] for name in batch], [reasons.get(row, "") for row in range(len(batch))])
            bar.update(len(batch))


def _as_many(compute: Callable[[Tensor], Tensor], number: int, rows: Tensor) -> Tensor:
    """What a tower or head makes of rows (n, ...), n up to `number`, computed with so many: the last bits hang on how many there are."""
    more = rows[-1:].expand(number - len(rows), *rows.shape[1:])
    return compute(torch.cat([rows, more]))[: len(rows)]


def _counted(reasons: list[str]) -> str:
    return ", ".join(f"{reason}: {number:,}" for reason, number in Counter(filter(None, reasons)).most_common())


def _tell_left_out(reasons: list[str], path: Path) -> None:
    if number := sum(map(bool, reasons)):
        log.info(f"{number:,} pictures left out ({_counted(reasons)}), listed in {path}")
