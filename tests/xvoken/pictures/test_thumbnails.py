import io
from pathlib import Path

import pytest
from PIL import Image

from xvoken.pictures.decode import BrokenPicture
from xvoken.pictures.thumbnails import thumbnail


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_small_upright_on_white_and_without_metadata(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "where it was taken"  # turned by a quarter
    Image.new("RGB", (600, 300), "red").save(tmp_path / "turned.jpg", exif=exif, icc_profile=b"profile" * 40)
    small = opened(thumbnail(tmp_path / "turned.jpg", 100))
    assert (small.format, small.size) == ("WEBP", (50, 100))
    assert not {"exif", "icc_profile", "xmp"} & set(small.info)
    Image.new("RGBA", (40, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    clear = opened(thumbnail(tmp_path / "clear.png", 100))
    assert clear.size == (40, 20) and clear.convert("RGB").getpixel((5, 5)) == (255, 255, 255)


def test_a_picture_that_cannot_be_used(tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    with pytest.raises(BrokenPicture, match="not a picture"):
        thumbnail(tmp_path / "broken.jpg", 100)
