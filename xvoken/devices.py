"""Which processors do the work, and in which precision."""

import argparse
import os
import sys
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import xvoken.interrupts  # noqa: F401

import torch
from torch import Tensor, nn

from xvoken.messages import UserError, run_main, say

PRECISIONS = ("auto", "bf16", "fp32")


def cores() -> int:
    """Cores this process may use (containers and taskset counted in)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_on(device: str, num_workers: int | None) -> list[str]:
    """One device per worker process.

    device: "auto" (all visible GPUs, else the CPU), "cpu", "cuda", or a GPU's number.
    num_workers: processes; default one per GPU, or one per core.
    """
    gpus = torch.cuda.device_count()
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
        say(f"no GPU on this machine: --device {device} runs on the CPU")
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
    fast = cpu_has_bf16() if device == "cpu" else torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if fast else "fp32"


def add_flags(parser: argparse.ArgumentParser, tower: str, auto: str) -> None:
    """--device, --num-workers and --precision of a stage that retrieval depends on; auto: what that precision means there."""
    parser.add_argument("--device", default="auto", help="auto (all GPUs, else the CPU), cpu, cuda, or a GPU's number")
    parser.add_argument("--num-workers", type=int, help="processes (default: one per GPU or core)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32",
        help=f"of the {tower}; bf16: several times as fast where the device has the units, but with it the best picture of 1 line in 100 "
        f"is another one (benchmarks/precision.py); auto: {auto}",
    )  # fmt: skip


def suggest_bf16(precision: str, device: str) -> None:
    """Say what bf16 would bring where fp32 is the default and the device has the units."""
    if precision == "fp32" and resolve_precision("auto", device) == "bf16":
        say("fp32, as it is most exact; this machine has bf16 units: --precision bf16 is several times as fast (--help says what it costs)")


def upload(tensor: Tensor, device: str) -> Tensor:
    """A copy on the device. A GPU goes on with what it has to do meanwhile, and so does the caller."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def autocast(device: str, precision: str) -> AbstractContextManager:
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def cast_weights(tower: nn.Module, precision: str) -> nn.Module:
    """Keep the weights of a frozen tower's matrix products in the precision that `autocast` computes them in.

    The same bits as without, but autocast would cast all of them again in every batch (on 2 cores, a fifth of
    ViT-B/32's time). Returns the tower.
    """
    if precision == "bf16":
        kept = {module for part in getattr(tower, "fp32_parts", []) for module in part.modules()}
        for module in tower.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and module not in kept:
                module.to(torch.bfloat16)
    return tower


def torchrun_processes(gpus: str) -> tuple[str, int]:
    """Visible GPUs and number of processes for "0,1,2,3"; on a machine without a GPU: "" and CPU processes."""
    numbers = [part.strip() for part in gpus.split(",")]
    if not all(number.isdigit() for number in numbers) or len(set(numbers)) < len(numbers):
        raise UserError(f"GPUs {gpus!r}: expected different numbers with commas, as in 0,1,2,3")
    present = torch.cuda.device_count()  # of those that CUDA_VISIBLE_DEVICES leaves, as Slurm sets it
    if not present:
        processes = min(len(numbers), cores())
        say(f"no GPU on this machine: {processes} process{'es' * (processes > 1)} on the CPU (gloo) instead of GPUs {gpus}")
        return "", processes
    missing = [number for number in numbers if int(number) >= present]
    if missing:
        raise UserError(f"GPU {missing[0]} does not exist, this machine has 0 to {present - 1}")
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(present)))
    return ",".join(allowed.split(",")[int(number)].strip() for number in numbers), len(numbers)


def main() -> None:
    """`python -m xvoken.devices 0,1`: print "VISIBLE_GPUS PROCESSES" for the bash scripts."""
    if len(sys.argv) != 2:
        raise UserError("python -m xvoken.devices GPUS, as in 0,1,2,3")
    visible, processes = torchrun_processes(sys.argv[1])
    print(visible or "none", processes)


if __name__ == "__main__":
    run_main(main)
