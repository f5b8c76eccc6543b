"""Phrases through the text tower of a dual encoder: the work on one range of phrases."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.frozen import all_batches, require_finite
from xvoken.errors import shown
from xvoken.files.safe import quoted, save_arrays
from xvoken.machine import TEXT_BATCH
from xvoken.work.jobs import TowerJob


@dataclass
class PhrasesJob(TowerJob):
    """Computes the phrases' pooled features and keys; see xvoken.work.jobs.Job."""

    model: str
    phrases: list[str]
    precision: str
    batch_size: int = TEXT_BATCH
    expected: str | None = None  # the hash that the model must have

    def setup(self, device: str) -> None:
        self.encoder = load_encoder(self.model, ["text"], device, self.precision, self.expected, self.pace)

    def frozen(self) -> Any:
        """The tower at work."""
        return self.encoder.text

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        text = self.encoder.text
        tokens, offsets = text.tokenize(self.phrases[start:stop])
        lengths = np.diff(offsets)
        features = np.empty((len(lengths), text.width), np.float32)
        keys = np.empty((len(lengths), self.encoder.dim), np.float32)
        for batch, pooled in text.features(tokens, offsets, all_batches(lengths, self.batch_size)):
            keys[batch] = self.encoder.text_vectors(pooled).cpu().numpy()
            features[batch] = pooled.float().cpu().numpy()
        after = f", or take another model, after: rm -r {quoted(part.parent)}"
        for vectors, unit in ((features, False), (keys, True)):
            require_finite(vectors, lambda row: f"phrase {shown(self.phrases[start + row])}", self.precision, after, unit)
        save_arrays(part.with_suffix(".npz"), keys=keys, features=features)
        return {"cut": text.cut(lengths)}
