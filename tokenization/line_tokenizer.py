"""Token ids of many lines at once, without BERT's slow normalizer for lines that it would not change."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer

from xvoken.towers.tokenizer import joined, token_lists


class LineTokenizer:
    """A tokenizer for many lines at once, which gives the same ids as the one it is made from.

    BERT's normalizer takes as long as the rest of tokenizing. It drops control characters, strips accents and puts blanks
    around Chinese characters, so in a line of printable ASCII it changes nothing but the case. Such lines are lowered here if
    the tokenizer lowers, and go to a copy of it without the normalizer. Lines that may name a special token go to the whole
    tokenizer, which looks for special tokens before it changes the case.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.past_normalizer: Tokenizer | None = None
        if tokenizer.is_fast and isinstance(normalizer := tokenizer.backend_tokenizer.normalizer, BertNormalizer):
            self.lowercase, self.cleans = normalizer.lowercase, normalizer.clean_text
            self.past_normalizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
            self.past_normalizer.normalizer = None
            self.added = [token.content.lower() for token in tokenizer.backend_tokenizer.get_added_tokens_decoder().values()]

    def __call__(self, lines: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Token ids without special ones, one line after another: int32 (N,), and offsets: int64 (len(lines) + 1,)."""
        if self.past_normalizer is None:
            return joined(token_lists(self.tokenizer, lines))
        if self.cleans:  # as the normalizer itself does; a line that ends with it would not be printable
            lines = [line.replace("\n", " ") for line in lines]
        plain = [self._is_plain(line) for line in lines]
        ready = [line.lower() if self.lowercase else line for line, is_plain in zip(lines, plain, strict=True) if is_plain]
        past = iter(self.past_normalizer.encode_batch_fast(ready, add_special_tokens=False))
        others = iter(token_lists(self.tokenizer, [line for line, is_plain in zip(lines, plain, strict=True) if not is_plain]))
        return joined([next(past).ids if is_plain else next(others) for is_plain in plain])

    def _is_plain(self, line: str) -> bool:
        if not (line.isascii() and line.isprintable()):
            return False
        lowered = line.lower()
        return not any(token in lowered for token in self.added)
