"""Batches through a tower in several threads of one process, each a batch at a time.

A batch is computed as it would be alone, so that results do not depend on the number of lanes. Two threads on two batches do more
than two threads on one: they never wait for each other, and the process starts, and loads its tower, once.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from xvoken.machine import Pace

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 2  # results a lane that may wait for the caller


def in_lanes(work: Callable[[Item], Result], items: Iterable[Item], pace: Pace) -> Iterator[Result]:
    """The results of work(item), in the order of the items; with one lane in this thread, one after another.

    An error, or the end of the caller's interest, leaves out the items that no lane has begun.
    """
    with torch_threads(pace.threads):
        if pace.lanes == 1:
            yield from map(work, items)
            return
        pool = ThreadPoolExecutor(pace.lanes, thread_name_prefix="lane")
        coming: deque[Future[Result]] = deque()
        try:
            for item in items:
                coming.append(pool.submit(work, item))
                if len(coming) > AHEAD * pace.lanes:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def torch_threads(number: int | None) -> Generator[None]:
    """Compute with so many threads of torch, in this thread and in those begun meanwhile (None: as before)."""
    before = torch.get_num_threads()
    if number in (None, before):
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
