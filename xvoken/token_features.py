"""States of every token of a sentence, from a frozen text tower, cached for matching on token level.

CACHE/{label}-{tower}-tokens-{hash}.npy            float16 (T, width), sentences one after another, special tokens counted in
CACHE/{label}-{tower}-tokens-{hash}.offsets.npy    int64 (N + 1,), sentence i is rows offsets[i] to offsets[i + 1]
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from xvoken.devices import autocast, resolve_precision
from xvoken.disk import fingerprint, read_json, save_array, write_json
from xvoken.encoders import TextTowerSpec
from xvoken.features import part_arrays, write_rows
from xvoken.leftovers import remove_leftover
from xvoken.text_batches import lines_on, pad_lines, require_finite, shown, tokenize
from xvoken.text_features import TEXT_CHUNK, TextJob, text_settings
from xvoken.text_towers import TextTower, base_name
from xvoken.work import Parts


@dataclass
class TokenFeatures:
    """rows: float16 (T, width), memory-mapped; offsets: int64 (N + 1,)."""

    rows: NDArray[np.float16]
    offsets: NDArray[np.int64]


@dataclass
class TokenJob(TextJob):
    """Sentences -> the tower's states of their tokens; see xvoken.work.Job."""

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        tokens, offsets = tokenize(self.tokenizer, self.sentences[start:stop])
        lengths = np.minimum(np.diff(offsets), self.padding.max_tokens - 2) + 2
        ends = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.empty((ends[-1], self.tower.width), np.float16)
        order = np.argsort(lengths, kind="stable")
        for batch in np.split(order, range(self.batch_size, len(order), self.batch_size)):
            ids, mask = pad_lines(tokens, offsets[batch], np.diff(offsets)[batch], self.padding)
            with torch.inference_mode(), autocast(self.device, self.precision):
                states = self.tower.tokens(ids.to(self.device), mask.to(self.device))
            rows[flat_rows(ends[batch], lengths[batch])] = states[mask.bool()].half().cpu().numpy()
        require_finite(
            rows, lambda row: f"sentence {shown(self.sentences[start + int(np.searchsorted(ends, row, 'right')) - 1])}", self.precision
        )
        for ending, array in ((".npy", rows), (".lengths.npy", lengths)):
            save_array(part.with_suffix(ending), array)
        return {"tokens": int(ends[-1])}


def flat_rows(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of several sentences, one sentence after another: (lengths.sum(),)"""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def token_features(
    spec: TextTowerSpec, tower: TextTower, tokenizer: PreTrainedTokenizerBase, sentences: list[str], max_len: int, *,
    cache: Path, label: str, devices: list[str], precision: str = "auto", batch_size: int = 64,
) -> TokenFeatures:  # fmt: skip
    """The tower's states of all tokens, from the cache or made now; arguments as for `text_features`."""
    precision = resolve_precision(precision, devices[0])
    settings = {**text_settings(spec, tower, tokenizer, sentences, max_len, precision), "level": "token"}
    path = cache / f"{label}-{base_name(spec.name)}-tokens-{fingerprint(settings)}.npy"
    offsets_file, receipt = path.with_suffix(".offsets.npy"), path.with_suffix(".json")
    if not receipt.exists():
        job = TokenJob(spec, tokenizer, sentences, max_len, precision, batch_size)
        with Parts(path, len(sentences), lines_on(devices[0], TEXT_CHUNK), settings, (offsets_file, receipt), done=receipt) as parts:
            parts.run(job, devices, desc=f"{label}, tokens", unit="sent")
            _join(parts, path, offsets_file, tower.width)
            write_json(receipt, {"settings": settings})
    else:
        remove_leftover(path)
    read_json(receipt, f"remove {receipt} to make it again")
    return TokenFeatures(np.load(path, mmap_mode="r"), np.load(offsets_file))


@torch.inference_mode()
def sentence_means(features: TokenFeatures, head: nn.Module) -> Tensor:
    """What stands for a sentence on token level: the mean of its tokens in the joint space -> float32 (N, dim)"""
    means = []
    for start in range(0, len(features.offsets) - 1, TEXT_CHUNK):
        offsets = features.offsets[start : start + TEXT_CHUNK + 1]
        lengths = torch.from_numpy(np.diff(offsets))
        vectors = head(torch.from_numpy(features.rows[offsets[0] : offsets[-1]].astype(np.float32)))  # (t, dim)
        owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        means.append(torch.zeros(len(lengths), vectors.shape[1]).index_add_(0, owner, vectors) / lengths[:, None])
    return torch.cat(means)


def _join(parts: Parts, path: Path, offsets_file: Path, width: int) -> None:
    lengths = np.concatenate([parts.load(number, ".lengths.npy") for number in range(len(parts.ranges))])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    save_array(offsets_file, offsets)
    write_rows(path, (int(offsets[-1]), width), part_arrays(parts))
