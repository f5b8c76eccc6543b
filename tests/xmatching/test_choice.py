"""What is chosen on held-out pictures: which are held out, what each choice is measured by, and that a planted best one is found."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xmatching import folds as module
from xmatching.choice import Analysis, Chooser, Sides, calibrate, choose_correction, choose_weights, recall_sum
from xmatching.data import CachedInputs, PairBatches
from xmatching.folds import Columns, Fold, Pictures, folds_of
from xmatching.layers import agreement, choose
from xvoken.cache.features import Features


def inputs(rows: Tensor) -> CachedInputs:
    return CachedInputs([Features(rows.float().numpy(), [], Path())])


def pictures_of(captions: list[int], image: Tensor | None = None, text: Tensor | None = None, seed: int = 0) -> Pictures:
    """So many captions of each picture, in random order; row r of `text` is caption r, in the order of the pictures."""
    draw = torch.manual_seed(seed)
    owner = np.repeat(np.arange(len(captions)), captions)
    order = np.random.default_rng(seed).permutation(len(owner))
    image = torch.randn(len(captions), 4, generator=draw) if image is None else image
    text = torch.randn(len(owner), 3, generator=draw) if text is None else text
    return Pictures(PairBatches(inputs(text), inputs(image), order, owner[order]))


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.manual_seed(seed)), dim=-1)


def vectors_of(fold: Fold, text: Tensor, image: Tensor, pictures: Pictures, others: Tensor | None = None) -> Sides:
    """text: of each caption's row; image: of each picture's place."""
    said = [text[pictures.texts[pairs]] for pairs in (fold.pairs, fold.bank_pairs)]
    return Sides(said[0], image[fold.gallery], said[1], image[fold.bank], unit(5, text.shape[1], seed=77) if others is None else others)


def recall_by_hand(scores_text: np.ndarray, scores_image: np.ndarray, owner: np.ndarray) -> float:
    """The sum of the six recalls; scores (captions, pictures) of both directions; equal scores in every order, by counting."""
    total = 0.0
    for k in (1, 5, 10):
        hits = [chance(row, np.arange(len(row)) == owner[c], k) for c, row in enumerate(scores_text)]
        back = [chance(scores_image[:, p], owner == p, k) for p in range(scores_image.shape[1])]
        total += 100 * (np.mean(hits) + np.mean(back))
    return total


def chance(scores: np.ndarray, right: np.ndarray, k: int) -> float:
    """The share of random orders of the equal scores in which a right one is among the first k, found by trying 400 of them."""
    if len(np.unique(scores)) == len(scores):
        return float(right[np.argsort(-scores)[:k]].any())
    draw = np.random.default_rng(0)
    return float(np.mean([right[np.lexsort((draw.random(len(scores)), -scores))[:k]].any() for _ in range(400)]))


# Folds


@pytest.mark.parametrize("captions", [[1, 2, 1, 3, 1, 1, 2, 1, 1, 1, 4, 1, 2], [2] * 5, [1, 3, 1], [1, 1]])
def test_every_picture_is_held_out_once(captions: list[int]):
    pictures = pictures_of(captions)
    folds = folds_of(pictures, seed=3)
    assert len(folds) == min(5, len(captions))
    assert sorted(np.concatenate([fold.held for fold in folds])) == list(range(len(captions)))
    sizes = [len(fold.held) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    starts = np.cumsum([0, *captions])
    for fold in folds:
        assert sorted([*fold.held, *fold.rest]) == list(range(len(captions)))
        assert fold.gallery.tolist() == fold.held.tolist()
        said = [(int(place), row) for place in fold.held for row in range(starts[place], starts[place + 1])]
        found = zip(fold.gallery[fold.owner.numpy()].tolist(), pictures.texts[fold.pairs].tolist(), strict=True)
        assert sorted(found) == said  # all captions of the gallery's pictures, each with its own picture
        others = {row for place in fold.rest for row in range(starts[place], starts[place + 1])}
        assert set(pictures.texts[fold.bank_pairs].tolist()) == others and fold.bank.tolist() == fold.rest.tolist()
    again = folds_of(pictures, seed=3)
    assert all(one.held.tolist() == other.held.tolist() for one, other in zip(folds, again, strict=True))


def test_copies_of_a_picture_are_held_out_together():
    image = torch.randn(20, 64, generator=torch.manual_seed(1)).half().float().repeat(2, 1)
    image[20:] *= 1 + 1e-7  # in a batch of another size
    folds = folds_of(pictures_of([1] * 40, image), 0)
    assert sorted(np.concatenate([fold.held for fold in folds])) == list(range(40))
    assert all(set(fold.held % 20).isdisjoint(fold.rest % 20) for fold in folds)
    assert len(folds_of(pictures_of([1] * 4, torch.ones(4, 64)), 0)) == 4  # nothing but copies


def test_galleries_and_banks_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "GALLERY", 3)
    monkeypatch.setattr(module, "BANK", 7)
    pictures = pictures_of([1, 2] * 20)
    for fold in folds_of(pictures, 0):
        assert fold.gallery.tolist() == [fold.held[len(fold.held) * third // 3] for third in range(3)]  # of all image sets
        assert len(fold.bank) == len(fold.bank_pairs) == 7
        assert set(fold.bank) <= set(fold.rest) and set(pictures.owner[fold.bank_pairs]) <= set(fold.rest)
        assert np.diff(fold.bank).max() <= 2 * np.diff(fold.bank).min() + 6  # from all over the rest


def test_pictures_without_captions_are_none():
    data = pictures_of([1, 1, 2]).data
    pictures = Pictures(PairBatches(data.text, data.images, np.array([2, 0]), np.array([2, 0])))
    assert pictures.rows.tolist() == [0, 2] and len(folds_of(pictures, 0)) == 2
    assert pictures.views(np.array([1])).equal(data.images.load(np.array([2]))[0][:, None])


# Layers


def test_agreement_by_hand():
    """For each row, its nearest others on both sides, one after another."""
    one, other = torch.randn(17, 5, generator=torch.manual_seed(1)), torch.randn(17, 3, generator=torch.manual_seed(2))
    other[:, 0] += one[:, 0]

    def nearest(rows: Tensor, row: int) -> set[int]:
        array = rows.double().numpy()
        array = (array - array.mean(0)) / array.std(0, ddof=1)
        cosines = [array[row] @ array[i] / np.linalg.norm(array[row]) / np.linalg.norm(array[i]) for i in range(len(array))]
        return set(sorted((i for i in range(len(array)) if i != row), key=lambda i: -cosines[i])[:4])

    shares = [len(nearest(one, row) & nearest(other, row)) / 4 for row in range(17)]
    assert agreement(one, other, 4) == pytest.approx(np.mean(shares), abs=1e-6)
    assert agreement(one, one * 3 + 1, 4) == pytest.approx(1)
    assert agreement(one, torch.randn(17, 2), 99) == pytest.approx(1)  # all others are neighbours
    assert 0 <= agreement(one, torch.ones(17, 2), 4) <= 1


def test_the_columns_that_agree_are_chosen():
    draw = torch.manual_seed(0)
    meant, captions = torch.randn(40, 4, generator=draw), [1 + number % 3 for number in range(40)]
    image = torch.cat([torch.randn(40, 4, generator=draw), meant + 0.1 * torch.randn(40, 4, generator=draw)], 1)
    said = meant.repeat_interleave(torch.tensor(captions), 0)
    text = torch.cat([torch.randn(len(said), 3, generator=draw), said + 0.1 * torch.randn(said.shape, generator=draw)], 1)
    columns, scores = choose(pictures_of(captions, image, text), [[0, 7], [0, 3], [3, 7]], [[0, 4], [4, 8], [0, 8]])
    assert columns == Columns([3, 7], [4, 8]) and len(scores) == 9
    assert max(scores, key=lambda name: scores[name]) == "text 3:7, image 4:8"
    assert choose(pictures_of([1, 2]), [[0, 3], [0, 1]], [[0, 4]]) == (Columns([0, 3], [0, 4]), {})  # too few to compare


# Recall, and what is chosen by it


@pytest.mark.parametrize("correction", [0.0, 0.5, 1.0])
def test_recall_in_a_fold_by_hand(correction: float):
    """The mean score of each candidate with its 16 nearest of the rest is taken off, each direction by the other side's."""
    pictures = pictures_of([1, 2, 1, 3, 1, 1, 2, 1, 1, 1, 4, 1, 2] * 4)
    fold = folds_of(pictures, 0)[0]
    text, image = unit(len(pictures.texts), 6, seed=1), unit(len(pictures), 6, seed=2)
    image[:5] = F.normalize(image[:5] + 2 * unit(1, 6, seed=3), dim=-1)  # hubs
    vectors = vectors_of(fold, text, image, pictures)
    said, seen = (text[pictures.texts[fold.pairs]].double().numpy(), image[fold.gallery].double().numpy())
    bank_said, bank_seen = (text[pictures.texts[fold.bank_pairs]].double().numpy(), image[fold.bank].double().numpy())
    off_image = correction * np.sort(seen @ bank_said.T)[:, -16:].mean(1)
    off_text = correction * np.sort(said @ bank_seen.T)[:, -16:].mean(1)
    expected = recall_by_hand(said @ seen.T - off_image, said @ seen.T - off_text[:, None], fold.owner.numpy())
    assert recall_sum(fold, vectors, correction) == pytest.approx(expected, abs=1e-6)


