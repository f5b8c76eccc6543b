"""Ctrl-C and missing packages while a script is still importing: either ends it with one line, as later on.

Entry scripts import this module before all others; it imports the standard library only. Once a script's `main()` runs,
xvoken.cli.main.run_main handles Ctrl-C, except during imports `with importing()`.
"""

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

STOPPED = "stopped; finished work is kept, run the same command to go on (a training: with --resume)"
ROOT = Path(__file__).resolve().parents[1]
# The packages of requirements.txt, by the names they are imported under.
BASE = ("PIL", "faiss", "h5py", "ijson", "numpy", "safetensors", "tokenizers", "torch", "torchvision", "tqdm", "transformers")


def _ctrl_c(number: int, frame: FrameType | None) -> None:
    # Not by an exception: libraries turn one that is raised inside their import into errors of their own, or abort.
    _end(STOPPED, 130)


def _missing(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    package = (getattr(error, "name", "") or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package in BASE:
        python = f"{sys.executable} has no {package}"
        _end(f"error: {python}; run: . .venv/bin/activate, or: pip install -r requirements.txt -c constraints.txt", 2)
    sys.__excepthook__(kind, error, trace)


def _end(line: str, code: int) -> None:
    print(line, file=sys.stderr, flush=True)
    os._exit(code)  # nothing is open yet, and half-imported libraries are in no state to be wound up


def hear_by_exception() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _ctrl_c:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def importing() -> Generator[None]:
    """Let Ctrl-C end the process at once, with one line, during the block: an import that takes seconds, inside a script's `main()`.

    Only for a moment when nothing is open that would have to be cleaned up. Where Ctrl-C does not raise KeyboardInterrupt
    (ignored, handled otherwise, another thread), nothing changes.
    """
    before = signal.getsignal(signal.SIGINT)
    armed = _can_hear() and _is_a_script()
    if armed:
        signal.signal(signal.SIGINT, _ctrl_c)
    try:
        yield
    finally:
        if armed:
            signal.signal(signal.SIGINT, before)


def _can_hear() -> bool:
    """Whether Ctrl-C raises KeyboardInterrupt here: not where it is ignored (a shell's background jobs), nor in another thread."""
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler and threading.current_thread() is threading.main_thread()


def _is_a_script() -> bool:
    """Whether the process was started for one of the project's commands, not for a test or somebody's own program."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return bool(file) and (Path(file).resolve().parents[1] == ROOT or Path(file).stem == "xvoken")


if _is_a_script():
    sys.excepthook = _missing
    if _can_hear():
        signal.signal(signal.SIGINT, _ctrl_c)
