"""Images for every token of a line, for matchers trained on token level: the work on one range of lines."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vokenization.vokenization import VokenizeJob
from xvoken.cache.texts import flat_rows
from xvoken.encoders.encoder import Encoder
from xvoken.encoders.frozen import batches_by_length
from xvoken.files.safe import save_arrays
from xvoken.files.voken_kinds import NO_PICTURE
from xvoken.towers.text import masked_mean


def seen_tokens(encoder: Encoder, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """counts: tokens of each line (n,) -> how many of them the tower sees (n,)"""
    padding = encoder.text.padding
    return np.minimum(counts, padding.max_tokens - padding.specials)


def token_batches(
    encoder: Encoder, tokens: NDArray[np.int32], offsets: NDArray[np.int64], batch_size: int
) -> Iterator[tuple[NDArray, ...]]:
    """Tokens (n,), offsets (L + 1,) -> batches: rows of lines (B,), vectors of these lines (B, dim) and of their tokens (W, dim)"""
    counts = np.diff(offsets)
    for batch, states, mask in encoder.text.states(tokens, offsets, batches_by_length(counts, batch_size)):
        queries = encoder.text_vectors(states)  # (B, T, dim)
        lines = masked_mean(queries, mask).cpu().numpy()
        first, seen = len(encoder.text.padding.before), seen_tokens(encoder, counts[batch])  # special tokens get no image
        yield batch, lines, queries[:, first : first + seen.max()].cpu().numpy()[np.arange(seen.max()) < seen[:, None]]


class TokenVokenizeJob(VokenizeJob):
    """Finds the best key for each token, and the best keys for each line by the mean of its tokens; see xvoken.work.jobs.Job."""

    def sample_queries(self, tokens: NDArray[np.int32], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of these lines (L, none empty), and of about as many of their tokens -> (Q, dim)"""
        _, lines, words = zip(*token_batches(self.encoder, tokens, offsets, self.batch_size), strict=True)
        lines, words = np.concatenate(lines), np.concatenate(words)
        return np.concatenate([lines, words[:: max(1, len(words) // len(lines))]])

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        tokens, offsets = self.lines.slab(start, stop)
        pieces, found = self.segments(offsets), self.no_answers(stop - start)
        kept = seen_tokens(self.encoder, pieces.sizes)
        vokens = np.full(offsets[-1], NO_PICTURE, np.int32)
        for batch, lines, words in token_batches(self.encoder, tokens, pieces.offsets, self.batch_size):
            self.require_finite(lines, start + pieces.lines[batch], part, unit=False)  # means of unit vectors
            self.require_finite(words, start + np.repeat(pieces.lines[batch], kept[batch]), part)
            if (first := pieces.first[batch]).any():
                self.answer(found, pieces.lines[batch[first]], lines[first])
            vokens[flat_rows(pieces.offsets[batch], kept[batch])] = self.search(words, 1)[1][:, 0]
        without, counts = self.without(found), np.diff(offsets)
        vokens[flat_rows(offsets[without], counts[without])] = NO_PICTURE
        save_arrays(part.with_suffix(".npz"), **found, counts=counts, vokens=vokens)
        return self.counted(found, pieces)
