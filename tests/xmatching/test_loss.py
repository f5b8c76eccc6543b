"""Losses against values worked by hand, and against plain loops."""

import math

import pytest
import torch

from xmatching.loss import Objective, hardest_hinge, infonce, paired_hinge, sigmoid, summed_hinge, token_hinge

# Scores text @ image.T of the matrices below:  [[1, 0, .6], [0, 1, .8], [.6, .8, 1]]
TEXT = IMAGE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
APART = torch.tensor([0, 1, 2])
SHARED = torch.tensor([0, 1, 1])  # rows 1 and 2 show the same picture


def test_paired_hinge_by_hand():
    # half = 1: pair 0 against pair 1, the third is left out; both true scores are 1, both false ones 0
    assert paired_hinge(TEXT, IMAGE, APART, margin=1.5).item() == pytest.approx(0.5)
    assert paired_hinge(TEXT[[1, 2]], IMAGE[[1, 2]], APART[:2], margin=0.5).item() == pytest.approx(0.3)
    assert paired_hinge(TEXT[[1, 2]], IMAGE[[1, 2]], torch.tensor([4, 4]), margin=0.5).item() == 0


def test_summed_hinge_is_marias():
    """As its sent_paired_hinge_rank_loss: both halves' hinges, added up."""
    torch.manual_seed(0)
    text, image = (torch.nn.functional.normalize(torch.randn(6, 4), dim=-1) for _ in range(2))
    hinges = [max(0, 0.5 - float(text[i] @ image[i]) + float(text[i] @ image[(i + 3) % 6])) for i in range(6)]
    assert summed_hinge(text, image, torch.arange(6), margin=0.5).item() == pytest.approx(sum(hinges))
    assert summed_hinge(text, image, torch.zeros(6).long(), margin=0.5).item() == 0


def test_hardest_hinge_by_hand():
    # hardest wrong scores by row .6, .8, .8, by column the same: margin .5 leaves .1, .3, .3
    assert hardest_hinge(TEXT, IMAGE, APART, margin=0.5).item() == pytest.approx(0.7 / 3)
    # rows 1 and 2 belong together: left are .6 for row 0 and .6 for row 2, in both directions
    assert hardest_hinge(TEXT, IMAGE, SHARED, margin=0.5).item() == pytest.approx(0.2 / 3)


def test_hardest_hinge_warm_up_takes_the_mean_over_all_negatives():
    # six wrong scores: 0, .6, 0, .8, .6, .8 -> hinges 0, .1, 0, .3, .1, .3, the same in the other direction
    assert hardest_hinge(TEXT, IMAGE, APART, margin=0.5, hardest=False).item() == pytest.approx(0.8 / 6)
    objective = Objective("hardest_hinge", margin=0.5, temperature=1, warmup_epochs=2)
    losses = []
    for objective.epoch in (1, 2, 3):
        losses.append(objective(TEXT, IMAGE, APART).item())
    assert losses == pytest.approx([0.8 / 6, 0.8 / 6, 0.7 / 3])


def test_infonce_by_hand():
    rows = [[1, 0, 0.6], [0, 1, 0.8], [0.6, 0.8, 1]]
    each = [-math.log(math.exp(2 * row[i]) / sum(math.exp(2 * x) for x in row)) for i, row in enumerate(rows)]
    assert infonce(TEXT, IMAGE, APART, torch.tensor(2.0)).item() == pytest.approx(sum(each) / 3)
    kept = [[1, 0, 0.6], [0, 1], [0.6, 1]]  # rows 1 and 2 without each other
    true = [1, 1, 1]
    each = [-math.log(math.exp(2 * t) / sum(math.exp(2 * x) for x in row)) for t, row in zip(true, kept, strict=True)]
    assert infonce(TEXT, IMAGE, SHARED, torch.tensor(2.0)).item() == pytest.approx(sum(each) / 3)


def test_sigmoid_by_hand():
    def log_sigmoid(x):
        return -math.log(1 + math.exp(-x))

    scores = [[1, 0, 0.6], [0, 1, 0.8], [0.6, 0.8, 1]]
    judged = [[log_sigmoid((1 if i == j else -1) * (4 * scores[i][j] - 3)) for j in range(3)] for i in range(3)]
    value = sigmoid(TEXT, IMAGE, APART, torch.tensor(4.0), torch.tensor(-3.0)).item()
    assert value == pytest.approx(-sum(map(sum, judged)) / 3)
    left_out = judged[1][2] + judged[2][1]
    value = sigmoid(TEXT, IMAGE, SHARED, torch.tensor(4.0), torch.tensor(-3.0)).item()
    assert value == pytest.approx(-(sum(map(sum, judged)) - left_out) / 3)


