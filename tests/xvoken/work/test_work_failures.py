"""The parts of a long work: ranges, retries, memory, dead workers."""

import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from xvoken.errors import RunError, UserError, out_of_memory
from xvoken.work.parts import Parts


@dataclass
class Squares:
    """Squares of the items; `trouble` happens at the items that the files in `where` ask for."""

    where: Path
    trouble: str = ""
    batch_size: int = 64

    def setup(self, device: str) -> None:
        if self.trouble == "setup":
            raise ValueError("no such\nmodel")
        if self.trouble == "memory":
            free = sum(int(line.split("-")[1].split()[0], 16) - int(line.split("-")[0], 16) for line in open("/proc/self/maps"))  # noqa: SIM115
            resource.setrlimit(resource.RLIMIT_AS, (free + (1 << 29), resource.RLIM_INFINITY))

    def run(self, start: int, stop: int, part: Path) -> dict:
        if self.trouble == "memory":
            torch.ones(self.batch_size, 1 << 22)  # 16 MB an item
        if self.trouble == "kill" and start == 20:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble.startswith("fail") and start == 20:
            tries = len(list(self.where.glob("try*")))
            (self.where / f"try{tries}").touch()
            if self.trouble == "fail" or tries < 2:
                raise ValueError("no such luck")
        np.save(part.with_suffix(".npy"), np.arange(start, stop) ** 2)
        return {"batch": self.batch_size}


def squares(tmp_path: Path, trouble: str = "", workers: int = 1) -> tuple[bytes, list[dict]]:
    output = tmp_path / "squares"
    with Parts(output, 47, 10, {"of": "integers"}) as parts:
        parts.run(Squares(tmp_path, trouble), ["cpu"] * workers, "squares", "items")
        joined = b"".join(np.load(parts.part(n).with_suffix(".npy")).tobytes() for n in range(5))
        output.write_bytes(joined)
        return joined, list(parts.summaries())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_range_that_fails_three_times_stops_the_run(tmp_path: Path, workers: int, capsys) -> None:
    with pytest.raises(RunError, match="items 20 to 30: ValueError: no such luck.*run the same command"):
        squares(tmp_path, "fail", workers)
    assert len(list(tmp_path.glob("try*"))) == 3
    assert capsys.readouterr().err.count("trying again") == 2
    assert "no such luck" in (tmp_path / "squares.parts/error.log").read_text()
    kept = {path.name for path in (tmp_path / "squares.parts").glob("0*.json")}
    assert {"000000.json", "000001.json"} <= kept and "000002.json" not in kept
    assert squares(tmp_path)[0] == (np.arange(47) ** 2).tobytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_can_not_start_stops_the_run_with_one_line(tmp_path: Path, workers: int) -> None:
    log = tmp_path / "squares.parts/error.log"
    with pytest.raises(RunError, match=f"failed while starting: ValueError: no such model .details in {log}.*run the same command"):
        squares(tmp_path, "setup", workers)
    assert 'raise ValueError("no such\\nmodel")' in log.read_text()


def test_two_failures_are_forgiven(tmp_path: Path) -> None:
    assert squares(tmp_path, "fail twice")[0] == (np.arange(47) ** 2).tobytes()


@pytest.mark.slow
def test_a_dead_worker_stops_the_run_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"died \(killed by SIGKILL.*on items 20 to 30; finished parts are kept"):
        squares(tmp_path, "kill", 2)
    assert squares(tmp_path, workers=2)[0] == (np.arange(47) ** 2).tobytes()


@pytest.mark.slow
def test_out_of_memory_halves_the_batch_and_says_so(tmp_path: Path, capsys) -> None:
    """64 items of 16 MB do not fit into the 512 MB that the worker has; 16 do."""
    joined, summaries = squares(tmp_path, "memory", 2)
    assert joined == (np.arange(47) ** 2).tobytes()
    assert {summary["batch"] for summary in summaries} <= {16, 8} and summaries
    assert "out of memory on items 0 to 10: batches of 32 from here on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, is_memory: bool) -> None:
    assert out_of_memory(error) == is_memory


def test_other_settings_and_a_second_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError):
        squares(tmp_path, "fail")
    with (
        pytest.raises(UserError, match='of: "integers" then, "letters" now.*rm -r'),
        Parts(tmp_path / "squares", 47, 10, {"of": "letters"}),
    ):
        pass
    with Parts(tmp_path / "squares", 47, 10, {"of": "integers"}) as parts:
        with pytest.raises(UserError, match="another run"), Parts(tmp_path / "squares", 47, 10, {"of": "integers"}):
            pass
        parts.run(Squares(tmp_path), ["cpu"], "squares", "items")
        (tmp_path / "squares").touch()
