"""The folder of parts: what belongs into it, what is removed from it, what its parts said."""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xvoken.errors import RunError, UserError
from xvoken.files.locks import locked
from xvoken.files.safe import replacing, save_array, save_arrays, write_json
from xvoken.machine import LOCAL, Engine
from xvoken.work.parts import Parts, discard, read_skipped, remove_leftover, strange


def test_what_parts_skipped_in_order(tmp_path: Path):
    with Parts(tmp_path / "out", 9, 3, {}) as parts:
        for number, summary in enumerate(({"skipped": [[0, "odd", "x"], [2, "even"]]}, {}, {"skipped": [[7, "odd"]]})):
            write_json(parts.part(number).with_suffix(".json"), {"items": 3, **summary})
        assert read_skipped(parts) == [[0, "odd", "x"], [2, "even"], [7, "odd"]]


@dataclass
class Names:
    """Writes the numbers of its range; of each number in `odd` it says that it was left out; fails twice at the start of `trouble`."""

    odd: tuple[int, ...] = ()
    trouble: int = -1
    failures: int = 0

    def setup(self, device: str) -> None:
        self.device = device

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        if start == self.trouble and self.failures < 2:
            self.failures += 1
            raise ValueError("no such luck")
        part.with_suffix(".txt").write_text("".join(f"{i}\n" for i in range(start, stop)))
        return {"skipped": [[i, "odd"] for i in range(start, stop) if i in self.odd]}


def names(output: Path, job: Names, engine: Engine = LOCAL, settings: dict[str, Any] | None = None, total: int = 7) -> bool:
    with Parts(output, total, 3, settings or {}, engine=engine) as parts:
        joined = parts.run(job, ["cpu"], "names", "w")
        if joined:
            output.write_text("".join(parts.part(n).with_suffix(".txt").read_text() for n in range(len(parts.ranges))))
    return joined


def test_the_plan_is_what_the_bytes_depend_on(tmp_path: Path):
    with Parts(tmp_path / "out", 7, 3, {"towers": ("a", "b"), "limit": None}):
        plan = json.loads((tmp_path / "out.parts/plan.json").read_text())
        assert plan == {"total": 7, "chunk": 3, "settings": {"towers": ["a", "b"], "limit": None}}
    with Parts(tmp_path / "out", 7, 3, {"towers": ("a", "b"), "limit": None}) as parts:
        assert parts.missing() == [0, 1, 2]
    for total, letter, said in ((7, "c", r'\(towers: \["a", "b"\] then, \["a", "c"\] now\)'), (8, "b", r"\(total: 7 then, 8 now\)")):
        with pytest.raises(UserError, match=rf"{tmp_path}/out.parts .*{said}.* rm -r {tmp_path}/out.parts$"):
            with Parts(tmp_path / "out", total, 3, {"towers": ("a", letter), "limit": None}):
                pass


def test_left_without_joining_the_parts_stay(tmp_path: Path):
    with Parts(tmp_path / "out", 7, 3, {}) as parts:
        assert parts.folder == tmp_path / "out.parts" and not parts.too_late
    assert sorted(path.name for path in parts.folder.iterdir()) == ["lock", "plan.json"]
    with pytest.raises(ZeroDivisionError), Parts(tmp_path / "out", 7, 3, {}) as parts:
        assert parts.run(Names(), ["cpu"], "names", "w")
        (tmp_path / "out").touch()
        raise ZeroDivisionError
    assert parts.folder.is_dir()


@pytest.mark.parametrize("gone", ["out", "out.json", "out.txt"])
def test_all_that_was_promised_is_asked_for(tmp_path: Path, gone: str):
    files = [tmp_path / name for name in ("out", "out.json", "out.txt")]
    with pytest.raises(RunError, match=f"{tmp_path}/{gone} was written and is gone"):
        with Parts(files[0], 7, 3, {}, (files[2],), done=files[1]) as parts:
            parts.run(Names(), ["cpu"], "names", "w")
            for path in files:
                if path.name != gone:
                    path.touch()
    assert len(parts.missing()) == 0


def test_the_file_that_means_done_is_looked_for(tmp_path: Path):
    """Another one of the output may be there: a run was killed between the two."""
    output, done = tmp_path / "out", tmp_path / "out.json"
    output.touch()
    with Parts(output, 7, 3, {}, done=done):
        pass
    assert (tmp_path / "out.parts/plan.json").exists()
    done.touch()
    with pytest.raises(UserError, match=f"another run has just finished {output}"):
        with Parts(output, 7, 3, {}, done=done):
            pass
    assert (tmp_path / "out.parts/plan.json").exists()  # of the run that has done it and was killed; remove_leftover's
    (tmp_path / "out.parts/plan.json").unlink()
    with pytest.raises(UserError, match=f"another run has just finished {output}"):
        with Parts(output, 7, 3, {}, done=done):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.json"]


