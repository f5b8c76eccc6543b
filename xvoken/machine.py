"""Which processors do the work, in which precision, and in batches of what size."""

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from xvoken.console import log
from xvoken.errors import UserError

PRECISIONS = ("auto", "bf16", "fp32")


@dataclass(frozen=True)
class Engine:
    """Who does the ranges of a long work, and which of them.

    name: local (this machine's processes) or ray; ray_address: of a cluster that runs already; share: (I, N), do only every N-th
    range from the I-th on, counted from 1; join: do none, only join what the shares have done.
    """

    name: str = "local"
    ray_address: str | None = None
    share: tuple[int, int] | None = None
    join: bool = False


LOCAL = Engine()


@dataclass(frozen=True)
class Compute:
    """How and where the work is done. Precision and decoder alone are among the settings kept in the files that are written.

    devices: one per process; precision: fp32 or bf16; batch_size: items a batch on a CPU, more on a GPU (None: each kind of work
    has its own); decoder: of pictures, see xvoken.pictures.batches; cache: folder for what frozen towers make of the data.
    """

    devices: tuple[str, ...] = ("cpu",)
    precision: str = "fp32"
    batch_size: int | None = None
    decoder: str = "pillow"
    cache: Path = Path("data/cache")
    engine: Engine = LOCAL

    @property
    def device(self) -> str:
        """The first of the devices; all of one run are of the same type."""
        return self.devices[0]


def cores() -> int:
    """Cores this process may use (containers and taskset counted in)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_count() -> int:
    """GPUs that torch can use here. Where there is no GPU driver, torch is not imported, which takes seconds."""
    if "torch" not in sys.modules and not _has_driver():
        return 0
    import torch

    return torch.cuda.device_count()


def _has_driver() -> bool:
    """Whether NVIDIA's driver or AMD's is there."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()
    return True


def one_device(device: object) -> str:
    """Torch's name of a device given as auto (a GPU, else the CPU), cpu, cuda, a GPU's number, or torch's name or object (cuda:1).

    Raises UserError for a GPU that this machine does not have, and for any other name.
    """
    name = str(device).removeprefix("cuda:") if isinstance(device, str | int) or type(device).__name__ == "device" else repr(device)
    if name.startswith("cpu:"):
        return name
    if name.isdigit() and not gpu_count():
        raise UserError(f"device={device!r}: this machine has no GPU; use cpu or auto")
    return workers_on(name, 1)[0]


def workers_on(device: str, num_workers: int | None) -> list[str]:
    """Torch's name of the device of each worker process.

    device: "auto" (all visible GPUs, else the CPU), "cpu", "cuda" (all visible GPUs), or a GPU's number.
    num_workers: processes; None for one per GPU, or one per core.
    Raises UserError for a GPU that this machine does not have, another name, or fewer than 1 worker.
    """
    gpus = gpu_count()
    if num_workers is not None and num_workers < 1:
        raise UserError(f"--num-workers {num_workers}: at least 1 is needed")
    if device == "cpu" or (device == "auto" and not gpus):
        return ["cpu"] * (num_workers or cores())
    if device in ("auto", "cuda"):
        if not gpus:
            raise UserError("--device cuda: this machine has no GPU; use --device cpu or auto")
        return [f"cuda:{i % gpus}" for i in range(num_workers or gpus)]
    if not device.isdigit():
        raise UserError(f"--device {device}: not one of auto, cpu, cuda or a GPU's number")
    if not gpus:
        log.info(f"no GPU on this machine: --device {device} runs on the CPU")
        return ["cpu"] * (num_workers or cores())
    if int(device) >= gpus:
        raise UserError(f"--device {device}: GPU {device} does not exist, this machine has 0 to {gpus - 1}")
    return [f"cuda:{device}"] * (num_workers or 1)


@cache
def cpu_has_bf16() -> bool:
    """Whether the CPU has bf16 matrix units (AMX or AVX512-BF16); elsewhere bf16 is slower than fp32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def resolve_precision(precision: str, device: str) -> str:
    """Turn "auto" into "bf16" where the device has the units for it, else "fp32"."""
    if precision != "auto":
        return precision
    return "bf16" if (cpu_has_bf16() if device == "cpu" else _gpu_has_bf16()) else "fp32"


def needs_torch(precision: str) -> bool:
    """Whether `resolve_precision` may have to import torch: only torch knows whether a GPU has bf16 units."""
    return precision == "auto" and _has_driver()


def _gpu_has_bf16() -> bool:
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def suggest_bf16(compute: Compute) -> None:
    """Log that bf16 would be faster, where the work is in fp32 on a device with bf16 units."""
    if compute.precision == "fp32" and resolve_precision("auto", compute.device) == "bf16":
        log.info("computing in fp32, the most exact precision; --precision bf16 is several times as fast here (--help says what it costs)")


TEXT_BATCH = 64  # lines a batch on a CPU
TEXT_ON_GPU = 8  # a GPU's batches and parts have this many times as many lines


def lines_on(device: str, lines: int) -> int:
    """Lines of a batch or a part on this device: `lines` on a CPU, TEXT_ON_GPU times as many on a GPU."""
    return lines if device == "cpu" else lines * TEXT_ON_GPU


IMAGE_BATCH, ON_GPU = 8, 32  # pictures a batch: on a CPU the maps of more do not fit a core's cache, a GPU takes ON_GPU times as many
