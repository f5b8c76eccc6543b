"""One range of a long work, done by whichever engine: the contract, and what happens when a range fails.

An engine (xvoken/processes.py, xvoken/ray_engine.py) calls `prepare` once in each worker and then `do_range` for
each range; nothing here knows which engine it is.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from xvoken.devices import cores
from xvoken.disk import write_json
from xvoken.locks import removed, still_there
from xvoken.messages import RunError, UserError, disk_full, one_line

CPU_THREADS = 1  # threads per CPU worker: sums split over threads differ in their last bits
ATTEMPTS = 3
OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "bad_alloc", "unable to allocate",
    "_status_alloc_failed", "_allocation_failed", "_allocator_failure",  # cuBLAS and cuDNN up to 8, cuDNN from 9 on, nvJPEG
)  # fmt: skip


class Job(Protocol):
    """One kind of work. Plain values inside, so that it can be sent to another process.

    A job with a `batch_size` has it halved, down to 1, when a range runs out of memory. `workers`, if it has that, is the
    number of processes that share a machine's cores; `uses_gpu` says whether it has work for a GPU (True if not said).
    """

    def setup(self, device: str) -> None:
        """Load models and open files; called once in each process."""

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        """Do items start to stop, write `part` with endings of the job's choice, return a small summary."""


def prepare(job: Job, device: str) -> None:
    """Set up a worker, on a CPU with its number of threads."""
    import torch

    # fp32 is fp32 on a GPU too, where convolutions are in TF32, of 10 bits, if nothing is said.
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(CPU_THREADS if device == "cpu" else max(1, cores() // getattr(job, "workers", 1)))
    job.setup(device)


def do_range(job: Job, items: tuple[int, int], part: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Do one range and mark it as done; returns the job's summary.

    Out of memory: half the batch, and again. Any other failure: ATTEMPTS times in all, then the last error.
    A full disk and a user's mistake are not tried again. `tell` gets a line for whatever was tried again.
    """
    failures = 0
    while True:
        try:
            return _do_once(job, items, part)
        except UserError:
            raise
        except Exception as error:
            if disk_full(error):
                raise RunError(f"no room on the disk for {part.parent}; make room, then run the same command to go on") from None
            if out_of_memory(error) and getattr(job, "batch_size", 1) > 1:
                job.batch_size //= 2
                reason = f"out of memory on items {items[0]} to {items[1]}: batches of {job.batch_size} from here on"
            else:
                failures += 1
                if failures == ATTEMPTS:
                    raise
                reason = f"items {items[0]} to {items[1]} failed, trying again: {one_line(error)[:200]}"
        # Outside the handler: there the traceback still holds the tensors that did not fit.
        _free_memory()
        tell(reason)


def _do_once(job: Job, items: tuple[int, int], part: Path) -> dict[str, Any]:
    started, lock = time.time(), part.with_name("lock")
    try:
        held = open(lock, "rb", buffering=0)  # noqa: SIM115
    except FileNotFoundError:
        raise removed(part.parent) from None
    with held:
        summary = {"items": items[1] - items[0], **job.run(*items, part), "seconds": round(time.time() - started, 3)}
        if not still_there(held, lock):  # writing the part has made the folder again, or it is another run's by now
            raise removed(part.parent)
        write_json(part.with_suffix(".json"), summary)
    return summary


def out_of_memory(error: BaseException) -> bool:
    """Whether numpy, torch (CPU or GPU, or a library that it calls there) or faiss could not get memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(mark in text for mark in OUT_OF_MEMORY)


def _free_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
