"""A folder is searched without preparation: each picture is encoded once, whatever happens in between, and found as it is on the disk."""

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import xvoken
from tests import builder
from xvoken.ask import folders
from xvoken.ask.folders import open_folder
from xvoken.ask.searcher import Searcher
from xvoken.encoders.encoder import Encoder
from xvoken.errors import UserError
from xvoken.files import folder_keys


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builder.save_clip(tmp_path_factory.mktemp("clip") / "model")


@pytest.fixture(scope="module")
def encoder(clip: Path) -> Encoder:
    return xvoken.load_encoder(clip, device="cpu")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for number, colour in enumerate(list(builder.COLOURS)[:10]):
        (folder / ("below" if number % 2 else "") / f"{colour}.png").write_bytes(builder.png(colour, "circle", 60 + number, 50))
    return folder


@pytest.fixture
def opened(clip: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Searcher, list[str]]]:
    """Open the folder; returns the searcher and the pictures that were encoded for it."""
    real, seen = folders.open_pictures, []
    monkeypatch.setattr(folders, "open_pictures", lambda paths, *rest: seen.extend(paths) or real(paths, *rest))

    def open_it(folder: Path = photos) -> tuple[Searcher, list[str]]:
        seen.clear()
        found = open_folder(clip, folder, "cpu", "fp32")
        return found, [Path(str(path)).name for path in seen]

    return open_it


def vectors(searcher: Searcher) -> dict[str, np.ndarray]:
    assert searcher.gallery
    return dict(zip(searcher.gallery.ids, searcher.gallery.vectors, strict=True))


def cache(photos: Path) -> Path:
    (path,) = (photos.parent / "home").rglob("keys.hdf5")
    return path


def test_each_picture_is_encoded_once(opened, photos: Path, encoder: Encoder):
    first, seen = opened()
    assert len(seen) == 10 and first.gallery and first.gallery.ids[0] == "photos/below/brown.png"
    assert first.gallery.paths[0] == str(photos / "below/brown.png")
    np.testing.assert_allclose(first.gallery.vectors, encoder.encode_images(first.gallery.paths), atol=2e-3)
    again, seen = opened()
    assert (seen, again.towers) == ([], {})  # no picture was opened, no tower loaded
    assert list(vectors(again)) == list(vectors(first)) and np.array_equal(again.gallery.vectors, first.gallery.vectors)


def test_new_changed_and_removed_pictures(opened, photos: Path, encoder: Encoder):
    before = vectors(opened()[0])
    (photos / "red.png").write_bytes(builder.png("pink", "square", 80, 90))
    (photos / "below/green.png").unlink()
    (photos / "new.jpg").write_bytes(builder.png("cyan", "bar", 70, 50))
    (photos / "note.txt").write_text("no picture")
    searcher, seen = opened()
    assert sorted(seen) == ["new.jpg", "red.png"]
    after = vectors(searcher)
    assert before.keys() ^ after.keys() == {"photos/below/green.png", "photos/new.jpg"}
    for name, vector in after.items():
        assert np.array_equal(vector, before.get(name)) == (name not in ("photos/new.jpg", "photos/red.png"))
    assert searcher.gallery
    np.testing.assert_allclose(searcher.gallery.vectors, encoder.encode_images(searcher.gallery.paths), atol=2e-3)
    (photos / "new.jpg").unlink()  # nothing to encode, and it is forgotten
    searcher, seen = opened()
    assert (seen, searcher.towers, len(searcher)) == ([], {}, 9)
    assert len(folder_keys.read(cache(photos), 24).ids) == 9


def test_pictures_that_change_names(opened, photos: Path, encoder: Encoder):
    """Of equal size and mtime, as cameras and archives make them."""
    one, other = photos / "1.ppm", photos / "2.ppm"
    for path, value in ((one, 10), (other, 200)):
        path.write_bytes(b"P6 8 8 255\n" + bytes([value, 90, 250 - value]) * 64)
        os.utime(path, (1e9, 1e9))
    opened()
    one.rename(photos / "aside")
    other.rename(one)
    (photos / "aside").rename(other)
    searcher, seen = opened()
    assert sorted(seen) == ["1.ppm", "2.ppm"] and searcher.gallery
    np.testing.assert_allclose(searcher.gallery.vectors, encoder.encode_images(searcher.gallery.paths), atol=2e-3)


def test_pictures_whose_names_no_list_takes_are_told(opened, photos: Path, caplog: pytest.LogCaptureFixture):
    (photos / "red.png").rename(photos / "Screenshot at 10.00\u202fAM.png")
    assert len(opened()[0]) == 9
    assert "1 pictures left out, as their names hold" in caplog.text and "10.00\\u202fAM.png" in caplog.text


