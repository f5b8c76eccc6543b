"""Long work in parts: cut into fixed ranges, done by any number of processes, joined in order.

The ranges depend on the size of the work only, each part is on disk whole or not at all, and every CPU
worker computes with the same number of threads: any number of workers, kills and restarts gives the
same bytes.

    OUTPUT.parts/plan.json       total, chunk and settings; another plan is refused
    OUTPUT.parts/000003.*        the files of part 3, written by the job
    OUTPUT.parts/000003.json     part 3 is whole; holds the job's summary of it
    OUTPUT.parts/lock            held by the run at work
"""

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol

from xvoken.disk import differences, locked, read_json, write_json
from xvoken.messages import RunError, UserError, one_line, progress

CPU_THREADS = 1  # threads per CPU worker: sums split over threads differ in their last bits


class Job(Protocol):
    """One kind of work. Plain values inside, so that it can be sent to another process."""

    def setup(self, device: str) -> None:
        """Load models and open files; called once in each process."""

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        """Do items start to stop, write `part` with endings of the job's choice, return a small summary."""


def ranges(total: int, chunk: int) -> list[tuple[int, int]]:
    """Cut 0..total into contiguous (start, stop) of `chunk` items, the last one shorter."""
    return [(start, min(start + chunk, total)) for start in range(0, total, chunk)]


class Parts:
    """The parts of one output. Use as a context manager: leaving it without an error removes them.

    output: the file that the caller writes from the parts before leaving.
    settings: everything the bytes depend on; `mend` says what to do when those on disk differ.
    """

    def __init__(self, output: Path, total: int, chunk: int, settings: dict[str, Any]):
        self.output = output
        self.folder = output.with_name(output.name + ".parts")
        self.ranges = ranges(total, chunk)
        self.plan = {"total": total, "chunk": chunk, "settings": settings}

    def __enter__(self) -> "Parts":
        self._lock = locked(self.folder / "lock", self.output.as_posix())
        self._lock.__enter__()
        plan_file = self.folder / "plan.json"
        if plan_file.exists():
            then = read_json(plan_file, f"remove {self.folder} to start over")
            changed = differences(then["settings"], self.plan["settings"]) or differences(then, self.plan)
            if changed:
                self._lock.__exit__(None, None, None)
                raise UserError(
                    f"{self.folder} holds the parts of an unfinished run with other settings ({changed}); "
                    f"go on with those, or start over with: rm -r {self.folder}"
                )
        write_json(plan_file, self.plan)
        return self

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        if kind is None:
            shutil.rmtree(self.folder)
        self._lock.__exit__(None, None, None)

    def part(self, number: int) -> Path:
        """The path of a part without its ending."""
        return self.folder / f"{number:06d}"

    def summaries(self) -> Iterator[dict[str, Any]]:
        for number in range(len(self.ranges)):
            yield read_json(self.part(number).with_suffix(".json"), f"remove {self.folder} to start over")

    def run(self, job: Job, devices: list[str], desc: str, unit: str) -> None:
        """Do what is not done yet, one process per device (none extra for a single CPU worker)."""
        todo = [n for n in range(len(self.ranges)) if not self.part(n).with_suffix(".json").exists()]
        done = self.plan["total"] - sum(self.ranges[n][1] - self.ranges[n][0] for n in todo)
        devices = devices[: max(1, len(todo))]
        if not todo:
            return
        with progress(total=self.plan["total"], initial=done, desc=desc, unit=unit) as bar:
            if devices == ["cpu"]:
                self._run_here(job, todo, bar)
            else:
                self._run_in_processes(job, todo, devices, bar)

    def _run_here(self, job: Job, todo: list[int], bar: Any) -> None:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(CPU_THREADS)
        try:
            job.setup("cpu")
            for number in todo:
                self._advance(bar, _do_part(job, self.ranges[number], self.part(number)))
        finally:
            torch.set_num_threads(threads)

    def _run_in_processes(self, job: Job, todo: list[int], devices: list[str], bar: Any) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA and threads do not survive a fork
        tasks = iter(todo)
        pipes: dict[connection.Connection, tuple[Any, int | None]] = {}
        try:
            for device in devices:
                ours, theirs = context.Pipe()
                process = context.Process(target=_worker, args=(job, device, theirs))
                process.start()
                theirs.close()
                pipes[ours] = (process, None)
            while pipes:
                for pipe in connection.wait(list(pipes)):
                    process, number = pipes[pipe]
                    message = self._receive(pipe, process, number)
                    if "summary" in message:
                        self._advance(bar, message["summary"])
                    number = next(tasks, None)
                    pipes[pipe] = (process, number)
                    pipe.send(None if number is None else (self.ranges[number], self.part(number)))
                    if number is None:
                        process.join()
                        del pipes[pipe]
        finally:
            for process, _ in pipes.values():
                process.kill()
                process.join()

    def _receive(self, pipe: connection.Connection, process: Any, number: int | None) -> dict[str, Any]:
        """The worker's next message; RunError with the reason when it failed or died."""
        where = "while starting" if number is None else "on items {} to {}".format(*self.ranges[number])
        try:
            message = pipe.recv()
        except (EOFError, ConnectionResetError):
            process.join(10)
            code = process.exitcode
            reason = f"killed by {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code}"
            hint = "; often the machine is out of memory" if code == -signal.SIGKILL else ""
            raise RunError(self._failure(where, f"died ({reason}{hint})")) from None
        if "user_error" in message:
            raise UserError(message["user_error"])
        if "error" in message:
            log = self.folder / "error.log"
            log.write_text(message["trace"], encoding="utf-8")
            raise RunError(self._failure(where, f"failed: {message['error']} (details in {log})"))
        return message

    def _failure(self, where: str, what: str) -> str:
        return f"{self.output}: a worker {what} {where}; finished parts are kept, run the same command to go on"

    @staticmethod
    def _advance(bar: Any, summary: dict[str, Any]) -> None:
        bar.update(summary["items"])
        if summary.get("skipped"):
            skipped = int(bar.postfix.split("=")[1]) if bar.postfix else 0
            bar.set_postfix_str(f"skipped={skipped + len(summary['skipped'])}")


def _do_part(job: Job, items: tuple[int, int], part: Path) -> dict[str, Any]:
    started = time.time()
    summary = {"items": items[1] - items[0], **job.run(*items, part), "seconds": round(time.time() - started, 3)}
    write_json(part.with_suffix(".json"), summary)
    return summary


def _worker(job: Job, device: str, pipe: connection.Connection) -> None:
    """A worker process: ask for a part, do it, report it, until there is none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which stops us
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    try:
        import torch

        if device == "cpu":
            torch.set_num_threads(CPU_THREADS)
        job.setup(device)
        pipe.send({})
        while (task := pipe.recv()) is not None:
            pipe.send({"summary": _do_part(job, *task)})
    except UserError as error:
        pipe.send({"user_error": one_line(error)})
    except Exception as error:
        pipe.send({"error": one_line(f"{type(error).__name__}: {error}"), "trace": traceback.format_exc()})
        sys.exit(1)


def read_skipped(parts: Parts) -> list[list[Any]]:
    """All [item, reason, ...] rows that the parts skipped, in order."""
    return [row for summary in parts.summaries() for row in summary.get("skipped", [])]
