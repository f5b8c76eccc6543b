"""What exact search in torch computes besides its result: how much at once, where, in which numbers; and its bounds, one by one."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

import xvoken.search.torch_exact as module
from xvoken.search.torch_exact import TorchIndex


def unit(rows: int, dim: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Seen(TorchFunctionMode):
    """What is computed while it is on: shapes of products of matrices, columns of which the largest are taken, lines sorted whole."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[int, ...]] = []
        self.topk: list[int] = []
        self.lines = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.__name__ in ("matmul", "__matmul__") and out.ndim == 2:
            self.products.append(tuple(out.shape))
        if func.__name__ == "topk":
            self.topk.append(args[0].shape[1])
        self.lines += func.__name__ == "sort" and args[0].ndim == 1
        return out


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_so_many_queries_and_keys_are_scored_at_once(monkeypatch: pytest.MonkeyPatch, precision: str):
    """The memory that a search takes: QUERY_BLOCK x KEY_CHUNK scores, whatever is searched."""
    monkeypatch.setattr(module, "KEY_CHUNK", 40)
    monkeypatch.setattr(module, "LOW_CHUNK", 50)
    monkeypatch.setattr(module, "QUERY_BLOCK", 8)
    keys, queries = unit(100, 16, 0), unit(20, 16, 1)
    with Seen() as seen:
        found = TorchIndex(keys, precision=precision).search(queries, 3)
    columns = [40, 40, 20] if precision == "fp32" else [50, 50]
    assert seen.products == [(rows, n) for rows in (8, 8, 4) for n in columns]
    assert np.array_equal(found[1], np.argsort(-(queries.astype(np.float64) @ keys.T), axis=1)[:, :3])


@pytest.mark.parametrize(("columns", "topk"), [(256, [4, 128]), (262, [4, 134]), (255, [255]), (192, [192])])
def test_many_columns_are_looked_at_by_way_of_their_blocks(columns: int, topk: list[int]):
    """From 2 k whole blocks of 64 columns on: the largest of each block, then k of the blocks and what is left over."""
    products = torch.from_numpy(unit(3, columns, 2))
    with Seen() as seen:
        found = module._top_by_blocks(products, 2)[1]
    assert seen.topk == topk and torch.equal(found, products.sort(1, descending=True).indices[:, :2])


@pytest.mark.parametrize(("columns", "topk"), [(320, [5, 128, 2]), (326, [5, 134, 2]), (256, [256, 2]), (192, [192, 2])])
def test_so_they_are_in_the_first_pass(columns: int, topk: list[int]):
    """From 2 k + 1 whole blocks on."""
    asked, keys = torch.from_numpy(unit(3, 16, 3)).bfloat16(), torch.from_numpy(unit(columns, 16, 2))
    with Seen() as seen:
        module._rough_top(asked, keys, 2)
    assert seen.topk == topk


def test_the_first_pass_finds_the_largest_products_of_bf16(monkeypatch: pytest.MonkeyPatch):
    """Held against all products at once; in any order where they are equal, so by their values."""
    monkeypatch.setattr(module, "LOW_CHUNK", 700)
    keys, asked = torch.from_numpy(unit(2000, 16, 4)), torch.from_numpy(unit(30, 16, 5)).bfloat16()
    products = asked @ keys.bfloat16().T
    best = products.sort(1, descending=True).values
    for k in (1, 3, 5, 6, 40, 650):
        for queries in (30, 1):
            values, rows = module._rough_top(asked[:queries], keys, k)
            assert torch.equal(values, best[:queries, :k])
            assert torch.equal(products[:queries].gather(1, rows), values) and all(len(row.unique()) == k for row in rows)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_equal_scores_in_blocks_come_by_column(k: int):
    """Whole numbers from a few, so that maxima of blocks are equal, and best ones stand in what is left over."""
    products = torch.from_numpy(np.random.default_rng(6).integers(-3, 3, (200, 64 * 21 + 10))).float()
    products[:50, -5:] = 9
    scores, columns = module._top_by_blocks(products, k)
    expected = np.argsort(-products.numpy(), axis=1, kind="stable")[:, :k]
    assert np.array_equal(columns, expected) and np.array_equal(scores, np.take_along_axis(products.numpy(), expected, 1))


def test_only_lines_whose_last_one_has_equals_outside_are_sorted_whole():
    products = torch.tensor([[5.0, 1, 4, 3], [5, 4, 4, 3], [2, 2, 1, 0], [7, 6, 6, 6]])
    with Seen() as seen:
        scores, columns = module._top(products, 2)
    assert seen.lines == 2 and scores.tolist() == [[5, 4], [5, 4], [2, 2], [7, 6]]
    assert columns.tolist() == [[0, 2], [0, 1], [0, 1], [0, 1]]


