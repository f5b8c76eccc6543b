import builtins
import errno
import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torchvision.transforms import CenterCrop, InterpolationMode, PILToTensor, Resize

from xvoken.pictures.decode import BrokenPicture, load_picture
from xvoken.pictures.view import View

VIEW = View(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def noise(width: int, height: int) -> Image.Image:
    """A smooth random picture."""
    small = np.random.default_rng(width * height).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (300, 300), (225, 900), (50, 40), (1, 1), (333, 250), (1, 400)])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_view_equals_torchvision(size: tuple[int, int], resample: str):
    picture = noise(*size)
    view = View(256, 224, VIEW.mean, VIEW.std, resample)
    expected = PILToTensor()(CenterCrop(224)(Resize(256, InterpolationMode(resample))(picture)))
    assert (view(picture).int() - expected.int()).abs().max() <= 1


def test_view_of_a_very_long_picture_needs_little_memory():
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert VIEW(Image.new("RGB", (1, 60000), "red")).shape == (3, 224, 224)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # the usual way: 11 GB


def test_normalize():
    pixels = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert torch.allclose(VIEW.normalize(pixels)[0, :, 0, 0], torch.tensor([(1 - m) / s for m, s in zip(VIEW.mean, VIEW.std, strict=True)]))


def saved(path: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(path, **options)
    return path


def test_formats_that_can_be_decoded(tmp_path: Path):
    red = Image.new("RGB", (40, 30), (200, 10, 10))
    reds = {
        "png_named.jpg": saved(tmp_path / "png_named.jpg", red, format="PNG"),
        "cmyk.jpg": saved(tmp_path / "cmyk.jpg", red.convert("CMYK"), format="JPEG", quality=100),
        "palette.png": saved(tmp_path / "palette.png", red.convert("P")),
        "webp": saved(tmp_path / "x.webp", red, lossless=True),
        "gif": saved(tmp_path / "x.gif", red, save_all=True, append_images=[Image.new("RGB", (40, 30), "blue")]),
    }
    for name, path in reds.items():
        picture = load_picture(path)
        assert picture.mode == "RGB", name
        assert picture.size == (40, 30), name
        assert np.abs(np.asarray(picture)[15, 20].astype(int) - (200, 10, 10)).max() <= 12, name


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path):
    grey = Image.fromarray(np.full((20, 20), 32768, np.uint16))
    assert np.asarray(load_picture(saved(tmp_path / "x.png", grey)))[0, 0].tolist() == [127] * 3


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(tmp_path: Path, mode: str):
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    path = saved(tmp_path / "x.png", clear.convert(mode)) if mode != "P" else saved(tmp_path / "x.gif", clear)
    assert np.asarray(load_picture(path))[0, 0].tolist() == [255] * 3


def test_orientation_is_applied(tmp_path: Path):
    picture = Image.new("RGB", (40, 20))
    exif = picture.getexif()
    exif[0x0112] = 6
    assert load_picture(saved(tmp_path / "x.jpg", picture, exif=exif)).size == (20, 40)


def huge_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def truncated_jpeg() -> bytes:
    buffer = io.BytesIO()
    noise(300, 300).save(buffer, "JPEG")
    return buffer.getvalue()[:1500]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"no picture at all", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),  # Pillow would start Ghostscript
        (truncated_jpeg(), "can't be decoded"),
        (huge_png(60000, 60000), "too large"),
        (huge_png(12000, 12000), "too large"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "not a picture"),
        # A BigTIFF whose directory lies where no file reaches: an error of the system's, but the picture's fault.
        (struct.pack("<2sHHHQ", b"II", 43, 8, 0, 2**62), "can't be decoded"),
    ],
)
@pytest.mark.filterwarnings("ignore:Image size")  # pytest has filters of its own
def test_broken_pictures_say_why(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(BrokenPicture, match=reason):
        load_picture(path)


def test_missing_picture_and_folder(tmp_path: Path):
    with pytest.raises(BrokenPicture, match="missing"):
        load_picture(tmp_path / "x.jpg")
    (tmp_path / "file").touch()
    with pytest.raises(BrokenPicture, match="missing"):
        load_picture(tmp_path / "file/x.jpg")
    with pytest.raises(BrokenPicture, match="can't be read: Is a directory"):
        load_picture(tmp_path)


def test_what_is_not_the_pictures_fault_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Else a disk or a memory that fails for a moment would cost pictures for good. At opening, and when pixels are read."""
    path = saved(tmp_path / "x.png", noise(30, 20))
    for number in (errno.EMFILE, errno.EIO, errno.ESTALE, errno.ENOMEM):
        for owner, name in ((builtins, "open"), (ImageFile.ImageFile, "load")):
            with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
                patch.setattr(owner, name, Mock(side_effect=OSError(number, "at this moment")))
                load_picture(path)
            assert caught.value.errno == number
    monkeypatch.setattr(ImageFile.ImageFile, "load", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        load_picture(path)


def test_a_file_that_may_not_be_read_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By way of `open`, since root may read everything."""
    monkeypatch.setattr(builtins, "open", Mock(side_effect=PermissionError(errno.EACCES, "no")))
    with pytest.raises(BrokenPicture, match="can't be read: Permission denied"):
        load_picture(tmp_path / "x.jpg")


def test_decoding_in_threads_leaves_the_warnings_of_others_as_they_were(tmp_path: Path):
    """Filters belong to the process: threads that set and restore them restore each other's."""
    path, before, interval = saved(tmp_path / "x.png", noise(30, 20)), list(warnings.filters), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert len(list(threads.map(load_picture, [path] * 500))) == 500
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before


def test_what_pillow_warns_of_is_not_shown(tmp_path: Path, process: Callable[..., subprocess.CompletedProcess[str]]):
    path = saved(tmp_path / "x.jpg", noise(30, 20), exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")
    code = f"from xvoken.pictures.decode import load_picture; print(load_picture({str(path)!r}).size)"
    done = process(sys.executable, "-W", "always", "-c", code)
    assert done.stdout == "(30, 20)\n" and "Corrupt EXIF" not in done.stderr
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        Image.open(path).getexif()
