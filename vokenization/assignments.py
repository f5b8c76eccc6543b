"""The picture of every token of sentences, by exact search, and what `vokenization/diversity.py` counts of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vokenization.diversity import Pairs, per_type, token_recall, usage
from vokenization.segments import SEGMENT, longest, segments
from vokenization.sentences import Sentences
from vokenization.token_vokens import token_batches
from xvoken.cache.texts import flat_rows
from xvoken.console import progress
from xvoken.encoders.encoder import Encoder
from xvoken.encoders.frozen import require_finite
from xvoken.errors import UserError
from xvoken.files.keys import Gallery
from xvoken.machine import TEXT_BATCH, lines_on
from xvoken.recall import ranks
from xvoken.records import TOP
from xvoken.search.index import Index

SLAB = 1024  # sentences whose queries are in memory at once


@dataclass
class Queries:
    """What is searched for some lines, and whose pictures that finds.

    vectors: float32 (Q, dim), lines: int64 (Q,), the line of each; types: int32 (n,), ids of the tokens that get a picture, and
    of: int64 (n,), the query of each of them.
    """

    vectors: NDArray[np.float32]
    lines: NDArray[np.int64]
    types: NDArray[np.int32]
    of: NDArray[np.int64]


def line_queries(encoder: Encoder, tokens: NDArray[np.int32], offsets: NDArray[np.int64], batch_size: int) -> Queries:
    """A query for each line, which all its tokens share; tokens (n,), offsets (L + 1,) from 0."""
    counts = np.diff(offsets)
    filled = np.flatnonzero(counts)
    vectors = encoder.encode_ids(tokens, offsets, batch_size)[filled]
    return Queries(vectors, filled, tokens, np.repeat(np.arange(len(filled)), counts[filled]))


def token_queries(encoder: Encoder, tokens: NDArray[np.int32], offsets: NDArray[np.int64], batch_size: int) -> Queries:
    """A query for each token, of long lines in segments as in retrieval; tokens (n,), offsets (L + 1,) from 0, not all lines empty."""
    pieces = segments(offsets, longest(encoder.text, SEGMENT))
    batches, _, words = zip(*token_batches(encoder, tokens, pieces.offsets, batch_size), strict=True)
    order = np.concatenate(batches)
    sizes = pieces.sizes[order]
    vectors, types = np.concatenate(words), tokens[flat_rows(pieces.offsets[order], sizes)]
    return Queries(vectors, np.repeat(pieces.lines[order], sizes), types, np.arange(len(types)))


def measure(encoder: Encoder, index: Index, sentences: Sentences, gallery: Gallery, own: NDArray[np.int64]) -> dict[str, Any]:
    """The record of one corpus: lines, tokens (that got a picture), types, averages, pictures_per_type, usage, recall, level.

    encoder: loaded with its text tower; index: of the gallery's keys; own: (L,), the row of each line's own picture, -1 if it has none.
    recall: over all pairs of a caption that has one and a token of it, None without any; equal scores count as in a random order.
    Raises UserError if no line has a token, or if a vector is not finite.
    """
    queries_of = token_queries if encoder.level == "token" else line_queries
    types, rows, hits, owners, size = [], [], np.zeros(len(TOP) + 1), 0, lines_on(encoder.device, TEXT_BATCH)
    keys = torch.from_numpy(gallery.vectors) if (own >= 0).any() else None
    with progress(total=len(sentences), desc=sentences.name, unit="lines") as bar:
        for start in range(0, len(sentences), SLAB):
            tokens, offsets = sentences.slab(start, start + SLAB, encoder.text.tokenize)
            bar.update(len(offsets) - 1)
            if not len(tokens):
                continue
            found = queries_of(encoder, tokens, offsets, size)
            lines = start + found.lines
            require_finite(found.vectors, lambda row, at=lines: sentences.named(at[row]), encoder.text.precision, unit=True)
            types.append(found.types)
            rows.append(index.search(found.vectors, 1)[1][found.of, 0])
            if keys is not None:
                hits += _hits(found, own[lines], keys)
                owners += len(np.unique(lines[own[lines] >= 0]))
    if not types:
        raise UserError(f"--corpus {sentences.source}: no token in its {len(sentences):,} lines")
    pairs = Pairs.count(np.concatenate(types), np.concatenate(rows), len(gallery))
    return {
        "lines": len(sentences), "tokens": int(pairs.times.sum()), "types": len(np.unique(pairs.types)), "level": encoder.level,
        **({"rows": "sentence"} if sentences.rows and sentences.rows.sentences else {}),
        **per_type(pairs), "usage": usage(pairs, len(gallery)),
        "recall": token_recall(hits[1:], owners, int(hits[0]), len(gallery)) if owners else None,
    }  # fmt: skip


def _hits(found: Queries, own: NDArray[np.int64], keys: torch.Tensor) -> NDArray[np.float64]:
    """Tokens whose line has a picture of its own, and how many of them find it in the top 1, 5, 10 -> float64 (4,)

    own: (Q,), the row of the own picture of each query's line, -1 if it has none; keys: float32 (N, dim).
    """
    asked = own >= 0
    if not asked.any():
        return np.zeros(len(TOP) + 1)
    ranked, _ = ranks(torch.from_numpy(found.vectors[asked]), keys, torch.from_numpy(own[asked]))
    tokens = np.bincount(found.of, minlength=len(own))[asked]
    return np.array([tokens.sum(), *((ranked.hit(k).numpy() * tokens).sum() for k in TOP)])
