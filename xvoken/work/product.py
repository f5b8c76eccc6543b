"""A stage's output, and the one way to make it: skipped if it is finished, else locked, written and reported.

A product is a main file, with companions that are written before it. A stage asks `finished` first, before it loads anything heavy.
A product that is not finished is made in a pass of parts (`one_pass`, for one product or several at once), or, if the work has no parts,
as the only writer (`alone`). A pass leaves OUTPUT.report.json beside each product: counts, skipped items, time and memory.
"""

import platform
import sys
from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xvoken.console import log
from xvoken.files.locks import lock_file, locked, remove_lock, sole_writer
from xvoken.files.safe import all_there, all_written, differences, remove_temporary, same_settings, write_json
from xvoken.machine import LOCAL, Compute, Engine, settled_precision
from xvoken.work.jobs import Job
from xvoken.work.parts import Parts, plan_settings, remove_leftover
from xvoken.work.plans import versions

PACKAGES = ("torch", "transformers", "openvino", "tokenizers", "faiss-gpu", "faiss-cpu", "numpy", "h5py", "Pillow")


@dataclass
class Product:
    """An output of a stage.

    path: its main file; settings: everything that its bytes depend on; read: returns the settings that the finished file keeps (None:
    its name holds a fingerprint of them); unsaid: settings that files of earlier versions do not keep, with the values they had then.
    holds: what the file holds, for the line that says it is skipped (empty: no line).
    companions: files written before it, without which it is of no use; extras: files written with it that no later run asks for.
    done: the file that is written last, if that is not `path` (the receipt of a cache).
    """

    path: Path
    settings: dict[str, Any]
    read: Callable[[], dict[str, Any]] | None = None
    holds: str = ""
    companions: tuple[Path, ...] = ()
    extras: tuple[Path, ...] = ()
    unsaid: dict[str, Any] = field(default_factory=dict)
    done: Path | None = None
    replaced: bool = field(default=False, kw_only=True)  # with other settings it is made again, not refused: that takes no time
    own_lock: bool = field(default=False, kw_only=True)  # passes with other parts write it too, so the parts' lock is not enough

    @property
    def last(self) -> Path:
        """The file that is written last: if it exists, all of them do."""
        return self.done or self.path

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the product; the one that is written last comes first."""
        return tuple(dict.fromkeys((self.last, self.path, *self.companions, *self.extras)))

    @property
    def written(self) -> tuple[Path, ...]:
        """All files that a pass writes: `files` and the report."""
        return (*self.files, report_file(self.path))

    def finished(self) -> bool:
        """Whether it is there already; if so, logs that it is skipped, and removes parts and a lock that a killed run has left.

        Raises UserError if it was made with other settings, or if a companion is gone.
        """
        if not self.stands():
            return False
        all_there(self.last, self.path, *self.companions)
        remove_leftover(self.path)
        remove_lock(self.path)
        remove_lock(joining(self.path))
        if self.holds:
            log.info(f"skipped: {self.path} holds {self.holds} already")
        return True

    def stands(self, unknown: Collection[str] = ()) -> bool:
        """Whether its last file is there; raises UserError if it was made with other settings (`replaced`: False instead).

        unknown: names of settings that are not known yet and therefore not compared.
        """
        if not self.last.exists():
            return False
        if self.read is None:
            return True
        then = {name: value for name, value in (self.unsaid | self.read()).items() if name not in unknown}
        if self.replaced:
            return not differences(then, self.settings)
        same_settings(self.path, then, self.settings)
        return True

    @contextmanager
    def alone(self, wait: bool = False) -> Generator[bool]:
        """Be the only run that writes it while the block runs, for stages without parts. Yields whether there is anything to write.

        wait: wait for another run's end, instead of raising UserError. Leaving the block without an error raises RunError if a file
        that was to be written is missing.
        """
        with sole_writer(self.path, wait=wait):
            todo = not self.finished()  # another run may have ended since we asked
            if todo:
                for path in self.files:
                    remove_temporary(path)
            yield todo
            if todo:
                all_written(*self.files)


def begun_with(output: Path, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The settings that an output is finished or begun with; read: those of the finished one. Empty if there is neither."""
    return read() if output.exists() else plan_settings(output)


def settled(compute: Compute, begun: dict[str, Any]) -> Compute:
    """The same, in the precision that an output is begun with, see begun_with, where `auto` has left it open."""
    if not (compute.any_precision and "precision" in begun):
        return compute
    return replace(compute, precision=settled_precision("auto", compute.device, begun["precision"]))


