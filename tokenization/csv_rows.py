"""Reading the records of a CSV file such that a quote that is never closed spoils its own row, and not all rows after it."""

import csv
import re
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator

MOST_LINES = 1000  # limit of a record: a quote that stays open for longer is taken for a mistake


class BadRow(Exception):
    """A row that can't be used; its text is the reason."""


class _TooLong(Exception):
    """A record has MOST_LINES lines and goes on."""


class _Lines:
    """The lines of a file, as an iterator for csv.reader, which takes as many lines as a record has; lines can be put back.

    number: of the last line given; record: the lines of the record being read; ended: whether the record goes on at the file's end.
    """

    def __init__(self, file: Iterable[str]):
        self.file, self.again, self.number = iter(file), deque[str](), 0
        self.next_record()

    def next_record(self) -> None:
        self.record: list[str] = []
        self.ended = False

    def give_again(self, lines: list[str]) -> None:
        """Put back the last lines given, to be given again."""
        self.again.extendleft(reversed(lines))
        self.number -= len(lines)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if len(self.record) == MOST_LINES:
            raise _TooLong
        try:
            line = self.again.popleft() if self.again else next(self.file)
        except StopIteration:
            self.ended = True
            raise
        self.record.append(line)
        self.number += 1
        return line


def csv_rows(file: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str] | BadRow]]:
    """Yield (number of its last line, cells) for each record, without empty lines; a BadRow for a record that can't be read.

    A record with a quote that is not closed has the number of the quote's line, and reading goes on below that line.
    """
    lines = _Lines(file)
    reader = csv.reader(lines, delimiter=delimiter)
    # A quote in a row below would close the one that was never closed, and join the rows: this finds such a quote inside a cell.
    closes_inside = re.compile(rf'(?:[^"]|"")*+"(?![{delimiter}\r\n]|\Z)')
    while True:
        lines.next_record()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad = BadRow("not CSV")
            bad.__cause__ = error
            yield lines.number, bad  # the reader goes on with the next line
            continue
        except _TooLong:
            reason = f"a quote is opened here and not closed within {MOST_LINES:,} lines"
        else:
            # Every line of a record but the first starts inside a quote.
            inside = (at for at, line in enumerate(lines.record) if at and closes_inside.match(line))
            if (at := next(inside, None)) is not None:
                reason = "a quote is opened here and closed in the middle of a cell, some lines below"
                lines.give_again(lines.record[at:])
                del lines.record[at:]
            elif lines.ended:
                reason = "a quote is opened here and never closed"
            else:
                if cells:
                    yield lines.number, cells
                continue
        lines.give_again(lines.record[_open_quote(lines.record, delimiter) + 1 :])
        yield lines.number, BadRow(reason)
        reader = csv.reader(lines, delimiter=delimiter)


def _open_quote(record: list[str], delimiter: str) -> int:
    """The index of the line in which a record's last cell starts; if a quote is open at the record's end, it was opened there."""

    def cells(lines: int) -> int:
        return len(next(csv.reader(record[:lines], delimiter=delimiter)))

    return bisect_left(range(1, len(record) + 1), cells(len(record)), key=cells)
