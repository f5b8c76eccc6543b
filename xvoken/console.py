"""Talking to the person at the terminal: the lines of commands, and what the library has to tell while it works."""

import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger("xvoken")  # the library tells it; commands show it, and who calls the library decides for himself


def say(text: str) -> None:
    """Print one line of information on stderr, so that stdout stays the result."""
    print(text, file=sys.stderr, flush=True)


class _Lines(logging.Handler):
    """Each message a line, as a command says it."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"warning: {record.getMessage()}" if record.levelno >= logging.WARNING else record.getMessage())


_lines = _Lines()


def show_log() -> None:
    """Let this process say what the library tells, as commands do."""
    log.setLevel(logging.INFO)
    log.addHandler(_lines)  # once, however often this is called
    log.propagate = False


def progress(items: Any = None, **options: Any) -> "tqdm":
    """The one kind of progress bar: done, rate, time left; in a log file a line every 10 seconds."""
    from tqdm import tqdm  # not at the top: it takes longer than a command's --help may

    return tqdm(items, unit_scale=True, mininterval=0.1 if sys.stderr.isatty() else 10, dynamic_ncols=True, **options)
