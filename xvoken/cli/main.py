"""How a command starts and ends: a mistake is reported in one line, and decides the exit code."""

import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from xvoken.interrupts import STOPPED, hear_by_exception

from xvoken.console import printable, say, show_log
from xvoken.errors import UserError, disk_full, one_line

_IN_THE_WAY = "choose another place, or move away the file or folder that is in the way"
_NO_RIGHT = "choose another place, or give this user the right to use it"
# Errors of a path that a user gave, and what mends them.
PATH_FAULTS = {
    errno.ENOENT: "check the name, or make it first", errno.ENOTDIR: _IN_THE_WAY, errno.EISDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY, errno.EACCES: _NO_RIGHT, errno.EPERM: _NO_RIGHT, errno.EROFS: _NO_RIGHT,
}  # fmt: skip


def run_main(main: Callable[[], object]) -> None:
    """Run a script's `main()`; a user's mistake ends in one line and an exit code instead of a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # if unset, tokenizers prints a warning at every fork
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever started it: files opened later would get its number
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    hear_by_exception()
    show_log()
    try:
        main()
    except UserError as error:
        say(f"error: {printable(one_line(error))}")
        _end(error.exit_code)
    except KeyboardInterrupt:
        say(STOPPED)
        _end(130)
    except BrokenPipeError:  # the program that read the output (head, less) ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _end(141)
    except Exception as error:
        if disk_full(error):
            where = f" for {name}" if (name := getattr(error, "filename", None)) else ""
            say(f"error: no room on the disk{where}; make room, then run the same command to go on")
            _end(1)
        if not (isinstance(error, OSError) and error.errno in PATH_FAULTS):
            raise
        fault = f"{error.filename}: {error.strerror}" if error.filename else one_line(error)
        say(f"error: {printable(fault)}; {PATH_FAULTS[error.errno]}")
        _end(UserError.exit_code)


def _end(code: int) -> NoReturn:
    """Exit with a code; in a training of several processes without Python's clean-up, in which gloo's threads could abort the process."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
