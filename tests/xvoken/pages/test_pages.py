"""What a page's files hold, against the voken file; what is kept and what is made again."""

import base64
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.xvoken.pages import made
from xvoken.errors import UserError
from xvoken.files import vokens
from xvoken.pages import vokens as pages
from xvoken.pages.chunks import literal
from xvoken.pages.credits import read_credits
from xvoken.pages.document import make, read_made_of
from xvoken.pages.pictures import address
from xvoken.pictures.sources import Member


def chunk(folder: Path, name: str):
    """What a chunk hands over."""
    kind, number, value = re.fullmatch(r'xvoken\.add\("(\w+)",(\d+),(.*)\);\n', (folder / f"{name}.js").read_text(), re.DOTALL).groups()
    assert f"{kind}.{number}" == name
    return json.loads(value)


def array(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def test_chunks_hold_all_lines_and_all_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"TEXT": 64, "FOUND": 32, "BEST": 128, "PICTURES": 2, "USES": 32, "AT_ONCE": 128}.items():
        monkeypatch.setattr(pages, name, value)
    page = made.voken_page(tmp_path)
    page.write(tmp_path / "page.html")
    data = tmp_path / "page" / page.made_of
    assert "\n".join(chunk(data, f"text.{i}") for i in range(4)).split("\n") == made.LINES
    rows, scores, sure = made.found()
    infos = [info for i in range(3) for info in chunk(data, f"pictures.{i}")]
    every = [int((rows == row).sum()) for row in range(6)]
    by_id = {Path(name).stem: row for row, name in enumerate(made.NAMES)}
    assert [info["lines"] for info in infos] == sorted(every, reverse=True)[:5]
    for info in infos:
        row = by_id[info["id"]]
        assert info["firsts"] == (rows[:, 0] == row).sum() and info["file"] == made.NAMES[row]
        assert info.get("url") == (None if "gone" in info["id"] else page.paths[row].as_uri())
        shard, at = info["uses"]
        used = array(chunk(data, f"uses.{shard}"), "<i4")[at : at + info["lines"]]
        assert used.tolist() == np.flatnonzero((rows == row).any(1)).tolist()
    slots = np.concatenate([array(chunk(data, f"found.{i}")["rows"], "<i4") for i in range(7)]).reshape(-1, made.K)
    ids = np.array([by_id[info["id"]] for info in infos] + [-1])
    assert (ids[slots] == rows).all()
    assert np.array_equal(
        np.concatenate([array(chunk(data, f"found.{i}")["scores"], "<f4") for i in range(7)]), scores.ravel(), equal_nan=True
    )
    best = [chunk(data, f"best.{i}") for i in range(2)]
    assert np.array_equal(np.concatenate([array(part["scores"], "<f4") for part in best]), scores[:, 0], equal_nan=True)
    assert np.array_equal(np.concatenate([array(part["sure"], "<f4") for part in best]), sure, equal_nan=True)


def test_a_browser_can_open_files_only(tmp_path: Path):
    member = Member(str(tmp_path / "a.tar"), "x.png", 512, 1)
    assert (address(tmp_path / "a b#.png"), address(member)) == (f"file://{tmp_path}/a%20b%23.png", "")


def test_thumbnails_are_kept_until_a_picture_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    page, output = made.voken_page(tmp_path), tmp_path / "page.html"
    assert make(page, output)
    assert "1 pictures can't be shown, the page has a grey tile for each (album/gone: missing)" in caplog.text
    thumbs = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "page/thumbs").glob("*/*.webp")}
    assert len(thumbs) == 4 and page.made_of == read_made_of(output)["made_of"]
    again = pages.VokenPage(page.hdf5, page.ids, page.paths, page.text, page.named, page.side, page.credits)
    assert not make(again, output)
    Image.new("RGB", (50, 50), "white").save(page.paths[0])
    os.utime(page.paths[0], (1, 1))
    changed = pages.VokenPage(page.hdf5, page.ids, page.paths, page.text, page.named, page.side, page.credits)
    assert make(changed, output)
    now = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "page/thumbs").glob("*/*.webp")}
    assert len(now.items() & thumbs.items()) == 3 and len(now) == 4
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == sorted([changed.made_of, "thumbs"])