def test_equal_scores_count_as_in_a_random_order():
    pictures = pictures_of([1, 2, 1, 3] * 8)
    fold = folds_of(pictures, 0)[0]
    same = torch.ones(len(pictures.texts), 5) / 5**0.5
    vectors = vectors_of(fold, same, same, pictures)
    scores, owner = np.ones((len(fold.pairs), len(fold.gallery))), fold.owner.numpy()
    assert recall_sum(fold, vectors) == pytest.approx(recall_by_hand(scores, scores, owner), abs=12)
    assert recall_sum(fold, vectors, 0.5) == pytest.approx(recall_sum(fold, vectors))


def test_joined_vectors_score_as_the_weighted_mean():
    parts = [Sides(*(unit(7, dim, seed=dim + side) for side in range(5))) for dim in (3, 5)]
    joined = Sides.joined(parts, [1.0, 0.25])
    scores = [part.text @ part.bank_image.T for part in (*parts, joined)]
    torch.testing.assert_close(scores[2], (scores[0] + 0.25 * scores[1]) / 1.25)
    torch.testing.assert_close(joined.others.norm(dim=-1), torch.ones(7))


def test_the_best_option_is_taken_and_of_equal_ones_the_first():
    pictures = pictures_of([1] * 20)
    chooser = Chooser(folds_of(pictures, 0))
    assert chooser.best("x", [3, 1, 2], lambda option, number: 10 * (option != 1) + number) == 3
    assert chooser.scores == {"x": {"3": 12, "1": 2, "2": 12}}  # the mean over folds 0 to 4
    assert chooser.best("y", [0, 1], lambda option, number: [0, 100][option] * (number == 4), folds=2) == 0
    assert chooser.best("z", [7], lambda *_: 1 / 0) == 7 and "z" not in chooser.scores  # nothing to try


