"""Approximate indexes against brute force; their files and receipts."""

import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from xvoken.errors import UserError, disk_full
from xvoken.files import indexes
from xvoken.files.indexes import EFFORT, identity, index_file, receipt_file
from xvoken.files.locks import sole_writer
from xvoken.search import approximate
from xvoken.search.approximate import ApproximateIndex, SavedIndex, ensure_index, open_saved, recall, tune
from xvoken.search.index import build_index


def clustered(rows: int, seed: int, dim: int = 32, spread: float = 0.6) -> np.ndarray:
    """Vectors of length 1 around 40 centres, the same ones for every seed."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(100).standard_normal((40, dim))
    vectors = centres[rng.integers(0, 40, rows)] + spread * rng.standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


KEYS, QUERIES = clustered(3000, 0), clustered(50, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexes")
    for kind in EFFORT:
        ensure_index(KEYS, index_file(folder, "set", kind), kind)
    return folder


def opened(folder: Path, kind: str, effort: int, keys: np.ndarray = KEYS) -> ApproximateIndex:
    return open_saved(keys, SavedIndex(index_file(folder, "set", kind), kind, effort))


@pytest.mark.parametrize("kind", EFFORT)
def test_all_of_an_index_finds_what_exact_search_finds(folder: Path, kind: str):
    index = opened(folder, kind, 1)
    index.effort = index.most
    scores, rows = index.search(QUERIES, 5)
    exact_scores, exact_rows = build_index(KEYS, "torch", "cpu").search(QUERIES, 5)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int32)
    assert np.array_equal(rows, exact_rows)
    assert np.abs(scores - exact_scores).max() < 1e-6


@pytest.mark.parametrize("kind", EFFORT)
def test_scores_are_inner_products_and_descend(folder: Path, kind: str):
    scores, rows = opened(folder, kind, 1).search(QUERIES, 5)
    assert np.allclose(scores, np.take_along_axis(QUERIES @ KEYS.T, rows, 1), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 5 for row in rows.tolist())


def test_lines_that_find_too_few_are_searched_wider(folder: Path):
    assert receipt(folder, "ivf")["parameters"]["cells"] == 75
    scores, rows = opened(folder, "ivf", 1).search(QUERIES, 400)  # ten times a cell's keys
    assert rows.min() >= 0 and np.isfinite(scores).all()
    assert all(len(set(row)) == 400 for row in rows.tolist())


def test_links_that_lead_nowhere_end_in_exact_search(folder: Path, monkeypatch: pytest.MonkeyPatch):
    index = opened(folder, "hnsw", 16)
    nothing = np.full((len(QUERIES), 5), -np.inf, np.float32), np.full((len(QUERIES), 5), -1, np.int32)
    monkeypatch.setattr(index, "_nearest", lambda queries, k, effort: tuple(array[: len(queries)].copy() for array in nothing))
    assert np.array_equal(index.search(QUERIES, 5)[1], build_index(KEYS, "torch", "cpu").search(QUERIES, 5)[1])


@pytest.mark.parametrize("kind", EFFORT)
def test_equal_keys_come_by_row(tmp_path: Path, kind: str):
    keys = np.repeat(clustered(100, 2), 4, axis=0)[np.random.default_rng(3).permutation(400)]
    ensure_index(keys, index_file(tmp_path, "set", kind), kind)
    index = opened(tmp_path, kind, 400, keys)
    scores, rows = index.search(QUERIES, 4)
    assert (scores == scores[:, :1]).all()  # the four copies of the best key
    assert (np.diff(rows, axis=1) > 0).all()


def test_recall_by_hand_and_by_brute_force(folder: Path):
    assert recall(np.float32([[3, 2], [5, 1]]), np.float32([[3, 2.5], [5, 1]])) == 0.75
    assert recall(np.float32([[3, 2]]), np.float32([[3, 2 + 1e-7]])) == 1  # off by rounding only
    products = QUERIES.astype(np.float64) @ KEYS.T.astype(np.float64)
    best = np.argsort(-products, axis=1)[:, :5]
    exact = build_index(KEYS, "faiss", "cpu").search(QUERIES, 5)[0]
    for kind in EFFORT:
        scores, rows = opened(folder, kind, 1).search(QUERIES, 5)
        by_hand = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(rows.tolist(), best.tolist(), strict=True)])
        assert recall(scores, exact) == pytest.approx(by_hand)
        assert kind == "hnsw" or by_hand < 1  # else nothing is shown


def test_effort_is_doubled_until_the_recall_is_reached(folder: Path):
    index, exact = opened(folder, "ivf", 1), build_index(KEYS, "torch", "cpu").search(QUERIES, 5)[0]
    reached, effort = tune(index, QUERIES, exact, 0.9), index.effort
    assert reached >= 0.9 and 1 < effort < index.most
    index.effort = effort // 2
    assert recall(index.search(QUERIES, 5)[0], exact) < 0.9
    assert tune(index, QUERIES, exact + 1, 0.9) == 0  # can't be reached
    assert index.effort == index.most == 75


def test_parameters():
    assert indexes.parameters_of("ivf", 500_000, 512) == {"cells": 2828}
    assert indexes.parameters_of("ivf", 400, 512) == {"cells": 10}  # 40 keys a cell
    assert indexes.parameters_of("ivfpq", 10**9, 512) == {"cells": 65_536, "bytes": 64}
    assert [indexes.parameters_of("ivfpq", 400, dim)["bytes"] for dim in (16, 30, 4, 7)] == [2, 3, 1, 1]


def receipt(folder: Path, kind: str) -> dict:
    return json.loads(receipt_file(index_file(folder, "set", kind)).read_text())


@pytest.mark.parametrize("kind", EFFORT)
def test_index_is_built_once_and_again_for_other_keys(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]):
    keys, path = clustered(400, 4), index_file(tmp_path, "set", kind)
    first = ensure_index(keys, path, kind)
    written = path.stat().st_mtime_ns
    assert first == ensure_index(keys, path, kind) == receipt(tmp_path, kind)
    assert path.stat().st_mtime_ns == written
    assert "400 keys of 32 dimensions, recall not measured" in indexes.check(path)
    keys[7] = -keys[7]
    capsys.readouterr()
    second = ensure_index(keys, path, kind)
    assert "its keys differ from the present ones; building it again" in capsys.readouterr().err
    assert identity(second) != identity(first)
    assert opened(tmp_path, kind, 400, keys).search(keys[7:8], 1)[1].tolist() == [[7]]
    second["recall"]["of some corpus"] = {"recall": 0.97}
    assert identity(second) == identity({**second, "recall": {}})
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"not the file that .*set.*json describes; build it again after: rm"):
        indexes.check(path)
    with pytest.raises(UserError, match="no whole faiss index .* build it again after: rm"):
        opened(tmp_path, kind, 1, keys)


def test_killed_build_leaves_nothing_half(tmp_path: Path):
    """A kill before the receipt is written: the index is not taken for whole, and temporary files go."""
    keys, path = clustered(400, 5), index_file(tmp_path, "set", "ivf")
    ensure_index(keys, path, "ivf")
    receipt_file(path).unlink()
    path.write_bytes(b"of another build")
    (tmp_path / f".{path.name}.1-2.tmp").write_bytes(b"half")
    ensure_index(keys, path, "ivf")
    assert opened(tmp_path, "ivf", 400, keys).search(keys[:3], 1)[1].tolist() == [[0], [1], [2]]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["set.ivf.faiss", "set.ivf.json"]


def test_of_two_runs_one_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, built, build = index_file(tmp_path, "set", "ivf"), [], approximate.build
    monkeypatch.setattr(approximate, "build", lambda *given: built.append(1) or build(*given))

    def run() -> None:
        with sole_writer(path, wait=True):
            ensure_index(KEYS, path, "ivf")

    runs = [threading.Thread(target=run) for _ in range(2)]  # the lock is the open file's, so threads do for processes
    with sole_writer(path):
        for thread in runs:
            thread.start()
        runs[0].join(0.1)
        assert not built
    for thread in runs:
        thread.join()
    assert len(built) == 1 and path.exists()


def test_full_disk_is_told_by_faiss(folder: Path):
    import faiss

    with pytest.raises(RuntimeError) as error:
        faiss.write_index(opened(folder, "ivf", 1).index, "/dev/full")
    assert disk_full(error.value)


def test_missing_faiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(
        UserError, match="--index ivf: needs faiss .*; run: pip install -r requirements.txt -c constraints.txt, or take --index flat"
    ):
        ensure_index(KEYS, index_file(tmp_path, "set", "ivf"), "ivf")
