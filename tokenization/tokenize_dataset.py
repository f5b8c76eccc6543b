"""Tokenize a corpus, line by line, to text, hdf5 and line offsets.

    python tokenization/tokenize_dataset.py data/reddit train.pkl.txt bert-base-uncased
    python tokenization/tokenize_dataset.py data/wiki103-cased wiki.train.raw bert-base-uncased --filter wiki103 --sentences

reads   DATA_DIR/FILE, UTF-8, one text per line (tabs between utterances count as blanks)
writes  DATA_DIR/FILE.TOK, FILE.TOK.hdf5 (tokens int32), FILE.TOK.line; see xvoken/files/corpus.py
        with --filter also FILE.TOK.kept, with --sentences or --lines-are-sents FILE.TOK.sent; see xvoken/files/rows.py
With --filter, lines are what Vokenization tokenizes, to the last byte: as Python's text mode gives them, tabs and newlines included
(RoBERTa has tokens for these), without those that it leaves out.
"""

import codecs
import hashlib
import os
import sys
from argparse import BooleanOptionalAction
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

import numpy as np
from numpy.typing import NDArray

from tokenization.filters import FILTERS, reason
from tokenization.line_tokenizer import LineTokenizer
from tokenization.sentence_splitter import SentenceSplitter, require_spacy
from xvoken import commands
from xvoken.cli.flags import Parser, add_engine_flags, at_least_one, engine_of
from xvoken.cli.main import run_main
from xvoken.encoders.identity import tokenizer_facts
from xvoken.errors import UserError
from xvoken.files import corpus as corpora
from xvoken.files import tokens as token_files
from xvoken.files.hdf5 import open_hdf5
from xvoken.files.lines import as_in_text_mode
from xvoken.files.safe import replacing, save_arrays
from xvoken.kinds import SHORT_NAMES, base_name, full_name
from xvoken.machine import LOCAL, Engine, cores
from xvoken.towers.sources import is_dual
from xvoken.towers.tokenizer import load_tokenizer, require_offsets, tokenizer_hash, vocabulary_size
from xvoken.work.parts import Parts, discard
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
class Block:
    """Lines that were tokenized together, as they were given to the tokenizer: text: their ids as bytes, ids (n,), counts (l,).

    kept: with a filter, their numbers among the lines read; dropped: how many others there were, by reason.
    """

    lines: list[str]
    text: NDArray[np.uint8]
    ids: NDArray[np.int32]
    counts: NDArray[np.int64]
    kept: list[int] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass
