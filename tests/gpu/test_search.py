"""Exact search by torch on a GPU against numpy, and what happens where the keys have no room."""

import numpy as np
import pytest

import xvoken
from tests.gpu.conftest import bounded, same_rows
from xvoken.errors import UserError
from xvoken.search.hubness import extended
from xvoken.search.index import build_index
from xvoken.search.torch_exact import CHUNK_ON_GPU, TorchIndex


def drawn(rows: int, seed: int, dim: int = 64) -> np.ndarray:
    numbers = np.random.default_rng(seed).standard_normal((rows, dim), np.float32)
    return numbers / np.linalg.norm(numbers, axis=1, keepdims=True)


def by_numpy(keys: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """In float64, equal scores by row."""
    products = queries.astype(np.float64) @ keys.T.astype(np.float64)
    rows = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(products, rows, 1).astype(np.float32), rows


def test_against_numpy(gpu: str):
    """More keys than are scored at once; bf16 is only the first pass, and its scores are fp32's."""
    keys, queries = drawn(CHUNK_ON_GPU + 1000, 0), drawn(20, 1)
    scores, rows = by_numpy(keys, queries, 100)
    for precision in ("fp32", "bf16"):
        index = TorchIndex(keys, gpu, precision)
        for k in (1, 5, 100):
            same_rows(index.search(queries, k), (scores[:, :k], rows[:, :k]), 1e-5)


def test_equal_scores_come_by_row(gpu: str):
    keys = np.sign(drawn(3000, 0, 16))  # their products are whole numbers, exact in any order of the sum
    keys[1000:1020] = keys[0]
    scores, rows = TorchIndex(keys, gpu).search(keys[:50], 30)
    expected = by_numpy(keys, keys[:50], 30)
    assert np.array_equal(scores, expected[0]) and np.array_equal(rows, expected[1])


def test_with_hubness_taken_off(gpu: str):
    keys, queries = drawn(5000, 0), drawn(40, 1)
    off = np.random.default_rng(2).random(5000, np.float32) / np.float32(4)
    ours = TorchIndex(extended([keys], off)[0], gpu).search(queries, 5)
    products = queries @ keys.T - off
    rows = np.argsort(-products, axis=1, kind="stable")[:, :5]
    same_rows(ours, (np.take_along_axis(products, rows, 1), rows), 1e-5)


def test_open_index(gpu: str):
    keys, queries = drawn(2000, 0), drawn(20, 1)
    hits = xvoken.open_index(keys, device="auto").search(queries, 5)
    same_rows((hits.scores, hits.rows), by_numpy(keys, queries, 5), 1e-5)


def test_keys_without_room_are_told_in_a_line(gpu: str):
    if gpu == "cpu:0":
        pytest.skip("only a GPU's memory can be bounded")
    with bounded(1e8), pytest.raises(UserError, match="has no room for 1,000,000 keys, 1.0 GB; take --index ivf"):
        build_index(np.zeros((1_000_000, 256), np.float32), "torch", gpu)