def test_a_planted_weight_and_a_planted_correction_are_found():
    """The second head's vectors are right, the first one's random, the third one's opposite; some pictures are near everything."""
    pictures = pictures_of([2] * 150)
    chooser = Chooser(folds_of(pictures, 0))
    meant = unit(len(pictures), 8, seed=4)
    right_text = F.normalize(meant.repeat_interleave(2, 0) + 0.2 * unit(300, 8, seed=5), dim=-1)
    sides = [(unit(300, 8, seed=6), unit(150, 8, seed=16)), (right_text, meant), (-right_text, meant)]
    parts = [[vectors_of(fold, text, image, pictures) for fold in chooser.folds] for text, image in sides]
    assert choose_weights(chooser, parts, None) == [1.0, 2.0, 0.0]
    assert set(chooser.scores) == {"weight of head 2", "weight of head 3"}
    assert choose_weights(chooser, parts, [0.5, 0.0, 3.0]) == [0.5, 0.0, 3.0]
    hub = unit(1, 8, seed=9)[0]
    pulled = F.normalize(meant + 0.9 * torch.rand(150, 1, generator=torch.manual_seed(1)) * hub, dim=-1)
    towards = F.normalize(right_text + 1.5 * hub, dim=-1)
    vectors = [vectors_of(fold, towards, pulled, pictures) for fold in chooser.folds]
    scores = {a: np.mean([recall_sum(fold, one, a) for fold, one in zip(chooser.folds, vectors, strict=True)]) for a in (0, 0.5)}
    assert scores[0.5] > scores[0] + 5
    assert choose_correction(chooser, vectors, None) > 0
    assert choose_correction(Chooser(chooser.folds), vectors, 0.25) == 0.25


def outputs_of(pictures: Pictures, folds: list[Fold]) -> list[Sides]:
    return [Sides.of(pictures, fold, torch.zeros(3, 22)) for fold in folds]


def planted(noise: float) -> Pictures:
    """Two directions are shared by both sides, the others are noise of larger variance."""
    draw = torch.manual_seed(0)
    meant, captions = torch.randn(120, 2, generator=draw), [1 + number % 2 for number in range(120)]
    said = meant.repeat_interleave(torch.tensor(captions), 0)
    image = torch.cat([meant, torch.randn(120, 30, generator=draw)], 1) @ torch.randn(32, 32, generator=draw)
    text = torch.cat([said + noise * torch.randn(said.shape, generator=draw), torch.randn(len(said), 20, generator=draw)], 1)
    return pictures_of(captions, image, text @ torch.randn(22, 22, generator=draw))


