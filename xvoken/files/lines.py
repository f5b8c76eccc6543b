"""Text files of a sentence a line, as a user has them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from xvoken.errors import UserError

MOST = 10_000  # other lines that are read


def each_line(path: Path, called: str, text_mode: bool = False) -> Iterator[str]:
    """Yield the lines as they are, without their ends; called: what messages call the file.

    text_mode: \\r alone ends a line too, see as_in_text_mode. Raises UserError for a line that is not UTF-8.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                read = line.decode()
            except UnicodeDecodeError:
                raise UserError(f"{called}: line {number} is not UTF-8; convert it, for example: iconv -f LATIN1 -t UTF-8") from None
            if text_mode:
                yield from (part.removesuffix("\n") for part in as_in_text_mode(read))
            else:
                yield read.rstrip("\r\n")


def as_in_text_mode(text: str) -> list[str]:
    """The lines of a text as Python reads a file in text mode, with their ends: \\n, \\r\\n and \\r end a line, and come as \\n."""
    *lines, rest = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [f"{line}\n" for line in lines] + ([rest] if rest else [])


def text_lines(path: Path, called: str, most: int | None = None) -> list[str]:
    """The first `most` lines (None: all), tabs between utterances as blanks, as tokenize_dataset.py reads them; see each_line."""
    return [line.replace("\t", " ") for line in islice(each_line(path, called), most)]


def other_lines(path: Path) -> list[str]:
    """Lines of another domain than captions, which no picture fits: of a file's first MOST lines, those with text.

    Raises UserError if the file is missing, has none, or is not UTF-8.
    """
    wanted = "a text file of lines that no picture fits, such as dialogue, was expected"
    if not path.is_file():
        raise UserError(f"{path} {'is no file' if path.exists() else 'does not exist'}; {wanted}")
    if not (lines := [line for line in text_lines(path, str(path), MOST) if line.strip()]):
        raise UserError(f"{path}: has no line with text; {wanted}")
    return lines
