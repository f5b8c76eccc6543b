"""The outputs of a frozen text tower for sentences, computed once; xvoken/cache/features.py describes the files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from xvoken.cache.features import Features, as_float16, cache_product, cached, part_arrays, write_rows
from xvoken.encoders.frozen import FrozenText, all_batches, require_finite
from xvoken.encoders.matcher import TextTowerSpec
from xvoken.errors import shown
from xvoken.files.safe import fingerprint, read_json, save_array, sha256_of_lines, write_json
from xvoken.kinds import base_name
from xvoken.machine import TEXT_BATCH, WORTH_LINES, Compute, lines_a_part, lines_on
from xvoken.towers.hashes import weights_hash
from xvoken.towers.text import TextTower
from xvoken.towers.tokenizer import tokenizer_hash
from xvoken.work.jobs import TowerJob
from xvoken.work.parts import Parts
from xvoken.work.product import one_pass

TEXT_CHUNK = 1024  # sentences a part, at least


@dataclass
class TextJob(TowerJob):
    """Sentences -> tower outputs; see xvoken.work.jobs.Job."""

    spec: TextTowerSpec
    tokenizer: PreTrainedTokenizerBase
    sentences: list[str]
    max_len: int
    precision: str
    batch_size: int = TEXT_BATCH
    OLD_BATCH: ClassVar[int | None] = 64

    def setup(self, device: str) -> None:
        """Build the tower on the device; sets the batch size that goes with it."""
        self.batch_size = lines_on(device, self.batch_size)
        self.text = FrozenText(self.built or self.spec.build(), self.tokenizer, device, self.precision, self.max_len, self.pace)

    def frozen(self) -> Any:
        """The tower at work."""
        return self.text

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        """Write PART.npy, float16 (n, width); returns how many sentences were cut. Raises UserError for outputs that are not finite."""
        tokens, offsets = self.text.tokenize(self.sentences[start:stop])
        lengths = np.diff(offsets)
        rows = np.empty((len(lengths), self.text.width), np.float16)
        batches = all_batches(lengths, self.batch_size)  # a caption without tokens is never dropped
        for batch, out in list(self.text.features(tokens, offsets, batches)):
            rows[batch] = as_float16(out)
        require_finite(rows, lambda row: f"sentence {shown(self.sentences[start + row])}", self.precision)
        save_array(part.with_suffix(".npy"), rows)
        return {"truncated": self.text.cut(lengths)}


def text_features(
    spec: TextTowerSpec, tower: TextTower, tokenizer: PreTrainedTokenizerBase, sentences: list[str], max_len: int,
    compute: Compute, label: str,
) -> Features:  # fmt: skip
    """The tower's output for each sentence, from the cache or made now.

    max_len: tokens that a sentence is cut to, special ones included; label: the beginning of the file's name.
    Raises UserError for a sentence for which the output is not finite.
    """
    pool = {} if spec.pool == "cls" else {"pool": spec.pool}
    settings = text_settings(spec, tower, tokenizer, sentences, max_len, compute.precision) | pool
    pace, size = compute.pace(len(sentences), WORTH_LINES), compute.batch_size or TEXT_BATCH
    job = TextJob(spec, tokenizer, sentences, max_len, compute.precision, size, pace=pace)
    job.reuse(tower)
    path = compute.cache / f"{label}-{base_name(spec.name)}-{fingerprint(settings)}.npy"
    features = cached(
        path, label, settings, job, (len(sentences), tower.width), lines_a_part(len(sentences), compute.device, TEXT_CHUNK), compute, "sent"
    )
    assert features is not None, "sentences are not done in shares"
    return features


def text_settings(
    spec: TextTowerSpec, tower: TextTower, tokenizer: PreTrainedTokenizerBase, sentences: list[str], max_len: int, precision: str
) -> dict[str, Any]:
    """The settings that the tower's outputs for these sentences depend on.

    They name the tower by its base name: a training may have been given a short name, where its snapshot has the hub id.
    """
    prompt = {"prompt": tower.prompt} if tower.prompt else {}  # left out where there is none, as in caches from before there was one
    return {
        "tower": base_name(spec.name), "weights": weights_hash(tower), "layers": list(spec.layers), "max_len": max_len,
        "tokenizer": tokenizer_hash(tokenizer), "precision": precision,
        "sentences": len(sentences), "data": sha256_of_lines(sentences), **prompt,
    }  # fmt: skip


@dataclass
class TokenFeatures:
    """rows: float16 (T, width) of all tokens, memory-mapped; offsets: int64 (N + 1,): sentence i has rows[offsets[i] : offsets[i + 1]]."""

    rows: NDArray[np.float16]
    offsets: NDArray[np.int64]


@dataclass
class TokenJob(TextJob):
    """Sentences -> the tower's states of their tokens; see xvoken.work.jobs.Job."""

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        """Write PART.npy, float16 (t, width), and PART.lengths.npy, int64 (n,): tokens of each sentence; returns t as `tokens`."""
        tokens, offsets = self.text.tokenize(self.sentences[start:stop])
        lengths = self.text.padding.lengths(np.diff(offsets))
        ends = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.empty((ends[-1], self.text.width), np.float16)
        order = np.argsort(lengths, kind="stable")
        batches = np.split(order, range(self.batch_size, len(order), self.batch_size))
        for batch, states, mask in self.text.states(tokens, offsets, batches):
            rows[flat_rows(ends[batch], lengths[batch])] = as_float16(states[mask.bool()])
        require_finite(
            rows, lambda row: f"sentence {shown(self.sentences[start + int(np.searchsorted(ends, row, 'right')) - 1])}", self.precision
        )
        for ending, array in ((".npy", rows), (".lengths.npy", lengths)):
            save_array(part.with_suffix(ending), array)
        return {"tokens": int(ends[-1])}