def test_a_share_that_comes_when_all_is_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "out").write_text("by the others")
    assert names(tmp_path / "out", Names(), Engine(share=(1, 2))) is False
    assert re.search(rf"{tmp_path}/out: joined by another share\n", capsys.readouterr().err)
    assert (tmp_path / "out").read_text() == "by the others"


def test_a_share_is_started_once(tmp_path: Path):
    with Parts(tmp_path / "out", 7, 3, {}, engine=Engine(share=(2, 3))) as parts:
        assert sorted(path.name for path in parts.folder.glob("lock*")) == ["lock", "lock.2-of-3", "lock.how"]
        with pytest.raises(UserError, match=f"another run .process {os.getpid()}. is at work on share 2 of 3 of {tmp_path}/out;"):
            names(tmp_path / "out", Names(), Engine(share=(2, 3)))
        with pytest.raises(UserError, match=f"another run .process {os.getpid()}. is at work on {tmp_path}/out;"):
            names(tmp_path / "out", Names())


def test_what_is_left_to_other_shares_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert not names(tmp_path / "out", Names(), Engine(share=(2, 2)))
    assert re.search(rf"{tmp_path}/out: 2 of 3 parts ", capsys.readouterr().err)
    assert sorted(path.name for path in (tmp_path / "out.parts").glob("0*")) == ["000001.json", "000001.txt"]
    with pytest.raises(UserError, match=rf"{tmp_path}/out: 2 of 3 parts are missing, the first is 0;"):
        names(tmp_path / "out", Names(), Engine(join=True))
    assert names(tmp_path / "out", Names(), Engine(share=(1, 2)))
    assert (tmp_path / "out").read_text() == "0\n1\n2\n3\n4\n5\n6\n"


def test_parts_removed_before_a_share_with_nothing_to_do(tmp_path: Path):
    with pytest.raises(RunError, match=f"^{tmp_path}/out.parts was removed"):
        with Parts(tmp_path / "out", 7, 3, {}, engine=Engine(share=(8, 8))) as parts:
            shutil.rmtree(parts.folder)
            parts.run(Names(), ["cpu"], "names", "w")


def test_parts_of_no_plan_are_removed_and_nothing_else(tmp_path: Path):
    folder = tmp_path / "out.parts"
    folder.mkdir()
    for name in ("000000.json", "000002.txt", "keys.npy", "error.log", ".x.tmp"):
        (folder / name).write_text("{}")
    with Parts(tmp_path / "out", 7, 3, {}):
        assert sorted(path.name for path in folder.iterdir()) == [".x.tmp", "error.log", "keys.npy", "lock", "plan.json"]
    (folder / "000000.json").write_text("{}")
    with Parts(tmp_path / "out", 7, 3, {}) as parts:
        assert parts.missing() == [1, 2]  # with a plan they count


@pytest.mark.parametrize("text", ["3", '{"settings": [1]}', '{"total": 7}'])
def test_a_plan_of_something_else(tmp_path: Path, text: str):
    (tmp_path / "some out.parts").mkdir()
    (tmp_path / "some out.parts/plan.json").write_text(text)
    with pytest.raises(UserError, match=rf"^{tmp_path}/some out.parts/plan.json: .* rm -r '{tmp_path}/some out.parts'$"):
        names(tmp_path / "some out", Names())


def test_what_a_killed_join_has_left_is_removed(tmp_path: Path):
    """Of the output and of what is written with it; what is not theirs stays."""
    output, also = tmp_path / "out", tmp_path / "also"
    with replacing(output) as temporary:
        temporary.touch()
        ours = [temporary.with_name(temporary.name.replace(".out.", f".{name}.")) for name in ("out", "also", "other")]
    output.unlink()
    with Parts(output, 7, 3, {}, (also,)) as parts:
        for path in ours:
            path.write_text("half")
        assert parts.run(Names(), ["cpu"], "names", "w")
        assert [path.exists() for path in ours] == [False, False, True]
        output.touch()
        also.touch()


def test_arrays_of_a_part(tmp_path: Path):
    with Parts(tmp_path / "out", 7, 3, {}) as parts:
        save_arrays(parts.part(0).with_suffix(".npz"), rows=np.arange(3), more=np.ones(2))
        save_array(parts.part(0).with_suffix(".npy"), np.arange(4))
        loaded = parts.load(0)
        assert isinstance(loaded, dict) and sorted(loaded) == ["more", "rows"] and loaded["rows"].tolist() == [0, 1, 2]
        mapped = parts.load(0, ".npy")
        assert isinstance(mapped, np.memmap) and mapped.mode == "r" and mapped.tolist() == [0, 1, 2, 3]
        path = parts.part(12).with_suffix(".npy")
        path.write_bytes(b"\x93NUMPY\x01\x00\xc8\x00" + f"{{'{'x' * 150}': 1}}".encode().ljust(199) + b"\n")
        with pytest.raises(UserError) as caught:
            parts.load(12, ".npy")
        assert len(re.fullmatch(rf"{path}: .*?\((.*)\); .* rm {tmp_path}/out.parts/000012\.\*, .*", str(caught.value))[1]) == 100
        with pytest.raises(UserError, match="000003.npz"):
            parts.load(3)


