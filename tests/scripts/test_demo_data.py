import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import demo_photos
from scripts.demo_data import PACKAGES
from tests import builder
from xvoken.errors import UserError
from xvoken.pictures.decode import load_picture
from xvoken.pictures.sources import find


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a scikit-image with small photos, which can't be imported, as without its dependencies."""
    folder = tmp_path / "site-packages/skimage/data"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise ImportError('scikit-image was imported')")
    builder.save_pictures(folder, {Path(name).stem: (40, 30) for name in demo_photos.PHOTOS})
    for name in demo_photos.PHOTOS:
        (folder / name).with_suffix(".png").rename(folder / name)
    monkeypatch.syspath_prepend(folder.parents[1])
    return folder


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named_with_what_installs_it(
    package: str, tmp_path: Path, shipped: Path, script: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"missing \({package}\); run: pip install --no-deps -r requirements-demo.txt"):
        script("scripts.demo_data", tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_data_of_an_earlier_version_get_the_photos_alone(tmp_path: Path, shipped: Path, script: Callable):
    demo = tmp_path / "demo"
    (demo / "raw").mkdir(parents=True)
    (demo / "raw/train.jsonl").write_text("mine\n")
    assert "wrote 13 photos" in script("scripts.demo_data", demo)
    assert sorted(path.name for path in demo.iterdir()) == ["photos", "raw", "sentences"]
    assert (demo / "raw/train.jsonl").read_text() == "mine\n"
    assert {path.name: path.read_bytes() for path in (demo / "photos").iterdir()} == {p.name: p.read_bytes() for p in shipped.iterdir()}
    lines = (demo / "sentences/everyday.txt").read_text().splitlines()
    assert lines == [photo.sentence for photo in demo_photos.PHOTOS.values()] and len(set(lines)) == 13
    assert "skipped" in script("scripts.demo_data", demo)


def test_a_package_that_lacks_a_photo(tmp_path: Path, shipped: Path, script: Callable):
    """Nothing is written, and the next run, with the package mended, goes on."""
    demo = tmp_path / "demo"
    (demo / "raw").mkdir(parents=True)
    (demo / "raw/train.jsonl").write_text("mine\n")
    (shipped / "coffee.png").rename(tmp_path / "coffee.png")
    with pytest.raises(UserError, match=rf"{shipped} lacks coffee.png: .*; run: pip install --no-deps -r requirements-demo.txt"):
        script("scripts.demo_data", demo)
    assert [path.name for path in demo.iterdir()] == ["raw"]
    (tmp_path / "coffee.png").rename(shipped / "coffee.png")
    assert "wrote 13 photos" in script("scripts.demo_data", demo)


def test_the_real_package_ships_all_photos():
    """What requirements-demo.txt takes has pictures under these names."""
    for name in demo_photos.PHOTOS:
        assert min(load_picture(find(demo_photos.shipped() / name)).size) >= 300
