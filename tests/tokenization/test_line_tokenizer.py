"""Every id must be the tokenizer's own, whichever way a line takes."""

import random
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from transformers import BertTokenizerFast, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from tokenization.line_tokenizer import LineTokenizer
from xvoken.towers.tokenizer import load_tokenizer

NASTY = [
    "", " ", "Hello World!", "HELLO  world", "a [SEP] b", "a [sep] b", "a [Mask]b", "[UNK", "caf\u00e9 CAF\u00c9 cafe\u0301",
    "\u4f60\u597d you", "tab\tinside", "carriage\rinside", "bell\x07inside", "nul\x00inside", "del\x7finside", "no\u00a0break",
    "zero\u200bwidth", "\ufffd", "it's $5.00, isn't IT?", "x" * 300, "\U0001f600 smile", "\u0130stanbul", "<Pic> there", "<pic>",
    "a <PIC>b", "New York City",
]  # fmt: skip


def bert(lower: bool, **tokens: Any) -> PreTrainedTokenizerFast:
    """MiniLM's tokenizer, also as one that keeps the case (with cased words in its vocabulary), and with added tokens."""
    vocabulary = load_tokenizer("minilm").get_vocab()
    words = list(vocabulary) + ([] if lower else [word.title() for word in vocabulary if word.title() not in vocabulary])
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}, do_lower_case=lower)
    tokenizer.add_tokens([AddedToken(text, **tokens) for text in ("<Pic>", "new york")] if tokens else [])
    return tokenizer


def byte_level() -> PreTrainedTokenizerFast:
    """A tokenizer without BERT's normalizer."""
    backend = Tokenizer(WordPiece({"[UNK]": 0} | {letter: i for i, letter in enumerate(bytes_to_unicode().values(), 1)}))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def random_lines(count: int) -> list[str]:
    rng = random.Random(0)
    letters = (
        [chr(i) for i in range(128)]
        + list("\u00e9\u0301\u4e2d\u2019\u00a0\U0001f600")
        + ["[SEP]", "[", "]", " the ", " New York ", "<pic>"] * 4
    )
    return ["".join(rng.choices(letters, k=rng.randrange(40))) for _ in range(count)]


@pytest.mark.parametrize(
    "tokenizer",
    [
        lambda: load_tokenizer("minilm"), lambda: bert(lower=True), lambda: bert(lower=False), lambda: bert(lower=True, normalized=True),
        lambda: bert(lower=True, normalized=False), lambda: bert(lower=False, normalized=True), byte_level,
    ],
    ids=["minilm", "uncased", "cased", "added, normalized", "added", "cased, added", "byte level"],
)  # fmt: skip
def test_same_ids_as_line_by_line(tokenizer: Any):
    whole = tokenizer()
    lines = NASTY + random_lines(2000)
    ids, offsets = LineTokenizer(whole)(lines)
    assert ids.dtype == np.int32 and offsets[-1] == len(ids)
    for number, line in enumerate(lines):
        assert ids[offsets[number] : offsets[number + 1]].tolist() == whole.backend_tokenizer.encode(line, add_special_tokens=False).ids, (
            line
        )


def test_plain_lines_go_past_the_normalizer():
    tokenizer = LineTokenizer(load_tokenizer("minilm"))
    assert [tokenizer._is_plain(line) for line in ("Plain it's.", "caf\u00e9", "tab\t", "a [SEP]", "a [sep]", "a [b]")] == [
        True, False, False, False, False, True
    ]  # fmt: skip
    assert LineTokenizer(byte_level()).past_normalizer is None