@pytest.mark.parametrize("loss", ["paired_hinge", "hardest_hinge", "infonce", "sigmoid"])
@pytest.mark.parametrize("size", [0, 1, 2, 5])
def test_any_batch_gives_finite_gradients(loss, size):
    text = torch.nn.functional.normalize(torch.randn(size, 4), dim=-1).requires_grad_()
    image = torch.nn.functional.normalize(torch.randn(size, 4), dim=-1).requires_grad_()
    objective = Objective(loss, 0.5, 0.07, 0)
    objective(text, image, torch.zeros(size, dtype=torch.int64)).backward()  # one picture: there is no negative
    assert text.grad.isfinite().all() and image.grad.isfinite().all()
    if loss != "sigmoid":  # which still draws the true pairs together
        assert not text.grad.any()


@pytest.mark.parametrize("loss", ["paired_hinge", "hardest_hinge", "infonce", "sigmoid"])
def test_rows_of_one_picture_are_no_negatives(loss):
    """What draws on row 0 does not depend on the image of row 2, which shows the same picture."""
    gradients = []
    for other in ([1.0, 0, 0, 0], [0.0, 1, 0, 0]):
        image = torch.eye(4)[[0, 2, 0, 3]]
        image[2] = torch.tensor(other)
        text = torch.tensor([[0.6, 0.8, 0, 0], [0, 0.8, 0.6, 0], [0.8, 0.6, 0, 0], [0, 0, 0.8, 0.6]], requires_grad=True)
        Objective(loss, 0.5, 0.5, 0)(text, image, torch.tensor([7, 8, 7, 9])).backward()
        gradients.append(text.grad[0])
    torch.testing.assert_close(*gradients)


def test_paired_hinge_worked_by_hand():
    # two pairs: s0 . v0 = .6, s1 . v1 = .8, s0 . v1 = .5, s1 . v0 = .1; margin .5
    image = torch.eye(2)
    text = torch.tensor([[0.6, 0.5], [0.1, 0.8]])
    # half of the batch each: max(0, .5 - .6 + .5) = .4 and max(0, .5 - .8 + .1) = 0, mean .2
    assert paired_hinge(text, image, torch.tensor([0, 1]), 0.5).item() == pytest.approx(0.2)


def test_paired_hinge_against_loops():
    torch.manual_seed(0)
    text, image = torch.randn(10, 4), torch.randn(10, 4)
    owner = torch.tensor([0, 1, 2, 3, 4, 0, 6, 7, 8, 9])  # pairs 0 and 5 show the same picture
    total, count = 0.0, 0
    for i, j in zip(range(5), range(5, 10), strict=True):
        if owner[i] != owner[j]:
            total += max(0.0, 0.5 - (text[i] @ image[i]).item() + (text[i] @ image[j]).item())
            total += max(0.0, 0.5 - (text[j] @ image[j]).item() + (text[j] @ image[i]).item())
            count += 2
    assert paired_hinge(text, image, owner).item() == pytest.approx(total / count, rel=1e-5)


def test_same_picture_is_no_negative_and_odd_batches_work():
    same = torch.randn(2, 4, requires_grad=True)
    loss = paired_hinge(same, torch.randn(2, 4), torch.tensor([3, 3]))
    loss.backward()
    assert loss.item() == 0
    assert same.grad.abs().sum() == 0
    text, image, owner = torch.randn(5, 4), torch.randn(5, 4), torch.arange(5)
    assert paired_hinge(text, image, owner) == paired_hinge(text[:4], image[:4], owner[:4])
    assert paired_hinge(text[:1], image[:1], owner[:1]).item() == 0


def test_token_hinge_averages_over_the_tokens():
    image = torch.eye(2)
    text = torch.tensor([[[0.6, 0.5], [0.0, 1.0], [9.0, 9.0]], [[0.1, 0.8], [9.0, 9.0], [9.0, 9.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    # tokens of row 0: max(0, .5 - .6 + .5) = .4 and max(0, .5 - 0 + 1) = 1.5; of row 1: max(0, .5 - .8 + .1) = 0; three tokens
    assert token_hinge(text, mask, image, torch.tensor([0, 1]), 0.5).item() == pytest.approx(1.9 / 3)
    assert token_hinge(text, mask, image, torch.tensor([3, 3]), 0.5).item() == 0


def test_token_hinge_of_single_tokens_is_the_paired_hinge():
    text, image, owner = torch.randn(9, 4), torch.randn(9, 4), torch.tensor([0, 1, 2, 3, 0, 5, 6, 7, 8])
    single = token_hinge(text[:, None], torch.ones(9, 1), image, owner)
    assert single.item() == pytest.approx(paired_hinge(text, image, owner).item(), rel=1e-5)
