"""Offsets read in slabs equal those read at once."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from xvoken.errors import UserError
from xvoken.files import offsets


@pytest.mark.parametrize("lines", [1, 4, 7, 8, 9, 100])
def test_slabs_equal_the_whole(tmp_path: Path, monkeypatch, lines: int) -> None:
    monkeypatch.setattr(offsets, "EVERY", 4)
    monkeypatch.setattr(offsets, "BLOCK", 50)
    path, whole = tmp_path / "x.line", np.cumsum(np.random.default_rng(lines).integers(0, 300, lines))
    whole -= whole[0]
    path.write_text("".join(f"{i}\n" for i in whole))
    read = offsets.Offsets(path, "mend it")
    assert len(read) == lines and read[-1] == whole[-1] and read[0] == 0
    for start in range(lines):
        for stop in range(start, lines + 1):
            assert np.array_equal(read[start:stop], whole[start:stop])
    with pytest.raises(IndexError):
        read[lines]


@pytest.mark.parametrize("text", ["", "1\n2\n", "0\n5\n4\n", "0\nx\n", "0\n\n3\n", "0\n1.5\n", "zero\n"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.line"
    path.write_text(text)
    with pytest.raises(UserError, match="not a list of growing offsets.*mend it"):
        offsets.Offsets(path, "mend it")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False], ids=["ended", "not ended"])
def test_lines_as_other_systems_and_editors_end_them(tmp_path: Path, monkeypatch, end: str, last: bool) -> None:
    """Also of lines without a token, whose offsets are equal, over the edge of a slab."""
    monkeypatch.setattr(offsets, "EVERY", 2)
    whole = [0, 0, 3, 7, 7, 7, 12]
    path = tmp_path / "x.line"
    path.write_bytes((end.join(map(str, whole)) + end * last).encode())
    read = offsets.Offsets(path, "mend it")
    assert len(read) == 7 and [read[i] for i in range(-7, 7)] == whole * 2
    for start in range(8):
        for stop in range(9):
            found = read[start:stop]
            assert found.dtype == np.int64 and found.tolist() == whole[start:stop]


def test_steps_and_numbers_of_python(tmp_path: Path) -> None:
    path = tmp_path / "x.line"
    path.write_text("0\n3\n5\n9\n")
    read = offsets.Offsets(path, "mend it")
    assert type(read[2]) is int and read[::2].tolist() == [0, 5] and read[-3:].tolist() == [3, 5, 9]


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch) -> None:
    """Of 300,000 lines, 2 MB, neither checking them nor reading a few takes as much as the file."""
    monkeypatch.setattr(offsets, "BLOCK", 1 << 16)
    path = tmp_path / "x.line"
    path.write_text("".join(f"{i}\n" for i in range(0, 900_000, 3)))
    tracemalloc.start()
    try:
        read = offsets.Offsets(path, "mend it")
        assert read[299_990:].tolist() == list(range(899_970, 900_000, 3))
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 2
    finally:
        tracemalloc.stop()
