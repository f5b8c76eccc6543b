"""Sentences of tokenized lines, by the rule of Vokenization's vokenize_corpus_mp.py: spaCy's sentencizer on the tokens' own texts."""

import importlib.util
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvoken import commands
from xvoken.errors import UserError


def require_spacy() -> None:
    """Raise UserError where spaCy is missing."""
    if importlib.util.find_spec("spacy") is None:
        raise UserError(f"--sentences: lines are split by spaCy, which is missing; {commands.install('sentences')}")


class SentenceSplitter:
    """Splits lines of tokens into sentences; tokenizer: the one that made the tokens, a fast one of transformers."""

    def __init__(self, tokenizer: Any):
        require_spacy()
        self.tokenizer = tokenizer

    def split(self, lines: Sequence[str], ids: NDArray[np.int32], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Lines (L), their tokens (n,), and how many each has (L,) -> of each sentence its tokens (S,) and characters of the line (S, 2)

        A line without tokens has no sentence. The characters go from the sentence's first token to the next sentence's, those of a
        line's first sentence from its start, those of its last one to its end.
        """
        ends, filled = np.cumsum(counts), np.flatnonzero(counts)
        pieces = [self.tokenizer.convert_ids_to_tokens(ids[ends[line] - counts[line] : ends[line]].tolist()) for line in filled]
        docs = _english().pipe(" ".join(_shown(line)) for line in pieces)
        starts = [_starts(line, doc) for line, doc in zip(pieces, docs, strict=True)]
        several = [number for number, found in enumerate(starts) if len(found) > 1]
        encoded = self.tokenizer.backend_tokenizer.encode_batch([lines[filled[number]] for number in several], add_special_tokens=False)
        characters = {
            number: [0, *(encoding.offsets[at][0] for at in starts[number][1:])] for number, encoding in zip(several, encoded, strict=True)
        }
        sents, spans = [], []
        for number, line in enumerate(filled):
            size = len(lines[line].removesuffix("\n"))
            sents += [stop - start for start, stop in pairwise([*starts[number], int(counts[line])])]
            spans += pairwise([*(min(at, size) for at in characters.get(number, [0])), size])
        return np.array(sents, np.int64), np.array(spans, np.int32).reshape(-1, 2)


def _english() -> Any:
    """spaCy's rules for English, a new one for each range of lines, since it keeps every word that it has seen."""
    from spacy.lang.en import English

    english = English()
    english.add_pipe("sentencizer")
    english.max_length = sys.maxsize  # the limit is for pipes that need memory, which this one has not
    return english


def _shown(pieces: list[str]) -> list[str]:
    """Tokens as spaCy gets them, with a blank between them."""
    return [piece.replace("[UNK]", "UNK") for piece in pieces]


def _starts(pieces: list[str], doc: Any) -> list[int]:
    """The token at which each sentence starts, the first at 0; one that spaCy starts inside a token starts at the next one."""
    at = np.cumsum([0, *(len(piece) + 1 for piece in _shown(pieces))])  # where each token starts, and one behind the last
    found = np.unique([0, *np.searchsorted(at[:-1], [sentence.start_char for sentence in doc.sents])])
    return found[found < len(pieces)].tolist()
