"""The fast paths of exact search equal brute force: block maxima, the bf16 first pass, both with ties."""

import numpy as np
import pytest
import torch

import xvoken.indexing as module
from xvoken.indexing import FaissIndex, TorchIndex


def unit(rows: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def brute_force(keys: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    scores = queries.astype(np.float64) @ keys.T.astype(np.float64)
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("rows", "k"), [(7, 5), (700, 1), (5000, 5), (20_011, 10)])
def test_rows_equal_brute_force(monkeypatch, precision: str, rows: int, k: int) -> None:
    monkeypatch.setattr(module, "LOW_CHUNK", 8192)
    monkeypatch.setattr(module, "QUERY_BLOCK", 20)
    keys, queries = unit(rows, 64, 0), unit(33, 64, 1)
    expected = brute_force(keys, queries, k)
    scores, found = TorchIndex(keys, precision=precision).search(queries, k)
    assert np.array_equal(found, expected)
    assert np.allclose(scores, np.take_along_axis(queries @ keys.T, expected, 1), atol=1e-6)
    assert np.array_equal(FaissIndex(keys).search(queries, k)[1], expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_equal_keys_come_by_row(precision: str) -> None:
    """Every key stands 40 times: more equals than the first pass keeps, spread over blocks."""
    few, queries = unit(300, 32, 2), unit(9, 32, 3)
    keys = np.tile(few, (40, 1))
    expected = brute_force(few, queries, 1) + 300 * np.arange(5)
    assert np.array_equal(TorchIndex(keys, precision=precision).search(queries, 5)[1], expected)


def test_crowded_keys_are_searched_again_in_fp32() -> None:
    """Keys closer to each other than bf16 can tell: the first pass alone gets them wrong."""
    centre = unit(1, 64, 4)
    keys = centre + 1e-3 * unit(6000, 64, 5)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    queries = centre + 0.1 * unit(5, 64, 6)
    expected = brute_force(keys, queries, 5)
    asked, low = torch.from_numpy(queries).bfloat16(), torch.from_numpy(keys)
    assert not np.array_equal(module._rough_top(asked, low, 5)[1].numpy(), expected)
    found = TorchIndex(keys, precision="bf16").search(queries, 5)[1]
    exact = np.take_along_axis(queries.astype(np.float64) @ keys.T.astype(np.float64), found, 1)
    best = np.take_along_axis(queries.astype(np.float64) @ keys.T.astype(np.float64), expected, 1)
    assert np.allclose(exact, best, atol=5e-7)  # the same rows but for what fp32 itself can't tell apart
