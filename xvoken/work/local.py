"""Ranges of a long work, done in this process or in spawned ones, one per device: the contract, and what happens when one fails."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from xvoken.errors import RunError, UserError, disk_full, one_line, out_of_memory
from xvoken.files.locks import removed, still_there
from xvoken.files.safe import write_json, write_text
from xvoken.machine import cores

CPU_THREADS = 1  # threads per CPU worker: sums split over threads differ in their last bits
ATTEMPTS = 3


class Job(Protocol):
    """One kind of work. Plain values inside, so that it can be sent to another process.

    A job may be Batched and Sharing too; `uses_gpu`, if it has that, says whether it has work for a GPU (True if not said).
    """

    def setup(self, device: str) -> None:
        """Load models and open files; called once in each process."""

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        """Do items start to stop, write `part` with endings of the job's choice, return a small summary."""


@runtime_checkable
class Batched(Protocol):
    """A job whose batches are halved, down to 1, when a range runs out of memory."""

    batch_size: int


@runtime_checkable
class Sharing(Protocol):
    """A job that takes its share of a machine's cores; workers: the number of processes among which they are shared."""

    workers: int


def prepare(job: Job, device: str) -> None:
    """Set up a worker, on a CPU with its number of threads."""
    import torch

    # fp32 is fp32 on a GPU too, where convolutions are in TF32, of 10 bits, if nothing is said.
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(CPU_THREADS if device == "cpu" else max(1, cores() // (job.workers if isinstance(job, Sharing) else 1)))
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
            if out_of_memory(error) and isinstance(job, Batched) and job.batch_size > 1:
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


def _free_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


Task = tuple[tuple[int, int], Path]  # a range, and the path of its part without an ending


def run_here(job: Job, tasks: list[Task], done: Callable[[dict[str, Any]], None], tell: Callable[[str], None], log: Path) -> None:
    """Do the ranges in this process, one after another, with as many threads as a CPU worker has."""
    import torch

    threads, items = torch.get_num_threads(), None
    try:
        prepare(job, "cpu")
        for items, part in tasks:
            done(do_range(job, items, part, tell))
    except UserError:
        raise
    except Exception as error:
        raise failed(f"{type(error).__name__}: {one_line(error)}", traceback.format_exc(), items, log) from error
    finally:
        torch.set_num_threads(threads)


def run_in_processes(
    job: Job, tasks: list[Task], devices: Sequence[str], done: Callable[[dict[str, Any]], None], tell: Callable[[str], None], log: Path
) -> None:
    """Do the ranges in one spawned process per device; a process that dies or fails for good stops all of them."""
    waiting = iter(tasks)
    workers: dict[connection.Connection, tuple[Any, Task | None]] = {}
    try:
        for device in devices:
            _start(job, device, workers)
        while workers:
            ready = connection.wait(list(workers))  # could wait for sockets too, these are pipes
            for pipe in cast(list[connection.Connection], ready):
                process, task = workers[pipe]
                message = _receive(pipe, process, task, log)
                if "say" in message:
                    tell(message["say"])
                    continue
                if "summary" in message:
                    done(message["summary"])
                task = next(waiting, None)
                workers[pipe] = (process, task)
                with suppress(BrokenPipeError, ConnectionResetError):  # died meanwhile: the next message says so
                    pipe.send(task)
                if task is None:
                    process.join()
                    del workers[pipe]
    finally:
        for process, _ in workers.values():
            process.kill()
            process.join()


def _start(job: Job, device: str, workers: dict[connection.Connection, tuple[Any, Task | None]]) -> None:
    """Start a worker and enter it into `workers`."""
    context = multiprocessing.get_context("spawn")  # CUDA and threads do not survive a fork
    ours, theirs = context.Pipe()
    process = context.Process(target=_worker, args=(job, device, theirs))
    # Its start would unblock the signal that _ctrl_c_held_back blocks.
    resource_tracker.ensure_running()
    with _ctrl_c_held_back():
        process.start()
        workers[ours] = (process, None)
        theirs.close()


@contextmanager
def _ctrl_c_held_back() -> Generator[None]:
    """Ctrl-C is heard after the block only, in which a worker starts, and never by that worker.

    It goes to the whole foreground group, and only we stop the workers: they inherit the blocked signal, from their first
    instruction on. Here another thread may still receive it, and Python would interrupt this one: hence the handler too.
    """
    heard: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None  # Windows
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    if heard and handler is not signal.SIG_IGN:
        raise KeyboardInterrupt


def _receive(pipe: connection.Connection, process: Any, task: Task | None, log: Path) -> dict[str, Any]:
    """The worker's next message; RunError with the reason when it failed or died."""
    items = task[0] if task else None
    try:
        message = pipe.recv()
    except (EOFError, ConnectionResetError):
        process.join(10)
        code = process.exitcode
        reason = f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
        hint = "; often the machine is out of memory" if code == -signal.SIGKILL else ""
        raise RunError(f"{log.parent}: a worker died ({reason}{hint}) {_where(items)}; {KEPT}") from None
    if "user_error" in message:
        raise (RunError if message["exit_code"] == RunError.exit_code else UserError)(message["user_error"])
    if "error" in message:
        raise failed(message["error"], message["trace"], items, log)
    return message


KEPT = "finished parts are kept, run the same command to go on"


def _where(items: tuple[int, int] | None) -> str:
    return "while starting" if items is None else f"on items {items[0]} to {items[1]}"


def failed(what: str, trace: str, items: tuple[int, int] | None, log: Path) -> RunError:
    """The error to raise for a range given up; its traceback goes to the file `log`."""
    with suppress(OSError, RunError):  # for want of room
        write_text(log, trace)  # not through a link that may stand there
    return RunError(f"{log.parent}: a worker failed {_where(items)}: {what} (details in {log}); {KEPT}")


def _worker(job: Job, device: str, pipe: connection.Connection) -> None:
    """A worker process: ask for a range, do it, report it, until there is none."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is a process that another one has started"
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    try:
        prepare(job, device)
        pipe.send({})
        while (task := pipe.recv()) is not None:
            pipe.send({"summary": do_range(job, *task, lambda text: pipe.send({"say": text}))})
    except UserError as error:
        pipe.send({"user_error": one_line(error), "exit_code": error.exit_code})
    except Exception as error:
        pipe.send({"error": one_line(f"{type(error).__name__}: {error}"), "trace": traceback.format_exc()})
        sys.exit(1)
