import importlib.util

import numpy as np
import pytest

from xvoken.errors import UserError
from xvoken.search import torch_exact as module
from xvoken.search.faiss_exact import FAISS_GPU_MOST, FaissIndex
from xvoken.search.index import build_index, build_joined

FAISS = pytest.param("faiss", marks=pytest.mark.skipif(not importlib.util.find_spec("faiss"), reason="faiss is not installed"))


def brute_force(keys: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Inner products in float64, sorted by score, then by row."""
    scores = queries.astype(np.float64) @ keys.astype(np.float64).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, 1), rows


@pytest.mark.parametrize("backend", [FAISS, "torch", "auto"])
@pytest.mark.parametrize("queries", [1, 7, 64])
def test_against_brute_force(monkeypatch: pytest.MonkeyPatch, backend: str, queries: int):
    monkeypatch.setattr(module, "KEY_CHUNK", 300)  # several chunks, the last one uneven
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(1000, 32)).astype(np.float32)
    asked = rng.normal(size=(queries, 32)).astype(np.float32)
    scores, rows = build_index(keys, backend, "cpu").search(asked, 5)
    expected_scores, expected_rows = brute_force(keys, asked, 5)
    assert np.array_equal(rows, expected_rows)
    assert np.allclose(scores, expected_scores, atol=1e-4)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize("backend", [FAISS, "torch"])
def test_equal_scores_are_ordered_by_row(monkeypatch: pytest.MonkeyPatch, backend: str):
    monkeypatch.setattr(module, "KEY_CHUNK", 40)
    rng = np.random.default_rng(1)
    keys = rng.integers(-1, 2, (200, 4)).astype(np.float32)  # small integers: many scores are equal, exactly
    asked = rng.integers(-2, 3, (50, 4)).astype(np.float32)
    for k in (1, 5, 50, 200):
        scores, rows = build_index(keys, backend, "cpu").search(asked, k)
        expected_scores, expected_rows = brute_force(keys, asked, k)
        assert np.array_equal(scores, expected_scores)
        assert np.array_equal(rows, expected_rows)


@pytest.mark.parametrize("backend", [FAISS, "torch"])
def test_joined_blocks_are_one_index(backend: str):
    rng = np.random.default_rng(2)
    keys = rng.integers(-1, 2, (200, 4)).astype(np.float32)  # equal scores in and across blocks
    asked = rng.integers(-2, 3, (50, 4)).astype(np.float32)
    blocks = [keys[:3], keys[3:150], keys[150:]]
    for k in (1, 5, 200):
        scores, rows = build_joined(blocks, backend, "cpu").search(asked, k)
        expected_scores, expected_rows = brute_force(keys, asked, k)
        assert np.array_equal(scores, expected_scores)
        assert np.array_equal(rows, expected_rows)
        assert rows.dtype == np.int32


class LikeOnAGpu:
    """faiss' flat index with the limit that it has on a GPU."""

    def __init__(self, keys: np.ndarray):
        faiss = pytest.importorskip("faiss")
        self.flat = faiss.IndexFlatIP(keys.shape[1])
        self.flat.add(keys)

    def search(self, queries: np.ndarray, k: int):
        assert k <= FAISS_GPU_MOST
        return self.flat.search(queries, k)


def test_many_equal_keys_where_faiss_finds_a_limited_number():
    rng = np.random.default_rng(0)
    keys, queries = (rng.normal(size=(rows, 8)).astype(np.float32) for rows in (3000, 6))
    keys[500:] = queries[0]
    flat = LikeOnAGpu(keys)
    index = FaissIndex(keys)
    index.index = flat
    scores, rows = index.search(queries, 5)
    assert np.allclose(scores, brute_force(keys, queries, 5)[0], atol=1e-4) and rows[0, 3:].tolist() == [500, 501]
    assert index.search(queries, FAISS_GPU_MOST)[1].shape == (6, FAISS_GPU_MOST)
    with pytest.raises(UserError, match="top 2049: faiss on a GPU finds 2048 at most; take --backend torch"):
        index.search(queries, FAISS_GPU_MOST + 1)
