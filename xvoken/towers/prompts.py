"""Prompts before sentences that are token ids already, as token files hold them."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from xvoken.towers.tokenizer import Tokenizer, is_fast, joined, token_lists

# Kinds of tokenizers that take a blank or a sign before a word into the word's token: behind a prompt it may have other tokens.
JOINING = ("BPE", "Unigram")


def behind_prompt(
    tokenizer: Tokenizer, prompt: str, tokens: NDArray[np.int32], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]] | None:
    """The lines tokens[offsets[i] : offsets[i + 1]] with the prompt's tokens in front, as if both had been one text: ids and offsets.

    None for a tokenizer by which a prompt is put before a line as ids: WordPiece splits at blanks and signs, and so gives the same.
    For others the line's text is found from its ids; a line whose text has other ids again, as where a character is unknown to the
    tokenizer, has the prompt's ids in front. A piece of a line that begins with a blank gets no second one behind a prompt's.
    """
    if not prompt or not is_fast(tokenizer) or type(tokenizer.backend_tokenizer.model).__name__ not in JOINING:
        return None
    lines = [tokens[start:stop].tolist() for start, stop in pairwise(offsets.tolist())]
    texts = tokenizer.backend_tokenizer.decode_batch(lines, skip_special_tokens=False)
    again = token_lists(tokenizer, texts)
    own = token_lists(tokenizer, [prompt])[0]
    blank = prompt[-1:].isspace()
    whole = token_lists(tokenizer, [prompt + (text[1:] if blank and text[:1] == " " else text) for text in texts])
    return joined([both if same == ids else own + ids for ids, same, both in zip(lines, again, whole, strict=True)])
