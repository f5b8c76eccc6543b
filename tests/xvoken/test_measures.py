"""What is measured once: mAP@R against all orders of equal scores, intervals against a direct loop, folds by hand."""

import itertools

import numpy as np
import pytest
import torch

from xvoken import measures
from xvoken import recall as module
from xvoken.recall import evaluate, judge, ranks_and_places
from xvoken.records import rsum


def precision_at_r(order: list[bool]) -> float:
    """By the definition, of candidates in order: right or not."""
    number = sum(order)
    return sum(sum(order[:place]) / place for place in range(1, number + 1) if order[place - 1]) / number


def in_all_orders(scores: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """mAP@R and the rank of the first right candidate, each the mean over the permutations of the candidates, sorted by score."""
    orders = [sorted(order, key=lambda c: -scores[c]) for order in itertools.permutations(range(len(scores)))]
    found = [(precision_at_r([bool(right[c]) for c in order]), [right[c] for c in order].index(True) + 1) for order in orders]
    return tuple(np.mean(found, axis=0))


def small_world(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Six captions, five pictures, owners; small whole numbers, so that many scores are the same, also of vectors that differ."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, (6, 3)), rng.integers(0, 2, (5, 3)), rng.integers(0, 4, 6)


def tensors(text: np.ndarray, image: np.ndarray, owner: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.from_numpy(text).float(), torch.from_numpy(image).float(), torch.from_numpy(owner)


def test_a_ranking_worked_by_hand():
    """Three right ones in places 1, 3 and 6: of the first three places two hold one, with precisions 1 and 2/3."""
    numbers = [np.array(column) for column in ([0, 2, 5], [1, 1, 1], [0, 1, 2], [1, 1, 1], [0, 0, 0])]
    assert measures.average_precision_at_r(*numbers).tolist() == pytest.approx([(1 + 2 / 3) / 3])
    assert precision_at_r([True, False, True, False, False, True]) == pytest.approx((1 + 2 / 3) / 3)


@pytest.mark.parametrize("seed", range(6))
def test_equal_scores_against_all_their_orders(seed: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    text, image, owner = small_world(seed)
    record, scores = judge(*tensors(text, image, owner)), text @ image.T
    by_caption = [in_all_orders(scores[c], np.arange(5) == owner[c]) for c in range(6)]
    by_picture = [in_all_orders(scores[:, n], owner == n) for n in sorted(set(owner.tolist()))]
    for side, expected in (("text_to_image", by_caption), ("image_to_text", by_picture)):
        precision, rank = np.mean(expected, axis=0)
        assert record[side]["mAP_R"] == pytest.approx(100 * precision, abs=5e-4)
        assert record[side]["mean_rank"] == pytest.approx(rank, abs=5e-4)
    assert record["text_to_image"]["mAP_R"] == record["text_to_image"]["R1"]


def test_precision_against_sorting(monkeypatch: pytest.MonkeyPatch):
    """No equal scores, pictures with up to seven captions and without any, an uneven last chunk."""
    monkeypatch.setattr(module, "CHUNK", 7)
    rng = np.random.default_rng(0)
    text, image, owner = rng.normal(size=(50, 8)), rng.normal(size=(20, 8)), rng.integers(0, 18, 50)
    scores = text @ image.T
    expected = [precision_at_r((owner == n)[np.argsort(-scores[:, n])].tolist()) for n in sorted(set(owner.tolist()))]
    assert judge(*tensors(text, image, owner))["image_to_text"]["mAP_R"] == pytest.approx(100 * np.mean(expected), abs=5e-4)


def test_the_same_caption_twice_is_two_equal_ones():
    text, image, owner = tensors(np.array([[1, 0], [1, 0], [1, 0]]), np.eye(2), np.array([0, 0, 1]))
    places = ranks_and_places(text, image, owner)[2]
    assert [numbers.tolist() for numbers in (places.equal, places.right_equal)] == [[3, 3, 3], [2, 2, 1]]
    assert [numbers.tolist() for numbers in (places.above, places.right_above)] == [[0, 0, 0], [0, 0, 0]]


def test_the_record_holds_that_of_a_training():
    text, image, owner = tensors(*small_world(1))
    short, long = evaluate(text, image, owner), judge(text, image, owner)
    for key, value in short.items():
        assert long[key] == value or {name: long[key][name] for name in value} == value
    assert long["rsum"] == pytest.approx(rsum(short), abs=5e-4) and "folds" not in long


def hits_in_a_loop(text: np.ndarray, image: np.ndarray, owner: np.ndarray) -> list[tuple[np.ndarray, list[list[bool]]]]:
    """Of each picture with captions, without equal scores: whether it finds one of its captions, and whether each of them finds it."""
    scores, found = text @ image.T, []
    for n in sorted(set(owner.tolist())):
        best = [(np.argsort(-scores[:, n])[:k, None] == np.flatnonzero(owner == n)).any() for k in (1, 5, 10)]
        found.append((np.array(best), [[n in np.argsort(-scores[c])[:k] for k in (1, 5, 10)] for c in np.flatnonzero(owner == n)]))
    return found


def test_intervals_against_a_loop(monkeypatch: pytest.MonkeyPatch):
    """Pictures are drawn with all their captions; where those differ in number, the share of the drawn captions counts."""
    rng = np.random.default_rng(3)
    text, image, owner = rng.normal(size=(60, 4)), rng.normal(size=(25, 4)), rng.integers(0, 23, 60)
    pictures, drawn, samples = hits_in_a_loop(text, image, owner), np.random.default_rng(0), []
    for _ in range(measures.SAMPLES):
        chosen = [pictures[n] for n in drawn.integers(len(pictures), size=len(pictures))]
        from_text = np.mean([hits for _, captions in chosen for hits in captions], axis=0)
        samples.append([*100 * from_text, *100 * np.mean([best for best, _ in chosen], axis=0)])
    found, columns = judge(*tensors(text, image, owner))["interval"], np.array(samples).T
    for side, at in (("text_to_image", 0), ("image_to_text", 3)):
        for k, column in zip((1, 5, 10), columns[at : at + 3], strict=True):
            assert found[side][f"R{k}"] == pytest.approx(np.percentile(column, [2.5, 97.5]), abs=1e-3)
    assert found["rsum"] == pytest.approx(np.percentile(columns.sum(0), [2.5, 97.5]), abs=1e-3)
    assert (found["level"], found["samples"], found["seed"]) == (95, 1000, 0)


def test_an_interval_is_about_two_standard_errors():
    """Of 400 pictures with a caption each of which half are found, the standard error is 2.5 points."""
    text = torch.eye(400)
    text[::2] = text[::2].roll(1, 0)
    low, high = judge(text, torch.eye(400), torch.arange(400))["interval"]["text_to_image"]["R1"]
    assert low == pytest.approx(50 - 1.96 * 2.5, abs=0.5) and high == pytest.approx(50 + 1.96 * 2.5, abs=0.5)


def test_folds_are_worlds_of_their_own():
    """Their figures are those of each alone, averaged; captions are ranked within their fold only."""
    rng = np.random.default_rng(5)
    text, image, owner = tensors(rng.normal(size=(40, 4)), rng.normal(size=(12, 4)), np.arange(40) % 12)
    fold = torch.arange(12) // 4
    alone = []
    for number in range(3):
        mine = fold[owner] == number
        alone.append(judge(text[mine], image[fold == number], owner[mine] - 4 * number))
    record = judge(text, image, owner, fold)
    assert (record["folds"], record["images"], record["captions"]) == (3, 12, 40)
    for side in ("text_to_image", "image_to_text"):
        for name, value in record[side].items():
            assert value == pytest.approx(sum(each[side][name] for each in alone) / 3, abs=2e-3), name
        for name, value in record["chance"][side].items():
            assert value == pytest.approx(sum(each["chance"][side][name] for each in alone) / 3, abs=2e-3), name
    assert record["rsum"] == pytest.approx(sum(each["rsum"] for each in alone) / 3, abs=0.01)
    assert record["interval"]["rsum"][0] < record["rsum"] < record["interval"]["rsum"][1]


def test_two_folds_by_hand():
    """In the first fold each finds the other's picture, in the second each its own."""
    image = torch.eye(4)
    text = image[[1, 0, 2, 3]]
    record = judge(text, image, torch.arange(4), torch.tensor([0, 0, 1, 1]))
    for side in ("text_to_image", "image_to_text"):
        assert record[side] == {"R1": 50, "R5": 100, "R10": 100, "median_rank": 1.5, "mean_rank": 1.5, "mAP_R": 50}
        assert record["chance"][side] == {"R1": 50, "R5": 100, "R10": 100}
    assert record["rsum"] == 500
    assert record["interval"]["rsum"] == [500, 500]  # whichever pictures are drawn in a fold, they do the same
