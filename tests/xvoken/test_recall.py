import itertools

import numpy as np
import pytest
import torch

from xvoken import recall as module
from xvoken.errors import UserError
from xvoken.recall import Ranks, chance, evaluate, judge, ranks, recall
from xvoken.records import table


def test_ranks_of_a_matrix_worked_by_hand():
    # scores of 3 captions (rows) against 2 pictures; captions 0 and 1 belong to picture 0, caption 2 to picture 1
    image = torch.eye(2)
    text = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    owner = torch.tensor([0, 0, 1])
    to_image, to_text = ranks(text, image, owner)
    assert to_image.expected().tolist() == [1, 2, 1.5]  # caption 2 scores both pictures the same
    assert to_image.hit(1).tolist() == [1, 0, 0.5]
    assert to_text.expected().tolist() == [1, 2]  # picture 1: its caption scores .5, caption 1 scores .8
    assert recall(to_image) == {"R1": 50.0, "R5": 100.0, "R10": 100.0, "median_rank": 1.5}


def test_rank_two_is_no_hit_at_one():
    """The predecessor took the kth value from the wrong end and called R@2 R@1."""
    to_image, _ = ranks(torch.tensor([[0.4, 0.6]]), torch.eye(2), torch.tensor([0]))
    assert recall(to_image)["R1"] == 0


def test_ranks_against_sorting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CHUNK", 7)  # an uneven last chunk
    rng = np.random.default_rng(0)
    text, image = torch.from_numpy(rng.normal(size=(50, 8))).float(), torch.from_numpy(rng.normal(size=(20, 8))).float()
    owner = torch.from_numpy(rng.integers(0, 18, 50))  # pictures 18 and 19 have no caption
    scores = (text.double() @ image.double().T).numpy()
    to_image, to_text = ranks(text, image, owner)
    expected = [sorted(-scores[c]).index(-scores[c, owner[c]]) + 1 for c in range(50)]
    assert to_image.expected().tolist() == expected
    captioned = sorted(set(owner.tolist()))
    best = [min(sorted(-scores[:, n]).index(-scores[c, n]) + 1 for c in range(50) if owner[c] == n) for n in captioned]
    assert to_text.expected().tolist() == best


def first_right(scores: np.ndarray, right: np.ndarray) -> list[int]:
    """Rank of the first right candidate in every order that sorting allows: one for each permutation of the candidates."""
    orders = itertools.permutations(range(len(scores)))
    return [next(place for place, c in enumerate(sorted(order, key=lambda c: -scores[c]), 1) if right[c]) for order in orders]


@pytest.mark.parametrize("seed", range(4))
def test_equal_scores_against_all_their_orders(seed: int, monkeypatch: pytest.MonkeyPatch):
    """Small whole numbers, so that many scores are the same, also of vectors that differ."""
    monkeypatch.setattr(module, "CHUNK", 2)
    rng = np.random.default_rng(seed)
    text, image, owner = rng.integers(0, 2, (6, 3)), rng.integers(0, 2, (5, 3)), rng.integers(0, 4, 6)
    to_image, to_text = ranks(torch.from_numpy(text).float(), torch.from_numpy(image).float(), torch.from_numpy(owner))
    scores = text @ image.T
    captioned = sorted(set(owner.tolist()))
    by_caption = [first_right(scores[c], np.arange(5) == owner[c]) for c in range(6)]
    by_picture = [first_right(scores[:, n], owner == n) for n in captioned]
    for found, orders in ((to_image, np.array(by_caption)), (to_text, np.array(by_picture))):
        assert found.expected().tolist() == pytest.approx(orders.mean(1))
        for k in (1, 2, 3, 5):
            assert found.hit(k).tolist() == pytest.approx((orders <= k).mean(1))


def test_a_collapsed_matcher_is_chance():
    """All vectors the same: it had R@1 100 in both directions."""
    owner = torch.arange(1000) % 200
    record = evaluate(torch.ones(1000, 4) / 2, torch.ones(200, 4) / 2, owner)
    assert record["text_to_image"] == {"R1": 0.5, "R5": 2.5, "R10": 5.0, "median_rank": 100.5}
    for direction in ("text_to_image", "image_to_text"):
        assert {key: record[direction][key] for key in ("R1", "R5", "R10")} == record["chance"][direction]


def test_the_same_caption_of_several_pictures_is_one_hit_for_all_of_them():
    """Four pictures, one sentence for all: each finds one of four equal captions."""
    image = torch.eye(4)
    text = torch.full((4, 4), 0.5)
    to_image, to_text = ranks(text, image, torch.arange(4))
    assert to_image.hit(1).tolist() == to_text.hit(1).tolist() == [0.25] * 4
    assert to_text.expected().tolist() == [2.5] * 4


@pytest.mark.parametrize("number", [5, 129, 4099])
def test_equal_vectors_score_the_same_wherever_they_stand(number: int):
    """At the edges of a product other instructions add in another order, on every processor elsewhere."""
    torch.manual_seed(0)
    text, image = torch.randn(number, 37), torch.randn(number, 37)
    text[-1], image[-1] = text[0], image[0]
    to_image, to_text = ranks(text, image, torch.arange(number))
    for found in (to_image, to_text):
        assert found.equal[[0, -1]].tolist() == [2, 2]
        assert (found.equal[1:-1] == 1).all()
        assert torch.equal(found.expected()[0], found.expected()[-1])


