"""What can be asked: sentences and pictures, added and subtracted."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvoken.errors import UserError
from xvoken.pictures.sources import ENDINGS

LONGEST = 10_000  # characters of a sentence; towers cut it at some hundred words
MOST = 16  # parts of a query
ALIKE = 0.95  # inner product from which two pictures count as near-duplicates


@dataclass(frozen=True)
class Part:
    """A sentence, a picture, or a picture of the gallery, with the weight that it has in a query's vector.

    what: a str, a picture as Encoder.encode_images takes it, or an int, a row of the gallery; name: as it is shown.
    """

    what: Any
    name: str
    weight: float = 1.0

    @property
    def is_text(self) -> bool:
        """Whether it is a sentence."""
        return isinstance(self.what, str)


@dataclass(frozen=True)
class Query:
    """A sum of parts. The query of one sentence has the vector that retrieval gives to a line of a corpus."""

    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """As a user would write it: `a dog + beach.jpg - people`."""
        signs = [" - " if part.weight < 0 else " + " for part in self.parts]
        written = "".join(sign + part.name for sign, part in zip(signs, self.parts, strict=True))
        return written.removeprefix(" + ").lstrip()

    @property
    def of_text_alone(self) -> bool:
        """Whether it is one sentence and nothing else."""
        return len(self.parts) == 1 and self.parts[0].is_text and self.parts[0].weight > 0


def sentence(text: str, weight: float = 1.0) -> Part:
    """A sentence; raises UserError for an empty or endless one."""
    if not (text := " ".join(text.split())):
        raise UserError("an empty sentence; write what the pictures should show")
    if len(text) > LONGEST:
        raise UserError(f"a sentence of {len(text):,} characters; at most {LONGEST:,} are taken")
    return Part(text, text, weight)


def picture(path: Path, weight: float = 1.0) -> Part:
    """A picture's file; raises UserError if there is none."""
    if not path.is_file():
        raise UserError(f"{path}: no such picture; check the name")
    return Part(path, path.name, weight)


def sentence_or_picture(text: str, weight: float = 1.0) -> Part:
    """A picture if the text names a file, or ends as pictures' names do; else a sentence."""
    path = Path(text)
    is_picture = path.suffix.lower() in ENDINGS or (len(text) < 256 and path.is_file())
    return picture(path, weight) if is_picture else sentence(text, weight)


def query(parts: Sequence[Part]) -> Query:
    """A query of these parts; raises UserError for none, or too many."""
    if not parts:
        raise UserError("nothing is asked: a sentence or a picture is needed")
    if len(parts) > MOST:
        raise UserError(f"{len(parts)} sentences and pictures in one query; at most {MOST} are taken")
    return Query(tuple(parts))


def written(line: str) -> Query:
    """The query of a line as `Query.name` writes it, `a dog + beach.jpg - people`: + and - between blanks add and subtract.

    A part that names a file is that picture. Raises UserError as `sentence` and `picture` do.
    """
    first, *rest = re.split(r"(?:^|\s)([+-])\s", line.strip())
    parts = [sentence_or_picture(first)] if first or not rest else []
    parts += [sentence_or_picture(text.strip(), -1.0 if sign == "-" else 1.0) for sign, text in zip(rest[::2], rest[1::2], strict=True)]
    return query(parts)
