"""What the tests share: the environment that they run in, ways to run a command, and a small world with a trained matcher."""

import importlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Both are read when torch and transformers are imported. Tests run beside each other, one per core: two threads in each would wait for
# each other, spinning. What is told to a user must not depend on a hub that may or may not be reached from here.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.running import ROOT, run_here
from tests.worlds import World, make_world
from xvoken.console import show_log

# What is started in the background (nohup, CI) ignores Ctrl-C, and so would all that the tests start: as at a terminal instead.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What is kept of models between commands must be that of these tests.
CACHE = tempfile.TemporaryDirectory(prefix="xvoken-tests-")
os.environ["XDG_CACHE_HOME"] = CACHE.name
show_log()  # as commands do
SLOW = 5  # seconds of a test that is to be marked so


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def script(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a stage's main() in this process with the given flags; returns what it printed."""

    def run(module: str, *flags: object) -> str:
        capfd.readouterr()
        importlib.import_module(module).main([*map(str, flags)])
        out = capfd.readouterr()
        return out.out + out.err

    return run


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command as a user does, from the root; the last argument may be more of the environment."""

    def run(*command: object, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return subprocess.run([*map(str, command)], cwd=ROOT, env=env, text=True, capture_output=True, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def matcher(world: World) -> Path:
    """A snapshot trained for two epochs, with the keys of both sets."""
    output = world.folder / "snap" / "matcher"
    assert run_here("xmatching/main.py", *world.train_flags(output)).returncode == 0
    return output


GIVEN = ("--ridge", "1", "--power", "1", "--part-weights", "1,0.5", "--hubness", "0.5", "--key-views", "2", "--epochs", "0")


@pytest.fixture(scope="session")
def joined_matcher(world: World) -> Path:
    """A snapshot of --recipe best, whose heads cca and classes are made in closed form, of two views; nothing about it is chosen."""
    output = world.folder / "snap" / "joined"
    assert run_here("xmatching/main.py", *world.train_flags(output, "--recipe", "best", *GIVEN)).returncode == 0
    return output


@pytest.fixture(scope="session")
def keyed(world: World, matcher: Path) -> Path:
    """The snapshot with keys for shapes_train and shapes_valid, and a tokenized corpus at world/corpus/lines.txt."""
    corpus = world.folder / "corpus" / "lines.txt"
    corpus.parent.mkdir()
    long = "circle " * 60
    lines = ["a red circle", "", "do you like squares?\tyes , black ones", "   ", f"blue {long}", "x", "a green square and a pink circle"]
    corpus.write_text("\n".join(lines * 3) + "\n")
    ids = ["--ids-root", f"{world.folder}/ids", *world.roots]
    shared = ["--cache", f"{world.folder}/cache", "--num-workers", "1", "--precision", "fp32"]
    sets = ["--image-sets", "shapes_train,shapes_valid"]
    assert run_here("vokenization/create_image_ids.py", *sets, *ids).returncode == 0
    assert run_here("vokenization/extract_vision_keys.py", "--load-dir", str(matcher), *sets, *ids, *shared).returncode == 0
    assert run_here("tokenization/tokenize_dataset.py", str(corpus.parent), corpus.name, str(world.bert)).returncode == 0
    return matcher


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that took over 5 s and are not marked slow, as -m "not slow" promises to leave out."""
    ran = [report for reports in terminalreporter.stats.values() for report in reports if getattr(report, "when", "") == "call"]
    if long := [f"{report.nodeid} ({report.duration:.0f} s)" for report in ran if report.duration > SLOW and "slow" not in report.keywords]:
        terminalreporter.write_line(f"not marked slow, and took over {SLOW} s here: {', '.join(long)}")
