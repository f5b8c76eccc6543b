"""The ranges of a long work, done here or in spawned processes, one per device: what a job offers, what happens when a range fails."""

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
from typing import Any, cast

from xvoken.errors import RunError, UserError, disk_full, one_line, out_of_memory
from xvoken.files.locks import removed, still_there
from xvoken.files.safe import write_json, write_text
from xvoken.machine import cores
from xvoken.work.jobs import Batched, Job, prepare

ATTEMPTS = 3


def do_range(job: Job, items: tuple[int, int], part: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Do one range and mark it as done; returns the job's summary.

    Out of memory, a Batched job tries again with half the batch. After any other failure the range is tried again, ATTEMPTS times in
    all; then the last error is raised. A full disk (RunError) and a user's mistake (UserError) are raised at once. `tell` gets a
    line before each new try.
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
        if not still_there(held, lock):  # removed meanwhile: writing the part has made it anew, or another run has
            raise removed(part.parent)
        write_json(part.with_suffix(".json"), summary)
    return summary


def _free_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


Task = tuple[tuple[int, int], Path]  # a range, and the path of its part without an ending


def run_here(job: Job, tasks: list[Task], done: Callable[[dict[str, Any]], None], tell: Callable[[str], None], log: Path) -> None:
    """Do the ranges in this process, one after another, on all of its cores; arguments as for run_in_processes."""
    import torch

    threads, items = torch.get_num_threads(), None
    try:
        prepare(job, "cpu", cores())
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
    """Do the ranges in one spawned process per device; RunError or UserError of a process that dies or gives up stops all of them.

    done: called with the summary of each range, in order of completion; tell: with each line to show; log: file of a traceback.
    """
    waiting = iter(tasks)
    workers: dict[connection.Connection, tuple[Any, Task | None]] = {}
    try:
        for device in devices:
            _start(job, device, max(1, cores() // len(devices)), workers)
        while workers:
            ready = connection.wait(list(workers))  # its type says sockets too; these are pipes
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
                with suppress(BrokenPipeError, ConnectionResetError):  # the worker has died: the next _receive reports it
                    pipe.send(task)
                if task is None:
                    process.join()
                    del workers[pipe]
    finally:
        for process, _ in workers.values():
            process.kill()
            process.join()


def _start(job: Job, device: str, share: int, workers: dict[connection.Connection, tuple[Any, Task | None]]) -> None:
    """Start a worker and enter it into `workers`."""
    context = multiprocessing.get_context("spawn")  # CUDA and threads do not survive a fork
    ours, theirs = context.Pipe()
    process = context.Process(target=_worker, args=(job, device, share, theirs))
    # The tracker is started first: its start would unblock the signal that _ctrl_c_held_back blocks.
    resource_tracker.ensure_running()
    with _ctrl_c_held_back():
        process.start()
        workers[ours] = (process, None)
        theirs.close()


@contextmanager
def _ctrl_c_held_back() -> Generator[None]:
    """Delay Ctrl-C until the end of the block, in which a worker starts; the worker never hears it.

    The terminal sends Ctrl-C to every process of the foreground group, but this process alone is to stop the workers: they inherit
    the signal blocked. In this process another thread may still receive it, upon which Python would interrupt this thread: hence
    the handler as well.
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
    """The worker's next message; raises RunError with the reason when it failed or died, UserError when it met a user's mistake."""
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
    """The error to raise when a range is given up; writes the traceback to the file `log`."""
    with suppress(OSError, RunError):  # a full disk
        write_text(log, trace)  # replaces a link at `log` instead of writing to the file it leads to
    return RunError(f"{log.parent}: a worker failed {_where(items)}: {what} (details in {log}); {KEPT}")


def _worker(job: Job, device: str, share: int, pipe: connection.Connection) -> None:
    """A worker process: ask for a range, do it, report it, until there is none."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is a process that another one has started"
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    try:
        prepare(job, device, share)
        pipe.send({})
        while (task := pipe.recv()) is not None:
            pipe.send({"summary": do_range(job, *task, lambda text: pipe.send({"say": text}))})
    except UserError as error:
        pipe.send({"user_error": one_line(error), "exit_code": error.exit_code})
    except Exception as error:
        pipe.send({"error": one_line(f"{type(error).__name__}: {error}"), "trace": traceback.format_exc()})
        sys.exit(1)
