"""The fast paths of exact search equal brute force: block maxima, the bf16 first pass, both with ties."""

import numpy as np
import pytest
import torch

import xvoken.search.torch_exact as module
from xvoken.search.faiss_exact import FaissIndex
from xvoken.search.torch_exact import TorchIndex


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


def closed(vectors: np.ndarray, axis: int) -> np.ndarray:
    """Vectors (..., d) of a length below 1, made one of length 1 by their number `axis` onwards, one number each."""
    out = vectors.copy()
    for row, vector in enumerate(np.atleast_2d(out)):
        vector[axis + row] = np.sqrt(1 - (vector**2).sum())
    return out


def hidden_by_rounding() -> tuple[np.ndarray, np.ndarray]:
    """Keys (2106, 512) and a query (1, 512) whose numbers lie in the middle between two of bf16.

    Query and best key, the last one, are rounded down by as much as is possible (2^-8); so are 100 keys that score less.
    Five more score less too, but lie just above the middle and are rounded up.
    """
    base = np.zeros(512)
    base[:260] = (1 + 2**-8) / np.repeat([16, 32, 64, 128], [253, 1, 3, 3])
    near = base.copy()
    near[257] = 0
    above, below = np.tile(near * (1 + 1e-5), (5, 1)), np.tile(base * (1 - 1e-4), (100, 1))
    keys = np.concatenate([unit(2000, 512, 0), closed(above, 300), closed(below, 310), closed(base, 501)[None]])
    return keys.astype(np.float32), closed(base, 500)[None].astype(np.float32)


def test_rounding_at_its_worst_hides_no_key() -> None:
    keys, query = hidden_by_rounding()
    scores, rows = TorchIndex(keys, precision="bf16").search(query, 5)
    assert rows[0, 0] == len(keys) - 1 == brute_force(keys, query, 1)[0, 0]
    assert np.array_equal(rows, TorchIndex(keys).search(query, 5)[1])


@pytest.mark.parametrize("length", [1e-3, 1, 30])
@pytest.mark.parametrize("dim", [3, 512])
def test_no_key_scores_above_the_bound_that_its_product_in_bf16_gives(length: float, dim: int) -> None:
    """Of random keys, of the worst ones, and of vectors of any length."""
    keys, queries = unit(4000, dim, 7), unit(50, dim, 8)
    if dim == 512:
        worst, query = hidden_by_rounding()
        keys, queries = np.concatenate([keys, worst]), np.concatenate([queries, query])
    keys, asked = keys * np.float32(length), torch.from_numpy(queries)
    index, low = TorchIndex(keys, precision="bf16"), asked.bfloat16()
    exact = torch.from_numpy(queries.astype(np.float64) @ keys.astype(np.float64).T)
    products = low @ index.keys.bfloat16().T
    bound = torch.stack([module._upper_bound(column, asked, low, *index.lengths) for column in products.T], 1)
    assert (bound >= exact).all()
    assert (bound - exact).max() < 0.03 * length  # and not by so much that all is searched again
