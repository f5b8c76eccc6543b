"""The caches of several cuts of pictures: made together, found apart, the same bytes either way."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests import builder
from tests.worlds import World
from xvoken.cache import features as caches
from xvoken.cache.features import Features, left_out
from xvoken.cache.images import NOT_FINITE, cut_features, image_features
from xvoken.encoders.matcher import ImageTowerSpec
from xvoken.errors import UserError
from xvoken.machine import Compute, Engine
from xvoken.pictures import batches
from xvoken.pictures.cuts import CUTS, Cuts
from xvoken.pictures.decode import load_picture
from xvoken.pictures.view import View

SHAPES = {"landscape": (90, 60), "portrait": (50, 99), "square": (64, 64), "wide": (120, 40), "high": (40, 80), "other": (70, 60)}
Make = Callable[..., list[Features]]


@pytest.fixture
def make(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Caches of so many views of six pictures and one that is missing, in parts of 4."""
    monkeypatch.setattr("xvoken.cache.images.IMAGE_CHUNK", 4)
    builder.save_pictures(tmp_path / "pictures", SHAPES)
    paths = [tmp_path / "pictures" / f"{name}.png" for name in SHAPES]
    paths.insert(3, tmp_path / "missing.png")
    spec = ImageTowerSpec("resnet18", str(world.resnet))
    tower = spec.build()

    def made(folder: str, views: int, compute: Compute | None = None) -> list[Features]:
        compute = compute or Compute(batch_size=2, cache=tmp_path / folder)
        return cut_features(spec, tower, [path.stem for path in paths], paths, compute, "x", views)

    made.spec, made.tower, made.paths = spec, tower, paths
    return made


def contents(views: list[Features]) -> dict[str, bytes]:
    """Rows and receipt of each cache, by name."""
    return {path.name: path.read_bytes() for view in views for path in (view.path, view.path.with_suffix(".json"))}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures that were decoded, as they are."""
    names: list[str] = []

    def counting(path, *more):
        names.append(Path(path).stem)
        return load_picture(path, *more)

    monkeypatch.setattr(batches, "load_picture", counting)
    return names


def test_each_cache_holds_the_tower_of_its_cut(make: Make, tmp_path: Path, decoded: list[str]):
    views = make("four", 4)
    assert sorted(decoded) == sorted([*SHAPES, "missing"])  # each once
    assert [view.skipped for view in views] == [[(3, "missing")]] * 4 and left_out(views) == [(3, "missing")]
    for row, path in enumerate(make.paths):
        if row != 3:
            with torch.inference_mode():
                expected = make.tower(Cuts(make.tower.view, CUTS)(load_picture(path)))
            np.testing.assert_allclose([view.rows[row] for view in views], expected, atol=5e-3)
    square = make.paths.index(tmp_path / "pictures/square.png")
    assert views[1].rows[square].tobytes() == views[2].rows[square].tobytes() == views[3].rows[square].tobytes()
    for view, cut in zip(views, CUTS, strict=True):
        settings = json.loads(view.path.with_suffix(".json").read_text())["settings"]
        assert settings.get("cut", "whole") == cut and view.path.name.startswith("x-resnet18-" if cut == "whole" else f"x-resnet18-{cut}-")


def test_views_are_made_once_and_found_by_all(make: Make, tmp_path: Path, decoded: list[str]):
    """Which are made together is not to be seen in them: the first alone, then all others, are all at once to the bit."""
    alone = image_features(
        make.spec, make.tower, [p.stem for p in make.paths], make.paths, Compute(batch_size=2, cache=tmp_path / "turns"), "x"
    )
    assert len(decoded) == 7 and contents([alone]) == contents(make("one", 1))
    decoded.clear()
    in_turns, together = contents(make("turns", 4)), contents(make("once", 4))
    assert len(decoded) == 14 and in_turns == together and in_turns.items() > contents([alone]).items()
    decoded.clear()
    for path in (tmp_path / "turns").glob("x-resnet18-end-*"):
        path.unlink()
    assert contents(make("once", 2)).items() < together.items() and len(make("turns", 3)) == 3
    assert not decoded


@pytest.mark.slow
def test_two_processes_make_the_bytes_of_one(make: Make, tmp_path: Path):
    two = Compute(("cpu", "cpu"), batch_size=2, cache=tmp_path / "processes")
    assert contents(make("", 4, two)) == contents(make("one", 4))


def test_a_run_that_ends_between_two_caches_goes_on(make: Make, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch):
    """Some are finished then, and are not made again; the parts hold more than what is still wanted."""

    def failing(path: Path, content: object) -> None:
        if "-start-" in path.name and "settings" in content and path.suffix == ".json" and path.parent.name == "cut":
            raise OSError("no space")
        write_json(path, content)

    write_json = caches.write_json
    with monkeypatch.context() as patched:
        patched.setattr(caches, "write_json", failing)
        with pytest.raises(OSError, match="no space"):
            make("cut", 4)
    assert len(list((tmp_path / "cut").glob("*.npy"))) == 3 and len(list((tmp_path / "cut").glob("*.parts"))) == 1
    decoded.clear()
    went_on = contents(make("cut", 4))
    assert not decoded and not list((tmp_path / "cut").glob("*.parts"))
    assert went_on == contents(make("whole", 4))


def test_shares_of_several_views(make: Make, tmp_path: Path):
    shares = [Compute(batch_size=2, cache=tmp_path / "shared", engine=Engine(share=(number, 2))) for number in (1, 2)]
    assert make("", 4, shares[0]) is None
    with pytest.raises(UserError, match='holds shares of the same work with other settings .*"end" then, null now'):
        make("", 1, shares[1])
    found = make("", 4, shares[1])
    assert contents(found) == contents(make("alone", 4))


def test_a_cache_that_another_run_makes_between_two_shares(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The second share has no parts of it, and the first, which began earlier and joins, needs none."""
    shares = [Compute(batch_size=2, cache=tmp_path / "shared", engine=Engine(share=(number, 2))) for number in (1, 2)]
    between = []

    def loading(*given):
        if not between:
            between.append("begun")  # the runs in between load pictures too
            between.extend([make("shared", 1), make("", 4, shares[1])])
        return load_picture(*given)

    monkeypatch.setattr(batches, "load_picture", loading)
    found = make("", 4, shares[0])
    assert between[1][0].path == found[0].path and between[2] is None
    assert contents(found) == contents(make("alone", 4))


