"""The figures of diversity, against loops over the tokens as they would be written by hand."""

import json
from collections import defaultdict
from math import log2, sqrt

import numpy as np
import pytest

from vokenization.diversity import Pairs, gini, per_type, table, token_recall, usage

PICTURES = 230  # the most used 1% of them are three


def assignments(tokens: int = 3000) -> tuple[list[int], list[int]]:
    """Types and pictures of tokens, some of each frequent and most rare; type 0 and picture 0 are among them."""
    numbers = np.random.default_rng(0)
    types = np.minimum(numbers.zipf(1.4, tokens), 30_000) - 1
    rows = np.minimum(numbers.zipf(1.2, tokens), PICTURES) - 1
    return types.tolist(), rows.tolist()


def counted() -> tuple[Pairs, dict[int, dict[int, int]]]:
    """The same counts twice: as arrays, and as Vokenization keeps them, token -> (picture -> count)."""
    types, rows = assignments()
    by_hand = defaultdict(lambda: defaultdict(int))
    for token, row in zip(types, rows, strict=True):
        by_hand[token][row] += 1
    return Pairs.count(np.array(types, np.int32), np.array(rows, np.int32), PICTURES), by_hand


def test_counts():
    pairs, by_hand = counted()
    found = {(t, r): n for t, r, n in zip(pairs.types.tolist(), pairs.rows.tolist(), pairs.times.tolist(), strict=True)}
    assert found == {(t, r): n for t, pictures in by_hand.items() for r, n in pictures.items()}
    assert list(found) == sorted(found)


def test_ids_beyond_32_bits_when_multiplied():
    pairs = Pairs.count(np.array([250_000, 250_000], np.int32), np.array([19_999_999, 3], np.int32), 20_000_000)
    assert pairs.types.tolist() == [250_000, 250_000] and pairs.rows.tolist() == [3, 19_999_999]


def test_vokenizations_figures():
    pairs, by_hand = counted()
    sums = [0.0] * 4
    for pictures in by_hand.values():
        counts = list(pictures.values())
        mean = sum(counts) / len(counts)
        deviation = sqrt(sum((count - mean) ** 2 for count in counts) / len(counts))
        for i, value in enumerate((len(counts), max(counts), mean, deviation)):
            sums[i] += value
    found = per_type(pairs)
    assert list(found["averages"]) == ["Num Images", "Max Cnt", "Avg Cnt", "Std Cnt"]
    assert list(found["averages"].values()) == pytest.approx([value / len(by_hand) for value in sums], abs=1e-4)
    different = sorted(map(len, by_hand.values()))
    middle = (different[(len(different) - 1) // 2] + different[len(different) // 2]) / 2
    assert found["pictures_per_type"] == {"median": middle, "most": different[-1]}


def test_usage():
    pairs, by_hand = counted()
    times = [0] * PICTURES
    for pictures in by_hand.values():
        for row, count in pictures.items():
            times[row] += count
    total = sum(times)
    bits = -sum(n / total * log2(n / total) for n in times if n)
    between = sum(abs(one - other) for one in times for other in times) / PICTURES**2
    expected = {
        "pictures": PICTURES, "used": sum(n > 0 for n in times), "head": 3, "head_share": 100 * sum(sorted(times)[-3:]) / total,
        "entropy_bits": bits, "entropy_share": bits / log2(PICTURES), "gini": between / (2 * total / PICTURES),
    }  # fmt: skip
    found = usage(pairs, PICTURES)
    assert 0 < found["used"] < PICTURES  # some are used by none, and count
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("pictures", [1, 2, 5, 100, 101])
def test_the_ends_of_the_scale(pictures: int):
    """All tokens have one picture; each picture is used equally often."""
    one = usage(Pairs.count(np.zeros(7, np.int32), np.full(7, pictures - 1), pictures), pictures)
    assert (one["used"], one["head_share"], one["entropy_bits"], one["entropy_share"]) == (1, 100, 0, 0)
    assert "-" not in json.dumps(one)  # no -0.0
    assert one["gini"] == pytest.approx((pictures - 1) / pictures, abs=1e-4)
    even = usage(Pairs.count(np.zeros(3 * pictures, np.int32), np.tile(np.arange(pictures), 3), pictures), pictures)
    assert (even["used"], even["gini"], even["entropy_share"]) == (pictures, 0, float(pictures > 1))
    assert even["head"] == (2 if pictures == 101 else 1)
    assert even["head_share"] == pytest.approx(100 * even["head"] / pictures, abs=1e-3)


def test_gini_worked_by_hand():
    assert gini(np.array([3, 0, 0, 1])) == 0.625  # differences: 4 x 3, 4 x 1, 2 x 2 over 16, twice the mean is 2


def test_the_table_has_all_figures():
    pairs, _ = counted()
    record = {"lines": 1234, "tokens": 3000, "types": 7, "level": "token", **per_type(pairs), "usage": usage(pairs, PICTURES)}
    without = table({**record, "recall": None})
    assert "1,234 lines, 3,000 tokens of 7 types, a picture for each token" in without and "recall" not in without
    shown = table({**record, "recall": token_recall(np.array([1.5, 2, 3]), 2, 4, PICTURES)})
    assert shown.startswith(without) and "37.50, 50.00, 75.00" in shown and "0.43, 2.17, 4.35" in shown
    assert f"{record['averages']['Num Images']:.2f}" in shown and f"{record['usage']['gini']:.4f}" in shown


def test_chance_is_at_most_all():
    assert token_recall(np.zeros(3), 1, 1, 7)["chance"] == {"R1": 14.286, "R5": 71.429, "R10": 100.0}
