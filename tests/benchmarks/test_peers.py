"""What benchmarks/peers.py measures with; it itself starts commands that import torch, one after the other, and takes too long here."""

import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.peer_work import compare, run

WAITS = "import subprocess as s; child = s.Popen(['sleep', '100']); open('pid', 'w').write(str(child.pid)); child.wait()"


def test_what_takes_too_long_is_ended_with_its_children(tmp_path: Path):
    taken, _, ended = run([[sys.executable, "-c", WAITS]] * 2, tmp_path, {}, 1)
    assert not ended
    assert 1 < taken < 10
    state = Path(f"/proc/{(tmp_path / 'pid').read_text()}/stat")
    deadline = time.monotonic() + 10
    while state.exists() and ") Z " not in state.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not state.exists() or ") Z " in state.read_text()


def test_commands_run_one_after_the_other(tmp_path: Path):
    done = run([["sh", "-c", "echo $MORE >> out"]] * 2, tmp_path, {"MORE": "here"}, 60)
    assert done[2]
    assert (tmp_path / "out").read_text() == "here\nhere\n"


def test_compare():
    rng = np.random.default_rng(0)
    vectors, scores, rows = rng.standard_normal((9, 4)), rng.random((9, 5)), rng.integers(0, 9, (9, 5))
    assert compare({"vectors": vectors}, {"vectors": vectors}) == {"cosine": 1}
    assert compare({"vectors": vectors}, {"vectors": np.roll(vectors, 1, 0)})["cosine"] < 0.9
    assert compare({"scores": scores, "rows": rows}, {"scores": scores + 0.01, "rows": rows}) == {"difference": 0.01, "same": 1}
