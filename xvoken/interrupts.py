"""Ctrl-C while a script still imports, which takes seconds, ends as later on: with one line and exit code 130.

Entry scripts import this module before all others; it imports the standard library only. Where a script's `main()` runs,
xvoken.messages.run_main does the same.
"""

import os
import sys
from types import TracebackType

STOPPED = "stopped; finished work is kept, run the same command to go on"


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    print(STOPPED, file=sys.stderr, flush=True)
    os._exit(130)  # nothing is open yet, and half-imported libraries are in no state to be wound up


sys.excepthook = _end