def test_broken_pictures_are_tried_once_and_told_each_time(opened, photos: Path, capfd: pytest.CaptureFixture[str]):
    (photos / "text.jpg").write_text("no picture")
    (photos / "empty.png").touch()
    searcher, seen = opened()
    assert (len(searcher), len(seen)) == (10, 12)
    said = capfd.readouterr().err
    assert "2 pictures left out (" in said and "not a picture: 1" in said and "empty file: 1" in said
    listed = folder_keys.skipped_file(cache(photos)).read_text().splitlines()
    assert listed == [f"empty.png\t{photos}/empty.png\tempty file", f"text.jpg\t{photos}/text.jpg\tnot a picture"]
    assert opened()[1] == [] and "2 pictures left out (" in capfd.readouterr().err
    (photos / "text.jpg").write_bytes(builder.png("cyan", "bar", 70, 50))
    searcher, seen = opened()
    assert (len(searcher), seen) == (11, ["text.jpg"])
    (photos / "empty.png").chmod(0o600)  # as where the user may read it from now on
    assert opened()[1] == ["empty.png"]


@pytest.mark.parametrize("after", [1, 2])
def test_stopped_and_continued(opened, photos: Path, monkeypatch: pytest.MonkeyPatch, after: int):
    """By Ctrl-C, or by a kill, which leaves what was saved meanwhile: the vectors are those of one run."""
    for name, value in (("AHEAD", 1), ("IMAGE_BATCH", 3), ("SAVED", -1.0), ("SHARE", 0)):
        monkeypatch.setattr(folders, name, value)
    whole = vectors(opened()[0])
    shutil.rmtree(photos.parent / "home")
    real, calls, kept = folders.tower_rows, [], []

    def rows(*arguments):
        if len(calls) == after:
            kept.extend(folder_keys.read(cache(photos), 24).ids)
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(folders, "tower_rows", rows)
    with pytest.raises(KeyboardInterrupt):
        opened()
    assert len(kept) == 3 * after and folder_keys.read(cache(photos), 24).ids == kept
    monkeypatch.setattr(folders, "tower_rows", real)
    searcher, seen = opened()
    assert len(seen) == 10 - 3 * after
    assert all(np.array_equal(vector, whole[name]) for name, vector in vectors(searcher).items()) and len(searcher) == 10
    assert not list((photos.parent / "home").rglob(".*"))  # neither locks nor temporary files


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data.replace(b"\x3e", b"\x3d"), lambda data: b""])
def test_a_damaged_cache_is_made_again(opened, photos: Path, capfd: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes]):
    before = vectors(opened()[0])
    cache(photos).write_bytes(damage(cache(photos).read_bytes()))
    searcher, seen = opened()
    assert len(seen) == 10 and all(np.array_equal(vector, before[name]) for name, vector in vectors(searcher).items())
    warned = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 1 and "the pictures are encoded again" in warned[0] and "keys.hdf5" in warned[0]
    assert opened()[1] == []


def test_a_cache_that_can_not_be_kept(opened, photos: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    (photos.parent / "home").touch()
    assert len(opened()[0]) == 10
    assert "can't be kept" in capfd.readouterr().err


def test_shards_and_other_models_are_remembered_apart(opened, photos: Path, tmp_path: Path):
    plain = vectors(opened()[0])
    for number, names in enumerate((["red.png"], ["blue.png", "black.png"])):
        with tarfile.open(tmp_path / f"x{number}.tar", "w") as tar:
            for name in names:
                data = next(photos.rglob(name)).read_bytes()
                header = tarfile.TarInfo(name)
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    shards = tmp_path / "x{0..1}.tar"
    found = vectors(opened(shards)[0])
    assert {Path(name).name for name in found} == {"black.png", "blue.png", "red.png"}
    for name, vector in found.items():
        assert np.array_equal(vector, next(one for other, one in plain.items() if Path(other).name == Path(name).name))
    assert opened(shards)[1] == opened()[1] == []
    other = open_folder(builder.save_clip(tmp_path / "other", seed=1), photos, "cpu", "fp32")
    assert not np.allclose(other.gallery.vectors, list(plain.values()), atol=0.1) and opened()[1] == []


def test_a_folder_whose_name_is_no_text(opened, photos: Path):
    odd = photos.rename(photos.parent / os.fsdecode(b"odd\xff\n"))
    (odd / "text.jpg").write_text("no picture")
    assert len(opened(odd)[0]) == 10 and opened(odd)[1] == []


def test_folders_without_pictures(opened, tmp_path: Path):
    for name, content, message in (
        ("a", None, "no such folder"),
        ("b", {}, "no pictures in it"),
        ("c", {"x.png": b"x"}, "none of its 1 p"),
    ):
        if content is not None:
            (tmp_path / name).mkdir()
            for file, data in content.items():
                (tmp_path / name / file).write_bytes(data)
        with pytest.raises(UserError, match=message):
            opened(tmp_path / name)


def test_openvino_takes_a_tower_that_is_not_cast(clip: Path, photos: Path, caplog: pytest.LogCaptureFixture):
    found = vectors(open_folder(clip, photos, "cpu", "bf16", tower_engine="openvino"))
    assert found and "computing with torch" not in caplog.text