@dataclass
class Pass:
    """One pass of parts; todo: the products that it makes, none if all are finished by now; made_of: the parts they are made of."""

    todo: list[Product]
    made_of: Parts | None = None

    @property
    def parts(self) -> Parts:
        """The parts of the last product, of which all are made; not to be asked for if `todo` is empty."""
        assert self.made_of is not None, "nothing is to be made, and there are no parts"
        return self.made_of

    def run(self, job: Job, devices: Sequence[str], desc: str, unit: str) -> bool:
        """Do the parts that are not done yet; returns whether the caller is to report and join, see Parts.run."""
        return self.parts.run(job, devices, desc, unit) and bool(self.todo)

    def report(self, **counts: Any) -> None:
        """Write the report of each product; to be called before the products' last files are written, see write_report."""
        write_report(self.parts, [product.path for product in self.todo], **counts)


@contextmanager
def one_pass(
    products: Sequence[Product], total: int, chunk: int, engine: Engine = LOCAL, plan: dict[str, Any] | None = None
) -> Generator[Pass]:
    """Make the products that are not finished from the same parts, which lie beside the last product.

    products: in the order in which the caller writes them; total, chunk: items in all, and in a part; plan: settings of the parts, where
    those differ in form from the last product's. Leaving the block without an error raises RunError if a file or a report is missing,
    and removes the parts. Raises UserError when another run is at work on a product or has just finished it.
    """
    with ExitStack() as stack:
        for product in products:
            if product.own_lock and engine.share:  # shares hold it together; the last one to end removes it
                stack.callback(remove_lock, product.path)
                stack.enter_context(locked(lock_file(product.path), product.path.as_posix(), shared=True, wait=True))
            elif product.own_lock:
                stack.enter_context(sole_writer(product.path))
        # Whether a product without a lock of its own is finished, is looked at by Parts, under the lock of the parts.
        todo = [product for product in products if not (product.own_lock and product.finished())]
        if not todo:
            yield Pass([])
            return

        def be_alone() -> None:
            """Shares of another pass, of other parts, may be about to write the same product: one of both does.

            By a lock of its own: shares of this pass still hold the product's together, and wait for the parts'.
            """
            for product in [product for product in todo if product.own_lock and engine.share]:
                stack.enter_context(sole_writer(joining(product.path), product.path, wait=True))
                if product.finished():
                    todo.remove(product)

        main = todo[-1]
        # Files whose temporary ones are removed before joining; where we hold no lock, those may belong to another run at work.
        ours = [path for product in todo if product is main or product.own_lock for path in product.written]
        how = main.settings if plan is None else plan
        parts = Parts(main.path, total, chunk, how, tuple(ours), engine, done=main.last, before_joining=be_alone)
        yield Pass(todo, stack.enter_context(parts))
        if parts.joins:
            for product in todo:
                all_written(*product.written)


def joining(output: Path) -> Path:
    """What the lock of the share that joins is named by; no such file is written."""
    return output.with_name(f"{output.name}.join")


def report_file(output: Path) -> Path:
    """The report of a pass, beside its output: OUTPUT.report.json."""
    return output.with_name(f"{output.name}.report.json")


def write_report(parts: Parts, outputs: Sequence[Path] = (), **counts: Any) -> None:
    """Write OUTPUT.report.json; to be called before the last file is written: after it, a kill would leave no report.

    outputs: the files made of these parts (default: the parts' own output); counts: what the stage itself counted (lines, tokens,
    images). The report has the seconds of each part, in order, whichever run did it, and peak memory in MB, of this process and of
    its largest worker in this run.
    """
    summaries = list(parts.summaries())
    reasons = Counter(row[1] for summary in summaries for row in summary.get("skipped", []))
    own, workers = _peaks()
    report = {
        **counts,
        "skipped": dict(reasons),
        "seconds": round(sum(summary["seconds"] for summary in summaries), 3),
        "seconds_per_part": [summary["seconds"] for summary in summaries],
        "peak_memory_mb": {"run": round(own), "largest_worker": round(workers)},
        "versions": {"python": platform.python_version(), **versions(PACKAGES)},
    }
    for output in outputs or [parts.output]:
        write_json(report_file(output), report)


def _peaks() -> tuple[float, float]:
    """Peak memory of this process and of the largest of its workers, in MB; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0, 0.0
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # bytes there, kB elsewhere
    own, workers = (resource.getrusage(who).ru_maxrss / unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own, workers
