import pytest
import torch

from xmatching.loss import paired_hinge


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
