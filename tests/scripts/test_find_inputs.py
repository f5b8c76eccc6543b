"""What scripts/find.bash is told to work on."""

import os
import shlex
from pathlib import Path

import pytest

from scripts.find_inputs import main, tidy
from tests import builder
from xvoken.errors import UserError


def test_names_are_of_the_folder_it_was_called_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    builder.save_clip(tmp_path / "clip")
    (tmp_path / "$(touch x) 'q").mkdir()
    photo = tmp_path / "$(touch x) 'q/a.png"
    photo.write_bytes(builder.png("red", "circle", 50, 50))
    (tmp_path / "-lines.txt").write_text("a dog\n")
    (tmp_path / "a,b").symlink_to(photo.parent)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()

    def told(*flags: str) -> dict[str, str]:
        main(["--model", "clip", "--images", "$(touch x) 'q", "--texts=-lines.txt", *flags])
        return dict(word.split("=", 1) for word in shlex.split(capsys.readouterr().out))

    found = told()
    assert {name: found[name] for name in ("MODEL", "IMAGES", "OUTPUT")} == {
        "MODEL": f"{tmp_path}/clip", "IMAGES": str(photo.parent), "OUTPUT": f"{tmp_path}/outputs/find"
    }  # fmt: skip
    assert found["TEXT"].startswith("lines-") and (tmp_path / "outputs/find/texts" / found["TEXT"]).read_text() == "a dog\n"
    assert told("--images", "a,b")["IMAGES"] == str(photo.parent)
    state = photo.stat()
    photo.rename(photo.with_name("b"))
    photo.write_bytes(photo.with_name("b").read_bytes()[::-1])  # another one, of equal size and mtime
    os.utime(photo, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert told()["SET"] != found["SET"]


def test_mistakes(tmp_path: Path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/x.png").touch()
    with pytest.raises(UserError, match="lies in the folder of the pictures"):
        main(["--images", str(tmp_path / "d"), "--texts", "a dog", "--output", str(tmp_path / "d/found")])
    with pytest.raises(UserError, match="a folder; give a text file"):
        main(["--images", str(tmp_path / "d"), "--texts", str(tmp_path / "d")])
    assert tidy("--x. y-") == "x._y" and tidy(",") == "pictures"