def flat_rows(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row numbers of several sentences' tokens, one sentence after another; starts, lengths (n,) -> (lengths.sum(),)"""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def token_features(
    spec: TextTowerSpec, tower: TextTower, tokenizer: PreTrainedTokenizerBase, sentences: list[str], max_len: int,
    compute: Compute, label: str,
) -> TokenFeatures:  # fmt: skip
    """The tower's states of all tokens, from the cache or made now; arguments and errors as for `text_features`."""
    settings = {**text_settings(spec, tower, tokenizer, sentences, max_len, compute.precision), "level": "token"}
    path = compute.cache / f"{label}-{base_name(spec.name)}-tokens-{fingerprint(settings)}.npy"
    offsets_file = path.with_suffix(".offsets.npy")
    product = cache_product(path, settings, (offsets_file,))
    if not product.finished():
        pace, size = compute.pace(len(sentences), WORTH_LINES), compute.batch_size or TEXT_BATCH
        job = TokenJob(spec, tokenizer, sentences, max_len, compute.precision, size, pace=pace)
        job.reuse(tower)
        with one_pass([product], len(sentences), lines_a_part(len(sentences), compute.device, TEXT_CHUNK)) as made:
            made.run(job, compute.devices, desc=f"{label}, tokens", unit="sent")
            tokens = _join(made.parts, path, offsets_file, tower.width)
            made.report(items=len(sentences), tokens=tokens)
            write_json(product.last, {"settings": settings})
    read_json(product.last, f"remove {product.last} to make it again")
    return TokenFeatures(np.load(path, mmap_mode="r"), np.load(offsets_file))


def _join(parts: Parts, path: Path, offsets_file: Path, width: int) -> int:
    """Join the parts to the files of rows and offsets; returns the number of tokens."""
    lengths = np.concatenate([parts.load(number, ".lengths.npy") for number in range(len(parts.ranges))])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    save_array(offsets_file, offsets)
    write_rows(path, (int(offsets[-1]), width), part_arrays(parts))
    return int(offsets[-1])
