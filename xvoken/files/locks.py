"""Locks: who may write an output, when several runs want to.

By flock, not by the filelock library: its FileLock is never shared, as shares of one work hold theirs, and names no owner,
as a refusal does; its ReadWriteLock keeps a database where ours is a file that older runs know too.
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

NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # Lustre, for one, where it is mounted without
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
LONGEST = 4096  # bytes; old runs that held a lock together wrote their numbers one behind another


@contextmanager
def locked(path: Path, what: str, shared: bool = False, wait: bool = False) -> Generator[FileIO]:
    """Hold `path` as a lock while the block runs; a second run on the same output is refused.

    shared: together with others that hold it shared; wait: for the other run's end, instead of being refused. The lock
    belongs to the process, not to the file: a file that a killed run has left holds up nobody.
    """
    file = _held(path, what, shared, wait)
    while not still_there(file, path):  # whoever held it before us removed it, and others lock a new one
        file.close()
        file = _held(path, what, shared, wait)
    with file:
        with suppress(OSError):  # no room: then a refusal names no process, and what is to be written says what is wrong
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
            log.warning(f"{lack}; see that no other run writes {what}")
        _owner(file)  # a look, before it is written over
    except BaseException:
        file.close()
        raise
    return file


def _flock(file: FileIO, shared: bool, wait: bool) -> None:
    """Raises BlockingIOError where another run holds it and we do not wait, and OSError of NO_FLOCK where there are no locks."""
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def _opened(path: Path) -> FileIO:
    """The file of a lock, made where there is none. It may come with somebody's data: only what is a lock is opened for writing."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another run has just removed the folder
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
            why = f"{path} is a file of two names, and by the other it would be overwritten"
            raise UserError(f"{why}; to remove this name: rm {quoted(path)}")


def _not_through_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)


def _owner(file: FileIO) -> str:
    """The process number in the file of a lock, empty if there is none; raises UserError where anything else stands in it."""
    file.seek(0)
    text = file.read(LONGEST + 1)
    if len(text) > LONGEST or (text and not text.isdigit()):
        raise _no_lock(Path(os.fsdecode(file.name)))
    return text.decode()


def _no_lock(path: Path) -> UserError:
    return UserError(f"{path} is no lock of ours, and would be overwritten; move it away, then run the same command")


def _a_link(path: Path) -> UserError:
    return UserError(f"{path} is a link, and what it leads to would be written to; to remove the link: rm {quoted(path)}")


def no_link(folder: Path) -> None:
    """Raise UserError where a folder of ours is a link to another one."""
    if folder.is_symlink():
        raise _a_link(folder)


def still_there(file: FileIO, path: Path) -> bool:
    """Whether an open file is the one at `path`: it may have been removed, and others may have made a new one."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def removed(folder: Path) -> RunError:
    """The error of a run whose folder of parts, with its lock, has been removed; others may be at work there by now."""
    return RunError(f"{folder} was removed while this run was at work in it; run the same command again")


def locked_alone(file: FileIO, path: Path) -> bool:
    """Wait until a lock held shared is ours alone; False if whoever had it before us has removed it."""
    _flock(file, shared=False, wait=True)
    return still_there(file, path)


@contextmanager
def sole_writer(output: Path, what: Path | None = None, wait: bool = False) -> Generator[Callable[[], None]]:
    """Be the only run that writes the file `output` (with others: `what`, for the message) while the block runs.

    For stages without parts, which have a lock of their own. Whether the output is finished already is to be asked inside,
    or two runs find both that it is not. Nothing is left behind: the lock lies beside the output, and is removed while held.
    Gives a function that raises RunError where the lock's folder was removed meanwhile, and another run may be at work.
    """
    path, what = lock_file(output), what or output
    made = [folder for folder in path.parents if not folder.exists()]
    with ExitStack() as stack:
        try:
            file = stack.enter_context(locked(path, what.as_posix(), wait=wait))
        except OSError as error:
            if error.errno not in READ_ONLY or _writable(path.parent):
                raise
            yield lambda: None  # nothing can be written here; what is finished can be found so all the same
            return

        def require() -> None:
            if not still_there(file, path):
                raise removed(what)

        try:
            yield require
        finally:
            if still_there(file, path):
                path.unlink()
            for folder in made:  # those that nothing was written to
                with suppress(OSError):
                    folder.rmdir()


def remove_lock(output: Path) -> None:
    """Remove the lock that a killed run has left beside a finished output; one that is held, or is none of ours, stays."""
    if lock_file(output).exists():
        with suppress(UserError, OSError), sole_writer(output):
            pass


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or in the nearest one above that there is."""
    return os.access(next(place for place in (folder, *folder.parents) if place.exists()), os.W_OK)


def lock_file(output: Path) -> Path:
    return output.with_name(f".{output.name}.lock")
