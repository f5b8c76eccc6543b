"""What a person reads when a path, the system or the person stops a script."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import run_here
from tests.worlds import World
from xvoken.cli.main import PATH_FAULTS, run_main
from xvoken.console import log
from xvoken.errors import UserError, disk_full


def ended(main: Callable[[], object], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code of a script, and what it said."""
    with pytest.raises(SystemExit) as caught:
        run_main(main)
    return caught.value.code, capfd.readouterr().err


@pytest.mark.parametrize("number", PATH_FAULTS)
def test_faults_of_a_path_are_one_line_with_its_name(capfd: pytest.CaptureFixture[str], number: int):
    def main() -> None:
        raise OSError(number, os.strerror(number), "some/file")

    code, said = ended(main, capfd)
    assert code == 2
    assert said.startswith(f"error: some/file: {os.strerror(number)}; ") and said.count("\n") == 1


def test_nothing_of_a_stranger_steers_the_terminal(capfd: pytest.CaptureFixture[str]):
    def main() -> None:
        log.warning("of \x1b]0;a\x07 file \u202e")
        raise UserError("picture \x1b[31m\u202ex Zoë")

    assert ended(main, capfd) == (2, "warning: of \\x1b]0;a\\x07 file \\u202e\nerror: picture \\x1b[31m\\u202ex Zoë\n")


def test_closed_streams(monkeypatch: pytest.MonkeyPatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    answers = []
    run_main(lambda: answers.append((sys.stdin.isatty(), sys.stdin.read(), print("x", flush=True), sys.stderr.flush())))
    assert answers == [(False, "", None, None)]


def test_other_errors_of_the_system_keep_their_traceback():
    def main() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), "some/file")

    with pytest.raises(OSError, match="some/file"):
        run_main(main)


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", True),  # safetensors
        ("File too large (os error 27)", True),  # tokenizers
        ("Disk quota exceeded (os error 122)", True),
        ("No such file or directory (os error 2)", False),
        ("Is a directory (os error 281)", False),
    ],
)
def test_full_disks_that_libraries_in_rust_tell_of(text: str, full: bool):
    assert disk_full(Exception(text)) == full


def test_outputs_that_can_not_be(world: World, tmp_path: Path):
    """As a user sees it: a file where a folder is needed."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "train.jsonl").write_text('{"context": ["x"], "response": "y"}\n')
    for command in (
        ["xmatching/main.py", *world.train_flags(tmp_path / "file")],
        ["xmatching/main.py", *world.train_flags(tmp_path / "m", "--cache", tmp_path / "file")],
        ["tokenization/prepare_reddit.py", tmp_path, tmp_path / "file"],
        ["xmatching/launch.py", "x"],
    ):
        done = run_here(*command)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert "error: " in done.stderr.splitlines()[-1]
