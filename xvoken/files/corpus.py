"""A tokenized corpus on disk, as Vokenization lays it out.

    FILE.TOK         line i: the token ids of line i, no special tokens, separated by blanks
    FILE.TOK.hdf5    dataset `tokens`, int32 (N,): the lines one after another; attributes say what made it
    FILE.TOK.line    L + 1 offsets, one a line: line i is tokens[line[i] : line[i + 1]]

L is the number of lines of FILE, empty ones included, or of those that a filter has kept: then, and where lines are split into sentences,
there is more, see xvoken/files/rows.py.
"""

from collections.abc import Iterator
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvoken import commands
from xvoken.errors import UserError
from xvoken.files.hdf5 import is_dataset, open_hdf5
from xvoken.files.offsets import Offsets
from xvoken.files.rows import LinesOfSentences, Rows, agree, kept_file, sent_file, warn_of_left_lines
from xvoken.files.safe import quoted, sha256_of_file
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
    again = commands.tokenize(corpus, source, made.get("limit"), made.get("filter", ""), made.get("sentences", ""))
    return f"rm {' '.join(map(quoted, files))} && {again}"


def read_corpus(corpus: str | Path, tokenizer: str, sentences: bool = False) -> "Corpus":
    """Open a tokenized corpus; corpus: its text file; tokenizer: as it was given to tokenize_dataset.py.

    sentences: a row is a sentence instead of a line. Raises xvoken.Error when a file is missing or the files disagree.
    """
    if not isinstance(corpus, str | Path) or not isinstance(tokenizer, str | Path):
        raise UserError("read_corpus: the text file's path and the tokenizer's name were expected, as given to tokenize_dataset.py")
    return Corpus(Path(corpus), base_name(str(tokenizer)), str(tokenizer), sentences=sentences)


