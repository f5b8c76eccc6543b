"""Lines that no picture fits: those of the project, and a user's own."""

from pathlib import Path

import pytest

from xmatching.chitchat import other_lines
from xvoken.errors import UserError
from xvoken.files.lines import MOST


def test_lines_of_the_project():
    found = other_lines()
    assert len(found) > 280 and len(set(found)) == len(found)
    assert all(line == line.strip() and line.isascii() and 2 <= len(line) < 80 for line in found)


def test_lines_of_a_user(tmp_path: Path):
    path = tmp_path / "mine.txt"
    path.write_bytes("how are you?\tfine\n\n  \ncafé\r\nlast".encode())
    assert other_lines(path) == other_lines(str(path)) == ["how are you? fine", "café", "last"]
    path.write_text("\n".join(map(str, range(MOST + 5))))
    assert other_lines(path) == [str(number) for number in range(MOST)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "does not exist"), (b"", "no line with text"), (b"\n \t\n", "no line with text"), (b"a\n\xff\n", "line 2 is")],
)
def test_files_that_are_refused(tmp_path: Path, content: bytes | None, expected: str):
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}:? .*{expected}"):
        other_lines(path)


def test_a_folder_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="is no file; a text file of lines that no picture fits"):
        other_lines(tmp_path)
