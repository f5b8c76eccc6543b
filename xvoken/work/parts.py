"""Long work in parts: cut into fixed ranges, done by any number of processes, joined in order.

The ranges depend on the size of the work only, each part is on disk whole or not at all, and a batch is computed
by the same engine with as many threads wherever it is: any number of workers, kills and restarts gives the same bytes.

    OUTPUT.parts/plan.json       total, chunk and settings; how towers are computed, and by which versions: a run with other
                                 settings is refused, everything else it takes from here
    OUTPUT.parts/000003.*        the files of part 3, written by the job
    OUTPUT.parts/000003.json     part 3 is whole; holds the job's summary of it
    OUTPUT.parts/lock*           held while a run is at work
    OUTPUT.parts/error.log       the traceback of the range that stopped the last run
"""

import glob
import json
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from xvoken.console import log, progress
from xvoken.errors import RunError, UserError, one_line
from xvoken.files.locks import locked, locked_alone, no_link, removed, still_there
from xvoken.files.safe import all_written, differences, quoted, read_json, remove_temporary, write_json
from xvoken.machine import LOCAL, Engine
from xvoken.work.jobs import Job, TowerJob
from xvoken.work.local import Task, run_here, run_in_processes
from xvoken.work.plans import agree
from xvoken.work.ray import run_in_ray


def ranges(total: int, chunk: int) -> list[tuple[int, int]]:
    """Cut 0..total into contiguous (start, stop) of `chunk` items, the last one shorter."""
    return [(start, min(start + chunk, total)) for start in range(0, total, chunk)]


