"""The bank of pictures in which the hubness of phrases is measured, and what is taken off their scores: see xvoken/search/hubness.py.

txt_ctx.{BANK}.hubness.npy, .json     beside txt_ctx.hdf5: float32 (n,), a number for each phrase, and their receipt, written before the
                                      parts; see xvoken/files/hubness.py
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xvoken.interrupts import importing

import numpy as np
from numpy.typing import NDArray

from ctx.coco import PictureSet
from xvoken.console import say
from xvoken.encoders import snapshot
from xvoken.encoders.identity import Identity, said
from xvoken.errors import UserError
from xvoken.files import hubness as hubness_files
from xvoken.files.hubness import NEAREST
from xvoken.files.image_ids import hash_of_pictures
from xvoken.files.phrases import CaptionDB
from xvoken.files.safe import fingerprint
from xvoken.machine import WORTH_IMAGES, Compute
from xvoken.measures import spread
from xvoken.pictures.sources import Member, plain
from xvoken.work.parts import Parts, remove_leftover

PICTURES = 4096  # of a bank
CHUNK = 64  # of them, per part of the work


@dataclass
class PictureBank:
    """alpha: how much of a phrase's mean score with its nearest pictures is taken off; settings: all that the numbers depend on.

    model: as the user gave it; identity: the model's; paths: the pictures, None for those whose vectors the snapshot carries.
    """

    alpha: float
    settings: dict[str, Any]
    model: str
    identity: Identity
    paths: list[str | Member] | None = None

    @classmethod
    def of(cls, alpha: float, model: str, identity: Identity, listed: PictureSet, precision: str, db: CaptionDB) -> "PictureBank | None":
        """The snapshot's pictures, else a sample of all that are listed, however many of them are retrieved for; None for alpha 0.

        precision: of the image tower.
        """
        if not alpha > 0:
            return None
        settings = {
            "alpha": alpha, "nearest": NEAREST, "caption_db": db.identity, "phrases": len(db.keys), "model_hash": identity.hash,
        }  # fmt: skip
        if identity.matcher and snapshot.has_bank(model):
            return cls(alpha, {**settings, "pictures": "the snapshot's"}, model, identity)
        rows = spread(len(listed.ids), PICTURES).tolist()
        ids, paths = [listed.ids[row] for row in rows], [listed.paths[row] for row in rows]
        own = {"pictures": len(ids), "data": hash_of_pictures(ids, paths)[:16], "precision": precision, "key_views": identity.key_views}
        return cls(alpha, {**settings, **said(own)}, model, identity, plain(paths))

    @property
    def hash(self) -> str:
        """Names the numbers, and what is made with them: 12 hex digits."""
        return fingerprint(self.settings)

    def told(self) -> str:
        """What scores are, for the attributes of a file."""
        return hubness_files.told(self.alpha, "phrase")

    def numbers_file(self, textual: Path) -> Path:
        """Where the numbers lie for the context file `textual`."""
        return hubness_files.numbers_file(textual.parent, textual.stem, self.hash)


def prepare(bank: PictureBank, keys: NDArray[np.float32], path: Path, compute: Compute) -> None:
    """Write the numbers of the phrases' keys (n, d) to `path`, unless they are there; compute: for pictures that must be encoded first."""
    with hubness_files.missing(path) as todo:
        if not todo:
            remove_leftover(path)
            return
        with importing():
            from xvoken.encoders.encoder import load_encoder
        if bank.paths is not None:
            _measure_in(bank, bank.paths, keys, path, compute)
            return
        own = load_encoder(bank.model, [], "cpu", expected=bank.identity.hash).bank
        assert own is not None, "the snapshot's bank is asked for only where there is one"
        _write(bank, keys, own.image.numpy(), path)


def _measure_in(bank: PictureBank, paths: list[str | Member], keys: NDArray[np.float32], path: Path, compute: Compute) -> None:
    from ctx.context_job import WholeJob

    say(f"{path}: encoding {len(paths):,} pictures first, in which the hubness of the phrases is measured")
    identity = bank.identity
    job = WholeJob(bank.model, paths, compute.precision, compute.batch_size, identity.hash, identity.key_views)
    job.pace = compute.pace(len(paths), WORTH_IMAGES)
    engine = replace(compute.engine, share=None, join=False)  # the first share to come does it, the others wait for it
    receipt = hubness_files.receipt_file(path)
    with Parts(path, len(paths), CHUNK, bank.settings, (receipt,), engine, done=receipt) as parts:
        parts.run(job, compute.devices, desc="bank", unit="img")
        vectors = np.concatenate([parts.load(number, ".npy") for number in range(len(parts.ranges))])
        sound = np.isfinite(vectors).all(1)
        if not sound.any():
            raise UserError(f"none of the {len(paths):,} pictures in which hubness is measured can be used, for example {paths[0]}")
        _write(bank, keys, vectors[sound], path)


def _write(bank: PictureBank, keys: NDArray[np.float32], pictures: NDArray[np.float32], path: Path) -> None:
    from xvoken.search.hubness import offsets

    say(f"{path}: measuring the hubness of {len(keys):,} phrases in {len(pictures):,} pictures")
    hubness_files.write(path, offsets(keys, pictures, bank.alpha, NEAREST), bank.settings)
