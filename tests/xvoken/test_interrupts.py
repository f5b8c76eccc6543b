"""Ctrl-C in the first seconds of a script, in which it imports."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from xvoken.interrupts import STOPPED

import pytest

from tests.conftest import ROOT

STAGES = ("xmatching", "tokenization", "vokenization", "ctx", "scripts")
SCRIPTS = [path for stage in STAGES for path in sorted((ROOT / stage).glob("*.py")) if "run_main(main)" in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_script_imports_it_first(script: Path):
    text = script.read_text()
    assert "import xvoken.interrupts" in text.split("sys.path.insert(")[1].splitlines()[2]


@pytest.mark.parametrize("script", ["xmatching/main.py", "vokenization/evaluate_retrieval.py", "ctx/encode_images.py", "scripts/check.py"])
def test_ctrl_c_while_a_script_imports(script: str):
    run = subprocess.Popen(
        [sys.executable, script, "--help"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # which a shell in the background ignores
    )  # fmt: skip
    maps = Path(f"/proc/{run.pid}/maps")
    while "site-packages" not in maps.read_text():  # the first library of others
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert said == f"{STOPPED}\n"
