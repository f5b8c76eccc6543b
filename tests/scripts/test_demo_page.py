import json
from pathlib import Path

import pytest
from PIL import Image

from scripts.demo_page import Line, choose, curve_svg, page, thumbnail
from xvoken.errors import UserError
from xvoken.recall import evaluate


def record() -> dict:
    import torch

    return {"epoch": 1, "loss": 0.5, **evaluate(torch.eye(3), torch.eye(3), torch.arange(3))}


def test_page_escapes_what_comes_from_files(tmp_path: Path):
    evil = "<script>alert('x')</script>"
    Image.new("RGB", (300, 200), "red").save(tmp_path / "a<b>&.png")
    line = Line(1, ["hello", evil], [(tmp_path / "a<b>&.png", 0.25)])
    text = page([line], [], [record(), record()], record(), "set<1>", 1)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "a&lt;b&gt;&amp;" in text
    assert "set&lt;1&gt;" in text
    assert "http://" not in text.replace("http-equiv", "")
    assert "https://" not in text
    assert json.dumps("0.250").strip('"') in text


def test_thumbnails_are_small(tmp_path: Path):
    Image.new("RGB", (3000, 2000), "red").save(tmp_path / "x.jpg")
    assert thumbnail(tmp_path / "x.jpg").startswith("data:image/png;base64,")
    assert len(thumbnail(tmp_path / "x.jpg")) < 5000


def test_missing_and_broken_pictures_are_named(tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    for name, reason in (("missing.jpg", "missing"), ("broken.jpg", "not a picture")):
        with pytest.raises(UserError, match=f"{name}: {reason}; the page shows this picture"):
            thumbnail(tmp_path / name)


def test_best_lines_show_different_pictures_and_the_sample_others():
    lines = [Line(n, ["x"], [(Path(f"{n % 30}.png"), 1 - n / 1000)]) for n in range(200)]
    best, sample = choose(lines)
    assert [line.number for line in best] == list(range(24))
    assert len(sample) == 24
    assert not {line.number for line in best} & {line.number for line in sample}
    assert choose(lines)[1] == sample


def test_curve_of_one_epoch():
    assert "polyline" in curve_svg([record()])