class Bright(nn.Module):
    """A tower whose output is too large for a bright picture, and otherwise its brightness."""

    view, width = View(8, 8, (0.0,) * 3, (1.0,) * 3), 2

    def forward(self, pixels: Tensor) -> Tensor:
        mean = pixels.float().mean((1, 2, 3))[:, None].expand(-1, 2)
        return mean.where(mean < 200, 1e9)


@dataclass(frozen=True)
class BrightSpec:
    name: str = "bright"
    pool: str = "avg"

    def build(self) -> Bright:
        return Bright()


def test_a_view_that_overflows_leaves_the_others_as_they_are(tmp_path: Path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 40:] = 255
    for number, array in enumerate((pixels, pixels // 2)):
        Image.fromarray(array).save(tmp_path / f"{number}.png")
    paths = [tmp_path / "0.png", tmp_path / "gone.png", tmp_path / "1.png"]
    arguments = BrightSpec(), Bright(), ["0", "gone", "1"], paths
    views = cut_features(*arguments, Compute(cache=tmp_path / "four"), "x", 4)
    assert [view.skipped for view in views] == [*[[(1, "missing")]] * 3, [(0, NOT_FINITE), (1, "missing")]]
    assert left_out(views) == [(0, NOT_FINITE), (1, "missing")] and np.isnan(views[3].rows[0]).all()
    assert [view.rows[2, 0] for view in views[2:]] == [0, 127] and 0 < views[0].rows[2, 0] < round(float(views[1].rows[2, 0])) == 127 // 3
    assert contents(views[:1]) == contents([image_features(*arguments, Compute(cache=tmp_path / "one"), "x")])
    Image.fromarray(pixels).save(paths[2])
    with pytest.raises(UserError, match="x: none of the 3 pictures can be used"):
        cut_features(*arguments, Compute(cache=tmp_path / "none"), "x", 4)
