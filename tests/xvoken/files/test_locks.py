"""Locks: what stands under their names is never overwritten."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.running import ROOT, run_here
from tests.worlds import World
from tests.xvoken.work.test_work import EXPECTED, SquareJob, squares
from xvoken.errors import RunError, UserError
from xvoken.files.locks import sole_writer

THESIS = "years of work\n"


@pytest.fixture
def thesis(tmp_path: Path) -> Path:
    path = tmp_path / "thesis.tex"
    path.write_text(THESIS)
    return path


def test_a_lock_that_is_a_link_in_an_unpacked_data_set(world: World, tmp_path: Path, thesis: Path):
    (tmp_path / "data/c.txt.tiny-bert.hdf5.parts").mkdir(parents=True)
    (tmp_path / "data/c.txt").write_text("red\n")
    lock = tmp_path / "data/c.txt.tiny-bert.hdf5.parts/lock"
    lock.symlink_to("../../thesis.tex")
    done = run_here("tokenization/tokenize_dataset.py", tmp_path / "data", "c.txt", world.bert)
    assert thesis.read_text() == THESIS
    assert done.returncode == 2 and f"error: {lock} is a link" in done.stderr.splitlines()[-1], done.stderr
    assert done.stderr.endswith(f"rm {lock}\n") and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda lock, thesis: lock.symlink_to(thesis), "lock is a link, .* to remove the link: rm "),
        (lambda lock, thesis: lock.symlink_to(thesis.with_name("new")), "lock is a link"),
        (lambda lock, thesis: lock.hardlink_to(thesis), "lock is a hard link to a file, .* to remove this name: rm "),
        (lambda lock, thesis: lock.write_text(THESIS), "lock is not a lock file, .*move it away"),
        (lambda lock, thesis: lock.write_bytes(b"\xff\xfe"), "lock is not a lock file"),
        (lambda lock, thesis: lock.write_text("7" * 10_000), "lock is not a lock file"),
        (lambda lock, thesis: os.mkfifo(lock), "lock is not a lock file"),
        (lambda lock, thesis: lock.mkdir(), "lock is not a lock file"),
    ],
)
def test_what_is_no_lock_of_ours_is_left_alone(tmp_path: Path, thesis: Path, make: Callable, message: str):
    lock = tmp_path / "out.parts/lock"
    lock.parent.mkdir()
    make(lock, thesis)
    before = lock.read_bytes() if lock.is_file() else b""
    with pytest.raises(UserError, match=message):
        squares(tmp_path / "out", SquareJob(), workers=1)
    assert thesis.read_text() == THESIS and not thesis.with_name("new").exists()
    assert (lock.read_bytes() if lock.is_file() else b"") == before


@pytest.mark.parametrize("left", ["", "4711", "47114712"])
def test_a_lock_that_a_killed_run_has_left_is_taken(tmp_path: Path, left: str):
    (tmp_path / "out.parts").mkdir()
    (tmp_path / "out.parts/lock").write_text(left)
    assert squares(tmp_path / "out", SquareJob(), workers=1) == EXPECTED


def test_parts_that_are_a_link_to_another_folder(tmp_path: Path, thesis: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out.parts").symlink_to("elsewhere")
    with pytest.raises(UserError, match=r"out.parts is a link, .* to remove the link: rm .*out.parts$"):
        squares(tmp_path / "out", SquareJob(), workers=1)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_traceback_is_not_written_through_a_link(tmp_path: Path, thesis: Path):
    (tmp_path / "out.parts").mkdir()
    (tmp_path / "out.parts/error.log").symlink_to(thesis)
    with pytest.raises(RunError, match="no luck"):
        squares(tmp_path / "out", SquareJob("error", at=17), workers=1)
    assert thesis.read_text() == THESIS
    assert "no luck" in (tmp_path / "out.parts/error.log").read_text()


@pytest.mark.skipif(not shutil.which("strace"), reason="strace makes the system refuse the call")
@pytest.mark.parametrize(
    ("flags", "code", "told"),
    [([], 0, "warning: {} is on a file system without locks (Function not implemented); make sure that no other run writes {}"),
     (["--part", 1, "--parts", 1], 2, "error: {} is on a file system without locks (Function not implemented), which shares")],
)  # fmt: skip
def test_a_file_system_without_locks(world: World, tmp_path: Path, process: Callable, flags: list[object], code: int, told: str):
    (tmp_path / "c.txt").write_text("red\n")
    refusing = ["strace", "-f", "-o", tmp_path / "log", "-e", "inject=flock:error=ENOSYS", "-e", "trace=flock", sys.executable]
    done = process(*refusing, "tokenization/tokenize_dataset.py", tmp_path, "c.txt", world.bert, *flags)
    output = tmp_path / "c.txt.tiny-bert.hdf5"
    assert done.returncode == code and told.format(f"{output}.parts", output) in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and output.exists() == (code == 0)


def test_finished_work_in_a_read_only_place_is_skipped(world: World, matcher: Path, tmp_path: Path):
    """As a shared data set is: where nothing can be written, no lock is needed to find that nothing is to be done."""
    shutil.copytree(matcher, tmp_path / "shared/m")
    ids = ["vokenization/create_image_ids.py", "--image-sets", "shapes_valid", "--ids-root", tmp_path / "shared/ids", *world.roots]
    training = ["xmatching/main.py", *world.train_flags(tmp_path / "shared/m")]
    subprocess.run([sys.executable, *map(str, ids)], cwd=ROOT, check=True, capture_output=True)
    run = "; ".join(" ".join([sys.executable, *map(str, command)]) for command in (ids, training))
    # Its owner can't write either where it is mounted so; root could in spite of any chmod.
    mount = f"mount --bind {tmp_path}/shared {tmp_path}/shared && mount -o remount,ro,bind {tmp_path}/shared"
    command = ["unshare", "--map-root-user", "--mount", "bash", "-c", f"{mount} && {run}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr.count("skipped:") == 2, done.stderr
    new = [sys.executable, "vokenization/create_image_ids.py", "--image-sets", "shapes_train", *map(str, ids[3:])]
    command[-1] = f"{mount} && {' '.join(new)}"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Read-only file system; choose another place" in done.stderr, done.stderr


def test_a_lock_on_a_full_disk_is_removed_too(tmp_path: Path):
    program = "from pathlib import Path; from xvoken.files.locks import sole_writer\nwith sole_writer(Path('new/a.json')): print('in')"
    limits = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # noqa: E731
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-B", "-c", program], cwd=tmp_path, env=environment, text=True, capture_output=True, preexec_fn=limits
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_a_folder_that_takes_no_files_is_an_error_not_a_hang():
    with pytest.raises(OSError, match="/proc/"), sole_writer(Path("/proc/page.html")):
        pass
