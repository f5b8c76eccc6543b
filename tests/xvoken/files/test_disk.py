import json
import stat
from pathlib import Path

import pytest

from xvoken.errors import RunError, UserError
from xvoken.files.safe import (
    all_there,
    all_written,
    differences,
    fingerprint,
    read_json,
    remove_temporary,
    replacing,
    same_settings,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_may_be_read_by_others(tmp_path: Path):
    path = tmp_path / "x"
    with replacing(path) as temporary:
        temporary.touch(0o600)
    assert path.stat().st_mode & stat.S_IRGRP


def test_settings():
    old = {"topk": 5, "loss": "hinge"}
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
    assert differences(old, dict(old)) == ""
    assert differences(old, {"topk": 6, "loss": "hinge"}) == "topk: 5 then, 6 now"
    with pytest.raises(UserError, match=r"topk: 5 then, 6 now.*rm out"):
        same_settings(Path("out"), old, {"topk": 6, "loss": "hinge"})


def test_read_json_says_what_is_wrong(tmp_path: Path):
    path = tmp_path / "x.json"
    with pytest.raises(UserError, match=r"does not exist; make it so"):
        read_json(path, "make it so")
    path.write_text('{"a": 1,\n "b"')
    with pytest.raises(UserError, match="line 2"):
        read_json(path, "")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="UTF-8"):
        read_json(path, "")
    with pytest.raises(UserError, match="folder"):
        read_json(tmp_path, "")
    write_json(path, {"é": [1]})
    assert json.loads(path.read_text()) == {"é": [1]}


def test_a_full_disk_names_the_file(tmp_path: Path):
    with pytest.raises(RunError, match=f"no room on the disk for {tmp_path}/x.npy; make room"):
        with replacing(tmp_path / "x.npy"):
            raise OSError("23 requested and 5 written")  # all that numpy says
    assert not list(tmp_path.iterdir())


def test_companions_and_commands_to_copy(tmp_path: Path):
    folder = tmp_path / "my files"
    folder.mkdir()
    (folder / "a.hdf5").touch()
    (folder / "a.ids").touch()
    all_there(folder / "a.hdf5", folder / "a.ids")
    with pytest.raises(UserError, match=f"a.path is gone, .* after: rm '{folder}/a.hdf5'$"):
        all_there(folder / "a.hdf5", folder / "a.ids", folder / "a.path")
    with pytest.raises(UserError, match=f"after: rm '{folder}/a.hdf5'$"):
        same_settings(folder / "a.hdf5", {"a": 1}, {"a": 2})


def test_only_temporary_files_of_this_name_are_removed(tmp_path: Path):
    """`lines.album.9` has names that begin with those of `lines.album`, and another run may be writing it."""
    ours, theirs = ".lines.album.4711-0123abcd.tmp", ".lines.album.9.report.json.4711-0123abcd.tmp"
    for name in (ours, theirs, ".lines.album.notes.tmp"):
        (tmp_path / name).touch()
    (tmp_path / ".lines.album.4712.tmp").mkdir()
    (tmp_path / ".lines.album.62tix56a.tmp").mkdir()
    (tmp_path / ".lines.album.62tix56a.tmp/model").touch()  # of replacing_files
    remove_temporary(tmp_path / "lines.album")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lines.album.4712.tmp", theirs, ".lines.album.notes.tmp"]


def test_what_is_gone_is_named_with_the_command_that_mends(tmp_path: Path):
    done, companion = tmp_path / "a b.hdf5", tmp_path / "a b.ids"
    with pytest.raises(RunError, match="a b.hdf5 was written and is gone, .* run the same command to make it again"):
        all_written(done, companion)
    done.touch()
    with pytest.raises(RunError, match=r"a b.ids was written and is gone, .* run the same command after: rm '.*a b.hdf5'"):
        all_written(done, companion)


def test_a_folder_in_the_way_is_named(tmp_path: Path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UserError, match=r"a.json is a folder, and a file is to be written there"):
        write_json(tmp_path / "a.json", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
