"""The local engine: ranges done in this process or in spawned ones, one per device."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Any

from xvoken.disk import write_text
from xvoken.job import Job, do_range, prepare
from xvoken.messages import RunError, UserError, one_line

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
    job: Job, tasks: list[Task], devices: list[str], done: Callable[[dict[str, Any]], None], tell: Callable[[str], None], log: Path
) -> None:
    """Do the ranges in one spawned process per device; a process that dies or fails for good stops all of them."""
    waiting = iter(tasks)
    workers: dict[connection.Connection, tuple[Any, Task | None]] = {}
    try:
        for device in devices:
            _start(job, device, workers)
        while workers:
            for pipe in connection.wait(list(workers)):
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
def _ctrl_c_held_back() -> Iterator[None]:
    """Ctrl-C is heard after the block only, in which a worker starts, and never by that worker.

    It goes to the whole foreground group, and only we stop the workers: they inherit the blocked signal, from their first
    instruction on. Here another thread may still receive it, and Python would interrupt this one: hence the handler too.
    """
    heard: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
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