class TokenizeJob:
    """Tokenizes ranges of lines to token ids, as text and as arrays; see xvoken.work.jobs.Job.

    rule: of the filter, "" for none; sentences: "spacy" splits lines into them, "lines" takes lines for sentences, "" looks for none.
    """

    path: Path
    starts: list[int]
    size: int
    tokenizer: str
    workers: int
    expected: str | None = None  # the hash of the tokenizer
    rule: str = ""
    sentences: str = ""
    uses_gpu: ClassVar[bool] = False

    def setup(self, device: str) -> None:
        # Threads of our own handle whole blocks of lines, the work in Python included: faster than the tokenizer's threads.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.threads = ThreadPoolExecutor(max(1, cores() // self.workers))
        tokenizer = load_tokenizer(self.tokenizer, slow=is_dual(self.tokenizer))
        if self.expected not in (None, found := tokenizer_hash(tokenizer)):
            change = f"({self.expected} then, {found} now)"
            raise UserError(f"tokenizer {self.tokenizer}: has become another one since this run began {change}; run the same command again")
        self.tokenize = LineTokenizer(tokenizer)
        self.text = token_files.IdText(vocabulary_size(tokenizer))
        if self.sentences == "spacy":
            require_offsets(tokenizer, self.tokenizer, "--sentences")
        self.splitter = SentenceSplitter(tokenizer) if self.sentences == "spacy" else None

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        lines = self._lines(start, stop)
        blocks = list(self.threads.map(self._encode, range(0, len(lines), LINES_AT_ONCE), self._cut(lines)))
        with replacing(part.with_suffix(".txt")) as temporary, open(temporary, "wb") as file:
            file.writelines(block.text.data for block in blocks)
        ids, counts = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("ids", "counts"))
        arrays = {"kept": np.array([number for block in blocks for number in block.kept], np.int64), "read": np.array(len(lines))}
        arrays = (arrays if self.rule else {}) | self._sentences(blocks, ids, counts)
        save_arrays(part.with_suffix(".npz"), ids=ids, counts=counts, **arrays)
        dropped = sum((block.dropped for block in blocks), Counter())
        return {"empty": int((counts == 0).sum()), **({"kept": len(counts), "dropped": dropped} if self.rule else {})}

    def _lines(self, start: int, stop: int) -> list[str]:
        """A range of the lines that newlines end, as they are tokenized; with a filter as text mode gives them, which may be more."""
        first = start // CHUNK
        end = self.starts[first + 1] if first + 1 < len(self.starts) else self.size
        with open(self.path, "rb") as file:
            file.seek(self.starts[first])
            lines = file.read(end - self.starts[first]).decode().split("\n")
        if self.rule:
            return as_in_text_mode("\n".join(lines[: stop - start] + [""] * (len(lines) > stop - start)))
        return [line.rstrip("\r").replace("\t", " ") for line in lines[: stop - start]]

    @staticmethod
    def _cut(lines: list[str]) -> Iterator[list[str]]:
        return (lines[at : at + LINES_AT_ONCE] for at in range(0, len(lines), LINES_AT_ONCE))

    def _encode(self, first: int, lines: list[str]) -> Block:
        """Tokenize lines; first: the number of the first one."""
        if not self.rule:
            ids, offsets = self.tokenize(lines)
            return Block(lines, self.text.lines(ids, counts := np.diff(offsets)), ids, counts)
        reasons = [reason(self.rule, line) for line in lines]
        rest = [number for number, why in enumerate(reasons) if not why]
        ids, offsets = self.tokenize([lines[number] for number in rest])
        filled = np.flatnonzero(counts := np.diff(offsets))
        dropped = Counter(filter(None, reasons)) + Counter({"without tokens": len(rest) - len(filled)})
        kept, counts = [rest[number] for number in filled], counts[filled]
        return Block([lines[n] for n in kept], self.text.lines(ids, counts), ids, counts, [first + n for n in kept], dropped)

    def _sentences(self, blocks: list[Block], ids: NDArray[np.int32], counts: NDArray[np.int64]) -> dict[str, NDArray]:
        """How many tokens each sentence has, and where it stands in its line, as arrays of xvoken.files.tokens.Part."""
        if self.splitter:
            sents, spans = self.splitter.split([line for block in blocks for line in block.lines], ids, counts)
            return {"sents": sents, "spans": spans}
        return {"sents": counts[counts > 0]} if self.sentences else {}


def part_arrays(parts: Parts) -> Iterator[token_files.Part]:
    for number in range(len(parts.ranges)):
        arrays = parts.load(number)
        read = int(arrays.pop("read", 0))
        yield token_files.Part(parts.part(number).with_suffix(".txt"), read=read, **arrays)


def read_settings(output: Path) -> dict[str, Any]:
    """The settings that a tokens file was made with, read from its attributes."""
    with open_hdf5(output, corpora.MAKE, tokens="iu1") as file:
        made = file.attributes()
    found = {key: made.get(key) for key in ("tokenizer", "tokenizer_hash", "corpus")} | {"limit": made.get("limit") or "all"}
    return found | {key: made[key] for key in ("filter", "sentences") if key in made}


