"""Long lines in segments, each of which is searched for by itself, so that every token has a picture; as Vokenization cuts them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEGMENT = 128  # tokens, as in Vokenization


@dataclass
class Segments:
    """Lines in segments, one after another, each line's own in order; a line that is not cut is one segment, an empty one too.

    offsets: int64 (S + 1,), where each starts, as lines' offsets; lines: int64 (S,), the line of each; first: bool (S,), whether it is
    the first of its line.
    """

    offsets: NDArray[np.int64]
    lines: NDArray[np.int64]
    first: NDArray[np.bool_]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """The number of tokens of each: (S,)"""
        return np.diff(self.offsets)


def segments(offsets: NDArray[np.int64], most: int | None) -> Segments:
    """Lines by their offsets (L + 1,), cut where they have more than `most` tokens (None: no line is cut).

    A line of c tokens is cut into pieces of floor(c / ceil(c / most)), and what remains is a piece of its own: 257 by 128 into 85, 85,
    85 and 2, as in Vokenizer.vokenize_ids (vokenization/vokenization.py there).
    """
    counts = np.diff(offsets)
    step = np.maximum(counts, 1)
    if most is not None:
        long = counts > most
        step[long] = counts[long] // -(-counts[long] // most)
    pieces = np.maximum(-(-counts // step), 1)
    lines = np.repeat(np.arange(len(counts)), pieces)
    number = np.arange(len(lines)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = offsets[lines] + number * step[lines]
    return Segments(np.append(starts, offsets[-1]), lines, number == 0)


def longest(tower: Any, segment: int) -> int | None:
    """The most tokens of a segment that is to have `segment` at most and to fit the tower, a FrozenText; None for 0: no segments."""
    return min(segment, tower.padding.max_tokens - tower.padding.specials) if segment else None
