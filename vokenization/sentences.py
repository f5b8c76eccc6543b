"""What an evaluation retrieves for: the captions of a set, or the first lines of a corpus, as text or, without it, as tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xvoken.errors import UserError
from xvoken.files import corpus as corpora
from xvoken.files.corpus import Corpus
from xvoken.files.hdf5 import open_hdf5
from xvoken.files.image_sets import Roots, captioned_sets, is_captioned, lxmert_file, read_captioned
from xvoken.files.lines import text_lines
from xvoken.files.rows import Rows
from xvoken.files.safe import quoted, sha256_of_lines, sha256_of_rows
from xvoken.kinds import base_name
from xvoken.measures import spread

NEAR = 64  # an empty line of a sample is replaced by one of the next so many
Tokenized = tuple[NDArray[np.int32], NDArray[np.int64]]  # tokens (n,), offsets (L + 1,): line i is tokens[offsets[i] : offsets[i + 1]]


@dataclass
class Sentences:
    """name: the corpus' name in the names of files; source: where its lines stand, for messages; hash: of all lines, 16 hex digits.

    lines: the texts, or the tokens of a corpus' rows; captioned: the caption file, None for a corpus; pictures: id of each caption's own
    picture; rows: where the rows of tokens stand in their text.
    """

    name: str
    source: str
    hash: str
    lines: list[str] | Tokenized
    captioned: Path | None = None
    pictures: list[str] | None = None
    rows: Rows | None = None

    def __len__(self) -> int:
        return len(self.lines) if isinstance(self.lines, list) else len(self.lines[1]) - 1

    def named(self, line: int) -> str:
        """What a line is called in messages."""
        if self.captioned:
            return f"{self.source}: caption {line + 1}"
        return f"{self.source}: {(self.rows or Rows(len(self))).named(line)}"

    def slab(self, start: int, stop: int, tokenize: Callable[[list[str]], Tokenized]) -> Tokenized:
        """Lines start to stop: their tokens (n,), without special ones, and offsets into them; tokenize: for lines that are texts."""
        if isinstance(self.lines, list):
            return tokenize(self.lines[start:stop])
        tokens, offsets = self.lines[0], self.lines[1][start : stop + 1]
        return tokens[offsets[0] : offsets[-1]], offsets - offsets[0]

    def home(self, image_sets: list[str], roots: Roots) -> str | None:
        """Which of the image sets has these captions' pictures, None if none has: the one of the same caption file."""
        return next((name for name in image_sets if self.captioned and lxmert_file(name, roots) == self.captioned), None)

    def own_rows(self, home: str | None, ids: list[str]) -> NDArray[np.int64]:
        """Row of each line's own picture in a gallery: (L,), -1 where it has none; home: as above; ids: {IMAGE_SET}/{id} of each row."""
        row_of = {i: row for row, i in enumerate(ids)} if home else {}
        return np.array([row_of.get(f"{home}/{picture}", -1) for picture in self.pictures or [""] * len(self)], np.int64)


def read_sentences(name: str, most: int | None, langs: list[str], roots: Roots) -> Sentences | None:
    """Read all captions of a set, or the first lines of a text file (None: all lines); None if `name` is neither.

    Raises UserError for a line that is not UTF-8, for a file that holds tokens instead of text, and as `read_captioned` does.
    """
    if "/" not in name and is_captioned(name, roots):
        file, found = lxmert_file(name, roots), read_captioned(name, langs, roots)
        texts, pictures = [text for _, text in found.captions], [found.ids[picture] for picture, _ in found.captions]
        named = sha256_of_lines(f"{picture}\t{text}" for picture, text in zip(pictures, texts, strict=True))[:16]
        return Sentences(name, str(file), named, texts, file, pictures)
    path = Path(name)
    if not path.is_file():
        return None
    tokens = path if path.suffix == ".hdf5" else Path(f"{path}.hdf5")
    if tokens.exists() and tokens.with_suffix(".line").exists():
        text = tokens.with_suffix("").with_suffix("")  # FILE of FILE.TOK.hdf5, unless the tokenizer's name has a point
        raise UserError(f"--corpus {path}: holds the tokens of a text; give the name of that text, such as: --corpus {quoted(text)}")
    lines = text_lines(path, f"corpus {path}", most)
    return Sentences(path.name, str(path), sha256_of_lines(lines)[:16], lines)


def has_rows(name: str, tokenizer: str, sentences: bool, roots: Roots) -> bool:
    """Whether a corpus' tokens are to be read, though its text may be here: for its sentences, or for the lines that a filter has kept."""
    if "/" not in name and is_captioned(name, roots):
        return False
    tokens = corpora.tokens_file(Path(name), base_name(tokenizer))
    return sentences or (tokens.is_file() and "filter" in open_hdf5(tokens, corpora.MAKE).attributes())


def open_tokens(name: str, tokenizer: str, vocabulary: int, roots: Roots, sentences: bool = False) -> Corpus:
    """The tokenized form of a corpus; raises UserError if it is not here, or of another text than is here.

    tokenizer: as it was given to tokenize_dataset.py; vocabulary: all ids must be below it; sentences: a row is a sentence.
    """
    path, tokens = Path(name), corpora.tokens_file(Path(name), base_name(tokenizer))
    if not (tokens.is_file() or path.is_file()):
        sets = f"a set with captions (in {roots.lxmert} there are: {captioned_sets(roots)})"
        raise UserError(f"--corpus {name}: neither {sets}, nor a text file, and its tokens are not here either ({tokens})")
    corpus = Corpus(path, base_name(tokenizer), tokenizer, vocabulary, sentences)
    corpora.same_text(path, corpus.path, corpus.attributes.get("corpus"), "the same command")
    return corpus


def first_tokens(corpus: Corpus, name: str, most: int | None) -> Sentences:
    """The first rows of a tokenized corpus (None: all)."""
    tokens, offsets = corpus.slab(0, min(len(corpus), most or len(corpus)))
    tokens, offsets = np.asarray(tokens, np.int32), np.asarray(offsets, np.int64)
    named = sha256_of_lines([sha256_of_rows(tokens), sha256_of_rows(offsets)])[:16]
    return Sentences(Path(name).name, str(corpus.path), named, (tokens, offsets), rows=corpus.rows)


def sample_lines(corpus: Corpus, lines: int, most: int) -> Tokenized:
    """At most so many non-empty lines out of the first `lines`, evenly spread (fewer if many are empty): tokens (n,), offsets (L + 1,)"""
    starts, picked = spread(lines, most), []
    for start, stop in zip(starts, [*starts[1:], lines], strict=True):
        tokens, offsets = corpus.slab(int(start), min(int(stop), int(start) + NEAR))
        if len(filled := np.flatnonzero(np.diff(offsets))):
            picked.append(tokens[offsets[filled[0]] : offsets[filled[0] + 1]])
    offsets = np.cumsum([0, *map(len, picked)])
    return np.concatenate([np.empty(0, np.int32), *picked]), offsets
