"""Which processors do the work, by which engine, in which precision, and in batches of what size."""

import ctypes
import importlib.util
import os
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from xvoken import commands
from xvoken.console import log
from xvoken.errors import UserError

PRECISIONS = ("auto", "bf16", "fp32")
TOWER_ENGINES = ("auto", "torch", "openvino")


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
class Pace:
    """How a process computes a frozen tower on a CPU.

    engine: torch or openvino; lanes: threads that each put a batch of their own through the tower; threads: those that one batch
    is computed with (None: as many as torch has); tries: whether the work is long enough to try first what is fastest.
    """

    engine: str = "torch"
    lanes: int = 1
    threads: int | None = None
    tries: bool = False


@dataclass(frozen=True)
class Compute:
    """How and where the work is done. Precision and decoder alone are among the settings kept in the files that are written.

    devices: one per process; precision: fp32 or bf16; any_precision: whether what is finished or begun in the other one is taken
    too, as where `auto` was asked for; batch_size: items a batch on a CPU, more on a GPU (None: each kind of work has its own);
    decoder: of pictures, see xvoken.pictures.batches; cache: folder for what frozen towers make of the data;
    tower_engine: an entry of TOWER_ENGINES.
    """

    devices: tuple[str, ...] = ("cpu",)
    precision: str = "fp32"
    batch_size: int | None = None
    decoder: str = "pillow"
    cache: Path = Path("data/cache")
    engine: Engine = LOCAL
    tower_engine: str = "auto"
    any_precision: bool = False

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the settings in which what is finished or begun may differ."""
        return ("precision",) if self.any_precision else ()

    def pace(self, items: int, worth: int) -> Pace:
        """How a tower is computed for a work of so many items; worth: from how many on converting it for OpenVINO pays."""
        engine = resolve_tower_engine(self.tower_engine, self.device, self.precision, items >= worth)
        return Pace(engine, threads=1, tries=self.device == "cpu" and self.batch_size is None and items >= TRIED * worth)

    def pace_here(self, items: int, worth: int) -> Pace:
        """The same where all is done in this process, on all of its cores."""
        return replace(self.pace(items, worth), lanes=cores()) if self.device == "cpu" else Pace()

    @property
    def device(self) -> str:
        """The first of the devices; all of one run are of the same type."""
        return self.devices[0]


def cores() -> int:
    """Cores this process may use (containers and taskset counted in)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def processor() -> str:
    """The processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


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
    num_workers: processes; None for one per GPU, or one for every LANES cores of the CPU, which it uses by itself.
    Raises UserError for a GPU that this machine does not have, another name, or fewer than 1 worker.
    """
    gpus = gpu_count()
    if num_workers is not None and num_workers < 1:
        raise UserError(f"--num-workers {num_workers}: at least 1 is needed")
    if device == "cpu" or (device == "auto" and not gpus):
        return ["cpu"] * (num_workers or -(-cores() // LANES))
    if device in ("auto", "cuda"):
        if not gpus:
            raise UserError("--device cuda: this machine has no GPU; use --device cpu or auto")
        return [f"cuda:{i % gpus}" for i in range(num_workers or gpus)]
    if not device.isdigit():
        raise UserError(f"--device {device}: not one of auto, cpu, cuda or a GPU's number")
    if not gpus:
        log.info(f"no GPU on this machine: --device {device} runs on the CPU")
        return ["cpu"] * (num_workers or -(-cores() // LANES))
    if int(device) >= gpus:
        raise UserError(f"--device {device}: GPU {device} does not exist, this machine has 0 to {gpus - 1}")
    return [f"cuda:{device}"] * (num_workers or 1)


def resolve_tower_engine(engine: str, device: str, precision: str, worth: bool = True) -> str:
    """Turn "auto" into "openvino" where it is installed, for fp32 on a CPU, if the work is worth the second that converting takes.

    In bf16 torch stays: its few layers in fp32 keep the error small. Raises UserError for openvino on a GPU, or where it is missing.
    """
    if engine == "torch" or (engine == "auto" and not (worth and device == "cpu" and precision == "fp32" and has_openvino())):
        return "torch"
    if device != "cpu":
        raise UserError(f"--tower-engine openvino: it computes on the CPU, not on {device}; add --device cpu, or take --tower-engine auto")
    if not has_openvino():
        raise UserError(f"--tower-engine openvino: it is not installed; run: {commands.install('openvino')}")
    return "openvino"


@cache
def has_openvino() -> bool:
    """Whether OpenVINO is installed."""
    return importlib.util.find_spec("openvino") is not None


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


def settled_precision(precision: str, device: str, begun: object) -> str:
    """The same, but "auto" goes on in the precision that a work was begun in, where it is known."""
    return str(begun) if precision == "auto" and begun in ("bf16", "fp32") else resolve_precision(precision, device)


def needs_torch(precision: str) -> bool:
    """Whether `resolve_precision` may have to import torch: only torch knows whether a GPU has bf16 units."""
    return precision == "auto" and _has_driver()


def _gpu_has_bf16() -> bool:
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def suggest_bf16(compute: Compute) -> None:
    """Log that bf16 would be faster, where the work is in fp32 on a device with bf16 units."""
    if compute.precision == "fp32" and resolve_precision("auto", compute.device) == "bf16":
        log.info("computing in fp32, the most exact precision; --precision bf16 is faster here (--help says what it costs)")


LANES = 4  # cores that one process uses by itself: with many more threads, they would wait for Python's lock
TEXT_BATCH = 32  # lines a batch on a CPU
TEXT_ON_GPU = 16  # a GPU's batches have this many times as many lines


def lines_on(device: str, lines: int) -> int:
    """Lines of a batch on this device: `lines` on a CPU, TEXT_ON_GPU times as many on a GPU."""
    return lines if device == "cpu" else lines * TEXT_ON_GPU


# Pictures a batch: on a CPU the maps of more do not fit a core's cache, a GPU takes ON_GPU times as many.
IMAGE_BATCH, ON_GPU = 4, 64
TRIED = 32  # times as many items as converting is worth for are worth a trial of batches
# Pictures and lines from which on a tower is converted for OpenVINO, which takes a second, unless an engine is asked for.
WORTH_IMAGES, WORTH_LINES = 64, 256


ON_GPU_LINES, ON_GPU_PICTURES = 16_384, 8192  # of a part


def fitting(total: int, least: int, most: int) -> int:
    """Items of a part, for a work of `total` items on a CPU: about a 64th of it, a multiple of `least` from `least` to `most`.

    It follows from the size alone, so that all machines that share the work cut it alike.
    """
    return min(max(1, -(-total // 64 // least)) * least, most)


def lines_a_part(total: int, device: str, least: int) -> int:
    """Lines of a part, on a CPU at least so many: those of one part are sorted by length."""
    return fitting(total, least, 8 * least) if device == "cpu" else ON_GPU_LINES


def pictures_a_part(total: int, device: str, least: int) -> int:
    """Pictures of a part, on a CPU at least so many."""
    return fitting(total, least, 8 * least) if device == "cpu" else ON_GPU_PICTURES