def test_what_parts_said(tmp_path: Path):
    with Parts(tmp_path / "out", 7, 3, {}) as parts:
        for number in range(3):
            write_json(parts.part(number).with_suffix(".json"), {"items": number})
        assert [summary["items"] for summary in parts.summaries()] == [0, 1, 2]
        assert [summary["items"] for summary in parts.summaries([2, 0])] == [2, 0]
        assert list(parts.summaries([])) == []
        (parts.folder / "000001.json").write_text("{")
        with pytest.raises(UserError, match=f"000001.json .*line 1.* {tmp_path}/out.parts "):
            list(parts.summaries())


def last_bar(capsys: pytest.CaptureFixture[str]) -> str:
    return re.split(r"[\r\n]+", capsys.readouterr().err.strip())[-1]


def test_the_bar_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert not names(tmp_path / "out", Names(), Engine(share=(1, 2)))
    said = capsys.readouterr().err
    assert "names:  57%" in said and "4.00/7.00" in said and "skipped" not in said
    assert names(tmp_path / "out", Names((4, 5)))
    last = last_bar(capsys)
    assert last.startswith("names: 100%") and "7.00/7.00" in last and re.search(r"w/s|s/w", last) and "skipped=2" in last


def test_items_that_earlier_runs_skipped_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert not names(tmp_path / "out", Names((1, 6)), Engine(share=(1, 2)))
    capsys.readouterr()
    assert names(tmp_path / "out", Names((4,)))
    assert "7.00/7.00" in (last := last_bar(capsys)) and "skipped=3" in last


def test_a_range_tried_again_is_told_with_the_name_of_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert names(tmp_path / "out", Names(trouble=3))
    out, err = capsys.readouterr()
    assert len(re.findall(r"names: items 3 to 6 .*no such luck", err)) == 2 and not out
    assert (tmp_path / "out").read_text() == "0\n1\n2\n3\n4\n5\n6\n"


def leftover(folder: Path, *more: str) -> Path:
    folder.mkdir()
    for name in ("plan.json", "000000.txt", "000000.json", *more):
        (folder / name).write_text("{}")
    return folder


def test_parts_of_a_finished_output_are_removed(tmp_path: Path):
    remove_leftover(tmp_path / "out")  # nothing there, nothing made
    assert not list(tmp_path.iterdir())
    leftover(tmp_path / "out.parts")
    leftover(tmp_path / ".out.parts.0123abcd.done")
    leftover(tmp_path / "other.parts")
    remove_leftover(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["other.parts"]


def test_parts_that_are_at_work_linked_or_mixed_are_left(tmp_path: Path):
    busy = leftover(tmp_path / "busy.parts")
    with locked(busy / "lock", "busy"):
        remove_leftover(tmp_path / "busy")
        assert (busy / "plan.json").exists()
    (tmp_path / "link.parts").symlink_to(busy)
    remove_leftover(tmp_path / "link")
    assert (tmp_path / "link.parts").is_symlink() and (busy / "plan.json").exists()
    mixed = leftover(tmp_path / "mixed.parts", "notes", "a thesis")
    remove_leftover(tmp_path / "mixed")
    assert len(list(mixed.iterdir())) == 5 and strange(mixed) == mixed / "a thesis" and strange(busy) is None
    (tmp_path / "file.parts").write_text("no folder")
    remove_leftover(tmp_path / "file")
    assert (tmp_path / "file.parts").read_text() == "no folder"


def test_parts_that_can_not_be_removed_harm_nothing(tmp_path: Path):
    """A name so long that the folder can't be renamed."""
    folder = leftover(tmp_path / f"{'x' * 245}.parts")
    remove_leftover(tmp_path / ("x" * 245))
    assert (folder / "plan.json").exists()


def test_discarding(tmp_path: Path):
    discard(tmp_path / "gone.parts")
    mixed = leftover(tmp_path / "mixed.parts", "notes", "lock")
    discard(mixed)
    assert [path.name for path in mixed.iterdir()] == ["notes"]
    for name in (".x.parts.0123abcd.done", ".x.parts.thesis.done", ".y.parts.0123abcd.done", "x.parts.0123abcd.done"):
        leftover(tmp_path / name)
    (tmp_path / ".x.parts.ff.done").write_text("a file")
    leftover(tmp_path / "x.parts")
    discard(tmp_path / "x.parts")
    kept = [".x.parts.ff.done", ".x.parts.thesis.done", ".y.parts.0123abcd.done", "mixed.parts", "x.parts.0123abcd.done"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
