"""What a frozen text tower makes of sentences, computed once; the files: xvoken/features.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from xvoken.devices import cast_weights, resolve_precision
from xvoken.disk import fingerprint, save_array, sha256_of_lines
from xvoken.encoders import TextTowerSpec
from xvoken.features import Features, cached
from xvoken.text_batches import Padding, batches_by_length, encode_batches, lines_on, require_finite, shown, tokenize
from xvoken.text_towers import TextTower, base_name, tokenizer_hash, weights_hash

TEXT_CHUNK = 1024  # sentences a part


@dataclass
class TextJob:
    """Sentences -> tower outputs; see xvoken.work.Job."""

    spec: TextTowerSpec
    tokenizer: PreTrainedTokenizerBase
    sentences: list[str]
    max_len: int
    precision: str
    batch_size: int
    fixed_length: bool = False

    def setup(self, device: str) -> None:
        self.device = device
        self.batch_size = lines_on(device, self.batch_size)
        self.tower = cast_weights(self.spec.build(), self.precision).to(device)
        self.padding = Padding.of(self.tokenizer, min(self.max_len, self.tower.max_tokens), self.fixed_length)

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        rows = np.empty((stop - start, self.tower.width), np.float16)
        tokens, offsets = tokenize(self.tokenizer, self.sentences[start:stop])
        lengths = np.diff(offsets)
        # A sentence without tokens is [CLS][SEP] here: a caption is never dropped.
        batches = [np.flatnonzero(lengths == 0), *batches_by_length(lengths, self.batch_size)]
        for batch, out in list(encode_batches(self.tower, tokens, offsets, batches, self.padding, self.device, self.precision)):
            with np.errstate(over="ignore"):  # beyond 65,504: infinite, see below
                rows[batch] = out.float().cpu().numpy()
        self._require_finite(rows, start)
        save_array(part.with_suffix(".npy"), rows)
        return {"truncated": int((lengths + self.padding.specials > self.padding.max_tokens).sum())}

    def _require_finite(self, rows: NDArray[np.float16], start: int) -> None:
        require_finite(rows, lambda row: f"sentence {shown(self.sentences[start + row])}", self.precision)


def text_features(
    spec: TextTowerSpec, tower: TextTower, tokenizer: PreTrainedTokenizerBase, sentences: list[str], max_len: int, *,
    cache: Path, label: str, devices: list[str], precision: str = "auto", batch_size: int = 64, fixed_length: bool = False,
) -> Features:  # fmt: skip
    """The tower's output for each sentence, cut to `max_len` tokens with the special ones, from the cache or made now.

    Raises UserError for a sentence for which it is not finite.
    """
    precision = resolve_precision(precision, devices[0])
    pool = {} if spec.pool == "cls" else {"pool": spec.pool}
    settings = text_settings(spec, tower, tokenizer, sentences, max_len, precision) | pool
    job = TextJob(spec, tokenizer, sentences, max_len, precision, batch_size, fixed_length)
    path = cache / f"{label}-{base_name(spec.name)}-{fingerprint(settings)}.npy"
    return cached(path, label, settings, job, len(sentences), lines_on(devices[0], TEXT_CHUNK), tower.width, devices, "sent")


def text_settings(
    spec: TextTowerSpec, tower: TextTower, tokenizer: PreTrainedTokenizerBase, sentences: list[str], max_len: int, precision: str
) -> dict[str, Any]:
    """What the tower's outputs for these sentences depend on.

    The tower goes by its base name: a training may know it by a short name, its snapshot has the hub id.
    """
    return {
        "tower": base_name(spec.name), "weights": weights_hash(tower), "layers": list(spec.layers), "max_len": max_len,
        "tokenizer": tokenizer_hash(tokenizer), "precision": precision,
        "sentences": len(sentences), "data": sha256_of_lines(sentences),
    }  # fmt: skip