def test_vectors_that_differ_in_the_sign_of_zero_are_one():
    """They are scored once, as all that are equal: with their counts, the first of each, in the layout of any tensor."""
    columns = torch.tensor([[0.0, 1, -0.0, 0, 2], [1, -0.0, 1, 1, 0]])
    for vectors in (columns.T, columns.T.contiguous()):
        found, which, times = module._distinct(vectors)
        assert len(found) == 3 and torch.equal(found[which], vectors)
        assert sorted(zip(found.tolist(), times.tolist(), strict=True)) == [([0, 1], 3), ([1, 0], 1), ([2, 0], 1)]


def test_shares_are_told_to_a_thousandth():
    found = Ranks(torch.tensor([0, 3, 7]), torch.ones(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64))
    assert recall(found) == {"R1": 33.333, "R5": 66.667, "R10": 100.0, "median_rank": 4.0}
    assert recall(Ranks(*(numbers[:2] for numbers in (found.above, found.equal, found.right))))["median_rank"] == 2.5


def test_chance_against_simulation():
    owner = torch.tensor([0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 4])
    expected = chance(owner, 5)
    assert expected["text_to_image"] == {"R1": 20.0, "R5": 100.0, "R10": 100.0}
    rng = np.random.default_rng(0)
    hits = np.zeros(5)
    for _ in range(20000):
        order = rng.permutation(11)
        hits += [(owner.numpy()[order[:5]] == n).any() for n in range(5)]
    assert expected["image_to_text"]["R5"] == pytest.approx(100 * (hits / 20000).mean(), abs=1)


def test_record_and_table():
    record = evaluate(torch.eye(3), torch.eye(3), torch.arange(3))
    assert record["images"] == record["captions"] == 3
    assert record["text_to_image"]["R1"] == record["image_to_text"]["R1"] == 100
    assert "text to image" in table(record)
    assert "median rank" in table(record)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_vectors_that_are_not_finite_are_no_hits(value: float):
    """No score is above them, so that each ranked first: a training that diverged was the best one."""
    text, image, owner = torch.randn(4, 3), torch.randn(5, 3), torch.tensor([0, 1, 2, 3])
    text[1, 2] = value
    with pytest.raises(UserError, match="the vectors of 1 of 4 sentences are not finite"):
        evaluate(text, image, owner)
    with pytest.raises(UserError, match="the vectors of 5 of 5 pictures are not finite"):
        evaluate(torch.randn(4, 3), image * value, owner)


def test_the_median_is_not_rounded_and_two_folds_are_told():
    """Of three equal scores two are right: the expected rank is (3 + 1) / (2 + 1)."""
    found = recall(Ranks(*torch.tensor([[0], [3], [2]])))
    assert found["median_rank"] == 4 / 3
    text, image = torch.eye(6)[[0, 1, 1, 2, 3, 5]], torch.eye(6)
    record = judge(text, image, torch.arange(6), fold=torch.arange(6) % 2)
    assert record["folds"] == 2 and "folds" not in judge(text, image, torch.arange(6))


@pytest.mark.parametrize("seed", range(3))
def test_what_is_taken_off_against_all_orders(seed: int, monkeypatch: pytest.MonkeyPatch):
    """Off pictures where captions look for them, off captions where pictures do; whole numbers, so that many scores are the same."""
    monkeypatch.setattr(module, "CHUNK", 2)
    rng = np.random.default_rng(seed)
    text, image, owner = rng.integers(0, 2, (6, 3)), rng.integers(0, 2, (5, 3)), rng.integers(0, 4, 6)
    off_text, off_image = text.sum(1) // 2, image.sum(1) // 2  # a function of the vector: the same for equal ones
    less = module.Less(torch.from_numpy(off_text).float(), torch.from_numpy(off_image).float())
    to_image, to_text, places = module.ranks_and_places(
        torch.from_numpy(text).float(), torch.from_numpy(image).float(), torch.from_numpy(owner), less
    )
    scores = text @ image.T
    captioned = sorted(set(owner.tolist()))
    by_caption = [first_right(scores[c] - off_image, np.arange(5) == owner[c]) for c in range(6)]
    by_picture = [first_right(scores[:, n] - off_text, owner == n) for n in captioned]
    for found, orders in ((to_image, np.array(by_caption)), (to_text, np.array(by_picture))):
        for k in (1, 2, 3, 5):
            assert found.hit(k).tolist() == pytest.approx((orders <= k).mean(1))
    for c, n in enumerate(owner):
        column = scores[:, n] - off_text
        assert places.above[c] == (column > column[c]).sum() and places.equal[c] == (column == column[c]).sum()
        assert places.right_above[c] == (column > column[c])[owner == n].sum()
        assert places.right_equal[c] == (column == column[c])[owner == n].sum()


def test_nothing_taken_off_changes_nothing_and_folds_take_their_share():
    rng = np.random.default_rng(0)
    text, image = (torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(n, 8))).float()) for n in (60, 20))
    owner, fold = torch.arange(60) // 3, torch.arange(20) // 10
    nothing = module.Less(torch.zeros(60), torch.zeros(20))
    assert judge(text, image, owner, fold, nothing) == judge(text, image, owner, fold)
    less = module.Less(text[:, 0].contiguous(), image[:, 0].contiguous())
    whole, halves = judge(text, image, owner, fold, less), []
    for half in range(2):
        pictures, captions = fold == half, (owner // 10) == half
        part = module.Less(less.text[captions], less.image[pictures])
        halves.append(judge(text[captions], image[pictures], owner[captions] - 10 * half, None, part))
    for side in ("text_to_image", "image_to_text"):
        assert whole[side]["R1"] == pytest.approx(sum(half[side]["R1"] for half in halves) / 2, abs=2e-3)
    assert whole["text_to_image"] != judge(text, image, owner, fold)["text_to_image"]