def test_ridge_power_and_directions():
    """Noise is found to be noise; what is given is not tried."""
    pictures = planted(0.3)
    chooser = Chooser(folds_of(pictures, 0))
    columns = Columns([0, 22], [0, 32])
    analysis = Analysis.of(pictures, chooser.folds, outputs_of(pictures, chooser.folds), columns, 768)
    ridge, power, directions = analysis.choose(chooser, 16, None, None)
    tried = chooser.scores["ridge, power"]
    assert len(tried) == 15 and tried[str((ridge, power))] == max(tried.values()) > tried[str((0.1, 1.0))]
    assert (
        set(chooser.scores["directions"]) == {"16", "8", "4"}
        and chooser.scores["directions"][str(directions)] >= tried[str((ridge, power))]
    )
    given = Chooser(chooser.folds)
    assert analysis.choose(given, 16, 0.3, 2.0)[:2] == (0.3, 2.0) and set(given.scores) == {"directions"}
    assert analysis.choose(given, 1, 0.3, None)[2] == 1 and set(given.scores["ridge, power"]) == {f"(0.3, {p})" for p in (1.0, 2.0, 4.0)}


def test_the_fold_s_solution_knows_nothing_of_the_held_out():
    """Other outputs for the held-out pictures and their captions, in the same directions: the same solution."""
    pictures = planted(0.3)
    fold, columns = folds_of(pictures, 0)[1], Columns([0, 22], [0, 32])
    text, image = pictures.directions(columns, 10)
    from xmatching.cca import Correlated

    taken_off = Correlated(pictures.sums(np.arange(120), columns, text, image).less(pictures.sums(fold.held, columns, text, image)))
    alone = Correlated(pictures.sums(fold.rest, columns, text, image))
    folds = folds_of(pictures, 0)
    analysis = Analysis.of(pictures, folds, outputs_of(pictures, folds), columns, 10)
    for other in (alone, analysis.outside[1]):
        torch.testing.assert_close(taken_off.solve(1.0).correlations, other.solve(1.0).correlations, atol=1e-9, rtol=1e-7)


def test_both_sides_of_a_fold():
    """The towers' outputs of its gallery and its bank; a picture's vector is the mean over its views' joined vectors."""
    draw = torch.manual_seed(0)
    views, text = torch.randn(2, 12, 4, generator=draw), torch.randn(24, 3, generator=draw)
    order = np.random.default_rng(0).permutation(24)
    pictures = Pictures(PairBatches(inputs(text), inputs(views[0]), order, order // 2, [inputs(views[1])]))
    fold, others = folds_of(pictures, 0)[2], torch.randn(5, 3)
    sides = Sides.of(pictures, fold, others)
    assert sides.text.equal(text[pictures.texts[fold.pairs]]) and sides.bank_text.equal(text[pictures.texts[fold.bank_pairs]])
    assert sides.image.equal(views[:, fold.gallery].transpose(0, 1)) and sides.bank_image.equal(views[:, fold.bank].transpose(0, 1))
    parts = [
        sides.by(F.normalize, lambda rows, taken=columns: F.normalize(rows[..., taken], dim=-1)) for columns in (slice(0, 3), slice(2, 4))
    ]
    assert parts[0].text.equal(F.normalize(sides.text)) and parts[1].others.equal(F.normalize(others))
    found = Sides.joined(parts, [1.0, 0.5])
    for number, picture in enumerate(sides.image.double().numpy()):
        unit_parts = [[part / np.linalg.norm(part) for part in (view[:3], view[2:])] for view in picture]
        mean = np.mean([np.concatenate([one, other * 0.5**0.5]) for one, other in unit_parts], 0)  # over both views
        assert np.allclose(found.image[number], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.parametrize("correction", [0.0, 0.5])
def test_calibration_learns_from_the_folds_that_are_given(correction: float):
    """The best scores of each caption and each other line in a fold's gallery, less what is taken off a picture, plus its mean."""
    from xvoken.calibration import CANDIDATES, fit

    pictures = pictures_of([2] * 60)
    folds = folds_of(pictures, 0)
    image = unit(60, 8, seed=1)
    text = F.normalize(image.repeat_interleave(2, 0) + 0.8 * unit(120, 8, seed=2), dim=-1)
    vectors = [vectors_of(fold, text, image, pictures, unit(40, 8, seed=3)) for fold in folds[:2]]
    asked, strange, right = [], [], []
    for fold, sides in zip(folds, vectors, strict=False):
        off = correction * np.sort((sides.image @ sides.bank_text.T).numpy())[:, -16:].mean(1)
        for rows, found in ((sides.text, asked), (sides.others, strange)):
            scores = (rows @ sides.image.T).numpy() - off + off.mean()
            found.append(-np.sort(-scores)[:, :CANDIDATES])
            if rows is sides.text:
                right.append(scores.argmax(1) == fold.owner.numpy())
    by_hand = fit(np.concatenate(asked), np.concatenate(right), np.concatenate(strange))
    assert np.allclose(calibrate(folds, vectors, correction).to_list(), by_hand.to_list(), rtol=1e-3)
    assert 0 < np.concatenate(right).mean() < 1
