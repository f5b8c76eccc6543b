"""Hubness: some pictures are near to all sentences; what they are near to a bank of sentences is taken off their scores.

Nearest Neighbor Normalization (Chowdhury et al., EMNLP 2024, arXiv:2410.24114): s'(q, v) = q . v - alpha * mean of the NEAREST largest
b . v over the sentences b of a bank. In the other direction, v and q change places, and the bank is one of pictures.
For search, the number that is taken off is one more dimension: [v, -offset] . [q, 1] = q . v - offset.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xvoken.errors import UserError
from xvoken.files.hubness import NEAREST
from xvoken.recall import Less

CHUNK, RESCORED = 1024, 64  # vectors scored at once, and scored again at once
MORE = 8  # neighbours scored again, besides the nearest: matrix products may order almost equal ones differently


def offsets(
    vectors: NDArray[np.float32] | Sequence[NDArray[np.float32]], bank: NDArray[np.float32], alpha: float, nearest: int = NEAREST
) -> NDArray[np.float32]:
    """What is taken off each vector's scores: alpha times the mean of its `nearest` largest inner products with the bank.

    vectors: float32 (N, d), or blocks of them; bank: float32 (B, d), of which there may be fewer than `nearest`, but one at least.
    Returns float32 (N,). Equal vectors get equal numbers, wherever they stand. Memory stays at CHUNK x B. Raises UserError if alpha
    is too large for float32.
    """
    blocks = [vectors] if isinstance(vectors, np.ndarray) else vectors
    queries, most = torch.from_numpy(np.ascontiguousarray(bank, np.float32)), min(nearest, len(bank))
    found = [np.empty(0, np.float32)]
    for block in blocks:
        for start in range(0, len(block), CHUNK):
            chunk = np.ascontiguousarray(block[start : start + CHUNK], np.float32)
            rows = (torch.from_numpy(chunk) @ queries.T).topk(min(most + MORE, len(bank)), 1).indices.numpy()
            found += [
                _largest(chunk[at : at + RESCORED], bank, rows[at : at + RESCORED], most).mean(1) for at in range(0, len(chunk), RESCORED)
            ]
    with np.errstate(over="ignore"):
        taken = np.float32(alpha) * np.concatenate(found)
    if np.isinf(taken).any():
        raise UserError(f"--hubness {alpha:g}: too large for 32-bit numbers; 0.5 to 0.75 is usual")
    return taken


def taken_off(
    text: NDArray[np.float32], image: NDArray[np.float32], bank_text: NDArray[np.float32], bank_image: NDArray[np.float32], alpha: float
) -> Less:
    """What is taken off the scores of captions (C, d) and of pictures (N, d), each measured in the other side's bank, (B, d) and (I, d)."""
    return Less(*(torch.from_numpy(offsets(one, bank, alpha)) for one, bank in ((text, bank_image), (image, bank_text))))


def _largest(vectors: NDArray[np.float32], bank: NDArray[np.float32], rows: NDArray[np.int64], most: int) -> NDArray[np.float32]:
    """(n, d), rows of the bank (n, C) -> the `most` largest inner products (n, most), descending."""
    # Unlike a matrix product, einsum adds up equal vectors to equal scores, wherever they stand.
    scores = np.einsum("ncd,nd->nc", np.asarray(bank, np.float32)[rows], vectors)
    return -np.sort(-scores, axis=1)[:, :most]


class Extended:
    """Keys (N, d) with -offset as one more dimension, and zeros up to a whole number of STEP; made when asked for, so keys stay mapped.

    keys: an array or a tensor; offsets: float32 (N,). Indexed by rows, as an array is; gives what `keys` is.
    """

    STEP = 8  # product quantization cuts a key to as many pieces as divide its dimensions

    def __init__(self, keys: Any, offsets: NDArray[np.float32]):
        width = self.STEP - keys.shape[1] % self.STEP
        self.keys, self.offsets = keys, offsets
        tail = np.zeros((len(offsets), width), np.float32)
        tail[:, 0] = -offsets
        self.tail = torch.from_numpy(tail).to(keys.device) if isinstance(keys, Tensor) else tail

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: Any) -> Any:
        both = [self.keys[rows], self.tail[rows]]
        return torch.cat(both, -1) if isinstance(self.keys, Tensor) else np.concatenate(both, -1)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, d), the further dimensions counted in."""
        return len(self.keys), self.keys.shape[1] + self.tail.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and of what is added to them."""
        return self.keys.nbytes + self.tail.nbytes

    @property
    def device(self) -> torch.device:
        """Where a tensor's keys are."""
        return self.keys.device

    def on(self, device: str) -> "Extended":
        """The same with tensors on a device; on the CPU, they share the arrays' memory."""
        return Extended(torch.from_numpy(self.keys).to(device), self.offsets)


Rows = NDArray[np.float32] | Extended  # keys (N, d) as they are, or with one more dimension


def extended(blocks: list[NDArray[np.float32]], offsets: NDArray[np.float32]) -> list[Extended]:
    """Blocks of keys (n, d), each with its share of the offsets (N,), which are in the blocks' order."""
    starts = np.cumsum([0, *map(len, blocks)]).tolist()
    return [Extended(block, offsets[start : start + len(block)]) for block, start in zip(blocks, starts, strict=False)]


def queries_for(keys: Any, queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Queries (Q, d) for these keys: with 1 as one more dimension, and zeros, where the keys have more dimensions -> (Q, D)"""
    if not (more := keys.shape[1] - queries.shape[1]):
        return queries
    return np.concatenate([queries, np.eye(1, more, dtype=np.float32).repeat(len(queries), 0)], 1)
