"""Vokens of one tokenizer's tokens for another one's: each token takes that of the token whose characters are most its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xvoken.errors import UserError
from xvoken.files import vokens as voken_files
from xvoken.files.corpus import Corpus
from xvoken.files.hdf5 import open_hdf5
from xvoken.files.lines import as_in_text_mode
from xvoken.files.safe import save_arrays
from xvoken.files.voken_kinds import NO_PICTURE, TOKEN, line_vokens, row_of_each
from xvoken.kinds import base_name
from xvoken.towers.tokenizer import load_tokenizer, require_offsets, tokenizer_hash

Span = tuple[int, int]
LINES_AT_ONCE = 1000  # lines that a tokenizer gets in one call


def overlap(one: Span, other: Span) -> float:
    """Characters that both spans have, over those that one of them has; 0 for an empty span."""
    both = max(min(one[1], other[1]) - max(one[0], other[0]), 0)
    return both / max(one[1] - one[0] + other[1] - other[0] - both, 1)


def aligned(theirs: Sequence[Span], ours: Sequence[Span]) -> list[int]:
    """For each span of `theirs` the place in `ours` (not empty) of the one that overlaps most, the first of several.

    Both in the order of the text. Where none overlaps, that which the token before has come to. The rule of
    ReVokenizer.batch_calculate_alignment (vokenization/revokenization.py of Vokenization).
    """
    places, at = [], 0
    for span in theirs:
        best, most = at, overlap(ours[at], span)
        while at + 1 < len(ours) and ours[at][1] < span[1]:
            at += 1
            if (found := overlap(ours[at], span)) > most:
                best, most = at, found
        places.append(best)
    return places


def trimmed(text: str, spans: Sequence[Span]) -> list[Span]:
    """Spans without blanks at their ends: some tokenizers count the blank before a word to it, others do not."""
    found = []
    for start, stop in spans:
        word = text[start:stop]
        if word[:1].isspace() or word[-1:].isspace():
            start, stop = start + len(word) - len(word.lstrip()), start + len(word.rstrip())
        found.append((start, max(start, stop)))
    return found


def carried(vokens: NDArray[np.int32], places: NDArray[np.int64], kind: str) -> NDArray[np.int32]:
    """The vokens of a line (n,), and for each of another tokenizer's tokens the place of its token (m,) -> their vokens (m,)

    On sentence level the first token that falls into a line or segment is its first one. A line without tokens of its own (n = 0) leaves
    the other's without a picture.
    """
    if not len(vokens) or not len(places):
        return np.full(len(places), NO_PICTURE, np.int32)
    rows, first = row_of_each(vokens, np.zeros(1, np.int64), kind)
    rows, part = rows[places], np.cumsum(first)[places]
    if kind == TOKEN:
        return np.where(rows < 0, NO_PICTURE, rows).astype(np.int32)
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    return line_vokens(rows[starts], np.diff(np.append(starts, len(places))), kind)


@dataclass
class Side:
    """The tokens of one of the two tokenizers: its name, as it was given to tokenize_dataset.py, and its hash."""

    name: str
    hash: str

    def open(self, corpus: Path) -> None:
        """Load the tokenizer, and open its tokens of the corpus."""
        self.tokenizer, self.corpus = load_tokenizer(self.name), Corpus(corpus, base_name(self.name), self.name)
        require_offsets(self.tokenizer, self.name, "another tokenizer's vokens")
        if (found := tokenizer_hash(self.tokenizer)) != self.hash:
            raise UserError(f"tokenizer {self.name}: has become another one since this run began ({self.hash} then, {found} now)")

    def spans(self, lines: list[str], start: int, named: str) -> Iterator[list[Span]]:
        """Of each line, which are the corpus' from `start` on, the characters of its tokens; raises UserError for other tokens."""
        tokens, offsets = self.corpus.slab(start, start + len(lines))
        encoded = self.tokenizer.backend_tokenizer.encode_batch(lines, add_special_tokens=False)
        for number, (line, found) in enumerate(zip(lines, encoded, strict=True)):
            if found.ids != tokens[offsets[number] : offsets[number + 1]].tolist():
                raise UserError(
                    f"{self.corpus.path}: its tokens of line {start + number + 1} are not those that {self.name} makes of that line of "
                    f"{named}; give the tokenizer and the text that it was made with"
                )
            yield trimmed(line, found.offsets)


@dataclass
class RevokenizeJob:
    """Carries the vokens of ranges of lines over to another tokenizer's tokens; see xvoken.work.jobs.Job.

    vokens: the .hdf5 whose tokens are those of `ours`, of this kind; starts: the byte at which the first line of each range starts, by
    that line's number in the text.
    """

    corpus: Path
    ours: Side
    theirs: Side
    vokens: Path
    kind: str
    starts: dict[int, int]
    uses_gpu: ClassVar[bool] = False

    def setup(self, device: str) -> None:
        """Load both tokenizers, and open the files."""
        for side in (self.ours, self.theirs):
            side.open(self.corpus)
        self.file = open_hdf5(self.vokens, voken_files.MAKE, vokens="i1")

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        """Write counts (l,) and vokens (t,) of these lines."""
        found, texts = [np.empty(0, np.int32)], self._texts(start, stop)
        for at in range(start, stop, LINES_AT_ONCE):
            found += self._carried(list(islice(texts, LINES_AT_ONCE)), at)
        counts = np.diff(self.theirs.corpus.offsets[start : stop + 1])
        save_arrays(part.with_suffix(".npz"), counts=counts, vokens=np.concatenate(found))
        return {"without": sum(self._without(line) for line in found)}

    def _texts(self, start: int, stop: int) -> Iterator[str]:
        """The texts of these lines as they were tokenized; after a filter that is as text mode gives them, with their ends."""
        filtered, numbers = self.ours.corpus.rows.filtered, self.ours.corpus.rows.numbers(start, stop).tolist()
        with open(self.corpus, "rb") as text:
            text.seek(self.starts[numbers[0]])
            raw = (line.decode() for line in text)
            lines = chain.from_iterable(map(as_in_text_mode, raw)) if filtered else (line.rstrip("\r\n").replace("\t", " ") for line in raw)
            wanted = iter(numbers)
            number = next(wanted)
            for at, line in enumerate(lines, numbers[0]):
                if at == number:
                    yield line
                    if (number := next(wanted, -1)) < 0:
                        return

    def _without(self, vokens: NDArray[np.int32]) -> int:
        """How many tokens of a line have no picture."""
        if self.kind in (TOKEN, "all"):
            return int((vokens == NO_PICTURE).sum())
        return len(vokens) if len(vokens) and vokens[0] == NO_PICTURE else 0

    def _carried(self, lines: list[str], start: int) -> Iterator[NDArray[np.int32]]:
        offsets = self.ours.corpus.offsets[start : start + len(lines) + 1]
        vokens = self.file["vokens"][offsets[0] : offsets[-1]]
        sides = (side.spans(lines, start, str(self.corpus)) for side in (self.ours, self.theirs))
        for (ours, theirs), first, last in zip(zip(*sides, strict=True), offsets - offsets[0], offsets[1:] - offsets[0], strict=False):
            places = aligned(theirs, ours) if ours else [0] * len(theirs)
            yield carried(vokens[first:last], np.array(places, np.int64), self.kind)
