"""Torchcodec's way for a batch against Pillow's way, one picture at a time."""

import io
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.builder import save_clip
from xvoken.encoders.encoder import load_encoder
from xvoken.errors import UserError
from xvoken.pictures import batches as decoding
from xvoken.pictures.batches import Pictures, TorchcodecPictures, batches_ahead, open_pictures, require_decoder
from xvoken.pictures.sources import scan
from xvoken.pictures.view import View

VIEW = View(64, 56, (0.0,) * 3, (1.0,) * 3)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft shapes with grain, as photos have."""
    rng = np.random.default_rng(seed)
    shapes = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.integers(-12, 13, (height, width, 3), np.int16)
    return Image.fromarray((np.asarray(shapes, np.int16) + grain).clip(0, 255).astype(np.uint8))


def jpeg(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(photo(100, 80), exif=exif.tobytes())


def files() -> dict[str, bytes]:
    """What image sets hold: by torchcodec, and (from `png` on) what is left to Pillow."""
    png = io.BytesIO()
    photo(90, 70).save(png, "PNG")
    whole = jpeg(photo(120, 90))
    return {
        "plain": jpeg(photo(100, 80)), "same_size": jpeg(photo(100, 80, 1)), "small": jpeg(photo(20, 30)),
        "grey": jpeg(photo(99, 83).convert("L")),
        "progressive": jpeg(photo(101, 77), progressive=True), "turned": turned(6), "mirrored": turned(2), "exact": jpeg(photo(64, 64)),
        "coarse": jpeg(photo(120, 100), quality=20, subsampling=2), "full_colour": jpeg(photo(120, 101), subsampling=0),
        "padded": whole + b"\0" * 7,
        "png": png.getvalue(), "cmyk": jpeg(photo(70, 90).convert("CMYK")), "long": jpeg(photo(500, 60)), "trailing": whole + b"more",
        "cut": whole[: len(whole) // 2], "cut_at_the_end": whole[:-2], "empty": b"", "text": b"not a picture at all",
        "header_only": whole[:200] + b"\xff\xd9",
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in files().items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_views_are_pillows(folder: Path, resample: str):
    view = View(64, 56, (0.0,) * 3, (1.0,) * 3, resample)
    names = [*files(), "missing"]
    paths = [str(folder / name) for name in names]
    plain, fast = Pictures(paths, view), TorchcodecPictures(paths, view, "cpu")
    by_torchcodec = names.index("png")
    for row, (name, item) in enumerate(zip(names, fast.__getitems__(range(len(names))), strict=True)):
        expected = plain[row]
        if isinstance(expected, str):
            assert item == expected, name
        elif row < by_torchcodec:
            difference = (item.int() - expected.int()).abs()
            assert item.dtype == torch.uint8 and item.shape == expected.shape, name
            assert difference.max() <= (1 if resample == "bilinear" else 8) and difference.float().mean() < 0.3, name
        else:
            assert torch.equal(item, expected), name
    reasons = [item for item in fast.__getitems__(range(len(names))) if isinstance(item, str)]
    assert len(reasons) == 6 and {"missing", "empty file", "not a picture"} < set(reasons)
    assert all(fast._jpeg(path)[0] for path in paths[:by_torchcodec]) and not any(fast._jpeg(path)[0] for path in paths[by_torchcodec:-2])


def test_views_of_a_clip_model(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """They are made by its own processor, which takes tensors: the very same ones, but for large pictures decoded at a fraction."""
    clip = save_clip(tmp_path_factory.mktemp("models") / "tiny-clip")
    view = load_encoder(str(clip), ["image"], "cpu").image.tower.view
    names = [name for name in files() if name not in ("cut", "cut_at_the_end", "empty", "text", "header_only")]
    paths = [str(folder / name) for name in names]
    plain, fast = Pictures(paths, view), TorchcodecPictures(paths, view, "cpu")
    for name, item, expected in zip(names, fast.__getitems__(range(len(names))), map(plain.__getitem__, range(len(names))), strict=True):
        assert torch.equal(item, expected), name


def test_a_picture_is_the_same_in_any_batch(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Also beside a file whose fault only shows when it is decoded, and where pictures are decoded in several turns."""
    pictures = open_pictures([str(folder / name) for name in files()], VIEW, "torchcodec", "cpu")
    together = pictures.__getitems__(range(len(pictures)))
    alone = [pictures.__getitems__([i])[0] for i in range(len(pictures))]
    monkeypatch.setattr(decoding, "PIXELS_AT_ONCE", 15_000)
    in_turns = pictures.__getitems__(range(len(pictures)))
    for items in (alone, in_turns):
        assert all(a == b if isinstance(a, str) else torch.equal(a, b) for a, b in zip(together, items, strict=True))


def test_batches_ahead_of_a_dataset_that_makes_batches(folder: Path):
    pictures = TorchcodecPictures([str(folder / name) for name in files()], VIEW, "cpu")
    plain = list(batches_ahead(pictures, 3, None))
    with ThreadPoolExecutor(3) as threads:
        ahead = list(batches_ahead(pictures, 3, threads))
    assert [first for first, _ in plain] == [first for first, _ in ahead] == list(range(0, len(pictures), 3))
    assert [len(items) for _, items in plain] == [len(items) for _, items in ahead]
    for (_, items), (_, same) in zip(plain, ahead, strict=True):
        assert all(a == b if isinstance(a, str) else torch.equal(a, b) for a, b in zip(items, same, strict=True))


def test_pictures_in_a_tar(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("shards") / "00000.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("plain", "turned", "png"):
            tar.add(folder / name, name)
    members = list(scan([str(path)], lambda name: True)[0].values())
    inside = TorchcodecPictures(members, VIEW, "cpu").__getitems__(range(3))
    outside = TorchcodecPictures([str(folder / member.name) for member in members], VIEW, "cpu").__getitems__(range(3))
    assert all(torch.equal(a, b) for a, b in zip(inside, outside, strict=True))


def test_a_picture_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x").write_bytes(jpeg(photo(100, 80)))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 5000)
    monkeypatch.setattr("xvoken.pictures.decode.MAX_PIXELS", 5000)
    assert TorchcodecPictures([str(tmp_path / "x")], VIEW, "cpu").__getitems__([0]) == ["too large: 100 x 80"]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(UserError, match=r"--decoder torchcodec: can't be loaded .*; run: pip install -e '.\[torchcodec\]'"):
        require_decoder("torchcodec")
    require_decoder("pillow")
