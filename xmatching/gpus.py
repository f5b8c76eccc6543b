"""GPUs and processes for the bash scripts.

python xmatching/gpus.py 0,1,2,3        prints "VISIBLE_GPUS PROCESSES"
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.errors import UserError
from xvoken.machine import cores, gpu_count


def torchrun_processes(gpus: str) -> tuple[str, int]:
    """Visible GPUs and number of processes for "0,1,2,3"; on a machine without a GPU: "" and CPU processes."""
    numbers = [part.strip() for part in gpus.split(",")]
    if not all(number.isdigit() for number in numbers) or len(set(numbers)) < len(numbers):
        raise UserError(f"GPUs {gpus!r}: expected different numbers separated by commas, such as 0,1,2,3")
    present = gpu_count()  # only those in CUDA_VISIBLE_DEVICES, which Slurm sets
    if not present:
        processes = min(len(numbers), cores())
        say(f"no GPU on this machine: {processes} process{'es' * (processes > 1)} on the CPU (gloo) instead of GPUs {gpus}")
        return "", processes
    missing = [number for number in numbers if int(number) >= present]
    if missing:
        raise UserError(f"GPU {missing[0]} does not exist, this machine has 0 to {present - 1}")
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(present)))
    return ",".join(allowed.split(",")[int(number)].strip() for number in numbers), len(numbers)


def main(argv: list[str] | None = None) -> None:
    given = sys.argv[1:] if argv is None else argv
    if len(given) != 1:
        raise UserError("one argument is needed, the GPUs: python xmatching/gpus.py 0,1,2,3")
    visible, processes = torchrun_processes(given[0])
    print(visible or "none", processes)


if __name__ == "__main__":
    run_main(main)
