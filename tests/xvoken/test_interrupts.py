"""Ctrl-C in the first seconds of a script, in which it imports."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from xvoken.interrupts import STOPPED

import pytest

from tests.running import ROOT

STAGES = ("xmatching", "tokenization", "vokenization", "ctx", "scripts")
SCRIPTS = [path for stage in STAGES for path in sorted((ROOT / stage).glob("*.py")) if "run_main(main)" in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_script_imports_it_first(script: Path):
    text = script.read_text()
    assert "import xvoken.interrupts" in text.split("sys.path.insert(")[1].splitlines()[2]


@pytest.mark.parametrize("package", ["torch", "h5py", "numpy", "tqdm", "PIL"])
def test_a_missing_package_is_one_line(tmp_path: Path, package: str):
    """As it is in a Python without them, a newcomer's before he has activated .venv."""
    blocked = f"import sys\nsys.modules[{package!r}] = None\n"
    (tmp_path / "sitecustomize.py").write_text(blocked)
    (tmp_path / "config.json").write_text("{}")  # a model, so that what loads one is imported
    command = [sys.executable, "vokenization/vokenize_corpus_mp.py", "--load", tmp_path, "--corpus", tmp_path / "none.txt"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"error: {sys.executable} has no {package}; run: . .venv/bin/activate, or: pip install -r requirements.txt -c constraints.txt\n"
    )


def test_ctrl_c_raises_again_once_main_runs(tmp_path: Path):
    """There it is an exception, so that locks and temporary files are cleaned up."""
    looks = (
        "import xvoken.interrupts as i, signal",
        "print(signal.getsignal(signal.SIGINT) is i._ctrl_c)",
        "i.hear_by_exception()",
        "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)",
    )
    scripts = [(path, ["True", "True"]) for path in (ROOT / "scripts/check.py", tmp_path / "bin/xvoken")]
    for path, expected in (*scripts, (tmp_path / "start.py", ["False", "True"])):
        program = "; ".join((f"import sys; sys.modules['__main__'].__file__ = {str(path)!r}", *looks))
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.split() == expected


def test_a_heavy_import_behind_main_is_heard_as_those_on_top(tmp_path: Path):
    """In a script, and there alone; what was before comes back."""
    looks = (
        "import xvoken.interrupts as i, signal",
        "i.hear_by_exception()",
        "armed = lambda: signal.getsignal(signal.SIGINT) is i._ctrl_c",
        "block = i.importing(); block.__enter__(); print(armed()); block.__exit__(None, None, None); print(armed())",
        "signal.signal(signal.SIGINT, signal.SIG_IGN)",
        "block = i.importing(); block.__enter__(); print(armed()); block.__exit__(None, None, None)",
        "print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)",
    )
    for path, expected in (
        (ROOT / "scripts/check.py", ["True", "False", "False", "True"]),
        (tmp_path / "start.py", ["False", "False", "False", "True"]),
    ):
        program = "; ".join((f"import sys; sys.modules['__main__'].__file__ = {str(path)!r}", *looks))
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.split() == expected


@pytest.mark.parametrize("script", ["vokenization/evaluate_retrieval.py", "ctx/encode_images.py", "scripts/check.py"])
def test_ctrl_c_while_a_script_imports(script: str):
    run = subprocess.Popen([sys.executable, script, "--help"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    maps = Path(f"/proc/{run.pid}/maps")
    while "site-packages" not in maps.read_text():  # the first library of others
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert said == f"{STOPPED}\n"
