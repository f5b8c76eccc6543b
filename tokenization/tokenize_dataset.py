"""Tokenize a corpus, line by line, to text, hdf5 and line offsets.

    python tokenization/tokenize_dataset.py data/reddit train.pkl.txt bert-base-uncased

reads   DATA_DIR/FILE, UTF-8, one text a line (tabs between utterances count as blanks)
writes  DATA_DIR/FILE.TOK, FILE.TOK.hdf5 (tokens int32), FILE.TOK.line; see xvoken/corpus.py
"""

import argparse
import codecs
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import h5py
import numpy as np
from numpy.typing import NDArray

from xvoken import corpus as corpora
from xvoken.disk import replacing, same_settings
from xvoken.messages import UserError, run_main, say
from xvoken.text_batches import tokenize
from xvoken.text_towers import base_name, full_name, load_tokenizer, tokenizer_hash
from xvoken.work import Parts, remove_leftover

CHUNK = 10_000  # lines a part
BLOCK = 1 << 22  # bytes read at once


@dataclass
class Scan:
    """A text file read through once: lines, sha256, and the byte at which each part of CHUNK lines starts."""

    lines: int
    sha256: str
    starts: list[int]
    size: int


def scan(path: Path, limit: int | None = None) -> Scan:
    """Count lines and check UTF-8; raises UserError with the line of a fault, or for a file without lines."""
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"corpus {path}: {error.strerror}; make it with: python tokenization/prepare_reddit.py") from None
    decoder, digest = codecs.getincrementaldecoder("utf-8")(), hashlib.sha256()
    lines, read, starts, ended = 0, 0, [0], True
    with file:
        while block := file.read(BLOCK):
            newlines = np.flatnonzero(np.frombuffer(block, np.uint8) == 10)
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                line = lines + int((newlines < error.start).sum()) + 1
                raise UserError(f"corpus {path}: line {line} is not UTF-8; mend it: iconv -f LATIN1 -t UTF-8, say") from None
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
    """Lines -> token ids, as text and as arrays; see xvoken.work.Job."""

    path: Path
    starts: list[int]
    size: int
    tokenizer: str
    workers: int

    def setup(self, device: str) -> None:
        if self.workers > 1:  # else every worker would start a thread for every core
            os.environ["RAYON_NUM_THREADS"] = "1"
        self.tokens = load_tokenizer(self.tokenizer)
        self.digits = [str(i) for i in range(len(self.tokens))]

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        first = start // CHUNK
        end = self.starts[first + 1] if first + 1 < len(self.starts) else self.size
        with open(self.path, "rb") as file:
            file.seek(self.starts[first])
            lines = file.read(end - self.starts[first]).decode().split("\n")[: stop - start]
        ids, offsets = tokenize(self.tokens, [line.rstrip("\r").replace("\t", " ") for line in lines])
        digits, numbers = self.digits, ids.tolist()
        text = "".join(" ".join([digits[i] for i in numbers[a:b]]) + "\n" for a, b in zip(offsets, offsets[1:], strict=False))
        with replacing(part.with_suffix(".txt")) as temporary:
            temporary.write_text(text, encoding="ascii")
        with replacing(part.with_suffix(".npz")) as temporary, open(temporary, "wb") as file:
            np.savez(file, ids=ids, counts=np.diff(offsets))
        return {"empty": int((np.diff(offsets) == 0).sum())}


def part_arrays(parts: Parts) -> Iterator[tuple[Path, NDArray[np.int32], NDArray[np.int64]]]:
    for number in range(len(parts.ranges)):
        arrays = np.load(parts.part(number).with_suffix(".npz"))
        yield parts.part(number).with_suffix(".txt"), arrays["ids"], arrays["counts"]


def tokenize_corpus(path: Path, tokenizer_name: str, workers: int, limit: int | None) -> None:
    name = base_name(tokenizer_name)
    found = scan(path, limit)
    tokenizer = load_tokenizer(tokenizer_name)
    settings = {"tokenizer": name, "tokenizer_hash": tokenizer_hash(tokenizer), "corpus": found.sha256, "limit": limit}
    output = corpora.tokens_file(path, name)
    if output.exists():
        with h5py.File(output, "r") as file:
            then = {key: _plain(file.attrs.get(key)) for key in settings}
        same_settings(output, then, {**settings, "limit": limit or 0})
        remove_leftover(output)
        say(f"skipped: {output} holds these lines already")
        return
    also = (corpora.text_file(path, name), corpora.line_file(path, name))
    with Parts(output, found.lines, CHUNK, settings, also) as parts:
        job = TokenizeJob(path, found.starts, found.size, tokenizer_name, workers)
        parts.run(job, ["cpu"] * workers, desc=path.name, unit="lines")
        attributes = {**settings, "limit": limit or 0, "source": full_name(tokenizer_name)}
        lines, tokens = corpora.write(path, name, part_arrays(parts), attributes)
        empty = sum(summary["empty"] for summary in parts.summaries())
    print(f"wrote {lines:,} lines ({empty:,} without tokens), {tokens:,} tokens to {output} (and .line, and the ids as text)")


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, np.integer) else value


def main() -> None:
    parser = argparse.ArgumentParser(description="Tokenize a corpus to text, hdf5 and line offsets.")
    parser.add_argument("data_dir", help="folder of the corpus")
    parser.add_argument("file", help="its file, one text a line")
    parser.add_argument(
        "tokenizer", help="bert-base-uncased, a short name (bert, bert-large, roberta, distilbert, minilm), a hub id, or a folder"
    )
    parser.add_argument("--num-workers", type=int, default=1, help="processes; one uses all cores already (default: 1)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N lines (default: all)")
    args = parser.parse_args()
    if args.num_workers < 1 or (args.limit or 1) < 1:
        raise UserError("--num-workers and --limit must be at least 1")
    tokenize_corpus(Path(args.data_dir) / args.file, args.tokenizer, args.num_workers, args.limit)


if __name__ == "__main__":
    run_main(main)
