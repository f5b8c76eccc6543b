"""Recall of captions against keys: encode the captions as retrieval does, and count how many find their pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from vokenization.fitting import fitting
from vokenization.hubness import CaptionBank
from xvoken.calibration import Calibration
from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.identity import Identity
from xvoken.files.safe import fingerprint, save_array, sha256_of_lines
from xvoken.machine import TEXT_BATCH, WORTH_LINES, Compute, lines_a_part, lines_on
from xvoken.recall import judge
from xvoken.search.hubness import taken_off
from xvoken.work.jobs import TowerJob
from xvoken.work.parts import Parts, discard, parts_folder

CHUNK = 1024  # sentences per part, at least


@dataclass
class SentenceJob(TowerJob):
    """Vectors of sentences, as retrieval makes them of lines; see xvoken.work.jobs.Job.

    load: the model as the user gave it; expected: the hash that it must have; batch_size: on a CPU.
    """

    load: str
    expected: str
    sentences: list[str]
    precision: str
    batch_size: int = TEXT_BATCH
    OLD_BATCH: ClassVar[int | None] = 64

    def setup(self, device: str) -> None:
        self.batch_size = lines_on(device, self.batch_size)
        self.encoder = load_encoder(self.load, ["text"], device, self.precision, self.expected, self.pace)

    def frozen(self) -> Any:
        """The tower at work."""
        return self.encoder.text

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        save_array(part.with_suffix(".npy"), self.encoder.encode_texts(self.sentences[start:stop], self.batch_size))
        return {}


def encode(job: SentenceJob, path: Path, compute: Compute, label: str) -> NDArray[np.float32]:
    """The vectors of the job's sentences: float32 (n, dim), by all workers; parts lie beside `path`, whose sole writer the caller is."""
    settings = {"snapshot_hash": job.expected, "precision": job.precision, "sentences": sha256_of_lines(job.sentences)[:16]}
    vectors_file = path.with_name(f"{path.name}.{fingerprint(settings)}.npy")
    vectors_file.unlink(missing_ok=True)  # left by a run that was killed
    for leftover in path.parent.glob(f"{escape(path.name)}.*.npy.parts"):  # of other sentences, which are not asked for any more
        if leftover != parts_folder(vectors_file):
            discard(leftover)
    with Parts(vectors_file, len(job.sentences), lines_a_part(len(job.sentences), compute.device, CHUNK), settings) as parts:
        parts.run(job, compute.devices, desc=label, unit="sent")
        vectors = np.concatenate([parts.load(number, ".npy") for number in range(len(parts.ranges))])
        save_array(vectors_file, vectors)
    vectors_file.unlink()
    return vectors


@dataclass
class Pairs:
    """captions: (row of its picture's key, text) of each; keys: float32 (N, dim); folds: of each key, None if all are ranked together."""

    captions: list[tuple[int, str]]
    keys: NDArray[np.float32]
    folds: list[int] | None = None


def measure(
    load: str, identity: Identity, pairs: Pairs, path: Path, compute: Compute, bank: CaptionBank | None = None, others: Sequence[str] = ()
) -> dict[str, Any]:
    """The record of all captions against all keys: that of xvoken.recall.judge, with hubness and bank where there is one.

    Of a model with a calibration also `probability`, see vokenization/fitting.py. load: as the user gave it; path: of the record, whose
    sole writer the caller is; bank: what hubness is measured in; others: lines that no picture fits.
    """
    image, said = np.asarray(pairs.keys), [text for _, text in pairs.captions]
    sentences = list(dict.fromkeys([*said, *(bank.sentences if bank else []), *others]))
    pace = compute.pace(len(sentences), WORTH_LINES)
    job = SentenceJob(load, identity.hash, sentences, compute.precision, compute.batch_size or TEXT_BATCH, pace=pace)
    vectors, row_of = encode(job, path, compute, path.stem), {sentence: row for row, sentence in enumerate(sentences)}

    def rows(of: Sequence[str]) -> NDArray[np.float32]:
        return vectors[[row_of[sentence] for sentence in of]]

    text, owner = rows(said), np.array([row for row, _ in pairs.captions])
    fold, less, told = None if pairs.folds is None else np.array(pairs.folds), None, {}
    if bank:
        if bank.keys is None:
            own = load_encoder(load, [], "cpu", expected=identity.hash).bank
            assert own is not None, "the snapshot's bank is asked for only where there is one"
            texts, pictures = own.text.numpy(), own.image.numpy()
        else:
            texts, pictures = rows(bank.sentences), bank.keys
        less = taken_off(text, image, texts, pictures, bank.alpha)
        told = {"hubness": bank.alpha, "bank": {"of": bank.name, "sentences": len(texts), "pictures": len(pictures)}}
    if identity.calibration:
        calibration, strange = Calibration.from_list(identity.calibration), rows(others) if others else None
        told["probability"] = fitting(calibration, text, image, owner, fold=fold, less=less, others=strange)
    numbers = (torch.from_numpy(text), torch.from_numpy(image), torch.from_numpy(owner))
    return {**judge(*numbers, None if fold is None else torch.from_numpy(fold), less), **told}
