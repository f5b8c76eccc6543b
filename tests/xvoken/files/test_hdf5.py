"""HDF5 files where there is no room for them: an error, not the end of the process."""

import subprocess
import sys
from pathlib import Path

import pytest

WRITE = """
import resource, sys
from pathlib import Path
import numpy as np
from xvoken.files.hdf5 import writing_hdf5
from xvoken.cli.main import run_main

def main():
    limit, rows, how = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with writing_hdf5(Path(sys.argv[1])) as file:
        data = file.create_dataset("tokens", (0,), np.int32, maxshape=(None,), chunks=(1 << 14,))
        data.resize((rows,))
        data[:] = 1
        for number in range(50):
            file.create_dataset(f"group {number}/one", data=np.ones(100))
        if how == "mistake":
            raise ValueError("of the caller")
        if how == "ctrl-c":
            raise KeyboardInterrupt

run_main(main)
"""


@pytest.mark.parametrize("limit", [50, 3000, 100_000, 180_000, 10_000_000])  # of the 250,000 bytes that are needed
@pytest.mark.parametrize(("how", "code", "told"), [("", 0, ""), ("mistake", 1, "ValueError: of the caller"), ("ctrl-c", 130, "stopped")])
def test_no_room(tmp_path: Path, limit: int, how: str, code: int, told: str):
    """Chunks that stay in the library's cache until the end, and chunks that do not; also where the file is given up before."""
    path = tmp_path / "x.hdf5"
    done = subprocess.run([sys.executable, "-c", WRITE, path, str(limit), str(1 << 15), how], capture_output=True, text=True, timeout=60)
    full = (1, f"error: no room on the disk for {path}; make room, then run the same command to go on\n")
    fits = limit == 10_000_000
    assert (done.returncode, done.stderr) == full or ((how or fits) and done.returncode == code and told in done.stderr), done
    assert path.exists() == (fits and not how) and not list(tmp_path.glob(".*"))