@contextmanager
def other_defaults() -> Iterator[None]:
    """As in a program that computes on another device, and in doubles, if nothing is said."""
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_is_made_where_the_keys_are_and_in_their_numbers(precision: str):
    keys, queries = unit(3000, 16, 7), unit(5, 16, 8)
    expected = TorchIndex(keys, precision=precision).search(queries, 4)
    with other_defaults():
        scores, rows = TorchIndex(keys, precision=precision).search(queries, 4)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int32)
    assert np.array_equal(scores, expected[0]) and np.array_equal(rows, expected[1])


def test_keys_lie_on_the_device_and_are_not_copied_on_a_cpu():
    keys = unit(5, 4, 9)
    index = TorchIndex(keys)
    assert index.device == "cpu" and index.keys.data_ptr() == keys.ctypes.data
    assert TorchIndex(keys, "meta").keys.device.type == "meta"


def test_an_index_of_no_keys_finds_nothing():
    scores, rows = TorchIndex(np.zeros((0, 4), np.float32)).search(unit(3, 4, 10), 5)
    assert scores.shape == rows.shape == (3, 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("rows", [1, 4, 31, 32, 33])
def test_fewer_keys_than_are_asked_for(precision: str, rows: int):
    keys, queries = unit(rows, 8, 11), unit(6, 8, 12)
    scores, found = TorchIndex(keys, precision=precision).search(queries, 5)
    expected = np.argsort(-(queries.astype(np.float64) @ keys.T), axis=1, kind="stable")[:, :5]
    assert np.array_equal(found, expected)
    assert np.allclose(scores, np.take_along_axis(queries @ keys.T, expected, 1), atol=1e-6)


def test_only_where_it_is_in_doubt_all_keys_are_scored_again():
    """Of two queries one is near to many keys of almost one score; the other one's best ones stand apart."""
    centre, apart = np.eye(8, dtype=np.float32)[:2]
    crowd = centre + 1e-4 * unit(500, 8, 13)
    keys = np.concatenate([crowd, np.linspace(0.5, 1, 10, dtype=np.float32)[:, None] * apart]).astype(np.float32)
    queries = np.stack([apart, centre, apart])
    with Seen() as seen:
        scores, rows = TorchIndex(keys, precision="bf16").search(queries, 3)
    assert seen.products == [(3, 510), (1, 510)]  # the rough ones of all three, the exact ones of one
    assert rows[0].tolist() == rows[2].tolist() == [509, 508, 507]
    best = np.sort(queries[1].astype(np.float64) @ keys.T.astype(np.float64))[::-1][:3]
    assert np.allclose(scores[1], best, atol=1e-7)


def test_keys_that_were_all_scored_are_not_scored_again():
    """However near they are to each other: 20 keys are fewer than the first pass leaves over."""
    keys, query = np.eye(8, dtype=np.float32)[:1] + 1e-4 * unit(20, 8, 15), np.eye(8, dtype=np.float32)[:1]
    with Seen() as seen:
        rows = TorchIndex(keys, precision="bf16").search(query, 3)[1]
    assert seen.products == [(1, 20)]
    assert np.array_equal(rows, np.argsort(-(query @ keys.T), axis=1, kind="stable")[:, :3])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_query_of_nothing_finds_the_first_keys(precision: str):
    """All scores are 0 and equal, and so is the bound."""
    found = TorchIndex(unit(9000, 8, 16), precision=precision).search(np.zeros((2, 8), np.float32), 4)
    assert found[0].tolist() == [[0] * 4] * 2 and found[1].tolist() == [[0, 1, 2, 3]] * 2


def test_the_bound_is_that_of_its_formula():
    """|q - q^| |k| + |q^| |k - k^|, the rounding of the result, and of the two sums in fp32: in doubles, number by number."""
    asked = torch.from_numpy(unit(20, 48, 14) * np.linspace(0.1, 30, 20, dtype=np.float32)[:, None])
    low, rough = asked.bfloat16(), torch.linspace(-5, 5, 20).bfloat16()
    longest, largest = 3.0, 0.01
    q, cast, r = asked.double(), low.double(), rough.double()
    expected = r + r.abs() / 256 + (q - cast).norm(dim=1) * longest + cast.norm(dim=1) * largest
    expected += 3 * 48 * 2.0**-23 * q.norm(dim=1) * longest * (1 + 1 / 256) ** 2
    found = module._upper_bound(rough, asked, low, longest, largest)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=3e-7, atol=0)


def test_lengths_are_those_of_the_longest_key_and_of_the_largest_difference(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "KEY_CHUNK", 7)
    for seed in range(8):
        keys = unit(24, 6, seed) * np.random.default_rng(seed).uniform(0.5, 2, (24, 1)).astype(np.float32)
        longest, largest = TorchIndex(keys, precision="bf16").lengths
        difference = keys.astype(np.float64) - torch.from_numpy(keys).bfloat16().double().numpy()
        assert longest == pytest.approx(np.linalg.norm(keys.astype(np.float64), axis=1).max(), rel=1e-6)
        assert largest == pytest.approx(np.linalg.norm(difference, axis=1).max(), rel=1e-6)
