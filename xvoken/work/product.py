"""What a stage makes, and the one way to make it: skipped where it is finished, else locked, written and reported.

A product is a file that stands for the whole, with companions that are written before it. A stage asks `finished` first, before it
loads anything heavy; what is not finished it makes in a pass of parts (`one_pass`, for one product or several at once), or, where there
are none, as the only writer (`alone`). A pass leaves OUTPUT.report.json beside each product: what was done, skipped and needed.
"""

import importlib.metadata
import platform
import sys
from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xvoken.console import log
from xvoken.files.locks import lock_file, locked, remove_lock, sole_writer
from xvoken.files.safe import all_there, all_written, differences, remove_temporary, same_settings, write_json
from xvoken.machine import LOCAL, Engine
from xvoken.work.local import Job
from xvoken.work.parts import Parts, remove_leftover

PACKAGES = ("torch", "transformers", "tokenizers", "faiss-gpu", "faiss-cpu", "numpy", "h5py", "Pillow")


@dataclass
class Product:
    """path: the file that stands for the whole; settings: all that its bytes depend on.

    read: gives the settings that the finished file says (None: its name holds a fingerprint of them); holds: what a skip says of it
    (empty: nothing); unsaid: what files of earlier versions do not say, though it was so.
    companions: written before it, without which it is no use; extras: written with it, of which no later run asks.
    done: the file that is written last, if it is not `path` (of caches, the receipt).
    """

    path: Path
    settings: dict[str, Any]
    read: Callable[[], dict[str, Any]] | None = None
    holds: str = ""
    companions: tuple[Path, ...] = ()
    extras: tuple[Path, ...] = ()
    unsaid: dict[str, Any] = field(default_factory=dict)
    done: Path | None = None
    replaced: bool = field(default=False, kw_only=True)  # one of other settings is made again, not refused: it takes no time
    own_lock: bool = field(default=False, kw_only=True)  # passes whose parts are another product's write it too: those have one file's lock

    @property
    def last(self) -> Path:
        """The file by which a run knows that all are there."""
        return self.done or self.path

    @property
    def files(self) -> tuple[Path, ...]:
        """All that is written, the last one first."""
        return tuple(dict.fromkeys((self.last, self.path, *self.companions, *self.extras)))

    @property
    def written(self) -> tuple[Path, ...]:
        """All that a pass writes of it: its report too."""
        return (*self.files, report_file(self.path))

    def finished(self) -> bool:
        """Whether it is there already, and says so; parts and a lock that a killed run has left are removed then.

        Raises UserError for one that was made with other settings, or that has lost a companion.
        """
        if not self.stands():
            return False
        all_there(self.last, self.path, *self.companions)
        remove_leftover(self.path)
        remove_lock(self.path)
        if self.holds:
            log.info(f"skipped: {self.path} holds {self.holds} already")
        return True

    def stands(self, unknown: Collection[str] = ()) -> bool:
        """Whether its last file is there; raises UserError where that was made with other settings.

        unknown: names of settings that are not known yet, and not compared.
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
        """Be the only run that writes it while the block runs, for stages without parts. Gives whether there is anything to write.

        wait: for another run's end, instead of being refused. Leaving the block without an error requires all that was to be written.
        """
        with sole_writer(self.path, wait=wait):
            todo = not self.finished()  # another run may have ended since we asked
            if todo:
                for path in self.files:
                    remove_temporary(path)
            yield todo
            if todo:
                all_written(*self.files)


@dataclass
class Pass:
    """One pass of parts; todo: the products that it makes, none if all are finished by now; made_of: the parts of the last of them."""

    todo: list[Product]
    made_of: Parts | None = None

    @property
    def parts(self) -> Parts:
        assert self.made_of is not None, "nothing is to be made, and there are no parts"
        return self.made_of

    def run(self, job: Job, devices: Sequence[str], desc: str, unit: str) -> bool:
        """Do what is not done yet; returns whether the caller is to report, then join: not where other shares are still to come."""
        return self.parts.run(job, devices, desc, unit)

    def report(self, **counts: Any) -> None:
        """Write the report of each product; to be called before a last file is written, see write_report."""
        write_report(self.parts, [product.path for product in self.todo], **counts)


@contextmanager
def one_pass(
    products: Sequence[Product], total: int, chunk: int, engine: Engine = LOCAL, plan: dict[str, Any] | None = None
) -> Generator[Pass]:
    """Make products that are not finished out of the same parts, in the order in which they are written; the parts lie beside the last one.

    plan: settings of the parts, where they are written otherwise than those of the product. Leaving the block without an error requires
    all files, reports among them, and removes the parts. Raises UserError when another run is at work on a product or has just finished it.
    """
    with ExitStack() as stack:
        for product in products:
            if product.own_lock and engine.share:  # shares write together; who ends last takes the lock away
                stack.callback(remove_lock, product.path)
                stack.enter_context(locked(lock_file(product.path), product.path.as_posix(), shared=True, wait=True))
            elif product.own_lock:
                stack.enter_context(sole_writer(product.path))
        # Who has no lock of its own is looked at by the parts, under theirs.
        todo = [product for product in products if not (product.own_lock and product.finished())]
        if not todo:
            yield Pass([])
            return
        main = todo[-1]
        # Whose temporary files are removed before joining; those of a product that we hold no lock of may be another run's at work.
        ours = [path for product in todo if product is main or product.own_lock for path in product.written]
        parts = Parts(main.path, total, chunk, main.settings if plan is None else plan, tuple(ours), engine, done=main.last)
        yield Pass(todo, stack.enter_context(parts))
        if parts.joins:
            for product in todo:
                all_written(*product.written)


def report_file(output: Path) -> Path:
    return output.with_name(f"{output.name}.report.json")


def write_report(parts: Parts, outputs: Sequence[Path] = (), **counts: Any) -> None:
    """Write OUTPUT.report.json; to be called before the file is written that means done: behind that, a kill would leave none.

    outputs: made of these parts (default: theirs alone); counts: what the stage itself counted (lines, tokens, images). Seconds are
    those of each part, in order, over all runs that it took; peak memory is in MB, of this process and of the largest of its workers
    in this run.
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
        "versions": {"python": platform.python_version(), **_versions()},
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


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
