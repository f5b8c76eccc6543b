"""Cached augmented views: what is in them, and how the epochs draw."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.worlds import LINEAR, World
from xmatching.data import CachedInputs
from xvoken.cache.augmented import augmented_features
from xvoken.cache.features import Features
from xvoken.cache.images import image_features
from xvoken.encoders.matcher import ImageTowerSpec
from xvoken.machine import Compute
from xvoken.pictures.augment import AugmentedPictures, Crops
from xvoken.pictures.batches import Pictures
from xvoken.pictures.decode import load_picture
from xvoken.pictures.view import View

VIEW = View(40, 32, (0.5,) * 3, (0.5,) * 3)


def test_crops_follow_from_seed_and_number():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8))
    crops = Crops(4, 0.3, seed=5)
    first = crops(picture, VIEW, 7)
    assert first.shape == (4, 3, 32, 32) and first.dtype == torch.uint8
    assert first.equal(Crops(4, 0.3, seed=5)(picture, VIEW, 7))
    assert not first.equal(crops(picture, VIEW, 8))
    assert not first.equal(Crops(4, 0.3, seed=6)(picture, VIEW, 7))
    assert all(not first[0].equal(other) for other in first[1:])


@pytest.mark.parametrize("size", [(50, 70), (400, 3), (3, 400), (1, 1)])
def test_boxes_lie_inside_and_keep_to_the_scale(size: tuple[int, int]):
    crops, rng = Crops(1, 0.3, 0), np.random.default_rng(0)
    for _ in range(200):
        left, top, right, bottom = crops._box(*size, rng)
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
        if size == (50, 70):
            assert (right - left) * (bottom - top) >= 0.3 * 50 * 70 * 0.95
            assert 0.7 < (right - left) / (bottom - top) < 1.4


def test_views_hold_the_tower_of_the_crops(world: World, tmp_path: Path):
    """Against the tower on each crop by itself; the evaluation view is that of the plain cache; a broken picture is skipped."""
    spec = ImageTowerSpec("resnet18", str(world.resnet))
    tower = spec.build()
    paths = sorted((world.folder / "images").iterdir())[:5]
    paths.insert(2, tmp_path / "missing.png")
    ids, crops = [path.stem for path in paths], Crops(3, 0.5, seed=1)
    views = augmented_features(spec, tower, ids, paths, crops, Compute(cache=tmp_path / "a"), "x")
    assert views.rows.shape == (6, 3, 512)
    assert views.evaluation.skipped == [(2, "missing")] and np.isnan(views.rows[2]).all()
    for number in (0, 5):
        with torch.inference_mode():
            plain = tower(crops(load_picture(paths[number]), tower.view, number))
        np.testing.assert_allclose(views.rows[number], plain.numpy(), atol=5e-3)
    alone = image_features(spec, tower, ids, paths, Compute(cache=tmp_path / "b"), "x")
    np.testing.assert_allclose(views.evaluation.rows, alone.rows, atol=5e-3)
    again = image_features(spec, tower, ids, paths, Compute(cache=tmp_path / "a"), "x")
    assert again.path == views.evaluation.path  # one pass made both
    assert again.path.name == alone.path.name


@pytest.mark.parametrize("ending", ["jpg", "mpo", "png"])
@pytest.mark.parametrize("size", [(820, 610), (120, 90)])
def test_the_evaluation_view_is_that_of_the_plain_cache_to_the_bit(tmp_path: Path, size: tuple[int, int], ending: str):
    """Also of a JPEG so large that it is decoded at a fraction for it: its crops are cut from the whole picture."""
    path, crops = tmp_path / f"x.{ending}", Crops(2, 0.5, seed=1)
    small = Image.fromarray(np.random.default_rng(1).integers(0, 255, (61, 82, 3), np.uint8))
    small.resize(size).save(path, **({"save_all": True, "append_images": [small]} if ending == "mpo" else {}))
    views = AugmentedPictures([str(path)], range(1), VIEW, crops)[0]
    assert views[0].equal(Pictures([str(path)], VIEW)[0])
    assert views[1:].equal(crops(load_picture(path), VIEW, 0))
    assert views[0].equal(VIEW(load_picture(path))) == (ending == "png" or size == (120, 90))


@pytest.mark.slow
def test_two_workers_make_the_bytes_of_one(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("xvoken.cache.augmented.IMAGE_CHUNK", 16)  # parts of 4 pictures
    spec = ImageTowerSpec("resnet18", str(world.resnet))
    tower, paths = spec.build(), sorted((world.folder / "images").iterdir())[:10]
    ids = [f"{number}" for number in range(len(paths))]
    made = []
    for name, devices in (("one", ("cpu",)), ("two", ("cpu", "cpu"))):
        views = augmented_features(spec, tower, ids, paths, Crops(3, 0.5, 1), Compute(devices, cache=tmp_path / name), "x")
        made.append((views.rows.tobytes(), views.evaluation.rows.tobytes()))
    assert made[0] == made[1]


def test_every_epoch_draws_its_views(tmp_path: Path):
    plain = np.zeros((6, 2), np.float16)
    views = (np.arange(6)[:, None, None] * 10 + np.arange(4)[None, :, None] + np.zeros((1, 1, 2))).astype(np.float16)
    inputs = CachedInputs([Features(plain[:2], [], tmp_path), Features(plain[2:], [(1, "broken")], tmp_path)], [views[:2], views[2:]])
    drawn = []
    for epoch in range(1, 30):
        inputs.draw(epoch, seed=3)
        rows, good = inputs.load(np.array([5, 3, 0]))
        assert good.tolist() == [0, 2]  # row 3 is the broken one
        assert (rows[:, 0] // 10).tolist() == [5, 0]
        drawn.append(rows[:, 0].tolist())
    assert {row[0] % 10 for row in drawn} == {row[1] % 10 for row in drawn} == {0, 1, 2, 3}
    inputs.draw(1, seed=3)
    assert inputs.load(np.array([5, 3, 0]))[0][:, 0].tolist() == drawn[0]


def test_training_with_views(world: World, tmp_path: Path, script: Callable[..., str]):
    printed = script("xmatching.main", *world.train_flags(tmp_path / "m", *LINEAR, "--views", 2, "--epochs", 3))
    assert "epoch 3/3" in printed
    assert (tmp_path / "m/README.md").read_text().count("| views | 2 |") == 1


@torch.inference_mode()
def test_bf16_towers_agree_with_fp32(world: World):
    from xvoken.encoders.matcher import TextTowerSpec
    from xvoken.towers.precision import autocast

    torch.manual_seed(0)
    image, text = ImageTowerSpec("efficientnet_lite2").build(), TextTowerSpec("minilm", (4, 3, 2, 1), "mean").build()
    paths = sorted((world.folder / "images").iterdir())[::4]
    pixels = torch.stack([image.view(load_picture(path)) for path in paths])
    torch.testing.assert_close(image._lite_map(image.view.normalize(pixels)), image.model.extract_features(image.view.normalize(pixels)))
    ids = torch.randint(1000, 20000, (4, 12))
    for tower, inputs in ((image, (pixels,)), (text, (ids, torch.ones_like(ids)))):
        made = []
        for precision in ("fp32", "bf16"):
            with torch.inference_mode(), autocast("cpu", precision):
                made.append(tower(*inputs).float())
        assert torch.nn.functional.cosine_similarity(*made).min() >= 0.999
