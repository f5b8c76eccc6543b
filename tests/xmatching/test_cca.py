"""Canonical correlation analysis against the textbook, in numpy: every pair written out, nothing summed up beforehand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from xmatching.cca import Correlated, Directions, Moments, Pairs
from xmatching.data import CachedInputs, PairBatches
from xmatching.folds import Columns, Pictures
from xvoken.cache.features import Features

Array = NDArray[np.float64]
WIDTHS = (9, 6)  # of the image and the text tower's outputs
CAPTIONS = (1, 3, 2, 1, 1, 4, 2, 1, 1, 2, 3, 1, 1, 1, 2, 1, 1, 5, 1, 1)  # of each picture


def pairs_of(views: int, captions: tuple[int, ...] = CAPTIONS, seed: int = 0) -> PairBatches:
    """Random outputs of which some say the same on both sides; captions out of order, and a picture without any."""
    draw = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(captions)), captions)
    meant = draw.normal(size=(len(captions), 3))
    images = [meant @ draw.normal(size=(3, WIDTHS[0])) + draw.normal(size=(len(captions), WIDTHS[0])) + 2 for _ in range(views)]
    texts = meant[owner] @ draw.normal(size=(3, WIDTHS[1])) * 5 + draw.normal(size=(len(owner), WIDTHS[1]))
    order = draw.permutation(len(owner))
    inputs = [CachedInputs([Features(np.concatenate([rows, rows[:1]]).astype(np.float32), [], Path())]) for rows in (*images, texts)]
    return PairBatches(inputs[-1], inputs[0], order, owner[order], inputs[1:-1])


def written_out(data: PairBatches) -> tuple[Array, Array]:
    """Both sides of each pair, once for each view of its picture: float64 (n, width) each."""
    views = [inputs.load(data.image_rows)[0].double().numpy() for inputs in (data.images, *data.others)]
    captions = data.text.load(data.text_rows)[0].double().numpy()
    return np.concatenate(views), np.concatenate([captions] * len(views))


def standardized(rows: Array) -> Array:
    return (rows - rows.mean(0)) / rows.std(0)


def principal(rows: Array, rank: int) -> Array:
    """Coordinates in the first principal directions, (n, rank), up to their signs."""
    left, values, _ = np.linalg.svd(standardized(rows), full_matrices=False)
    return (left * values)[:, :rank]


def textbook(x: Array, y: Array, ridge: float) -> tuple[Array, Array, Array]:
    """Canonical variates of both sides (n, k) and their correlations (k,); each side's covariance has `ridge` added to its diagonal."""
    x, y = x - x.mean(0), y - y.mean(0)

    def whitening(rows: Array) -> Array:
        values, vectors = np.linalg.eigh(rows.T @ rows / len(rows) + ridge * np.eye(rows.shape[1]))
        return vectors @ np.diag(1 / np.sqrt(values)) @ vectors.T

    left, correlations, right = np.linalg.svd(whitening(x) @ (x.T @ y / len(x)) @ whitening(y), full_matrices=False)
    return x @ whitening(x) @ left, y @ whitening(y) @ right.T, correlations


def summed(data: PairBatches, rank: int) -> tuple[Pictures, Directions, Directions, Pairs]:
    pictures, columns = Pictures(data), Columns([0, WIDTHS[1]], [0, WIDTHS[0]])
    text, image = pictures.directions(columns, rank)
    return pictures, text, image, pictures.sums(np.arange(len(pictures)), columns, text, image)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("rank", [4, 100])
def test_directions_are_the_principal_ones(views: int, rank: int):
    data = pairs_of(views)
    _, text, image, _ = summed(data, rank)
    for found, rows in zip((image, text), written_out(data), strict=True):
        coordinates = found(torch.from_numpy(rows).float()).numpy()
        kept = min(rank, rows.shape[1])
        assert coordinates.shape[1] == kept and found.basis.shape == (rows.shape[1], kept)
        assert np.allclose(abs(coordinates), abs(principal(rows, kept)), atol=1e-4)
        assert np.allclose(found.basis.T @ found.basis, np.eye(kept), atol=1e-5)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("rank", [4, 100])
