import numpy as np
import pytest
import torch

from xvoken import recall as module
from xvoken.messages import UserError
from xvoken.recall import chance, evaluate, ranks, recall, table


def test_ranks_of_a_matrix_worked_by_hand():
    # scores of 3 captions (rows) against 2 pictures; captions 0 and 1 belong to picture 0, caption 2 to picture 1
    image = torch.eye(2)
    text = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    owner = torch.tensor([0, 0, 1])
    to_image, to_text = ranks(text, image, owner)
    assert to_image.tolist() == [1, 2, 1]  # caption 2 ties with the wrong picture: a hit
    assert to_text.tolist() == [1, 2]  # picture 1: its caption scores .5, caption 1 scores .8
    assert recall(to_image) == {"R1": 66.667, "R5": 100.0, "R10": 100.0, "median_rank": 1.0}


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
    assert to_image.tolist() == expected
    captioned = sorted(set(owner.tolist()))
    best = [min(sorted(-scores[:, n]).index(-scores[c, n]) + 1 for c in range(50) if owner[c] == n) for n in captioned]
    assert to_text.tolist() == best


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
    """No score is above them, so that each would rank first: a training that diverged was the best one."""
    text, image, owner = torch.randn(4, 3), torch.randn(5, 3), torch.tensor([0, 1, 2, 3])
    text[1, 2] = value
    with pytest.raises(UserError, match="the vectors of 1 of 4 sentences are not finite"):
        evaluate(text, image, owner)
    with pytest.raises(UserError, match="the vectors of 5 of 5 pictures are not finite"):
        evaluate(torch.randn(4, 3), image * value, owner)
