"""The banks in which hubness is measured, and what retrieval takes off the pictures' scores for it.

Retrieval's is a sample of the corpus itself, with the training's captions where the snapshot has them; evaluation's the training's captions
and pictures, or those of a set.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vokenization.sentences import Tokenized, sample_lines
from xvoken import commands
from xvoken.calibration import CANDIDATES
from xvoken.console import say
from xvoken.encoders.identity import Identity
from xvoken.errors import UserError
from xvoken.files import hubness as hubness_files
from xvoken.files.corpus import Corpus
from xvoken.files.hubness import NEAREST
from xvoken.files.keys import Gallery
from xvoken.files.safe import fingerprint, require_writable, sha256_of_lines, sha256_of_rows
from xvoken.measures import spread

if TYPE_CHECKING:  # it imports torch
    from vokenization.vokenization import VokenizeJob

LINES = 4096  # of a bank


def require_calibration(identity: Identity, flag: str) -> None:
    """Raise UserError for a flag that needs a probability, where the model has no calibration to know it by."""
    if not identity.calibration:
        raise UserError(
            f"{flag}: {identity.name} has no calibration, by which a probability is known; train a matcher, which gets one, with: "
            f"{commands.train('best')}, or leave the flag out"
        )


def warn_of_calibration(identity: Identity, alpha: float) -> None:
    """Say that probabilities are off where hubness is taken off otherwise than when the snapshot's calibration was fitted."""
    if identity.calibration and alpha != identity.hubness:
        holds = f"the calibration of {identity.name} holds for --hubness {identity.hubness:g}, not for {alpha:g}"
        say(f"warning: probabilities are off: {holds}")


def warn_of_few(identity: Identity, images: int) -> None:
    """Say that probabilities are too high in a gallery of so few images that the best one stands out, whatever is asked for."""
    if identity.calibration and images < CANDIDATES:
        say(f"warning: probabilities are too high: of {images} images, fewer than {CANDIDATES}, the best one stands out for any line")


@dataclass
class Bank:
    """alpha: how much of a picture's mean score with its nearest sentences is taken off; lines: the sentences, tokens of the corpus.

    keys: hash of the gallery's keys and their order; encoder: its hash; precision: of its text tower.
    """

    alpha: float
    lines: Tokenized
    images: int
    keys: str
    encoder: str
    precision: str

    @classmethod
    def of(cls, alpha: float, corpus: Corpus, gallery: Gallery, encoder: str, precision: str) -> "Bank":
        """A sample of the whole corpus, however many of its lines are retrieved for; raises UserError if all its lines are empty."""
        lines = sample_lines(corpus, len(corpus), LINES)
        if not len(lines[0]):
            raise UserError(f"{corpus.path}: no line with tokens to measure hubness in; take --hubness 0")
        return cls(alpha, lines, len(gallery), sha256_of_lines(gallery.made_by)[:16], encoder, precision)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that the numbers depend on."""
        tokens, offsets = self.lines
        return {
            "alpha": self.alpha, "nearest": NEAREST, "keys": self.keys, "images": self.images, "snapshot_hash": self.encoder,
            "precision": self.precision, "lines": len(offsets) - 1,
            "tokens": sha256_of_lines([sha256_of_rows(tokens.astype("int32")), sha256_of_rows(offsets.astype("int64"))])[:16],
        }  # fmt: skip

    @property
    def hash(self) -> str:
        """Names the numbers, and what is made with them: 12 hex digits."""
        return fingerprint(self.settings)

    def told(self) -> str:
        """What scores are, for the attributes of a file."""
        return hubness_files.told(self.alpha, "image")


@dataclass
class CaptionBank:
    """alpha: how much of a candidate's mean score with its nearest of a bank is taken off; name: the set's, or "the snapshot".

    sentences, keys: of the set, float32 (I, dim); the snapshot has its own: none, and None. hash: of all that alpha is not.
    """

    alpha: float
    name: str = "the snapshot"
    sentences: list[str] = field(default_factory=list)
    keys: NDArray[np.float32] | None = None
    hash: str = "the snapshot's"

    @classmethod
    def of_set(cls, alpha: float, name: str, captions: list[str], gallery: Gallery) -> "CaptionBank":
        """A bank of a set's captions and keys, at most LINES of each, evenly spread."""
        sentences, rows = [captions[row] for row in spread(len(captions), LINES)], spread(len(gallery), LINES)
        found = {"sentences": sha256_of_lines(sentences), "keys": sha256_of_lines(gallery.made_by), "nearest": NEAREST, "most": LINES}
        return cls(alpha, name, sentences, gallery.vectors[rows], fingerprint(found))

    def settings(self) -> dict[str, Any]:
        """What a record depends on, in its settings."""
        return {"hubness": self.alpha, "bank": self.hash}


def prepare(bank: Bank, job: "VokenizeJob", gallery: Gallery, path: Path, device: str) -> None:
    """Write the numbers of the gallery to `path`, unless they are there; job: the one that is to search; device: of its text tower."""
    from xvoken.encoders.frozen import require_finite
    from xvoken.search.hubness import offsets

    if not hubness_files.written(path):
        require_writable(path, "--hubness 0")
    with hubness_files.missing(path) as todo:
        if not todo:
            return
        encoding = replace(job)  # the job itself is sent to the workers, without a model
        encoding.setup_encoder(device)
        queries: NDArray = encoding.sample_queries(*bank.lines)
        require_finite(queries, lambda row: f"{job.corpus}: a line of it", job.precision)
        of = f"{len(queries):,} vectors of {bank.settings['lines']:,} lines"
        if own := encoding.encoder.bank:  # so that lines of another kind, near to no picture, do not make hubness too small
            queries, of = np.concatenate([queries, own.text.numpy()]), f"{of} and {len(own.text):,} of training's captions"
        say(f"{path}: measuring the hubness of {len(gallery):,} images in {of}")
        hubness_files.write(path, offsets(gallery.blocks, queries, bank.alpha, NEAREST), bank.settings)
