"""Tokenize a corpus, line by line, to text, hdf5 and line offsets.

    python tokenization/tokenize_dataset.py data/reddit train.pkl.txt bert-base-uncased

reads   DATA_DIR/FILE, UTF-8, one text per line (tabs between utterances count as blanks)
writes  DATA_DIR/FILE.TOK, FILE.TOK.hdf5 (tokens int32), FILE.TOK.line; see xvoken/files/corpus.py
"""

import codecs
import hashlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

import numpy as np
from numpy.typing import NDArray

from tokenization.line_tokenizer import LineTokenizer
from xvoken import commands
from xvoken.cli.flags import Parser, add_engine_flags, at_least_one, engine_of
from xvoken.cli.main import run_main
from xvoken.encoders.identity import tokenizer_facts
from xvoken.encoders.tokenizer import load_tokenizer, tokenizer_hash, vocabulary_size
from xvoken.errors import UserError
from xvoken.files import corpus as corpora
from xvoken.files.hdf5 import open_hdf5
from xvoken.files.safe import replacing, save_arrays
from xvoken.kinds import base_name, full_name
from xvoken.machine import LOCAL, Engine, cores
from xvoken.work.parts import Parts
from xvoken.work.product import Product, one_pass

CHUNK = 20_000  # lines per part
LINES_AT_ONCE = 1000  # lines that a thread tokenizes in one call
BLOCK = 1 << 22  # bytes read at once


@dataclass
class Scan:
    """What a reading of a text file found: number of lines, sha256, the byte at which each part of CHUNK lines starts, size in bytes."""

    lines: int
    sha256: str
    starts: list[int]
    size: int


def scan(path: Path, limit: int | None = None) -> Scan:
    """Read a text file through; raises UserError, with the line's number, if a line is not UTF-8, or if there are no lines."""
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"corpus {path}: {error.strerror}; make it with: {commands.prepare_dialogues()}") from None
    decoder, digest = codecs.getincrementaldecoder("utf-8")(), hashlib.sha256()
    lines, read, starts, ended = 0, 0, [0], True
    with file:
        while block := file.read(BLOCK):
            newlines = np.flatnonzero(np.frombuffer(block, np.uint8) == 10)
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                line = lines + int((newlines < error.start).sum()) + 1
                raise UserError(f"corpus {path}: line {line} is not UTF-8; convert it, for example: iconv -f LATIN1 -t UTF-8") from None
            digest.update(block)
            for ahead in range(CHUNK - lines % CHUNK, len(newlines) + 1, CHUNK):
                starts.append(read + int(newlines[ahead - 1]) + 1)
            lines, read, ended = lines + len(newlines), read + len(block), block.endswith(b"\n")
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise UserError(f"corpus {path}: line {lines + 1} is not UTF-8 (it ends inside a character)") from None
    lines += not ended
    if not lines:
        raise UserError(f"corpus {path} is empty")
    return Scan(min(lines, limit or lines), digest.hexdigest(), starts, read)