def test_an_old_page_works_until_another_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page, output, thumbs = made.voken_page(tmp_path), tmp_path / "page.html", tmp_path / "page/thumbs"
    make(page, output)
    old = {path: path.read_bytes() for path in [output, *(tmp_path / "page").rglob("*.*")]}
    Image.new("RGB", (50, 50), "white").save(page.paths[0])
    changed = pages.VokenPage(page.hdf5, page.ids, page.paths, page.text, page.named, page.side)

    def killed(*_: object, **__: object) -> None:
        (tmp_path / "page" / changed.made_of / ".text.0.js.1-00000000.tmp").touch()
        (thumbs / "ab").mkdir(exist_ok=True)
        (thumbs / "ab/.abcd.webp.1-00000000.tmp").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pages, "write_page", killed)
        with pytest.raises(KeyboardInterrupt):
            make(changed, output)
    assert all(path.read_bytes() == data for path, data in old.items())
    assert make(changed, output) and len(list(thumbs.glob("*/*.webp"))) == 4 and not list((tmp_path / "page").rglob(".*"))


def test_the_folder_of_a_page(tmp_path: Path):
    page, output = made.voken_page(tmp_path), tmp_path / "page.html"
    make(page, output)
    (tmp_path / "page" / page.made_of).rename(tmp_path / "elsewhere")
    assert make(page, output) and (tmp_path / "page" / page.made_of / "text.0.js").exists() and not make(page, output)
    with pytest.raises(UserError, match=r"holds other files, such as .*; give another name as --output"):
        make(page, tmp_path / "photos.html")
    assert not (tmp_path / "photos/thumbs").exists()


def test_a_page_without_lines(tmp_path: Path):
    page, output = made.voken_page(tmp_path), tmp_path / "page.html"
    vokens.write(page.hdf5.with_suffix(""), [], 0, 0, 3, [], {"images": 6}, {})
    page.text.write_text("")
    assert make(page, output) and not make(page, output) and '"lines":0' in output.read_text()


def test_a_text_that_is_too_short_is_refused(tmp_path: Path):
    page = made.voken_page(tmp_path)
    page.text.write_text("one line\n")
    with pytest.raises(UserError, match="has 1 lines, line 200 is wanted; bring back the text"):
        page.write(tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_literals_are_safe_in_scripts_and_in_html():
    text = made.EVIL + "\u2028\u2029 & -->"
    assert not set("<>&\u2028\u2029") & set(literal(text)) and json.loads(literal(text)) == text
    with pytest.raises(ValueError, match="not JSON compliant"):
        literal(float("nan"))


def test_credits(tmp_path: Path):
    path = tmp_path / "credits.csv"
    path.write_text(made.CREDITS, encoding="utf-8-sig")
    said = read_credits(path, ["folder/red circle.png", "other"])
    assert list(said) == ["folder/red circle.png"]
    assert said["folder/red circle.png"] == {
        "author": "Ada <b>L</b>", "title": "Circle", "license": "https://creativecommons.org/licenses/by/2.0/", "source": "https://example.org/1",
    }  # fmt: skip
    for content, message in ((b"id,Author\n", "no column ImageID"), (b"ImageID\n\xff", "not a CSV file in UTF-8")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_credits(path, ["x"])


def test_a_credit_is_of_the_picture_that_it_names(tmp_path: Path):
    path = tmp_path / "credits.csv"
    path.write_text("ImageID,Author\na/1.jpg,A\n1,both\n1.jpg,both\nb/2,B\n2,any\nc/3,C\n3,other\n")
    said = read_credits(path, ["a/1.jpg", "b/1.jpg", "b/2.jpg", "3", "c/3.jpg", "c/3.jpg"])
    assert {picture: one["author"] for picture, one in said.items()} == {"a/1.jpg": "A", "b/2.jpg": "B", "3": "other", "c/3.jpg": "C"}


def test_ids_that_are_no_text(tmp_path: Path):
    page = made.voken_page(tmp_path)
    page.hdf5.with_suffix(".ids").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="ids is not UTF-8"):
        vokens.read_ids(page.hdf5.parent, "lines.txt", "album")
