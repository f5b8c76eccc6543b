import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.running import ROOT
from xvoken.errors import RunError, UserError
from xvoken.files.locks import locked
from xvoken.files.safe import save_array, save_arrays
from xvoken.machine import LOCAL, Engine
from xvoken.work.parts import Parts, discard, ranges, remove_leftover


@dataclass
class SquareJob:
    """Writes the squares of its range; fails in the way asked for at one item, once."""

    fail: str = ""
    at: int = -1
    once: Path | None = None

    def setup(self, device: str) -> None:
        self.device = device

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        if start <= self.at < stop and not (self.once and self.once.exists()):
            if self.once:
                self.once.touch()
            if self.fail == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fail == "user":
                raise UserError("line 7 is bad")
            if self.fail == "remove":
                shutil.rmtree(part.parent)
            if self.fail == "remove one":
                part.with_name("000000.json").unlink()
            if not self.fail.startswith("remove"):
                raise RuntimeError("no luck")
        part.parent.mkdir(exist_ok=True)  # as `replacing` does
        part.with_suffix(".txt").write_text("".join(f"{i * i}\n" for i in range(start, stop)))
        return {"skipped": [[start, "odd"]] if start % 2 else []}


def squares(output: Path, job: SquareJob, workers: int, total: int = 23, chunk: int = 5, engine: Engine = LOCAL) -> str:
    with Parts(output, total, chunk, {"chunk": chunk}, engine=engine) as parts:
        parts.run(job, ["cpu"] * workers, "squares", "n")
        text = "".join(parts.part(n).with_suffix(".txt").read_text() for n in range(len(parts.ranges)))
        output.write_text(text)
    return text


EXPECTED = "".join(f"{i * i}\n" for i in range(23))


def test_ranges_on_uneven_numbers():
    assert ranges(7, 3) == [(0, 3), (3, 6), (6, 7)]
    assert ranges(6, 3) == [(0, 3), (3, 6)]
    assert ranges(2, 3) == [(0, 2)]
    assert ranges(0, 3) == []


LATE = """
import sys
from xvoken.work.jobs import prepare
class Late:
    def setup(self, device):
        assert "torch" not in sys.modules
        import torch
        assert torch.get_num_threads() == 2
prepare(Late(), "cpu")
import torch
print(torch.get_num_threads(), torch.backends.cudnn.allow_tf32)
"""


def test_a_job_that_brings_torch_late_has_one_thread_too():
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", LATE], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "1 False\n", done.stderr


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_any_number_of_workers_gives_the_same(tmp_path: Path, workers: int):
    assert squares(tmp_path / "out", SquareJob(), workers) == EXPECTED
    assert not (tmp_path / "out.parts").exists()


@pytest.mark.parametrize(("fail", "reason"), [("kill", "SIGKILL"), ("user", "line 7 is bad")])
def test_a_worker_that_fails_stops_the_run_and_the_next_run_goes_on(tmp_path: Path, fail: str, reason: str):
    job = SquareJob(fail, at=17, once=tmp_path / "failed-once")
    with pytest.raises(UserError, match=reason) as caught:
        squares(tmp_path / "out", job, workers=2)
    assert isinstance(caught.value, RunError) == (fail != "user")
    assert not (tmp_path / "out").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.parts").glob("*.txt")}
    assert kept
    assert squares(tmp_path / "out", job, workers=1) == EXPECTED
    assert not (tmp_path / "out.parts").exists()


