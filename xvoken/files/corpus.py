"""A tokenized corpus on disk, as Vokenization lays it out.

    FILE.TOK         line i: the token ids of line i, no special tokens, separated by blanks
    FILE.TOK.hdf5    dataset `tokens`, int32 (N,): the lines one after another; attributes say what made it
    FILE.TOK.line    L + 1 offsets, one a line: line i is tokens[line[i] : line[i + 1]]

L is the number of lines of FILE, empty ones included.
"""

from collections.abc import Callable, Iterable
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvoken import commands
from xvoken.errors import UserError
from xvoken.files.hdf5 import open_hdf5, writing_hdf5
from xvoken.files.offsets import Offsets
from xvoken.files.safe import quoted, replacing, sha256_of_file
from xvoken.kinds import base_name

SLAB = 1 << 14  # lines that `check` reads at once
MAKE = commands.tokenize()


def text_file(corpus: Path, tokenizer_name: str) -> Path:
    """The token ids as text, FILE.TOK; tokenizer_name: its base_name."""
    return corpus.with_name(f"{corpus.name}.{tokenizer_name}")


def tokens_file(corpus: Path, tokenizer_name: str) -> Path:
    """The token ids as one array, FILE.TOK.hdf5."""
    return corpus.with_name(f"{corpus.name}.{tokenizer_name}.hdf5")


def line_file(corpus: Path, tokenizer_name: str) -> Path:
    """The lines' offsets into the tokens, FILE.TOK.line."""
    return corpus.with_name(f"{corpus.name}.{tokenizer_name}.line")


def same_text(corpus: Path, made: Path, then: object, again: str) -> None:
    """Raise UserError if the text of a corpus has changed since the file `made` was made of it or of its tokens.

    then: the sha256 of the text that `made` keeps, or, if its tokens came from a predecessor and keep none, that of the tokens file.
    again: the command that makes `made` again from the right tokens.
    Nothing is compared where the text is missing (tokens are shipped alone) or no sha256 is kept (None).
    """
    if then is None or not corpus.is_file() or then == (now := sha256_of_file(corpus)):
        return
    tokens = sorted(path for path in corpus.parent.glob(f"{escape(corpus.name)}.*.hdf5") if path.is_file())
    if then in map(sha256_of_file, tokens):
        return
    stale = [_make_again(corpus, path, now) for path in ([made] if made in tokens else tokens)]
    order = ", then ".join([*filter(None, stale), again])
    raise UserError(
        f"{made} was made of another text than {corpus} holds now; bring the old text back, or make all again, in this order: {order}"
    )


def _make_again(corpus: Path, tokens: Path, now: str) -> str:
    """The commands that make a tokens file again; empty if it was made of the present text, or is not a tokens file."""
    try:
        with open_hdf5(tokens, MAKE, tokens="iu1") as file:
            made = file.attributes()
    except UserError:
        return ""  # another file that happens to have such a name
    if made.get("corpus") in (None, now):
        return ""
    source = made.get("source", tokens.name.removeprefix(f"{corpus.name}.").removesuffix(".hdf5"))
    files = [path for path in (tokens, tokens.with_suffix(".line"), tokens.with_suffix("")) if path.exists()]
    return f"rm {' '.join(map(quoted, files))} && {commands.tokenize(corpus, source, made.get('limit'))}"


