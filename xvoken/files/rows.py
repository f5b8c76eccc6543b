"""Where the rows of a tokenized corpus stand in its text: what a tool shows of a row is found here.

A row is what gets pictures: a line of the text; where a filter has left lines out, a line that it kept; or a sentence.

    FILE.TOK.kept   with a filter: for each line of FILE.TOK the number of its line in FILE, from 0, ascending
    FILE.TOK.sent   S + 1 offsets, one a line: sentence i is tokens[sent[i] : sent[i + 1]]; none is empty, none goes over a line's end

With a filter the lines of FILE are those of Python's text mode: \\n, \\r\\n and \\r end one, as in Vokenization; else \\n alone.
"""

import logging
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from xvoken.errors import UserError
from xvoken.files.hdf5 import InsideFile, is_dataset, open_hdf5
from xvoken.files.lines import each_line
from xvoken.files.offsets import Offsets
from xvoken.files.safe import quoted, sha256_of_file

log = logging.getLogger(__name__)

SLAB = 1 << 16  # rows whose places are in memory at once
LONGEST = 1 << 14  # lines whose offsets are read at once


def kept_file(corpus: Path, tokenizer_name: str) -> Path:
    """The numbers of the lines that a filter has kept, FILE.TOK.kept; tokenizer_name: its base_name."""
    return corpus.with_name(f"{corpus.name}.{tokenizer_name}.kept")


def sent_file(corpus: Path, tokenizer_name: str) -> Path:
    """The sentences' offsets into the tokens, FILE.TOK.sent."""
    return corpus.with_name(f"{corpus.name}.{tokenizer_name}.sent")


class Slices(Protocol):
    """Numbers that are read in slices: Offsets, a dataset, an array."""

    def __getitem__(self, which: slice, /) -> NDArray[Any]:
        """Those of the slice, which has no step."""
        ...