class Parts:
    """The parts of one output. Use as a context manager: leaving it without an error removes them.

    output: the file that the caller writes from the parts before leaving; also: other files that it writes then. On leaving, all
    of them must exist. done: the one of them that is written last (default: output).
    settings: everything the bytes depend on; engine: who does the work, see Engine; before_joining: called by the run that joins,
    before it removes temporary files that a killed run has left.
    Entering raises UserError when another run is at work on the parts, or when those on disk were made with other settings.
    """

    def __init__(
        self, output: Path, total: int, chunk: int, settings: dict[str, Any], also: tuple[Path, ...] = (), engine: Engine = LOCAL,
        done: Path | None = None, before_joining: Callable[[], None] = lambda: None,
    ):  # fmt: skip
        self.output, self.also, self.done, self.engine, self.joins, self.too_late = output, also, done or output, engine, False, False
        self.folder, self.before_joining = parts_folder(output), before_joining
        self.ranges = ranges(total, chunk)
        # Through JSON, which turns tuples into lists: the plan is compared with the one read from the disk.
        self.plan = json.loads(json.dumps({"total": total, "chunk": chunk, "settings": settings}))

    def __enter__(self) -> "Parts":
        with ExitStack() as stack:
            self.too_late = not self._locked(stack)
            if not self.too_late:
                with self._plan_locked() if self.engine.share else nullcontext():
                    self._check_plan()
            self._stack = stack.pop_all()
        return self

    def _plan_locked(self) -> AbstractContextManager[Any]:
        """Held while the plan is read and written: a share must not write back what it read before another one put in "how"."""
        return locked(self.folder / "lock.how", self.output.as_posix(), wait=True)

    def _locked(self, stack: ExitStack) -> bool:
        """Take the locks; False if another share joined and removed the parts while this one waited.

        A share waits instead of being refused: the cluster may have started it late, or once more.
        """
        share, path = self.engine.share, self.folder / "lock"
        no_link(self.folder)
        if found := strange(self.folder):
            what = f"{found} is not a file that a run makes, and would be removed with the parts"
            raise UserError(f"{what}; move it away, then run the same command")
        self._lock = stack.enter_context(locked(path, self.output.as_posix(), shared=bool(share), wait=bool(share)))
        if self.done.exists():  # the caller has looked before, but another run may have ended since
            if not (self.folder / "plan.json").exists():
                discard(self.folder)
            if not share:
                raise UserError(f"another run has just finished {self.output}; run the same command again")
            return False
        remove_discarded(self.folder)
        if share:
            name = f"share {share[0]} of {share[1]} of {self.output}"
            stack.enter_context(locked(self.folder / f"lock.{share[0]}-of-{share[1]}", name))
        return True

    def _check_plan(self) -> None:
        plan_file, found = self.folder / "plan.json", list(self.folder.glob("[0-9]" * 6 + ".*"))
        if plan_file.exists():  # looked for after the parts were listed: another share writes the plan before its parts
            start_over = f"start over with: rm -r {quoted(self.folder)}"
            then = read_json(plan_file, start_over)
            if not isinstance(then, dict) or not isinstance(then.get("settings"), dict):
                raise UserError(f"{plan_file}: not a plan of a run; {start_over}")
            # Of other versions' chunk nothing is asked but that it is one: the work goes on in the ranges that it was begun in.
            whole = isinstance(chunk := then.get("chunk"), int) and chunk > 0
            self.plan = {**self.plan, **({"chunk": chunk} if whole else {}), **({"how": then["how"]} if "how" in then else {})}
            self.ranges = ranges(self.plan["total"], self.plan["chunk"])
            changed = differences(then["settings"], self.plan["settings"]) or differences(then, self.plan)
            if changed:
                raise UserError(
                    f"{self.folder} holds the parts of an unfinished run with other settings ({changed}); go on with those, or {start_over}"
                )
        else:  # parts of a run whose folder was removed while it was at work; their settings are unknown
            for stray in found:
                stray.unlink(missing_ok=True)
        if not self.engine.join:  # --join only reads what the shares have done
            write_json(plan_file, self.plan)

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        with self._stack:
            if kind is None and self.joins:
                all_written(self.done, self.output, *self.also)
                discard(self.folder)
            elif self.engine.join and not (self.folder / "plan.json").exists():  # no share has begun: nothing but our lock
                discard(self.folder)

    def missing(self) -> list[int]:
        """Numbers of the parts that are not done yet."""
        return [n for n in range(len(self.ranges)) if not self.part(n).with_suffix(".json").exists()]

    def _ready_to_join(self) -> bool:
        """Whether the caller is to join the parts now: where several shares end together, only the first does."""
        self._require_folder()
        missing = self.missing()
        if lost := [number for number in missing if self._ours(number)]:
            what = f"{len(lost)} of {len(self.ranges)} parts were done and are gone, something has removed them (the first is {lost[0]})"
            raise RunError(f"{self.folder}: {what}; run the same command again")
        if missing:
            left = f"{len(missing)} of {len(self.ranges)} parts are left to other shares"
            log.info(f"{self.output}: {left}; the share that ends last joins them, or a run with --join")
            return False
        if self.engine.share and not locked_alone(self._lock, self.folder / "lock"):
            return self._joined_by_another()
        self.before_joining()
        for path in (self.output, *self.also):  # left by a run that was killed while joining, can be large
            remove_temporary(path)
        self.joins = True
        return True

    def _require_folder(self) -> None:
        """Raise RunError where the lock file is gone: the folder was removed, and another run may be at work in a new one."""
        if not still_there(self._lock, self.folder / "lock"):
            raise removed(self.folder)

    def _ours(self, number: int) -> bool:
        """Whether this run, a share or the whole, is the one to do a part."""
        return not self.engine.share or number % self.engine.share[1] == self.engine.share[0] - 1

    def _joined_by_another(self) -> bool:
        log.info(f"{self.output}: joined by another share")
        return False

    def part(self, number: int) -> Path:
        """The path of a part without its ending."""
        return self.folder / f"{number:06d}"

    def load(self, number: int, ending: str = ".npz") -> Any:
        """Read a file of a part: an .npz as a dict of its arrays, else one array, mapped. Raises UserError if it is missing or damaged."""
        path = self.part(number).with_suffix(ending)
        try:
            if ending != ".npz":
                return np.load(path, mmap_mode="r")
            with np.load(path) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            mend = f"do this part again: rm {quoted(self.part(number))}.*, then the same command"
            raise UserError(f"{path}: no whole file ({one_line(error)[:100]}); {mend}") from None

    def summaries(self, numbers: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
        """The summaries that the job returned for these parts (default: for all, in order)."""
        for number in range(len(self.ranges)) if numbers is None else numbers:
            yield read_json(self.part(number).with_suffix(".json"), f"remove {self.folder} to start over")

    def run(self, job: Job, devices: Sequence[str], desc: str, unit: str) -> bool:
        """Do the parts that are not done yet, in one process per device (in this process for a single CPU worker).

        desc, unit: of the progress bar. Returns whether the caller is to join the parts: False if other shares still have parts to
        do, or have joined. Raises RunError when a range is given up, UserError when --join finds parts missing.
        """
        if self.too_late:
            return self._joined_by_another()
        todo = self.missing()
        if self.engine.join and todo:
            what = f"{len(todo)} of {len(self.ranges)} parts are missing, the first is {todo[0]}"
            raise UserError(f"{self.output}: {what}; run the shares that are to do them")
        done = set(range(len(self.ranges))) - set(todo)
        todo = [number for number in todo if self._ours(number)]
        if todo:
            if isinstance(job, TowerJob):
                with self._plan_locked():
                    agree(job, self.folder / "plan.json", bool(done), devices)
            self._do(job, [(self.ranges[n], self.part(n)) for n in todo], devices[: len(todo)], done, desc, unit)
        return self._ready_to_join()

    def _do(self, job: Job, tasks: list[Task], devices: Sequence[str], done: set[int], desc: str, unit: str) -> None:
        error_log = self.folder / "error.log"
        earlier = [_counts(summary) for summary in self.summaries(done)]
        skipped = sum(left_out for _, left_out in earlier)
        with progress(total=self.plan["total"], initial=sum(items for items, _ in earlier), desc=desc, unit=unit) as bar:

            def tell(text: str) -> None:
                bar.write(f"{desc}: {text}", file=sys.stderr)

            def advance(summary: dict[str, Any]) -> None:
                nonlocal skipped
                items, left_out = _counts(summary)
                skipped += left_out
                if skipped:
                    bar.set_postfix_str(f"skipped={skipped}", refresh=False)
                bar.update(items)
                self._require_folder()

            if self.engine.name == "ray":
                run_in_ray(job, tasks, self.engine.ray_address, advance, tell, error_log)
            elif list(devices) == ["cpu"]:
                run_here(job, tasks, advance, tell, error_log)
            else:
                run_in_processes(job, tasks, devices, advance, tell, error_log)


def _counts(summary: dict[str, Any]) -> tuple[int, int]:
    """Items of a part, and how many of them were skipped."""
    return summary["items"], len(summary.get("skipped", []))


def read_skipped(parts: Parts) -> list[list[Any]]:
    """All [item, reason, ...] rows that the parts skipped, in order."""
    return [row for summary in parts.summaries() for row in summary.get("skipped", [])]


# The names in a folder of parts; hidden ones are temporary files, ours or those that NFS keeps for a file removed while open.
PART_NAMES = re.compile(r"plan\.json|lock(\.how|\.\d+-of-\d+)?|error\.log|keys\.npy|\d{6}\..+|\..+\.tmp|\.nfs.+")


def parts_folder(output: Path) -> Path:
    """Where the parts of an output lie: OUTPUT.parts."""
    return output.with_name(output.name + ".parts")


def plan_settings(output: Path) -> dict[str, Any]:
    """The settings that an unfinished work at `output` was begun with; none where there is no such work, or its plan can't be read."""
    try:
        plan = json.loads((parts_folder(output) / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    found = plan.get("settings") if isinstance(plan, dict) else None
    return found if isinstance(found, dict) else {}


def remove_leftover(output: Path) -> None:
    """Remove the parts of a finished output: a kill can come between the last rename and the clean-up."""
    folder = parts_folder(output)
    remove_discarded(folder)
    if folder.is_dir() and not folder.is_symlink() and not strange(folder):
        # A run that holds the lock is still joining, and removes the parts itself; a file that is no lock is left alone.
        # In a folder that can't be written to the parts stay, and do no harm.
        with suppress(UserError, OSError), locked(folder / "lock", output.as_posix()):
            discard(folder)


def strange(folder: Path) -> Path | None:
    """A file in a folder of parts that no run has put there, and that would be removed with them; None if there is none."""
    return next((path for path in sorted(folder.glob("*")) if not PART_NAMES.fullmatch(path.name)), None)


def discard(folder: Path) -> None:
    """Remove a folder of parts; it is renamed first, so that a run that starts now finds it whole or not at all.

    If it holds a file that no run has put there (see `strange`), the folder stays with that alone.
    """
    if strange(folder):
        for path in [path for path in folder.iterdir() if PART_NAMES.fullmatch(path.name)]:
            path.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):  # somebody has removed it already
        # Not named by process id: ids come again, in containers always.
        folder.rename(folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.done"))
    remove_discarded(folder)


def remove_discarded(folder: Path) -> None:
    """Remove the folders that `discard` has renamed; another run may be doing so too, and one that can't be removed does no harm."""
    ours = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]+\.done")
    for discarded in folder.parent.glob(f".{glob.escape(folder.name)}.*.done"):
        if ours.fullmatch(discarded.name):
            shutil.rmtree(discarded, ignore_errors=True)
