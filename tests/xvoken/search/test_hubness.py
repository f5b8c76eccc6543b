"""What is taken off for hubness, against numpy; exact and approximate indexes that take it off."""

import numpy as np
import pytest
import torch

from xvoken.search import faiss_exact, hubness
from xvoken.search.approximate import build_tuned
from xvoken.search.faiss_exact import FaissIndex
from xvoken.search.hubness import Extended, extended, offsets, queries_for
from xvoken.search.index import build_joined
from xvoken.search.torch_exact import TorchIndex


def unit(rows: int, dim: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((rows, dim), np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def by_hand(vectors: np.ndarray, bank: np.ndarray, alpha: float, nearest: int) -> np.ndarray:
    return alpha * np.sort(vectors.astype(np.float64) @ bank.astype(np.float64).T, axis=1)[:, -nearest:].mean(1)


@pytest.mark.parametrize(("rows", "bank"), [(50, 100), (7, 3), (1, 1), (0, 5)])
def test_offsets_against_numpy(rows: int, bank: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hubness, "CHUNK", 16)  # an uneven last chunk
    monkeypatch.setattr(hubness, "RESCORED", 5)
    vectors, bank = unit(rows, 12, 0), unit(bank, 12, 1)
    found = offsets(vectors, bank, 0.75)
    assert found.dtype == np.float32 and found.shape == (rows,)
    np.testing.assert_allclose(found, by_hand(vectors, bank, 0.75, 16), atol=1e-6)
    assert np.array_equal(offsets([vectors[:3], vectors[3:3], vectors[3:]], bank, 0.75), found)  # bit for bit
    np.testing.assert_allclose(offsets(vectors, bank, 0.5, nearest=2), by_hand(vectors, bank, 0.5, 2), atol=1e-6)


def test_equal_vectors_get_equal_numbers():
    vectors = np.repeat(unit(1, 33, 0), 3001, 0)
    assert len(set(offsets(vectors, unit(500, 33, 1), 0.5).tolist())) == 1


@pytest.mark.parametrize("dim", [12, 16, 512])
def test_keys_with_one_more_dimension(dim: int):
    keys, less, queries = unit(40, dim, 0), np.linspace(-1, 1, 40, dtype=np.float32), unit(5, dim, 2)
    long = Extended(keys, less)
    assert long.shape == long[0:].shape == (40, dim + 8 - dim % 8) and len(long) == 40
    asked = queries_for(long, queries)
    assert queries_for(long, asked) is asked and queries_for(keys, queries) is queries
    np.testing.assert_allclose(asked @ long[:].T, queries @ keys.T - less, atol=1e-6)
    assert np.array_equal(long.on("cpu")[torch.tensor([3, 1])].numpy(), long[[3, 1]])


def best(queries: np.ndarray, keys: np.ndarray, less: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries.astype(np.float64) @ keys.astype(np.float64).T - less
    rows = np.argsort(-scores, 1, "stable")[:, :k]
    return np.take_along_axis(scores, rows, 1), rows


@pytest.mark.parametrize("kind", ["torch", "bf16", "faiss"])
def test_exact_search_takes_it_off(kind: str, monkeypatch: pytest.MonkeyPatch):
    """Several blocks; the keys of the second are those of the first, so that each score comes twice, and is put in order of rows."""
    monkeypatch.setattr(faiss_exact, "CHUNK", 100)
    keys, queries = unit(700, 24, 0), unit(9, 24, 1)
    less = offsets(keys, unit(60, 24, 2), 2.0)
    plain = best(queries, keys, np.zeros(700), 5)[1]
    scores, rows = best(queries, np.concatenate([keys, keys]), np.concatenate([less, less]), 8)
    assert (rows[:, ::2][:, :4] != plain[:, :4]).any()  # it changes what is found
    blocks = extended([keys, keys], np.concatenate([less, less]))
    if kind == "bf16":
        made = [TorchIndex(block, "cpu", "bf16") for block in blocks]
        monkeypatch.setattr("xvoken.search.index.build_index", lambda block, *_: made[blocks.index(block)])
    found = build_joined(blocks, "faiss" if kind == "faiss" else "torch", "cpu").search(queries, 8)
    assert np.array_equal(found[1], rows)
    np.testing.assert_allclose(found[0], scores, atol=1e-6)
    alone = FaissIndex(blocks[0]) if kind == "faiss" else TorchIndex(blocks[0], "cpu", "bf16" if kind == "bf16" else "fp32")
    np.testing.assert_allclose(alone.search(queries, 700)[0], best(queries, keys, less, 700)[0], atol=1e-6)  # down to the last


def test_bf16_stays_exact_among_many_near_keys():
    """Keys of one direction, whose scores bf16 can't tell apart: the first pass alone would take wrong ones."""
    keys = unit(1, 64, 0) + 0.02 * unit(3000, 64, 1)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    less, queries = offsets(keys, unit(200, 64, 3), 0.75), unit(20, 64, 4)
    one, two = (TorchIndex(Extended(keys, less), "cpu", precision).search(queries, 10) for precision in ("fp32", "bf16"))
    assert np.array_equal(one[1], two[1])
    np.testing.assert_allclose(one[0], two[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "ivfpq"])
def test_approximate_search_takes_it_off(kind: str):
    keys, queries = unit(1500, 32, 0), unit(40, 32, 1)
    less = offsets(keys, unit(100, 32, 2), 1.5)
    index = build_tuned([Extended(keys, less)], kind, queries, 1.0, False)
    scores, rows = best(queries, keys, less, 10)
    found = index.search(queries, 10)
    assert (found[1] == rows).mean() > 0.95
    np.testing.assert_allclose(found[0][:, 0], scores[:, 0], atol=2e-2)
