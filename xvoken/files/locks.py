"""Locks: which of several runs may write an output.

By flock, not by the filelock library: its FileLock can't be held by several shares of one work at once, and does not name its
owner, which our refusals do; its ReadWriteLock keeps a database, where ours is a file that runs of older versions understand.
"""

import errno
import os
import stat
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path

from xvoken.console import log
from xvoken.errors import RunError, UserError
from xvoken.files.safe import quoted

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # Lustre, for example, if mounted without locks
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
TRIES = 100  # to open a lock in a folder that other runs remove; in some, as /proc, there can be no new files
LONGEST = 4096  # bytes; runs of older versions that shared a lock wrote their process numbers one after another


@contextmanager
def locked(path: Path, what: str, shared: bool = False, wait: bool = False) -> Generator[FileIO]:
    """Hold `path` as a lock while the block runs; a second run on the same output is refused.

    shared: hold it together with other runs that share it; wait: wait for the other run's end instead of raising UserError. The
    lock ends with its process: a lock file that a killed run has left keeps no other run out.
    """
    file = _held(path, what, shared, wait)
    while not still_there(file, path):  # the run that held it before us removed it, and others lock a new one
        file.close()
        file = _held(path, what, shared, wait)
    with file:
        with suppress(OSError):  # a full disk: refusals then name no process; the writing of the output reports the disk
            file.truncate(0)
            file.seek(0)
            file.write(str(os.getpid()).encode())
        yield file


def _held(path: Path, what: str, shared: bool, wait: bool) -> FileIO:
    file = _opened(path)
    try:
        try:
            _flock(file, shared, wait=False)
        except BlockingIOError:
            owner = _owner(file) or "unknown"
            if not wait:
                raise UserError(f"another run (process {owner}) is at work on {what}; wait for it, or stop it first") from None
            log.info(f"waiting for another run (process {owner}), which is at work on {what}")
            _flock(file, shared, wait=True)
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            lack = f"{path.parent} is on a file system without locks ({error.strerror})"
            if shared:
                raise UserError(f"{lack}, which shares of one work need; take another file system, or run without shares") from None
            log.warning(f"{lack}; make sure that no other run writes {what}")
        _owner(file)  # raises UserError for a file that is no lock, before it is overwritten
    except BaseException:
        file.close()
        raise
    return file


def _flock(file: FileIO, shared: bool, wait: bool) -> None:
    """Take the lock; raises BlockingIOError if another run holds it and we do not wait, OSError of NO_FLOCK if there are no locks."""
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def _opened(path: Path) -> FileIO:
    """Open a lock file, or make it. The path may come with a stranger's data: only a plain file of one name is opened for writing."""
    for left in reversed(range(TRIES)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(*([FileNotFoundError] if left else [])):  # another run has just removed the folder; or no file can be made there
            try:
                file = open(path, "r+b", buffering=0, opener=_not_through_links)  # noqa: SIM115
            except IsADirectoryError:
                raise _no_lock(path) from None
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise _a_link(path) from None
                if error.errno == errno.ENXIO:  # a socket
                    raise _no_lock(path) from None
                raise
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_nlink < 2:
                return file
            file.close()
            if not stat.S_ISREG(found.st_mode):
                raise _no_lock(path)
            why = f"{path} is a hard link to a file, which would be overwritten"
            raise UserError(f"{why}; to remove this name: rm {quoted(path)}")
    raise AssertionError("the last try returns or raises")


def _not_through_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)


def _owner(file: FileIO) -> str:
    """The process number in a lock file, or an empty text; raises UserError if it holds anything else."""
    file.seek(0)
    text = file.read(LONGEST + 1)
    if len(text) > LONGEST or (text and not text.isdigit()):
        raise _no_lock(Path(os.fsdecode(file.name)))
    return text.decode()


def _no_lock(path: Path) -> UserError:
    return UserError(f"{path} is not a lock file, and would be overwritten; move it away, then run the same command")


def _a_link(path: Path) -> UserError:
    return UserError(f"{path} is a link, and its target would be written to; to remove the link: rm {quoted(path)}")


def no_link(folder: Path) -> None:
    """Raise UserError if a folder that we write to is a link to another one."""
    if folder.is_symlink():
        raise _a_link(folder)


def still_there(file: FileIO, path: Path) -> bool:
    """Whether an open file is still the one at `path`: that may have been removed, and another run may have made a new one."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def removed(folder: Path) -> RunError:
    """The error of a run whose folder of parts, with its lock, has been removed; others may be at work there by now."""
    return RunError(f"{folder} was removed while this run was at work in it; run the same command again")


def locked_alone(file: FileIO, path: Path) -> bool:
    """Wait until a lock that we share is ours alone; False if the run that had it alone before us has removed it."""
    _flock(file, shared=False, wait=True)
    return still_there(file, path)


@contextmanager
def sole_writer(output: Path, what: Path | None = None, wait: bool = False) -> Generator[Callable[[], None]]:
    """Be the only run that writes the file `output` while the block runs, or raise UserError; for stages without parts.

    what: named in messages instead of `output`; wait: wait for the other run's end instead of raising UserError.
    Ask inside the block whether the output is finished: asked before it, two runs may both find that it is not.
    The lock lies beside the output, and is removed while held. Yields a function that raises RunError if the lock was removed
    meanwhile, so that another run may be at work.
    """
    path, what = lock_file(output), what or output
    made = [folder for folder in path.parents if not folder.exists()]
    with ExitStack() as stack:
        try:
            file = stack.enter_context(locked(path, what.as_posix(), wait=wait))
        except OSError as error:
            if error.errno not in READ_ONLY or _writable(path.parent):
                raise
            yield lambda: None  # nothing can be written here, so that no lock is needed; the output may still be found finished
            return

        def require() -> None:
            if not still_there(file, path):
                raise removed(what)

        try:
            yield require
        finally:
            if still_there(file, path):
                path.unlink()
            for folder in made:  # rmdir removes only those that stayed empty
                with suppress(OSError):
                    folder.rmdir()


def remove_lock(output: Path) -> None:
    """Remove the lock that a killed run has left beside a finished output; a lock that is held, or a file that is no lock, stays."""
    if lock_file(output).exists():
        with suppress(UserError, OSError), sole_writer(output):
            pass


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder or, if it does not exist, in the nearest one above it that does."""
    return os.access(next(place for place in (folder, *folder.parents) if place.exists()), os.W_OK)


def lock_file(output: Path) -> Path:
    """The lock of `sole_writer`, beside the output."""
    return output.with_name(f".{output.name}.lock")
