"""Images for every line of a tokenized corpus: the work on one range of lines."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xvoken import keys as key_files
from xvoken.approximate import ApproximateIndex, SavedIndex
from xvoken.corpus import Corpus
from xvoken.devices import cast_weights
from xvoken.disk import quoted, save_arrays
from xvoken.encoders import load_encoder
from xvoken.indexing import build_joined
from xvoken.messages import UserError
from xvoken.text_batches import Padding, batches_by_length, encode_batches, lines_on, require_finite
from xvoken.text_towers import vocabulary_size


@dataclass
class Gallery:
    """The rows of an index: keys float32 (N, dim) in a block for each image set, ids `{IMAGE_SET}/{image id}`, file names."""

    blocks: list[NDArray[np.float32]]
    ids: list[str]
    names: list[str]
    made_by: list[str]

    @property
    def keys(self) -> NDArray[np.float32]:
        return joined(self.blocks)


def joined(blocks: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """All blocks in one array; of several a copy."""
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def read_gallery(keys_dir: Path, image_sets: list[str], encoder_hash: str, dim: int, most: int | None = None) -> Gallery:
    """The keys of several image sets, one set after another; raises UserError for keys of another snapshot."""
    keys, ids, names, made_by = [], [], [], []
    for image_set in image_sets:
        read = key_files.read(keys_dir, image_set)
        path = key_files.keys_file(keys_dir, image_set)
        mend = f"remove it, then: python vokenization/extract_vision_keys.py --load-dir {keys_dir.parent} --image-sets {image_set}"
        if read.keys.shape[1] != dim:
            raise UserError(f"{path}: keys of {read.keys.shape[1]} dimensions, the snapshot's sentences have {dim}; {mend}")
        maker = read.attributes.get("snapshot_hash", encoder_hash)  # files of the predecessors do not say
        if maker != encoder_hash:
            raise UserError(f"{path}: keys of another snapshot ({maker}, this one is {encoder_hash}); {mend}")
        keys.append(read.keys)
        ids += [f"{image_set}/{i}" for i in read.ids]
        names += [Path(p).name for p in read.paths]
        made_by.append(f"{image_set} {maker} {read.identity}")
    return Gallery(_first(keys, most), ids[:most], names[:most], made_by)


def read_blocks(keys_dir: Path, image_sets: list[str], most: int | None = None) -> list[NDArray[np.float32]]:
    """The keys of `read_gallery` alone, for workers: whoever started them has read and checked the rest."""
    return _first([key_files.read_vectors(keys_dir, image_set)[0] for image_set in image_sets], most)


def _first(blocks: list[NDArray[np.float32]], most: int | None) -> list[NDArray[np.float32]]:
    """The first `most` rows of all blocks."""
    if most is None:
        return blocks
    starts = np.cumsum([0, *map(len, blocks)])
    return [block[: most - start] for block, start in zip(blocks, starts.tolist(), strict=False) if start < most]


@dataclass
class VokenizeJob:
    """Lines of tokens -> best rows and scores; see xvoken.work.Job.

    saved: an approximate index to search instead of all keys.
    """

    load: str
    corpus: Path
    tokenizer_name: str
    keys_dir: Path
    image_sets: list[str]
    most: int | None
    topk: int
    backend: str
    precision: str
    batch_size: int
    workers: int = 1
    saved: SavedIndex | None = None

    def setup(self, device: str) -> None:
        self.setup_encoder(device)
        blocks = read_blocks(self.keys_dir, self.image_sets, self.most)
        self.index = ApproximateIndex(joined(blocks), self.saved) if self.saved else build_joined(blocks, self.backend, device)

    def setup_encoder(self, device: str) -> None:
        self.device, self.batch_size = device, lines_on(device, self.batch_size)
        self.encoder = load_encoder(self.load, text=True)
        self.tower, self.head = cast_weights(self.encoder.text_tower, self.precision).to(device), self.encoder.text_head.to(device)
        self.padding = Padding.of(self.encoder.tokenizer, self.tower.max_tokens, self.encoder.fixed_length)
        self.lines = Corpus(self.corpus, self.tokenizer_name, vocabulary=vocabulary_size(self.encoder.tokenizer))

    @torch.inference_mode()
    def encode(self, tokens: NDArray[np.int32], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
        """Tokens (n,), offsets (L + 1,) -> vectors of the lines (L, dim); those of empty lines are left as they are."""
        counts = np.diff(offsets)
        queries = np.empty((len(counts), self.encoder.dim), np.float32)
        batches = batches_by_length(counts, self.batch_size)
        encoded = encode_batches(self.tower, tokens, offsets, batches, self.padding, self.device, self.precision)
        for batch, vectors in [(batch, self.head(features.float())) for batch, features in encoded]:
            queries[batch] = vectors.cpu().numpy()
        return queries

    def sample_queries(self, tokens: NDArray[np.int32], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
        """What the index is asked for these lines (L, none empty), or a part of it -> (Q, dim)"""
        return self.encode(tokens, offsets)

    def require_finite(self, vectors: NDArray[np.float32], lines: NDArray[np.int64], part: Path, unit: bool = True) -> None:
        """Raise UserError where the vector (n, dim) of one of these lines (n,) is none."""
        again = f", after: rm -r {quoted(part.parent)}"
        require_finite(vectors, lambda row: f"{self.corpus}: line {lines[row] + 1}", self.precision, again, unit)

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        tokens, offsets = self.lines.slab(start, stop)
        counts = np.diff(offsets)
        filled = np.flatnonzero(counts)
        queries = self.encode(tokens, offsets)
        indices = np.full((stop - start, self.topk), -1, np.int32)
        scores = np.full((stop - start, self.topk), np.nan, np.float32)
        if len(filled):
            self.require_finite(queries[filled], start + filled, part)
            scores[filled], indices[filled] = self.index.search(queries[filled], self.topk)
        save_arrays(part.with_suffix(".npz"), indices=indices, scores=scores, counts=counts)
        return {"empty": int((counts == 0).sum()), "cut": int((counts + self.padding.specials > self.padding.max_tokens).sum())}
