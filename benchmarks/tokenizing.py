"""Time to tokenize: line by line, our way, and the tokenizers library alone on all cores.

    python benchmarks/tokenizing.py [--small]

All three tokenize the same generated dialogues. Our way is timed from the text file to the three finished files, loading of
the tokenizer included; the limit is `encode_batch_fast` alone, on lines in memory, 10,000 per call (all lines in one call are
slower), without reading the ids.
"""

import os
import random
import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # replaces this folder, which has files named like standard modules

from xvoken.machine import cores

os.environ["RAYON_NUM_THREADS"] = str(cores())  # in a container the library may count fewer

import h5py
import numpy as np

from benchmarks.measure import parse_args, report, seconds
from tokenization.tokenize_dataset import tokenize_corpus
from xvoken.cli.main import run_main
from xvoken.files import corpus as corpora
from xvoken.towers.tokenizer import load_tokenizer

TOKENIZER = "minilm"


def dialogues(lines: int) -> list[str]:
    """Lines of 2 to 30 words of the tokenizer's vocabulary, drawn by Zipf's law: the n-th word with a frequency of 1 / n."""
    words = sorted(word for word in load_tokenizer(TOKENIZER).get_vocab() if word.isalpha() and word.isascii())
    rng = random.Random(0)
    rng.shuffle(words)
    frequent = rng.choices(words, weights=[1 / (10 + n) for n in range(len(words))], k=20 * lines)
    starts = [rng.randrange(len(frequent)) for _ in range(lines)]
    return [" ".join(frequent[start : start + rng.randrange(2, 31)]) for start in starts]


def straightforward(path: Path, tokenizer: object) -> None:
    """The predecessors' way: tokenize one line at a time to a text file, then read that back into hdf5."""
    with open(path, encoding="utf-8") as lines, open(f"{path}.plain", "w", encoding="ascii") as out:
        for line in lines:
            ids = tokenizer.encode(line.rstrip("\n"), add_special_tokens=False)
            out.write(" ".join(map(str, ids)) + "\n")
    tokens, offsets = [], [0]
    with open(f"{path}.plain", encoding="ascii") as lines:
        for line in lines:
            tokens.extend(map(int, line.split()))
            offsets.append(len(tokens))
    with h5py.File(f"{path}.plain.hdf5", "w") as file:
        file.create_dataset("tokens", data=np.array(tokens, np.int32))
    Path(f"{path}.plain.line").write_text("".join(f"{offset}\n" for offset in offsets))


def encode_alone(tokenizer: object, lines: list[str]) -> None:
    for start in range(0, len(lines), 10_000):
        tokenizer.backend_tokenizer.encode_batch_fast(lines[start : start + 10_000], add_special_tokens=False)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(__doc__.splitlines()[0], argv)
    lines = dialogues(3000 if args.small else 300_000)
    tokenizer = load_tokenizer(TOKENIZER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "corpus.txt"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        limit = seconds(lambda: encode_alone(tokenizer, lines), 2)
        plain = seconds(lambda: straightforward(path, tokenizer))
        ours = seconds(lambda: tokenize_corpus(path, TOKENIZER, 1, None))
        with h5py.File(f"{path}.plain.hdf5") as file:
            same = np.array_equal(file["tokens"][:], corpora.Corpus(path, "all-MiniLM-L6-v2").tokens[:])
            tokens = len(file["tokens"])
        assert same, "ours and the straightforward way differ"
    report("tokenize", "lines", len(lines), {"straightforward": plain, "ours": ours, "limit": limit}, tokens=tokens)


if __name__ == "__main__":
    run_main(main)
