"""Commands as users start them: run, killed, stopped, broken, in processes of their own or in the test's."""

import contextlib
import importlib
import io
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from xvoken.cli.main import run_main

ROOT = Path(__file__).resolve().parents[1]


def script(path: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / path), *map(str, arguments)]


def run(command: list[str], **options: object) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=200, **options)


def start(command: list[str], cwd: Path | None = None) -> subprocess.Popen:
    """Start a command as the leader of a process group of its own."""
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=cwd)


def children(pid: int) -> list[int]:
    """The worker processes of a run (multiprocessing's resource tracker is none)."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in path.read_text().split()]
    return [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def run_here(script: str | Path, *arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a script (its path) in this process, where everything is imported already, to the end that it has in one of its own."""
    name = (ROOT / script).relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    out, error, code, before = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = [str(script), *map(str, arguments)]
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            run_main(partial(importlib.import_module(name).main, sys.argv[1:]))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            sys.argv = before
    return subprocess.CompletedProcess([script, *arguments], code, out.getvalue(), error.getvalue())


def run_script(name: str, work: Path, *flags: object, code: int = 0) -> str:
    """Run a script of ctx/ in a folder, here and by one process; returns its last line on stdout, or on stderr for an exit `code`."""
    done = run_here(f"ctx/{name}.py", "--device", "cpu", "--num_workers", 1, *flags, cwd=work)
    assert done.returncode == code, done.stderr
    return (done.stderr if code else done.stdout).strip().split("\n")[-1]


SIGNAL_BEHIND = """
import os, runpy, sys
rename, (number, name, *sys.argv) = os.replace, sys.argv[1:]

def replace(source, target, **options):
    rename(source, target, **options)
    if os.path.basename(target) == name:
        os.kill(os.getpid(), int(number))

os.replace = replace
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def killed_behind(name: str, command: list[object], cwd: Path = ROOT) -> None:
    """Run a script (its path, then its flags) that is killed as soon as it has renamed a file to `name`."""
    process = _signalled_behind(signal.SIGKILL, name, command, cwd)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == -signal.SIGKILL, error


def stopped_behind(name: str, command: list[object], cwd: Path = ROOT) -> subprocess.Popen:
    """Start a script that stands still when it has renamed a file to `name`, until it is sent SIGCONT."""
    process = _signalled_behind(signal.SIGSTOP, name, command, cwd)
    wait_until(lambda: process.poll() is not None or state(process.pid) == "T", what=name)
    assert process.poll() is None, process.communicate()
    return process


def _signalled_behind(number: int, name: str, command: list[object], cwd: Path = ROOT) -> subprocess.Popen:
    return start([sys.executable, "-c", SIGNAL_BEHIND, str(int(number)), name, *map(str, command)], cwd)


def limit_files(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def wait_until(condition, seconds: float = 120, what: str = "it") -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, f"waited {seconds} s for {what}"
        time.sleep(0.005)


def state(pid: int) -> str:
    """Of a process: R, S, T (stopped), Z (ended), ..."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def alive(pid: int) -> bool:
    try:
        return state(pid) != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_group(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
