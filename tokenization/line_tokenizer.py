"""Token ids of many lines at once, past BERT's normalizer where that changes nothing."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer

from xvoken.encoders.tokenizer import joined, token_lists


class LineTokenizer:
    """A tokenizer for many lines at once, with the very ids of the one it is made from.

    BERT's normalizer takes as long as all the rest. It drops control characters, strips accents and sets blanks around
    Chinese characters, so in a line of printable ASCII it changes nothing but the case: such lines go, in lower case
    where it lowers, to a copy of the tokenizer without it. Lines that may name a special token keep the whole way,
    because special tokens are looked for before the case is changed.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.past_normalizer: Tokenizer | None = None
        if tokenizer.is_fast and isinstance(normalizer := tokenizer.backend_tokenizer.normalizer, BertNormalizer):
            self.lowercase = normalizer.lowercase
            self.past_normalizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
            self.past_normalizer.normalizer = None
            self.added = [token.content.lower() for token in tokenizer.backend_tokenizer.get_added_tokens_decoder().values()]

    def __call__(self, lines: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Token ids without special ones, one line after another: (N,), and offsets (len(lines) + 1,)."""
        if self.past_normalizer is None:
            return joined(token_lists(self.tokenizer, lines))
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
