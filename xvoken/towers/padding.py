"""Sentences as a text tower takes them: what stands before and behind their own ids, cut and padded."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xvoken.errors import UserError, shown
from xvoken.towers.prompts import behind_prompt
from xvoken.towers.tokenizer import Tokenizer, special_ids, token_lists


@dataclass(frozen=True)
class Padding:
    """The ids before and behind a sentence, and the longest input of the tower, these ids counted in.

    before: a prompt's ids too; pad: also what stands for an empty sentence, where nothing is put around it (GPT-2 has its end only).
    fixed: every input is max_tokens long and the tower looks at the padding too, as in SigLIP's training.
    """

    before: tuple[int, ...]
    behind: tuple[int, ...]
    pad: int
    max_tokens: int
    fixed: bool = False

    @classmethod
    def for_tokenizer(cls, tokenizer: Tokenizer, max_tokens: int, fixed: bool = False, prompt: str = "") -> "Padding":
        """The tokenizer's own special ids, and those of the prompt behind the first; raises UserError where they fill the tower's input."""
        before, behind = special_ids(tokenizer)
        before += tuple(token_lists(tokenizer, [prompt])[0]) if prompt else ()
        if len(before) + len(behind) >= max_tokens:
            raise UserError(f"the tower takes {max_tokens} tokens: none is left behind the prompt {shown(prompt)}; take a shorter one")
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        return cls(before, behind, pad or 0, max_tokens, fixed)

    def lengths(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of each sentence (n,), without special ids -> lengths of the inputs (n,), with special ids, cut to fit the tower"""
        return np.minimum(np.maximum(tokens + self.specials, 1), self.max_tokens)

    @property
    def specials(self) -> int:
        """How many ids a sentence gets besides its own."""
        return len(self.before) + len(self.behind)


def pad_lines(tokens: NDArray[np.int32], starts: NDArray[np.int64], lengths: NDArray[np.int64], padding: Padding) -> tuple[Tensor, Tensor]:
    """The lines tokens[starts[i] : starts[i] + lengths[i]], cut to fit the tower -> ids, mask: int64 (B, T)"""
    whole = padding.lengths(lengths)
    lengths = np.minimum(lengths, padding.max_tokens - padding.specials)
    columns = np.arange(lengths.max(initial=0))
    inside = columns < lengths[:, None]  # (B, longest line)
    first = len(padding.before)  # column of the first token
    ids = np.full((len(lengths), padding.max_tokens if padding.fixed else whole.max(initial=1)), padding.pad, np.int64)
    ids[:, :first] = padding.before
    ids[:, first : first + len(columns)][inside] = tokens[(starts[:, None] + columns)[inside]]
    for number, end in enumerate(padding.behind):
        ids[np.arange(len(ids)), first + lengths + number] = end
    mask = np.arange(ids.shape[1]) < whole[:, None]
    return torch.from_numpy(ids), torch.from_numpy((mask | padding.fixed).astype(np.int64))


def with_prompt(
    tokenizer: Tokenizer, prompt: str, padding: Padding, tokens: NDArray[np.int32], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], Padding]:
    """Lines, and the padding that goes with them: where ids before a line would not be the prompt's text, the lines have it themselves."""
    found = behind_prompt(tokenizer, prompt, tokens, offsets)
    return (*found, replace(padding, before=special_ids(tokenizer)[0])) if found else (tokens, offsets, padding)
