"""Talking to the person at the terminal: one clear line for a mistake, one last line for a result."""

import errno
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from xvoken.interrupts import STOPPED, hear_by_exception

from tqdm import tqdm

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_IN_THE_WAY = "choose another place, or move what is in the way"
_NO_RIGHT = "choose another place, or give this user the right to it"
# Faults of a path that a user gave, and what mends them.
PATH_FAULTS = {
    errno.ENOENT: "look for a mistake in the name, or make it first", errno.ENOTDIR: _IN_THE_WAY, errno.EISDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY, errno.EACCES: _NO_RIGHT, errno.EPERM: _NO_RIGHT, errno.EROFS: _NO_RIGHT,
}  # fmt: skip


class UserError(Exception):
    """A mistake the user can mend; its text is one line: what is wrong, where, and what mends it."""

    exit_code = 2


class RunError(UserError):
    """The run itself failed (a worker died, the disk is full); finished work stays on disk."""

    exit_code = 1


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is a full disk, quota or file-size limit.

    h5py, safetensors and tokenizers tell the number only in their text, faiss only the system's words for it, numpy's
    tofile nothing of it.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        text = str(error)
        marks = [mark for number in DISK_FULL for mark in (f"errno = {number},", f"(os error {number})", f"({os.strerror(number)})")]
        if any(mark in text for mark in marks) or re.search(r"^\d+ requested and \d+ written", text):
            return True
        error = error.__cause__ or error.__context__
    return False


def say(text: str) -> None:
    """Print one line of information on stderr, so that stdout stays the result."""
    print(text, file=sys.stderr, flush=True)


def one_line(text: object) -> str:
    """Fold any text into one printable line."""
    return " ".join(str(text).split())


def progress(items: Any = None, **options: Any) -> tqdm:
    """The one kind of progress bar: done, rate, time left; in a log file a line every 10 seconds."""
    return tqdm(items, unit_scale=True, mininterval=0.1 if sys.stderr.isatty() else 10, dynamic_ncols=True, **options)


def run_main(main: Callable[[], object]) -> None:
    """Run a script's `main()`; turn its mistakes into one line and an exit code instead of a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # else a warning at every fork
    hear_by_exception()
    try:
        main()
    except UserError as error:
        say(f"error: {one_line(error)}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say(STOPPED)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output (head, less) left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if disk_full(error):
            where = f" for {error.filename}" if getattr(error, "filename", None) else ""
            say(f"error: no room on the disk{where}; make room, then run the same command to go on")
            sys.exit(1)
        if not (isinstance(error, OSError) and error.errno in PATH_FAULTS):
            raise
        fault = f"{error.filename}: {error.strerror}" if error.filename else one_line(error)
        say(f"error: {fault}; {PATH_FAULTS[error.errno]}")
        sys.exit(UserError.exit_code)
