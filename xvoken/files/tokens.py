"""Writing a tokenized corpus: its files are joined from parts; see xvoken/files/corpus.py and rows.py for what they hold."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvoken.files.corpus import line_file, text_file, tokens_file
from xvoken.files.hdf5 import writing_hdf5
from xvoken.files.rows import kept_file, sent_file
from xvoken.files.safe import replacing


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


@dataclass
class Part:
    """A range of lines, tokenized; text: the file with its lines' ids; ids: tokens (n,); counts: of each line's tokens (l,).

    read, kept: with a filter, how many lines were read, and numbers among them of those kept (l,); sents: where lines are split into
    sentences, how many tokens each has (s,); spans: the characters of its line, from and to (s, 2).
    """

    text: Path
    ids: NDArray[np.int32]
    counts: NDArray[np.int64]
    read: int = 0
    kept: NDArray[np.int64] | None = None
    sents: NDArray[np.int64] | None = None
    spans: NDArray[np.int32] | None = None


def files(corpus: Path, tokenizer_name: str, attributes: dict[str, Any]) -> dict[str, Path]:
    """The files beside the hdf5 file, by their ending: text, line, and, as its attributes say, kept and sent."""
    found = {"text": text_file(corpus, tokenizer_name), "line": line_file(corpus, tokenizer_name)}
    kept = {"kept": kept_file(corpus, tokenizer_name)} if attributes.get("filter") else {}
    sent = {"sent": sent_file(corpus, tokenizer_name)} if attributes.get("sentences") else {}
    return {**found, **kept, **sent}


def write(
    corpus: Path, tokenizer_name: str, parts: Iterable[Part], attributes: dict[str, Any], report: Callable[[int, int], object]
) -> tuple[int, int]:
    """Join parts to the files that `files` names and the hdf5 file; returns lines, tokens.

    The hdf5 file is renamed last: if it exists, the others are whole, and `report` was called with lines and tokens.
    """
    lines = total = read = 0
    with ExitStack() as stack:
        file = stack.enter_context(writing_hdf5(tokens_file(corpus, tokenizer_name)))
        beside = files(corpus, tokenizer_name, attributes)
        out = {name: stack.enter_context(open(stack.enter_context(replacing(path)), "wb")) for name, path in beside.items()}
        tokens = file.create_dataset("tokens", (0,), np.int32, maxshape=(None,), chunks=(1 << 18,))
        split = attributes.get("sentences") == "spacy"
        spans = file.create_dataset("spans", (0, 2), np.int32, maxshape=(None, 2), chunks=(1 << 16, 2)) if split else None
        for name in {"line", "sent"} & set(out):
            out[name].write(b"0\n")
        for part in parts:
            out["text"].write(part.text.read_bytes())
            out["line"].write(_as_text(total + np.cumsum(part.counts)))
            if part.kept is not None:
                out["kept"].write(_as_text(read + part.kept))
            if part.sents is not None:
                out["sent"].write(_as_text(total + np.cumsum(part.sents)))
            if spans is not None and part.spans is not None:
                _append(spans, part.spans)
            _append(tokens, part.ids)
            lines, total, read = lines + len(part.counts), total + len(part.ids), read + part.read
        file.attrs.update({**attributes, "lines": lines})
        for path in {kept_file(corpus, tokenizer_name), sent_file(corpus, tokenizer_name)} - set(beside.values()):
            path.unlink(missing_ok=True)  # of tokens that were here before
        report(lines, total)
    return lines, total


def _as_text(numbers: NDArray[np.int64]) -> bytes:
    return "".join(f"{number}\n" for number in numbers.tolist()).encode()


def _append(dataset: Any, rows: NDArray[Any]) -> None:
    before = len(dataset)
    dataset.resize(before + len(rows), axis=0)
    dataset[before:] = rows
