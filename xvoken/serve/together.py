"""Requests that wait at the same moment are answered by one call."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from xvoken.errors import Error

Asked = TypeVar("Asked")
Given = TypeVar("Given")


class Busy(Error):
    """More waits already than could be answered in time."""


class Together(Generic[Asked, Given]):
    """A thread that takes all that waits, at most `most` at once, and answers it by one call of `work`; alone, nothing waits for others.

    work: a list of what is asked -> as many answers in the same order; waiting: how many may wait before `ask` raises Busy. Where work
    raises an error of several, each of them is tried again by itself, so that nobody gets another one's error. within: seconds after
    which what still waits gets Busy instead of work: who asked has been cut off by then.
    """

    def __init__(self, work: Callable[[list[Asked]], list[Given]], most: int, waiting: int = 256, within: float = 60.0):
        self._work, self._most, self._within = work, most, within
        self._waiting: queue.Queue[tuple[Asked, Future[Given], float] | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def ask(self, what: Asked) -> "Future[Given]":
        """The answer to come; raises Busy."""
        answer: Future[Given] = Future()
        try:
            self._waiting.put_nowait((what, answer, time.monotonic() + self._within))
        except queue.Full:
            raise Busy("too many requests are waiting; try again in a moment") from None
        return answer

    def close(self) -> None:
        """End the thread behind what waits already."""
        self._waiting.put(None)
        self._thread.join(5)

    def _run(self) -> None:
        ended = False
        while not ended:
            taken = [self._waiting.get()]
            while len(taken) < self._most and not self._waiting.empty():
                taken.append(self._waiting.get_nowait())  # nobody else takes
            ended = None in taken
            self._answer([one[:2] for one in taken if one and self._is_wanted(*one[1:])])

    def _is_wanted(self, answer: "Future[Given]", until: float) -> bool:
        if not answer.set_running_or_notify_cancel():
            return False
        if late := time.monotonic() > until:
            answer.set_exception(Busy("too many requests are waiting; try again in a moment"))
        return not late

    def _answer(self, taken: "list[tuple[Asked, Future[Given]]]") -> None:
        if not taken:
            return
        try:
            for (_, answer), given in zip(taken, self._work([what for what, _ in taken]), strict=True):
                answer.set_result(given)
        except Exception as error:
            if len(taken) == 1:
                taken[0][1].set_exception(error)
            else:
                for one in taken:
                    self._answer([one])
