"""The probability that a query's best picture is right, against computations of another kind."""

import math

import numpy as np
import pytest
import torch

from xvoken import calibration
from xvoken.calibration import CANDIDATES, RIDGE, Calibration, auc, calibration_error, features, fit, precision_at_coverage
from xvoken.errors import UserError


def scores(queries: int, pictures: int, seed: int, lift: float = 0.0) -> np.ndarray:
    """Descending scores of made-up queries, the best one lifted."""
    found = -np.sort(-np.random.default_rng(seed).normal(0.2, 0.1, (queries, pictures)), 1)
    found[:, 0] += lift * np.random.default_rng(seed + 1).random(queries)
    return found.astype(np.float32)


def test_features_of_one_query_by_hand():
    found = features(np.array([[0.5, 0.4, 0.3]], np.float32))
    share = math.exp(5) / (math.exp(5) + math.exp(4) + math.exp(3))
    assert np.allclose(found, [[0.5, math.log(share / (1 - share))]], atol=1e-5)


def test_share_needs_the_first_candidates_only():
    many = scores(20, 50, 0)
    assert np.array_equal(features(many), features(many[:, :CANDIDATES]))
    assert not np.allclose(features(many), features(many[:, : CANDIDATES - 1]))
    cal = Calibration(-1.0, 2.0, 0.5)
    assert np.array_equal(cal.probability(many), cal.probability(many[:, :CANDIDATES]))


def test_one_picture_far_picture_and_empty_line():
    cal, near = Calibration(-1.0, 2.0, 0.5), math.log(1e6 - 1)
    assert np.allclose(features(np.array([[0.5]])), [[0.5, near]]) and np.allclose(features(np.array([[9.0, 0.0]])), [[9.0, near]])
    found = cal.probability(np.array([[0.5, 0.4], [np.nan, np.nan]], np.float32))
    assert found.dtype == np.float32 and np.isnan(found[1])
    assert math.isclose(found[0], 1 / (1 + math.exp(1 - 1 - 0.5)), rel_tol=1e-6)  # two candidates 0.1 apart: log(share / (1 - share)) is 1
    assert cal.probability(np.empty((0, 5), np.float32)).shape == (0,)


@pytest.mark.parametrize("lift", [0.0, 0.3, 3.0])
def test_fit_against_a_minimization_by_torch(lift: float):
    """The stated loss, found again from the scores alone; 3.0: the two kinds of queries can be told without a mistake."""
    captions, others = scores(60, 20, 0, lift), scores(200, 20, 5)
    right = (np.arange(60) % 3 > 0) | (lift == 3)
    x = torch.from_numpy(np.concatenate([features(captions), features(others)]))
    y = torch.tensor([*map(float, right), *[0.0] * 200], dtype=torch.float64)
    weights = torch.tensor([1 / 120] * 60 + [1 / 400] * 200, dtype=torch.float64)
    centred = x - weights @ x
    scaled = torch.cat([torch.ones(260, 1), centred / (weights @ centred**2).sqrt()], 1)
    at = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([at], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        found = torch.nn.functional.binary_cross_entropy_with_logits(scaled @ at, y, weights, reduction="sum") + RIDGE / 2 * (at**2).sum()
        found.backward()
        return found

    search.step(loss)
    found = fit(captions, right, others)
    expected = torch.sigmoid(scaled @ at).detach().numpy()
    assert np.allclose(found.probability(np.concatenate([captions, others])), expected, atol=1e-5)
    assert np.isfinite(found.to_list()).all()


def test_fit_with_shares_of_right_and_without_any():
    captions, others = scores(40, 20, 0, 0.3), scores(40, 20, 5)
    half = fit(captions, np.full(40, 0.5), others)
    twice = fit(np.repeat(captions, 2, 0), np.tile([0, 1], 40), others)
    assert np.allclose(half.to_list(), twice.to_list(), atol=1e-8)
    assert fit(captions, np.zeros(40), others).probability(captions).max() < 0.05
    flat = np.full((4, 20), 0.25)  # features that tell nothing
    assert np.allclose(fit(flat, np.ones(4), flat).probability(flat), 0.5, atol=0.01)


@pytest.mark.parametrize(("captions", "others"), [((0, 20), (4, 20)), ((4, 20), (0, 20))])
def test_fit_needs_both(captions: tuple[int, int], others: tuple[int, int]):
    with pytest.raises(UserError, match="there are 0 and 4|there are 4 and 0"):
        fit(np.ones(captions), np.ones(captions[0]), np.ones(others))


def test_fit_refuses_what_is_not_finite():
    with pytest.raises(UserError, match="diverged"):
        fit(np.full((2, 3), np.nan), np.ones(2), scores(2, 3, 0))


def test_list_and_back():
    cal = Calibration(-1.5, 2.0, 0.25)
    assert cal.to_list() == [-1.5, 2.0, 0.25] and Calibration.from_list(cal.to_list()) == cal


@pytest.mark.parametrize("said", [[], [1, 2], [1, 2, 3, 4], [1, 2, float("nan")], ["a", 1, 2], "abc", {"bias": 1}, [[1], [2], [3]]])
def test_lists_that_are_none(said: object):
    with pytest.raises(UserError, match="three finite numbers were expected"):
        Calibration.from_list(said)


def test_auc_against_all_pairs():
    numbers = np.random.default_rng(0)
    high, low = numbers.integers(2, 9, 50), numbers.integers(0, 7, 70)
    pairs = [(a > b) + (a == b) / 2 for a in high for b in low]
    assert math.isclose(auc(high, low), np.mean(pairs))
    assert auc(np.ones(3), np.zeros(2)) == 1 and auc(np.ones(3), np.ones(2)) == 0.5


def test_precision_of_the_surest_by_hand():
    sure, right = np.arange(20) / 20, np.arange(20) >= 12
    found = precision_at_coverage(sure, right)
    assert found == {"100": 40, "75": pytest.approx(100 * 8 / 15), "50": 80, "25": 100, "10": 100}
    assert precision_at_coverage(np.array([0.3]), np.array([1])) == dict.fromkeys(found, 100)


def test_calibration_error_by_hand():
    sure = np.repeat([0.2, 0.6], 50)
    right = np.concatenate([np.arange(50) < 20, np.arange(50) < 30])
    assert calibration_error(sure, right) == pytest.approx(10)  # 20 points off in one half, none in the other
    spread, hit = np.random.default_rng(0).random(103), np.random.default_rng(1).random(103) < 0.5
    order = np.argsort(-spread)
    bins = [(spread[rows], hit[rows]) for rows in np.array_split(order, 10)]
    assert calibration_error(spread, hit) == pytest.approx(100 * sum(len(p) / 103 * abs(p.mean() - h.mean()) for p, h in bins))


def test_no_figure_hangs_on_the_order_of_equals():
    numbers = np.random.default_rng(0)
    sure, right = numbers.integers(0, 6, 101) / 6, numbers.random(101) < 0.5
    order = numbers.permutation(101)
    for figure in (precision_at_coverage, calibration_error):
        assert figure(sure, right) == figure(sure[order], right[order])
    assert calibration_error(np.full(7, 0.25), np.arange(7) < 2) == pytest.approx(100 * (2 / 7 - 0.25))


def test_newton_stops_at_the_minimum():
    x, numbers = np.ones((30, 1)), np.random.default_rng(0)
    y = (numbers.random(30) < 0.7).astype(float)
    z = calibration._regression(x, y, np.full(30, 1 / 30))[0]
    assert abs(1 / (1 + math.exp(-z)) - y.mean() + RIDGE * z) < 1e-12
