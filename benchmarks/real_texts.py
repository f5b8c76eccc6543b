"""Sentences that people wrote, found on this machine: lines of dialogues, docstrings, comments and documentation of installed packages."""

import ast
import random
import re
import sysconfig
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

FEWEST, MOST = 4, 30  # words of a sentence
WORD = re.compile(r"[A-Za-z][a-z']*[,;:]?")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n|\n\s*(?:[-*>=~#:]|\d+\.)|\t")
ENDINGS = (".py", ".md", ".rst", ".txt")


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text that read as language: of FEWEST to MOST words, four of five of which consist of letters."""
    for piece in SENTENCE_END.split(text):
        words = piece.split()
        if FEWEST <= len(words) <= MOST and 5 * sum(bool(WORD.fullmatch(word.rstrip(".!?"))) for word in words) >= 4 * len(words):
            yield " ".join(words)


def texts_of(path: Path) -> Iterator[str]:
    """The texts of a file: docstrings and blocks of comments of a Python module, all of another one; none of a file that can't be read."""
    try:
        content = path.read_text()
        if path.suffix != ".py":
            yield content
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in strings
            nodes = list(ast.walk(ast.parse(content)))
    except (OSError, ValueError, SyntaxError, RecursionError, tokenize.TokenError):
        return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    yield from filter(None, (ast.get_docstring(node) for node in nodes if isinstance(node, documented)))
    yield from (re.sub(r"(?m)^\s*#+", "", block) for block in re.findall(r"(?m)(?:^\s*#.*\n)+", content))


def distinct(texts: Iterable[str], most: int) -> list[str]:
    """The first `most` sentences of the texts; of those that differ in their case alone, the first."""
    found: dict[str, str] = {}
    for text in texts:
        for sentence in sentences(text):
            found.setdefault(sentence.lower(), sentence)
        if len(found) >= most:
            break
    return list(found.values())[:most]


def texts_at_hand(dialogues: list[Path], folders: list[Path], most: int) -> list[str]:
    """At most so many distinct sentences, in a random order that is always the same: of the dialogues' lines, then of the folders' files.

    Which ones there are hangs on the packages that are installed.
    """
    files = sorted({path for folder in folders for path in folder.rglob("*") if path.suffix in ENDINGS or path.name == "METADATA"})
    random.Random(0).shuffle(files)
    found = distinct((text for path in [*dialogues, *files] for text in texts_of(path)), most)
    random.Random(1).shuffle(found)
    return found


def installed() -> list[Path]:
    """The folders of the packages that are installed here: this environment's, Python's own, the system's."""
    found = {Path(sysconfig.get_path(name)) for name in ("purelib", "stdlib")} | {Path("/usr/lib/python3"), Path("/usr/share/doc")}
    return sorted(path for path in found if path.is_dir())
