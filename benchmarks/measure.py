"""What the benchmarks share: timing, the table, the JSON line."""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch

from xvoken.cli.flags import Help, Parser
from xvoken.machine import cores, processor


def make_parser(description: str) -> Parser:
    """A parser with --small, the flag that all benchmarks have."""
    parser = Parser(description=description, formatter_class=Help)
    parser.add_argument("--small", action="store_true", help="do very little work: shows that the script runs, not how fast")
    return parser


def parse_args(description: str, argv: list[str] | None) -> argparse.Namespace:
    """The flags of a benchmark that has only --small and --device."""
    parser = make_parser(description)
    parser.add_argument("--device", default="cpu", help="device to measure on: cpu or cuda:0")
    return parser.parse_args(argv)


def machine(device: str = "cpu") -> str:
    """The processor's name and the cores this process may use, or the GPU's name."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {cores()} cores"


def seconds(work: Callable[[], Any], repeat: int = 1) -> float:
    """Seconds of the fastest of `repeat` runs, as other work on the machine can only make a run slower."""
    taken = []
    for _ in range(repeat):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken)


@contextmanager
def threads(number: int):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def report(stage: str, unit: str, items: int, rows: dict[str, float], device: str = "cpu", **more: Any) -> None:
    """Print a table of times and one JSON object; rows: way -> seconds, with `straightforward`, `ours`, `limit` and any others."""
    print(f"{stage}, {items:,} {unit}, {machine(device)}")
    for way, taken in rows.items():
        print(f"  {way:<28}{taken:10.3f} s {items / taken:14,.1f} {unit}/s")
    record = {
        "stage": stage,
        "vs_straightforward": round(rows["straightforward"] / rows["ours"], 3),
        "of_limit": round(rows["limit"] / rows["ours"], 3),
        "items": items, "machine": machine(device), **more,
    }  # fmt: skip
    print(json.dumps(record), flush=True)
