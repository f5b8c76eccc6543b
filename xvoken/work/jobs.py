"""What a long work is made of: a job, which does ranges of items, and how it is set up in a process."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

from xvoken import commands
from xvoken.errors import UserError
from xvoken.machine import Pace, cores, has_openvino
from xvoken.work.trial import fastest

CPU_THREADS = 1  # threads for one batch on a CPU: sums split over threads differ in their last bits


class Job(Protocol):
    """One kind of work. Its fields are plain values, so that it can be sent to another process.

    A job may be Batched and Sharing too. An attribute `uses_gpu` that is False says that it has no work for a GPU.
    """

    def setup(self, device: str) -> None:
        """Load models and open files; called once in each process."""

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        """Do items start to stop, write files named `part` plus endings of the job's choice, return a small summary for JSON."""


@runtime_checkable
class Batched(Protocol):
    """A job whose batches are halved, down to 1, when a range runs out of memory."""

    batch_size: int


@runtime_checkable
class Sharing(Protocol):
    """A job that takes its share of a machine's cores; workers: the number of processes among which they are shared."""

    workers: int


class _InBatches:
    batch_size: int  # fields of each job, in places of their own
    precision: str


@dataclass(kw_only=True)
class TowerJob(_InBatches):
    """What the jobs with a frozen tower have in common: how it is computed, known when `setup` is called.

    OLD_BATCH: items in a batch, by default, before plans said how. built: the tower, in fp32, where this process has loaded it already;
    other processes load it for themselves.
    """

    pace: Pace = Pace(threads=CPU_THREADS)
    built: Any = None
    OLD_BATCH: ClassVar[int | None] = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "built": None}

    def reuse(self, tower: Any) -> None:
        """Take a tower that this process has loaded, in fp32: for bf16 it would be changed in place."""
        self.built = tower if self.precision == "fp32" else None

    def how(self) -> dict[str, Any]:
        """How the tower is computed, as plans keep it: a work is gone on with as it was begun."""
        return {"tower_engine": self.pace.engine, "threads": self.pace.threads, "batch_size": self.batch_size}

    def fastest(self, share: int) -> dict[str, Any]:
        """The same after a trial of what is fastest with so many cores, where the work is long enough; on a CPU, sets up a copy.

        However many processes do the work, the same is tried, so that its bytes do not hang on their number.
        """
        if not self.pace.tries:
            return self.how()
        import torch

        tried, threads = replace(self), torch.get_num_threads()
        try:
            prepare(cast(Job, tried), "cpu", share)
            best = fastest(tried.frozen(), share)
        finally:
            torch.set_num_threads(threads)
        return {**self.how(), "threads": best.threads, "batch_size": best.batch_size}

    def frozen(self) -> Any:
        """The frozen tower that `setup` has loaded."""
        raise NotImplementedError

    def old_how(self, device: str) -> dict[str, Any]:
        """How a work was begun whose plan does not say; on a GPU in the same batches as by default."""
        size = self.OLD_BATCH if device == "cpu" else None
        return {"tower_engine": "torch", "threads": CPU_THREADS, "batch_size": size or self.batch_size}

    def take(self, how: dict[str, Any]) -> None:
        """Compute as a plan says. Raises UserError where OpenVINO has begun and is missing."""
        if how["tower_engine"] == "openvino" and not has_openvino():
            raise UserError(f"this work was begun with OpenVINO, which is not installed here; run: {commands.install('openvino')}")
        self.pace = replace(self.pace, engine=how["tower_engine"], threads=how["threads"])
        self.batch_size = how["batch_size"]


def prepare(job: Job, device: str, share: int = 1) -> None:
    """Set the precision and the number of threads of this process, and set up the job in it; share: cores that it has for itself."""
    if isinstance(job, TowerJob):
        job.pace = replace(job.pace, lanes=max(1, share // (job.pace.threads or 1))) if device == "cpu" else Pace()
    _settle_torch(job, device)
    job.setup(device)
    _settle_torch(job, device)  # the job may have imported it only now


def _settle_torch(job: Job, device: str) -> None:
    """Settings of torch, where it is imported: a worker whose job does without starts seconds earlier."""
    if (torch := sys.modules.get("torch")) is None:
        return
    # By default torch computes fp32 convolutions on a GPU in TF32, which keeps 10 bits; fp32 shall mean fp32.
    torch.backends.cudnn.allow_tf32 = False
    on_cpu = (job.pace.threads or CPU_THREADS) if isinstance(job, TowerJob) else CPU_THREADS
    torch.set_num_threads(on_cpu if device == "cpu" else max(1, cores() // (job.workers if isinstance(job, Sharing) else 1)))