def test_finished_parts_are_not_done_again(tmp_path: Path):
    with pytest.raises(RunError):
        squares(tmp_path / "out", SquareJob("error", at=17), workers=1)
    (tmp_path / "out.parts" / "000000.txt").write_text("kept\n")
    assert squares(tmp_path / "out", SquareJob(), workers=1).startswith("kept\n")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_bar_counts_what_earlier_runs_did_and_skipped(tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(RunError):
        squares(tmp_path / "out", SquareJob("error", at=17), workers=1)
    assert len(list((tmp_path / "out.parts").glob("0*.json"))) == 3  # of which one was odd
    capsys.readouterr()
    squares(tmp_path / "out", SquareJob(), workers)
    last = capsys.readouterr().err.split("\r")[-1]
    assert "23.0/23.0" in last and "skipped=2" in last


def test_parts_of_other_settings_are_refused(tmp_path: Path):
    with pytest.raises(RunError):
        squares(tmp_path / "out", SquareJob("error", at=17), workers=1)
    with pytest.raises(UserError, match="chunk: 5 then, 4 now"):
        squares(tmp_path / "out", SquareJob(), workers=1, chunk=4)
    assert (tmp_path / "out.parts" / "000000.txt").exists()
    assert squares(tmp_path / "out", SquareJob(), workers=1) == EXPECTED  # the refusal let go of the lock


def test_leftovers_of_killed_clean_ups_are_removed_whatever_their_process(tmp_path: Path):
    """In a container every run may have the same process id; the name of a picture set may hold brackets."""
    output = tmp_path / "out[1]"
    for name in (str(os.getpid()), "0123abcd"):
        leftover = tmp_path / f".out[1].parts.{name}.done"
        leftover.mkdir()
        (leftover / "000000.txt").touch()
    with pytest.raises(RunError):
        squares(output, SquareJob("error", at=3), workers=1)
    assert not list(tmp_path.glob("*.done")) and not list(tmp_path.glob(".*.done"))
    (tmp_path / f".out[1].parts.{os.getpid()}.done" / "x").mkdir(parents=True)
    assert squares(output, SquareJob(), workers=1) == EXPECTED
    assert [path.name for path in tmp_path.iterdir()] == ["out[1]"]


def test_a_second_run_on_the_same_output_is_refused(tmp_path: Path):
    with locked(tmp_path / "out.parts" / "lock", "out"), pytest.raises(UserError, match=f"process {os.getpid()}"):
        squares(tmp_path / "out", SquareJob(), workers=1)


@pytest.mark.parametrize("ending", [".npz", ".npy"])
def test_a_damaged_part_is_named_with_what_mends_it(tmp_path: Path, ending: str):
    with Parts(tmp_path / "some out", 2, 1, {}) as parts:
        for number, rows in enumerate(([1, 2], [3])):
            path = parts.part(number).with_suffix(ending)
            save_arrays(path, rows=np.array(rows)) if ending == ".npz" else save_array(path, np.array(rows))
        loaded = parts.load(0, ending)
        assert (loaded["rows"] if ending == ".npz" else loaded).tolist() == [1, 2]
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(UserError, match=rf"000001{ending}: no whole file .*: rm '.*some out.parts/000001'\.\*, then the same command"):
            parts.load(1, ending)


@pytest.mark.parametrize("text", ["[]", "{}", '{"settings": 3}'])
def test_what_is_no_plan(tmp_path: Path, text: str):
    (tmp_path / "out.parts").mkdir()
    (tmp_path / "out.parts/plan.json").write_text(text)
    with pytest.raises(UserError, match="plan.json: not a plan of a run; start over with: rm -r "):
        squares(tmp_path / "out", SquareJob(), 1)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("at", [3, 17, 22])
def test_parts_removed_in_mid_run_stop_it(tmp_path: Path, workers: int, at: int):
    """The worker goes on in a folder that it has made again, without the lock."""
    job = SquareJob("remove", at, once=tmp_path / "once")
    with pytest.raises(RunError, match=r"out.parts was removed while this run was at work in it; run the same command again$"):
        squares(tmp_path / "out", job, workers)
    # What another worker wrote at that moment may lie there, but without a plan, so that it counts for nothing.
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.parts/plan.json").exists()
    assert squares(tmp_path / "out", job, workers) == EXPECTED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["once", "out"]


@pytest.mark.parametrize("share", [None, (1, 2)])
def test_a_part_that_is_gone_at_the_end_stops_the_run(tmp_path: Path, share: tuple[int, int] | None):
    job = SquareJob("remove one", at=22, once=tmp_path / "once")
    with pytest.raises(RunError, match="1 of 5 parts were done and are gone, something has removed them .the first is 0.; run the same"):
        squares(tmp_path / "out", job, 1, engine=Engine(share=share))
    assert not (tmp_path / "out").exists()
    assert squares(tmp_path / "out", job, 1) == EXPECTED


def test_parts_without_a_plan_are_of_another_run(tmp_path: Path):
    """Of one that went on after its folder was removed, with whatever settings."""
    (tmp_path / "out.parts").mkdir()
    for ending in ("txt", "json"):
        (tmp_path / f"out.parts/000001.{ending}").write_text("{}")
    assert squares(tmp_path / "out", SquareJob(), workers=1) == EXPECTED


def test_a_run_that_comes_when_the_other_has_just_finished(tmp_path: Path):
    """It found no output, then waited for a lock that the other let go with the work done: nothing is written twice."""
    (tmp_path / "out").write_text("by the other")
    with pytest.raises(UserError, match="another run has just finished .*out; run the same command again"):
        squares(tmp_path / "out", SquareJob(), workers=1)
    assert (tmp_path / "out").read_text() == "by the other"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("gone", ["out", "out.also"])
def test_what_was_promised_is_there_or_the_run_has_failed(tmp_path: Path, gone: str):
    with pytest.raises(RunError, match=rf"/{gone} was written and is gone, something has removed it; run the same command"):
        with Parts(tmp_path / "out", 5, 5, {}, (tmp_path / "out.also",)) as parts:
            parts.run(SquareJob(), ["cpu"], "squares", "n")
            for name in {"out", "out.also"} - {gone}:
                (tmp_path / name).touch()
    assert (tmp_path / "out.parts/000000.json").exists()  # and the next run only joins


def test_what_others_put_among_the_parts_is_not_removed(tmp_path: Path):
    output = tmp_path / "out"
    notes = tmp_path / "out.parts/my notes.txt"
    notes.parent.mkdir()
    notes.write_text("precious")
    with pytest.raises(UserError, match=r"my notes.txt is not a file that a run makes, and would be removed with the parts; move it away"):
        squares(output, SquareJob(), workers=1)
    remove_leftover(output)
    discard(notes.parent)
    assert [path.name for path in notes.parent.iterdir()] == ["my notes.txt"]
    notes.unlink()
    assert squares(output, SquareJob(), workers=1) == EXPECTED
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("make", "told"),
    [(os.mkfifo, "not a regular file"), (lambda path: path.write_text("[" * 100_000), "JSON nested too deeply, .*")],
    ids=["fifo", "nested"],
)
def test_a_plan_that_can_not_be_read(tmp_path: Path, make: Callable[[Path], object], told: str):
    (tmp_path / "out.parts").mkdir()
    make(tmp_path / "out.parts/plan.json")
    with pytest.raises(UserError, match=rf"plan.json is {told}; start over with: rm -r"):
        squares(tmp_path / "out", SquareJob(), workers=1)