class IdText:
    """Writes token ids as text, by table lookup, without Python work for each token; vocabulary: all ids are below it."""

    def __init__(self, vocabulary: int):
        digits = [f"{i} ".encode() for i in range(vocabulary)]
        self.lengths = np.array([len(word) for word in digits], np.int64)
        self.table = np.array(digits, dtype=f"S{self.lengths.max()}").view(np.uint8).reshape(vocabulary, -1)

    def lines(self, ids: NDArray[np.int32], counts: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Tokens (n,), number of tokens of each line (l,) -> bytes uint8: ids separated by blanks, every line ended by a newline"""
        padded = self.table[ids]
        text = padded[padded != 0]
        ends = np.zeros(len(ids) + 1, np.int64)  # where the text of each token ends, with its blank
        np.cumsum(self.lengths[ids], out=ends[1:])
        line_ends = ends[np.cumsum(counts)]
        text[line_ends[counts > 0] - 1] = ord("\n")
        return np.insert(text, line_ends[counts == 0], ord("\n")) if (counts == 0).any() else text


def write(
    corpus: Path, tokenizer_name: str, parts: Iterable[tuple[Path, NDArray[np.int32], NDArray[np.int64]]],
    attributes: dict[str, Any], report: Callable[[int, int], object],
) -> tuple[int, int]:  # fmt: skip
    """Join parts (text file, tokens (n,), token counts of the lines) to the three files; returns lines, tokens.

    The hdf5 file is renamed last: if it exists, the other two are whole, and `report` was called with lines and tokens.
    """
    lines = total = 0
    with (
        writing_hdf5(tokens_file(corpus, tokenizer_name)) as file,
        replacing(line_file(corpus, tokenizer_name)) as line_path,
        replacing(text_file(corpus, tokenizer_name)) as text_path,
    ):
        with open(line_path, "wb") as line_out, open(text_path, "wb") as text_out:
            tokens = file.create_dataset("tokens", (0,), np.int32, maxshape=(None,), chunks=(1 << 18,))
            line_out.write(b"0\n")
            for text_part, ids, counts in parts:
                text_out.write(text_part.read_bytes())
                line_out.write(("\n".join(map(str, (total + np.cumsum(counts)).tolist())) + "\n").encode())
                tokens.resize((total + len(ids),))
                tokens[total:] = ids
                lines, total = lines + len(counts), total + len(ids)
            file.attrs.update({**attributes, "lines": lines})
        report(lines, total)
    return lines, total


def read_corpus(corpus: str | Path, tokenizer: str) -> "Corpus":
    """Open a tokenized corpus; corpus: its text file; tokenizer: as it was given to tokenize_dataset.py.

    Raises xvoken.Error when a file is missing or the files disagree.
    """
    if not isinstance(corpus, str | Path) or not isinstance(tokenizer, str | Path):
        raise UserError("read_corpus: the text file's path and the tokenizer's name were expected, as given to tokenize_dataset.py")
    return Corpus(Path(corpus), base_name(str(tokenizer)), str(tokenizer))


class Corpus:
    """A tokenized corpus, open for reading. Raises UserError when a file is missing or the files disagree.

    source: the tokenizer as it is given to tokenize_dataset.py, for messages; vocabulary: all ids must be below it (None: any are taken).
    tokens: the dataset, integers (N,); offsets: L + 1 of them, see Offsets; attributes: those of the hdf5 file (in files of other
    tools there are none).
    """

    def __init__(self, corpus: Path, tokenizer_name: str, source: str | None = None, vocabulary: int | None = None):
        self.made_with = (corpus, tokenizer_name, source, vocabulary)
        self.path = tokens_file(corpus, tokenizer_name)
        line_path = line_file(corpus, tokenizer_name)
        for path in (self.path, line_path):
            if not path.is_file():
                raise UserError(f"{path} does not exist; make it with: {commands.tokenize(corpus, source or tokenizer_name)}")
        self.file = open_hdf5(self.path, MAKE, tokens="iu1")
        self.tokens = self.file["tokens"]
        self.vocabulary = vocabulary
        self.attributes = self.file.attributes()
        self.offsets = Offsets(line_path, f"make it again: {MAKE}")
        if self.offsets[-1] != len(self.tokens):
            raise UserError(
                f"{line_path}: ends at token {self.offsets[-1]}, but {self.path} holds {len(self.tokens)}; make both again: {MAKE}"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Another process opens it by itself."""
        return Corpus, self.made_with

    def __getitem__(self, line: int) -> NDArray[np.int32]:
        """Token ids of a line, without special ones: (n,)"""
        line = range(len(self))[line]
        return self.slab(line, line + 1)[0]

    @property
    def identity(self) -> str:
        """The hash that files made of these tokens keep: sha256 of the text, or of the tokens file if that does not name its text."""
        return str(self.attributes.get("corpus") or sha256_of_file(self.path))

    def largest_token(self) -> int:
        """The largest token id of the corpus, -1 if there is none."""
        step = 1 << 24
        return max((int(self.tokens[i : i + step].max()) for i in range(0, len(self.tokens), step)), default=-1)

    def slab(self, start: int, stop: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Lines start to stop: their tokens (n,), read at once, and offsets into them (stop - start + 1,).

        Raises UserError for an id that is negative or not below `vocabulary`.
        """
        offsets = self.offsets[start : stop + 1]
        tokens = self.tokens[offsets[0] : offsets[-1]]
        if self.vocabulary and len(tokens) and (tokens.min() < 0 or tokens.max() >= self.vocabulary):
            wrong = tokens.min() if tokens.min() < 0 else tokens.max()
            raise UserError(f"{self.path}: token id {wrong}, the tokenizer has ids below {self.vocabulary}; make it again: {MAKE}")
        return tokens, offsets - offsets[0]


def check(corpus: Path, tokenizer_name: str) -> str:
    """Compare the three files with each other and with the text; returns a line that describes them, or raises UserError."""
    read = Corpus(corpus, tokenizer_name)
    retrieve = f"{commands.vokenize(corpus=corpus)} (and the flags it had), after rm of the images retrieved for it"
    same_text(corpus, read.path, read.attributes.get("corpus"), retrieve)
    path = text_file(corpus, tokenizer_name)
    if not path.is_file():
        raise UserError(f"{path} does not exist, {read.path} does; make them again: {MAKE}")
    at = 0
    with open(path, encoding="ascii", errors="replace") as text:
        while at <= len(read) and (lines := list(islice(text, SLAB))):
            ids, offsets = read.slab(at, min(at + len(lines), len(read)))
            for number, (line, start, stop) in enumerate(zip(lines, offsets, offsets[1:], strict=False), at + 1):
                if line.split() != list(map(str, ids[start:stop].tolist())):
                    raise UserError(f"{path}: line {number} differs from {read.path}; make them again: {MAKE}")
            at += len(lines)
    if at != len(read):
        raise UserError(f"{path}: has {at} lines, {line_file(corpus, tokenizer_name)} has {len(read)}; make them again: {MAKE}")
    return f"corpus of {len(read):,} lines, {len(read.tokens):,} tokens of {read.attributes.get('tokenizer', 'unknown')}"