class Corpus:
    """A tokenized corpus, open for reading. Raises UserError when a file is missing or the files disagree.

    source: the tokenizer as it is given to tokenize_dataset.py, for messages; vocabulary: all ids must be below it (None: any are taken);
    sentences: a row is a sentence, instead of a line.
    tokens: the dataset, integers (N,); offsets: one more than rows, see Offsets; attributes: those of the hdf5 file (in files of other
    tools there are none); rows: where the rows stand in the text.
    """

    def __init__(
        self, corpus: Path, tokenizer_name: str, source: str | None = None, vocabulary: int | None = None, sentences: bool = False
    ):  # fmt: skip
        self.made_with = (corpus, tokenizer_name, source, vocabulary, sentences)
        self.text, self.path = corpus, tokens_file(corpus, tokenizer_name)
        line_path, sent_path = line_file(corpus, tokenizer_name), sent_file(corpus, tokenizer_name)
        if sentences and not line_path.is_file():  # as Vokenization's --lines-are-sents leaves it
            line_path = sent_path
        again = commands.tokenize(corpus, source or tokenizer_name, sentences="spacy" if sentences else "")
        for path in (self.path, line_path):
            if not path.is_file():
                raise UserError(f"{path} does not exist; make it with: {again}")
        self.file = open_hdf5(self.path, MAKE, tokens="iu1")
        self.tokens = self.file["tokens"]
        self.vocabulary = vocabulary
        self.attributes = self.file.attributes()
        self.lines = self._offsets(line_path)
        self.offsets = self._sentences(sent_path) if sentences else self.lines
        self.rows = self._rows(kept_file(corpus, tokenizer_name), sentences)

    def _again(self, sentences: str | None = None) -> str:
        """The commands that make the files again as they were made; sentences: with these instead."""
        made, (text, name, source, *_) = self.attributes, self.made_with
        how = made.get("limit"), made.get("filter", ""), made.get("sentences", "") if sentences is None else sentences
        return f"rm {quoted(self.path)} && {commands.tokenize(text, made.get('source', source or name), *how)}"

    def _offsets(self, path: Path) -> Offsets:
        found = Offsets(path, f"make all again: {self._again()}")
        if found[-1] != len(self.tokens):
            raise UserError(f"{path}: ends at token {found[-1]}, but {self.path} holds {len(self.tokens)}; make all again: {self._again()}")
        return found

    def _sentences(self, path: Path) -> Offsets:
        if not path.is_file():
            raise UserError(f"{path} does not exist; to have sentences, tokenize again: {self._again('spacy')}")
        return self._offsets(path)

    def _rows(self, kept_path: Path, sentences: bool) -> Rows:
        """Where the rows stand; raises UserError if the file that says so is missing or does not belong to the tokens."""
        kept, number, again = None, len(self), f"make all again: {self._again()}"
        if self.attributes.get("filter"):
            if not kept_path.is_file():
                raise UserError(f"{kept_path} is gone, which says where the lines stand in the text; {again}")
            kept = Offsets(kept_path, f"make all again: {self._again()}", rising=True)
            if len(kept) != len(self.lines) - 1:
                what = f"{len(kept)} lines, {self.lines.path} has {len(self.lines) - 1}"
                raise UserError(f"{kept_path}: {what}; {again}")
        if not sentences or self.lines.path == self.offsets.path:
            return Rows(number, kept, filtered=kept is not None, sentences=sentences)
        spans = self.file.get("spans")
        if spans is not None and not (is_dataset(spans, "i2") and spans.shape == (number, 2)):
            raise UserError(f"{self.path}: its dataset `spans` is not two numbers a sentence of {self.offsets.path}; {again}")
        return Rows(number, LinesOfSentences(self.offsets, self.lines, kept), spans, kept is not None, True)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Another process opens it by itself."""
        return Corpus, self.made_with

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        """Token ids of a row, without special ones: (n,)"""
        row = range(len(self))[row]
        return self.slab(row, row + 1)[0]

    def texts(self) -> Iterator[str]:
        """Yield the text of each row; raises UserError if the text is missing, or another one than was tokenized."""
        same_text(self.text, self.path, then := self.attributes.get("corpus"), "what was made of its tokens")
        if self.text.is_file():
            warn_of_left_lines(self.text, self.path, then, self.rows)
        return self.rows.texts(self.text)

    @property
    def row_settings(self) -> dict[str, str]:
        """What files made of these rows keep besides `identity`: nothing where rows are the text's lines, all of them."""
        rule = {"filter": self.attributes["filter"]} if self.rows.filtered else {}
        return {**rule, "sentences": sha256_of_file(self.offsets.path)[:16]} if self.rows.sentences else rule

    @property
    def identity(self) -> str:
        """The hash that files made of these tokens keep: sha256 of the text, or of the tokens file if that does not name its text."""
        return str(self.attributes.get("corpus") or sha256_of_file(self.path))

    def largest_token(self) -> int:
        """The largest token id of the corpus, -1 if there is none."""
        step = 1 << 24
        return max((int(self.tokens[i : i + step].max()) for i in range(0, len(self.tokens), step)), default=-1)

    def slab(self, start: int, stop: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Rows start to stop: their tokens (n,), read at once, and offsets into them (stop - start + 1,).

        Raises UserError for an id that is negative or not below `vocabulary`.
        """
        offsets = self.offsets[start : stop + 1]
        tokens = self.tokens[offsets[0] : offsets[-1]]
        if self.vocabulary and len(tokens) and (tokens.min() < 0 or tokens.max() >= self.vocabulary):
            wrong = tokens.min() if tokens.min() < 0 else tokens.max()
            raise UserError(f"{self.path}: token id {wrong}, the tokenizer has ids below {self.vocabulary}; make it again: {MAKE}")
        return tokens, offsets - offsets[0]


def check(corpus: Path, tokenizer_name: str) -> str:
    """Compare the files with each other and with the text; returns a line that describes them, or raises UserError."""
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
    return f"corpus of {len(read):,} lines, {len(read.tokens):,} tokens of {read.attributes.get('tokenizer', 'unknown')}{_check_rows(read)}"


def _check_rows(read: Corpus) -> str:
    """Hold the sentences, and what is said of where the rows stand, against lines and text; says what there is besides lines."""
    told, again = "", f"make all again after: rm {quoted(read.path)}"
    if rule := read.attributes.get("filter"):
        told = f", kept by --filter {rule}"
    if sent_file(read.text, read.made_with[1]).is_file():
        read = Corpus(*read.made_with[:-1], sentences=True)
        agree(read.offsets, read.lines, again)
        told += f", {len(read):,} sentences"
    elif read.attributes.get("sentences"):
        raise UserError(f"{sent_file(read.text, read.made_with[1])} is gone, {read.path} was made with it; {again}")
    if not read.rows.plain and read.text.is_file():
        for _ in read.rows.texts(read.text):
            pass
    return told
