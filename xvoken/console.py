"""What the person at the terminal reads: the lines that commands print, the library's log, progress bars."""

import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

log = logging.getLogger("xvoken")  # the library writes to it; commands show it on stderr, other programs choose


def say(text: str) -> None:
    """Print one line of information on stderr, so that stdout stays the result."""
    print(text, file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """A text from a file, or a file's name, as it can be shown: what could steer a terminal or reorder a line is written as an escape."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text)


class _Lines(logging.Handler):
    """Prints each log message as one line on stderr, a warning with the word in front."""

    def emit(self, record: logging.LogRecord) -> None:
        said = printable(record.getMessage())  # it may name files and pictures of strangers
        say(f"warning: {said}" if record.levelno >= logging.WARNING else said)


_lines = _Lines()


def show_log() -> None:
    """Print the library's log, from INFO up, on stderr for the rest of this process, as commands do."""
    log.setLevel(logging.INFO)
    log.addHandler(_lines)  # once, however often this is called
    log.propagate = False


def progress(items: Any = None, **options: Any) -> "tqdm":
    """A tqdm bar with items done, rate and time left; updated every 10 seconds where stderr is not a terminal. options: tqdm's own."""
    from tqdm import tqdm  # not at the top: it takes longer than a command's --help may

    return tqdm(items, unit_scale=True, mininterval=0.1 if sys.stderr.isatty() else 10, dynamic_ncols=True, **options)
