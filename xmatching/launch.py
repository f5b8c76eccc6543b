"""Start the training in several processes by torchrun; a failure ends with its reason and exit code alone.

    python xmatching/launch.py PROCESSES [flags of xmatching/main.py]

torchrun itself answers a user's mistake with a page of its own traceback and exit code 1.
"""

import logging
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import get_args_parser, run

from xvoken.devices import cores
from xvoken.messages import RunError, run_main

MAIN = str(Path(__file__).with_name("main.py"))


def launch(processes: int, flags: list[str]) -> int:
    """Run the training; returns 0, or the exit code of the process that failed by itself, not for the loss of another."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run(get_args_parser().parse_args(["--standalone", "--nproc-per-node", str(processes), MAIN, *flags]))
    except ChildFailedError as error:
        rank, failure = min(error.failures.items(), key=lambda item: (item[1].exitcode == 1, item[1].timestamp))
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise RunError(f"process {rank} was killed by {name}; the last snapshot is whole, run the same command to go on") from None
        return failure.exitcode
    except SignalException:
        raise KeyboardInterrupt from None
    return 0


def main() -> None:
    processes, flags = int(sys.argv[1]), sys.argv[2:]
    if processes > 1:
        sys.exit(launch(processes, flags))
    sys.argv = [MAIN, *flags]  # one process needs no rendezvous
    from xmatching.main import main as train

    train()


if __name__ == "__main__":
    run_main(main)