def tokenize_corpus(
    path: Path, tokenizer_name: str, workers: int, limit: int | None, engine: Engine = LOCAL, rule: str = "", sentences: str = ""
) -> None:
    """Write the files of a corpus, unless they are there; rule, sentences: as TokenizeJob has them."""
    name = base_name(tokenizer_name)
    found = scan(path, limit)
    more = {key: value for key, value in (("filter", rule), ("sentences", sentences)) if value}
    settings = {"tokenizer": name, "tokenizer_hash": tokenizer_facts(tokenizer_name).hash, "corpus": found.sha256, "limit": limit, **more}
    output = corpora.tokens_file(path, name)
    product = Product(
        output, settings | {"limit": limit or "all"}, lambda: read_settings(output), "these lines",
        tuple(token_files.files(path, name, settings).values()),
    )  # fmt: skip
    if product.finished():
        return
    if sentences == "spacy":
        require_spacy()
    with one_pass([product], found.lines, CHUNK, engine, settings) as made:
        job = TokenizeJob(path, found.starts, found.size, tokenizer_name, workers, settings["tokenizer_hash"], rule, sentences)
        if not made.run(job, ["cpu"] * workers, desc=path.name, unit="lines"):
            return
        attributes = {**settings, "limit": limit or 0, "source": full_name(tokenizer_name)}
        summaries = list(made.parts.summaries())
        empty = sum(summary["empty"] for summary in summaries)
        dropped = sum((Counter(summary.get("dropped", {})) for summary in summaries), Counter())
        if not any(summary.get("kept", 1) for summary in summaries):
            discard(made.parts.folder)  # or another filter would be refused
            raise UserError(f"corpus {path}: --filter {rule} leaves none of its lines ({dict(dropped)})")

        def report(lines: int, tokens: int) -> None:
            made.report(lines=lines, empty=empty, tokens=tokens, **({"dropped": dropped} if rule else {}))

        lines, tokens = token_files.write(path, name, part_arrays(made.parts), attributes, report)
    beside = "".join(f", {ending}" for ending in (".kept" * bool(rule), ".sent" * bool(sentences)) if ending)
    told = f"left out: {', '.join(f'{many:,} {why}' for why, many in dropped.items()) or 'none'}" if rule else f"{empty:,} without tokens"
    print(f"wrote {lines:,} lines ({told}), {tokens:,} tokens to {output} (and .line{beside}, and the ids as text)")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Tokenize a corpus to text, hdf5 and line offsets.")
    parser.add_argument("data_dir", help="folder of the corpus")
    parser.add_argument("file", help="file in that folder, one text per line")
    parser.add_argument(
        "tokenizer",
        help=f"bert-base-uncased, a short name ({', '.join(SHORT_NAMES)}), a hub id, a folder, or open_clip:MODEL",
    )
    parser.add_argument("--num-workers", type=at_least_one, default=1, help="processes; a single one uses all cores already (default: 1)")
    parser.add_argument("--limit", type=at_least_one, metavar="N", help="tokenize only the first N lines (default: all)")
    parser.add_argument(
        "--filter", choices=FILTERS, default="",
        help="leave lines out as Vokenization does, and write FILE.TOK.kept, the numbers of the others; wiki103: titles (lines that start "
        'with " = ") and lines of fewer than five words; wiki: lines of fewer than five words; empty: empty lines; each of them also '
        "lines without tokens",
    )  # fmt: skip
    of_lines = parser.add_mutually_exclusive_group()
    of_lines.add_argument(
        "--sentences", action=BooleanOptionalAction, default=False,
        help="split lines into sentences, and write FILE.TOK.sent, where each starts; by spaCy (pip install -e '.[sentences]'), a process "
        "at a time: take several --num-workers",
    )  # fmt: skip
    of_lines.add_argument("--lines-are-sents", action="store_true", help="write FILE.TOK.sent of the lines themselves, each a sentence")
    add_engine_flags(parser)
    args = parser.parse_args(argv)
    path, sentences = Path(args.data_dir) / args.file, "spacy" if args.sentences else "lines" if args.lines_are_sents else ""
    tokenize_corpus(path, args.tokenizer, args.num_workers, args.limit, engine_of(args), args.filter, sentences)


if __name__ == "__main__":
    run_main(main)