class Rows:
    """Where each row stands.

    number: of rows; lines: of each row the number of its line in the text (None: row i is line i); spans: (number, 2), the characters
    of that line which are the row, from and to (None: the whole line); filtered: whether a filter was used; sentences: whether a row
    is a sentence.
    """

    def __init__(
        self, number: int, lines: Slices | None = None, spans: Slices | None = None, filtered: bool = False, sentences: bool = False
    ):
        self.number, self.lines, self.spans, self.filtered, self.sentences = number, lines, spans, filtered, sentences

    @property
    def noun(self) -> str:
        """What a row is called."""
        return "sentence" if self.sentences else "line"

    @property
    def plain(self) -> bool:
        """Whether row i is line i, whole."""
        return self.lines is None

    def numbers(self, start: int, stop: int) -> NDArray[np.int64]:
        """The number of the line, from 0, of rows start to stop."""
        return np.arange(start, stop) if self.lines is None else np.asarray(self.lines[start:stop], np.int64)

    def named(self, row: int) -> str:
        """What a row is called in messages."""
        line = f"line {int(self.numbers(row, row + 1)[0]) + 1}"
        return f"a sentence of {line}" if self.sentences else line

    def arrays(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        """What is kept with what is made of rows start to stop: `line` int64 (n,), `span` int32 (n, 2); nothing where rows are plain."""
        if self.lines is None:
            return {}
        span = {} if self.spans is None else {"span": np.asarray(self.spans[start:stop], np.int32)}
        return {"line": self.numbers(start, stop), **span}

    def texts(self, text: Path) -> Iterator[str]:
        """Yield the text of each row; text: the corpus. Raises UserError if it is missing, too short, or not UTF-8."""
        if not text.is_file():
            raise UserError(f"{text} does not exist, the text whose {self.noun}s are wanted")
        lines, at, line = each_line(text, str(text), self.filtered), -1, ""
        for start in range(0, self.number, SLAB):
            stop = min(start + SLAB, self.number)
            spans = None if self.spans is None else self.spans[start:stop].tolist()
            for place, wanted in enumerate(self.numbers(start, stop).tolist()):
                while at < wanted:
                    if (found := next(lines, None)) is None:
                        last = int(self.numbers(self.number - 1, self.number)[0]) + 1
                        raise UserError(f"{text}: has {at + 1:,} lines, line {last:,} is wanted; bring back the text that was tokenized")
                    line, at = found, at + 1
                yield line if spans is None else _part(text, wanted, line, *spans[place])


def _part(text: Path, number: int, line: str, start: int, stop: int) -> str:
    """A sentence by its characters of a line; raises UserError if the line has no such ones."""
    if not 0 <= start <= stop <= len(line):
        what = f"a sentence is said to be its characters {start} to {stop}"
        raise UserError(f"{text}: line {number + 1:,} has {len(line):,} characters, {what}; tokenize the text again, then retrieve again")
    return line[start:stop].strip()


def warn_of_left_lines(text: Path, made: Path, then: object, rows: Rows) -> None:
    """Log a warning where rows are of another tool's tokens, which may have left lines of the text out without saying which.

    then: the sha256 of the text that `made` keeps; another one, or none, if its tokens are another tool's.
    """
    if rows.plain and then != sha256_of_file(text) and (lines := sum(1 for _ in each_line(text, str(text)))) > rows.number:
        left = "if its tokens were made with lines left out, as by Vokenization, rows stand beside other lines"
        mend = "tokenize the text here, with --filter empty"
        log.warning(f"{text}: has {lines:,} lines, {made} has {rows.number:,}; {left}: {mend}")


class LinesOfSentences:
    """The number of the line of each sentence, as Slices; sentences, lines: offsets of both, kept: numbers of the lines (None: all).

    Raises UserError for a sentence that is empty or goes over its line's end.
    """

    def __init__(self, sentences: Offsets, lines: Offsets, kept: Offsets | None):
        self.sentences, self.lines, self.kept = sentences, lines, kept

    def __getitem__(self, which: slice) -> NDArray[np.int64]:
        start, stop, _ = which.indices(len(self.sentences) - 1)
        offsets = self.sentences[start : stop + 1]
        starts, stops = offsets[:-1], offsets[1:]
        if start >= stop:
            return starts[:0]
        if (starts == stops).any():
            self._wrong(f"sentence {start + int((starts == stops).argmax()) + 1} is empty")
        first = self._line_at(int(starts[0]))
        ends, last = [], first
        while last < len(self.lines) - 1 and (not ends or ends[-1][-1] <= starts[-1]):
            ends.append(self.lines[last + 1 : last + 1 + LONGEST])
            last += len(ends[-1])
        found = np.searchsorted(ends := np.concatenate(ends), starts, "right")  # an empty line holds no sentence
        if (over := ends[found] < stops).any():
            self._wrong(f"a sentence goes over a line's end, at token {ends[found][over][0]}")
        found += first
        return found if self.kept is None else self.kept[int(found[0]) : int(found[-1]) + 1][found - found[0]]

    def _wrong(self, what: str) -> NoReturn:
        path = self.sentences.path
        raise UserError(f"{path}: {what}; make all again after: rm {quoted(path.with_suffix('.hdf5'))}")

    def _line_at(self, token: int) -> int:
        """The line that holds a token, by halving."""
        low, high = 0, len(self.lines) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.lines[middle] <= token else (low, middle)
        return low


def agree(sentences: Offsets, lines: Offsets, mend: str) -> None:
    """Raise UserError where a sentence goes over a line's end, or is empty."""
    wanted = chain.from_iterable(lines[start : start + SLAB].tolist() for start in range(0, len(lines), SLAB))
    line = next(wanted, None)
    for start in range(0, len(sentences), SLAB):
        here = sentences[start : start + SLAB + 1]
        if (np.diff(here) <= 0).any():
            raise UserError(f"{sentences.path}: sentence {start + int((np.diff(here) <= 0).argmax()) + 1} is empty; {mend}")
        here = here.tolist()
        for offset in here if start + SLAB >= len(sentences) else here[:-1]:
            if line is not None and offset > line:
                raise UserError(f"{sentences.path}: a sentence goes over a line's end, at token {line}; {mend}")
            while line is not None and line <= offset:
                line = next(wanted, None)


def rows_in(file: InsideFile) -> Rows:
    """Where the rows of an open voken file stand in the text; raises UserError if it does not say so for each of them."""
    settings, number, line, span = file.settings(), len(file["indices"]), file.get("line"), file.get("span")
    filtered, sentences = "filter" in settings, "sentences" in settings
    if line is None and not filtered:
        return Rows(number, sentences=sentences)
    rising = is_dataset(line, "i1") and len(line) == number and not (np.diff(lines := line[:], prepend=0) < 0).any()
    if not rising or (span is not None and not (is_dataset(span, "i2") and span.shape == (number, 2))):
        raise UserError(f"{file.filename}: its datasets `line` and `span` do not say where each row stands; {file.mend}")
    return Rows(number, lines, None if span is None else span[:], filtered, sentences)


def read_rows(hdf5_path: Path, mend: str) -> Rows:
    """`rows_in` by the voken file's name; mend: the command that makes it."""
    with open_hdf5(hdf5_path, mend, indices="i2") as file:
        return rows_in(file)
