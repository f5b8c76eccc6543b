"""Start the training in several processes by torchrun; a failure ends with one line, its reason, and its exit code.

    python xmatching/launch.py PROCESSES [flags of xmatching/main.py]
    NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 MASTER_PORT=29500 python xmatching/launch.py PROCESSES ...

The second form runs on each of NNODES machines, with its own NODE_RANK from 0; MASTER_ADDR is the address of the machine with
rank 0. Each machine needs the data. Output and cache may lie on a disk that all machines see, or on disks of their own: then
machine 0 writes the snapshot. (torchrun alone would answer a user's mistake with a page of its own traceback and exit code 1.)
"""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401
from xvoken.interrupts import importing

from xmatching.finished import is_finished
from xmatching.param import parse_args, trains_nothing
from xvoken.cli.flags import Parser, at_least_one
from xvoken.cli.main import run_main
from xvoken.errors import RunError, UserError
from xvoken.machine import cores

LOST = 75  # exit code of a process that ends because another one is gone
MAIN = str(Path(__file__).with_name("main.py"))

GO_ON = "the last snapshot is whole; to go on, run the same command with --resume"


def launch(processes: int, flags: list[str]) -> int:
    """Run the training; returns 0, or the exit code of the process that failed first, not of those that ended because it was lost."""
    with importing():
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.run import get_args_parser, run

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run(get_args_parser().parse_args([*machines(), "--nproc-per-node", str(processes), MAIN, *flags]))
    except ChildFailedError as error:
        rank, failure = min(error.failures.items(), key=lambda item: (item[1].exitcode == LOST, item[1].timestamp))
        if failure.exitcode == LOST:
            raise RunError(f"a process on another machine was lost; {GO_ON}") from None
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise RunError(f"process {rank} was killed by {name}; {GO_ON}") from None
        return failure.exitcode
    except SignalException:
        raise KeyboardInterrupt from None
    return 0


def machines() -> list[str]:
    """torchrun's flags for the rendezvous, from the environment; raises UserError if a variable is missing or wrong."""
    if os.environ.get("NNODES", "1") == "1":
        return ["--standalone"]
    names = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
    given = {name: os.environ.get(name, "") for name in names}
    wrong = [name for name, value in given.items() if not value or (name != "MASTER_ADDR" and not value.isdigit())]
    if wrong or int(given["NODE_RANK"]) >= int(given["NNODES"]):
        raise UserError(
            f"NNODES={given['NNODES']}: {', '.join(wrong) or 'NODE_RANK'} is missing or wrong; every machine needs NNODES (their number), "
            "NODE_RANK (0 to NNODES - 1), MASTER_ADDR and MASTER_PORT (of the machine with NODE_RANK 0)"
        )
    return [text for name, value in given.items() for text in (f"--{name.lower().replace('_', '-')}", value)]


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Start the training in several processes.")
    parser.add_argument("processes", type=at_least_one, help="number of processes on this machine")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="flags of xmatching/main.py")
    args = parser.parse_args(argv)
    processes, flags = args.processes, args.flags
    one_machine = os.environ.get("NNODES", "1") == "1"
    if processes > 1 or not one_machine:
        asked = parse_args(flags)  # a mistake in the flags or the files is reported here, once
        if not trains_nothing(asked):
            if one_machine and not asked.test_only and is_finished(asked):
                return
            sys.exit(launch(processes, flags))
    os.execv(sys.executable, [sys.executable, MAIN, *flags])  # one process needs no rendezvous


if __name__ == "__main__":
    run_main(main)