@dataclass
class TokenizeJob:
    """Tokenizes ranges of lines to token ids, as text and as arrays; see xvoken.work.jobs.Job."""

    path: Path
    starts: list[int]
    size: int
    tokenizer: str
    workers: int
    expected: str | None = None  # the hash of the tokenizer
    uses_gpu: ClassVar[bool] = False

    def setup(self, device: str) -> None:
        # Threads of our own handle whole blocks of lines, the work in Python included: faster than the tokenizer's threads.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.threads = ThreadPoolExecutor(max(1, cores() // self.workers))
        tokenizer = load_tokenizer(self.tokenizer)
        if self.expected not in (None, found := tokenizer_hash(tokenizer)):
            change = f"({self.expected} then, {found} now)"
            raise UserError(f"tokenizer {self.tokenizer}: has become another one since this run began {change}; run the same command again")
        self.tokenize = LineTokenizer(tokenizer)
        self.text = corpora.IdText(vocabulary_size(tokenizer))

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        first = start // CHUNK
        end = self.starts[first + 1] if first + 1 < len(self.starts) else self.size
        with open(self.path, "rb") as file:
            file.seek(self.starts[first])
            lines = file.read(end - self.starts[first]).decode().split("\n")[: stop - start]
        blocks = [lines[at : at + LINES_AT_ONCE] for at in range(0, len(lines), LINES_AT_ONCE)]
        texts, ids, counts = zip(*self.threads.map(self._encode, blocks), strict=True)
        with replacing(part.with_suffix(".txt")) as temporary, open(temporary, "wb") as file:
            file.writelines(texts)
        counts = np.concatenate(counts)
        save_arrays(part.with_suffix(".npz"), ids=np.concatenate(ids), counts=counts)
        return {"empty": int((counts == 0).sum())}

    def _encode(self, lines: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int64]]:
        ids, offsets = self.tokenize([line.rstrip("\r").replace("\t", " ") for line in lines])
        counts = np.diff(offsets)
        return self.text.lines(ids, counts), ids, counts


def part_arrays(parts: Parts) -> Iterator[tuple[Path, NDArray[np.int32], NDArray[np.int64]]]:
    for number in range(len(parts.ranges)):
        arrays = parts.load(number)
        yield parts.part(number).with_suffix(".txt"), arrays["ids"], arrays["counts"]


def read_settings(output: Path) -> dict[str, Any]:
    """The settings that a tokens file was made with, read from its attributes."""
    with open_hdf5(output, corpora.MAKE, tokens="iu1") as file:
        made = file.attributes()
    return {key: made.get(key) for key in ("tokenizer", "tokenizer_hash", "corpus")} | {"limit": made.get("limit") or "all"}


def tokenize_corpus(path: Path, tokenizer_name: str, workers: int, limit: int | None, engine: Engine = LOCAL) -> None:
    name = base_name(tokenizer_name)
    found = scan(path, limit)
    settings = {"tokenizer": name, "tokenizer_hash": tokenizer_facts(tokenizer_name).hash, "corpus": found.sha256, "limit": limit}
    output = corpora.tokens_file(path, name)
    product = Product(
        output, settings | {"limit": limit or "all"}, lambda: read_settings(output), "these lines",
        (corpora.text_file(path, name), corpora.line_file(path, name)),
    )  # fmt: skip
    if product.finished():
        return
    with one_pass([product], found.lines, CHUNK, engine, settings) as made:
        job = TokenizeJob(path, found.starts, found.size, tokenizer_name, workers, settings["tokenizer_hash"])
        if not made.run(job, ["cpu"] * workers, desc=path.name, unit="lines"):
            return
        attributes = {**settings, "limit": limit or 0, "source": full_name(tokenizer_name)}
        empty = sum(summary["empty"] for summary in made.parts.summaries())

        def report(lines: int, tokens: int) -> None:
            made.report(lines=lines, empty=empty, tokens=tokens)

        lines, tokens = corpora.write(path, name, part_arrays(made.parts), attributes, report)
    print(f"wrote {lines:,} lines ({empty:,} without tokens), {tokens:,} tokens to {output} (and .line, and the ids as text)")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Tokenize a corpus to text, hdf5 and line offsets.")
    parser.add_argument("data_dir", help="folder of the corpus")
    parser.add_argument("file", help="file in that folder, one text per line")
    parser.add_argument(
        "tokenizer", help="bert-base-uncased, a short name (bert, bert-large, roberta, distilbert, minilm), a hub id, or a folder"
    )
    parser.add_argument("--num-workers", type=at_least_one, default=1, help="processes; a single one uses all cores already (default: 1)")
    parser.add_argument("--limit", type=at_least_one, metavar="N", help="tokenize only the first N lines (default: all)")
    add_engine_flags(parser)
    args = parser.parse_args(argv)
    tokenize_corpus(Path(args.data_dir) / args.file, args.tokenizer, args.num_workers, args.limit, engine_of(args))


if __name__ == "__main__":
    run_main(main)
