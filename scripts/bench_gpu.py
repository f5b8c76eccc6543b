"""The tests and benchmarks of one GPU, each with a limit of time, their results as JSON and as rows of a table.

    python scripts/bench_gpu.py [--small] [--out FOLDER] [--limit SECONDS]

scripts/bench_gpu.bash calls it. Both files are written anew after each step, so that what was measured is kept whatever comes.
Exit code 1 where a step failed or ran out of time.
"""

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import xvoken.interrupts  # noqa: F401

from xvoken.cli.flags import Parser
from xvoken.cli.main import run_main
from xvoken.errors import UserError
from xvoken.work.plans import versions

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "tokenizers",
    "numpy",
    "h5py",
    "pillow",
    "pytest",
    "faiss-gpu",
    "faiss-cpu",
    "torchcodec",
)
# Seconds that each may take, in this order: all are cut where the whole time ends.
LIMITS = {"tests": 270, "retrieve": 100, "keys": 140, "sharing": 110, "search": 100}
OUTCOME = re.compile(r"^(tests/gpu/\S+::\S+) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)", re.MULTILINE)
COLUMNS = ("stage", "command", "straightforward", "ours", "limit", "vs straightforward", "of limit")


@dataclass
class Step:
    """What was run and how it ended; tests: outcome by name; records: the JSON lines of a benchmark."""

    name: str
    command: str
    outcome: str = "passed"
    seconds: float = 0.0
    tests: dict[str, str] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    end: list[str] = field(default_factory=list)


def command_of(name: str, device: str, small: bool) -> list[str]:
    if name == "tests":
        return ["-m", "pytest", "tests/gpu", "-vv", "-p", "no:cacheprovider", "--durations=15", "--tb=short"]
    return [f"benchmarks/{name}.py", "--device", device, *["--small"] * small]


def run_step(name: str, flags: list[str], limit: float, log: Path) -> Step:
    """Run a step in a group of processes of its own, which is ended with it; what it says is put behind the log."""
    step, started = Step(name, shown(flags)), time.time()
    with open(log, "ab+") as said:
        at = said.seek(0, os.SEEK_END)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            [sys.executable, *flags], cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            code = process.wait(limit)
            step.outcome = "passed" if code == 0 else f"failed, exit code {code}"
        except subprocess.TimeoutExpired:
            step.outcome = f"not done within {limit:.0f} s"
        finally:
            end_group(process)
        said.seek(at)
        text = said.read().decode("utf-8", "replace")
    step.seconds = round(time.time() - started, 1)
    step.tests = dict(OUTCOME.findall(text))
    step.records = [record for line in text.splitlines() if line.startswith("{") and (record := as_record(line))]
    if step.outcome == "passed" and not (step.records or "PASSED" in step.tests.values()):
        step.outcome = "measured nothing"
    step.end = [] if step.outcome == "passed" else text.splitlines()[-30:]
    return step


def shown(flags: list[str]) -> str:
    return " ".join(["python", *flags])


def end_group(process: subprocess.Popen) -> None:
    """End what a step has left running: workers that another one waits for, too."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)


def as_record(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if "stage" in found else {}


def rows_of(step: Step, machine: str) -> list[str]:
    """The rows of a step: one for each record, and one that says how it ended where that is not well."""
    rows = []
    for record in step.records:
        more = [f"{record['items']:,}", *(f"{name} {record[name]}" for name in ("tower", "keys", "decoder", "precision") if name in record)]
        taken = [f"{record['seconds'][way]:.3f} s" for way in ("straightforward", "ours", "limit")]
        if "plain_search" in record:
            taken[0] += f" ({record['plain_search']})"
        ratios = [f"{record['vs_straightforward']:.2f}", f"{record['of_limit']:.2f}"]
        rows.append([f"{record['stage']} on {machine} ({', '.join(more)})", f"`{step.command}`", *taken, *ratios])
    if step.tests:
        counted = {outcome: list(step.tests.values()).count(outcome) for outcome in sorted(set(step.tests.values()))}
        told = ", ".join(f"{number} {outcome.lower()}" for outcome, number in counted.items())
        rows.append([f"tests on {machine}: {told}, {step.seconds:.0f} s", f"`{step.command}`", *[""] * 5])
    if step.outcome != "passed":
        rows.append([f"{step.name} on {machine}: {step.outcome}", f"`{step.command}`", *[""] * 5])
    return [f"| {' | '.join(row)} |" for row in rows]


def table(steps: list[Step], machine: str) -> str:
    head = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    failed = [f"{name}: {outcome}" for step in steps for name, outcome in step.tests.items() if outcome not in ("PASSED", "SKIPPED")]
    return "\n".join([*head, *(row for step in steps for row in rows_of(step, machine)), *failed]) + "\n"


def facts() -> dict[str, Any]:
    """The machine and what is installed on it."""
    import torch

    found = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "python": platform.python_version(), "cuda": torch.version.cuda}
    found |= versions(PACKAGES)
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        return {**found, "gpu": gpu.name, "gpu_memory": gpu.total_memory, "bf16": torch.cuda.is_bf16_supported(), "device": "cuda:0"}
    if os.environ.get("XVOKEN_AS_GPU") != "cpu":
        raise UserError("this machine has no GPU that torch can use; XVOKEN_AS_GPU=cpu with --small tries the script on the CPU")
    return {**found, "gpu": "a CPU in a GPU's place", "device": "cpu"}


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Test and measure on one GPU.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--small", action="store_true", help="benchmarks do very little work: shows that they run, not how fast")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ROOT / "snap")), help="folder to write to")
    parser.add_argument("--limit", type=float, default=530, help="seconds in all")
    parser.add_argument("--steps", default=",".join(LIMITS), help="what to do, in this order")
    args = parser.parse_args(argv)
    names = args.steps.split(",")
    if unknown := set(names) - set(LIMITS):
        raise UserError(f"--steps: {unknown.pop()!r} is not one of {', '.join(LIMITS)}")
    ends, found, steps = time.time() + args.limit, facts(), []
    args.out.mkdir(parents=True, exist_ok=True)
    (log := args.out / "bench_gpu.log").write_bytes(b"")
    for name in names:
        flags, left = command_of(name, found["device"], args.small), ends - time.time()
        late = Step(name, shown(flags), "no time was left")
        steps.append(run_step(name, flags, min(LIMITS[name], left), log) if left > 5 else late)
        (args.out / "bench_gpu.json").write_text(json.dumps({**found, "steps": list(map(asdict, steps))}, indent=1) + "\n")
        (args.out / "bench_gpu.md").write_text(table(steps, found["gpu"]))
        print(f"{name}: {steps[-1].outcome}, {steps[-1].seconds:.0f} s", *steps[-1].end, sep="\n", flush=True)
    print(table(steps, found["gpu"]))
    sys.exit(any(step.outcome != "passed" for step in steps))


if __name__ == "__main__":
    run_main(main)