@pytest.mark.parametrize("ridge", [0.0, 0.3, 10.0])
def test_solution_is_the_textbooks(views: int, rank: int, ridge: float):
    """The scores of all images with all texts hang on no signs; each direction is scaled by its correlation to a power."""
    data = pairs_of(views)
    _, text, image, sums = summed(data, rank)
    solution = Correlated(sums).solve(ridge)
    x, y = written_out(data)
    left, right, correlations = textbook(principal(x, rank), principal(y, rank), ridge)
    assert np.allclose(solution.correlations, correlations, atol=1e-6)
    for power, directions, dim in ((0.0, 2, 5), (1.0, 5, 5), (2.0, 3, 3), (1.0, 100, 8)):
        kept = min(directions, dim, len(correlations))
        scale = correlations[:kept] ** power
        by_hand = (left[:, :kept] * scale) @ (right[:, :kept] * scale).T / (scale**2).sum()
        maps = solution.maps(power, directions, dim)
        seen, said = (
            torch.nn.functional.linear(side(torch.from_numpy(rows).float()).float(), *found).numpy()
            for side, rows, found in ((image, x, maps.image), (text, y, maps.text))
        )
        assert seen.shape[1] == said.shape[1] == dim and not seen[:, kept:].any()
        assert np.allclose(seen @ said.T, by_hand, atol=1e-4)


def test_sums_taken_off_again_are_those_of_the_rest():
    data = pairs_of(2)
    pictures, text, image, total = summed(data, 5)
    columns, held = Columns([0, WIDTHS[1]], [0, WIDTHS[0]]), np.array([0, 3, 4, 11])
    rest = np.setdiff1d(np.arange(len(pictures)), held)
    off, left = (pictures.sums(places, columns, text, image) for places in (held, rest))
    for one, other in ((total.less(off), left), (left.plus(off), total)):
        assert one.number == other.number
        for name in ("x", "y", "xx", "yy", "xy"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-9, rtol=1e-9)
    inside = np.isin(data.image_rows, pictures.rows[rest])
    again = summed(PairBatches(data.text, data.images, data.text_rows[inside], data.image_rows[inside], data.others), 5)[-1]
    assert again.number == left.number == 2 * inside.sum()


def test_blocks_of_pictures_add_up(monkeypatch: pytest.MonkeyPatch):
    whole = summed(pairs_of(2), 5)
    monkeypatch.setattr("xmatching.folds.BLOCK", 3)
    blocks = summed(pairs_of(2), 5)
    torch.testing.assert_close(blocks[2].basis, whole[2].basis, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(blocks[3].xy, whole[3].xy, atol=1e-6, rtol=1e-6)


def test_directions_without_variance_are_left_out():
    """A constant column, and one that is another's copy."""
    rows = torch.randn(30, 4, generator=torch.manual_seed(0)) * torch.tensor([1, 1e-2, 1e2, 1])
    rows = torch.cat([rows, rows[:, :1], torch.full((30, 1), 7.0)], 1)
    moments = Moments(6)
    moments.add(rows, torch.ones(30))
    found = Directions.of(moments, 6)
    assert found.scale[5] == 0 and (found.basis.norm(dim=0) > 0.5).tolist() == [True] * 4 + [False] * 2
    spread = found(rows).std(0, correction=0)
    assert (spread > 0.1).tolist() == [True] * 4 + [False] * 2 and found(rows).isfinite().all()
    pairs = Pairs.none(6, 6)
    pairs.add(found(rows)[:, None], found(rows), torch.arange(30))
    for ridge in (0.0, 1.0):
        solution = Correlated(pairs).solve(ridge)
        values = found(rows).square().mean(0)[:4]
        assert np.allclose(solution.correlations[:4].numpy(), np.sort(values / (values + ridge))[::-1], atol=1e-5)
        assert np.allclose(solution.correlations[4:], 0, atol=1e-9)


def test_nothing_varies():
    """All rows the same on one side: no direction, no number that is none."""
    moments = Moments(3)
    moments.add(torch.full((5, 3), 0.1), torch.tensor([1.0, 2, 3, 1, 1]))
    found = Directions.of(moments, 3)
    same, other = found(torch.full((5, 3), 0.1)), torch.randn(5, 2).double()
    assert same.isfinite().all() and not same.any()
    pairs = Pairs.none(3, 2)
    pairs.add(same[:, None], other, torch.arange(5))
    solution = Correlated(pairs).solve(1.0)
    maps = solution.maps(1.0, 2, 4)
    assert all(tensor.isfinite().all() for tensor in (*maps.image, *maps.text)) and not solution.correlations.any()
