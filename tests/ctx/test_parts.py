"""The small pure functions of the pass."""

import numpy as np
import pytest
import torch

from ctx import crops
from ctx.context_job import full_batches
from ctx.run import part_size
from xvoken.towers.padding import Padding, pad_lines


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 5), (3, 3), (640, 480), (427, 640), (1, 5000)])
def test_boxes_lie_inside_and_are_never_empty(size):
    found = crops.boxes(*size)
    assert len(found) == 15 and found[0] == (0, 0, *size)
    assert all(0 <= x0 < x1 <= size[0] and 0 <= y0 < y1 <= size[1] for x0, y0, x1, y1 in found)


def test_boxes_of_a_picture_worked_by_hand():
    found = crops.boxes(100, 50)
    assert found[1:6] == [(0, 0, 60, 30), (40, 0, 100, 30), (0, 20, 60, 50), (40, 20, 100, 50), (20, 10, 80, 40)]
    columns, rows = [(0, 40), (30, 70), (60, 100)], [(0, 20), (15, 35), (30, 50)]
    assert found[6:] == [(x0, y0, x1, y1) for y0, y1 in rows for x0, x1 in columns]


@pytest.mark.parametrize("size", [1, 4, 7, 15, 16, 100])
def test_batches_are_full_and_hold_every_view_once(size):
    pictures = [0, 2, 3]  # picture 1 is broken
    views = {p: torch.arange(15).view(15, 1) + 100 * p for p in pictures}
    batches = list(full_batches(((p, views[p]) for p in pictures), size))
    assert all(len(pixels) == size for pixels, _ in batches[:-1]) and 0 < len(batches[-1][0]) <= size
    places = np.concatenate([where for _, where in batches])
    assert places.tolist() == [p * 15 + v for p in pictures for v in range(15)]
    values = torch.cat([pixels for pixels, _ in batches])[:, 0]
    assert values.tolist() == [place // 15 * 100 + place % 15 for place in places]


def test_part_size_goes_by_the_number_of_pictures_only():
    assert [part_size(n, "cpu") for n in (1, 200, 1000, 123_287)] == [8, 8, 15, 64]
    assert part_size(123_287, "gpu") == 1926


def test_padding_of_both_kinds():
    tokens, starts, lengths = np.array([5, 6, 7, 8], np.int32), np.array([0, 3]), np.array([3, 1])
    ids, mask = pad_lines(tokens, starts, lengths, Padding((1,), (2,), 0, 10))
    assert ids.tolist() == [[1, 5, 6, 7, 2], [1, 8, 2, 0, 0]] and mask.tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    ids, mask = pad_lines(tokens, starts, lengths, Padding((), (2,), 0, 3, fixed=True))
    assert ids.tolist() == [[5, 6, 2], [8, 2, 0]] and mask.tolist() == [[1] * 3] * 2
