"""The Ray engine: the same ranges as in xvoken/work/local.py, in actors that a Ray cluster places and restarts by itself.

A range whose actor dies with its node is done again elsewhere; a range that kills three actors stops the run.
"""

import logging
import math
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xvoken import commands
from xvoken.errors import RunError, UserError, one_line
from xvoken.work.jobs import Job, Sharing, prepare
from xvoken.work.local import ATTEMPTS, KEPT, Task, do_range, failed

ROOT = Path(__file__).resolve().parents[2]


class Actor:
    """A worker of the cluster: holds the job's models, does one range after another."""

    def __init__(self, job: Job, device: str, folder: str):
        os.chdir(folder)  # paths may be relative to where the run was started
        self.job = job
        prepare(job, device)  # one core is its own

    def do(self, items: tuple[int, int], part: str) -> tuple[dict[str, Any], list[str]]:
        """Do one range (start, stop); returns the job's summary and the lines to show."""
        said: list[str] = []
        return do_range(self.job, items, Path(part), said.append), said


def run_in_ray(
    job: Job, tasks: list[Task], address: str | None,
    done: Callable[[dict[str, Any]], None], tell: Callable[[str], None], log: Path,
) -> None:  # fmt: skip
    """Do the ranges in actors, one a GPU of the cluster, or one a core where it has no GPU; done, tell, log as for run_in_processes.

    Raises UserError when Ray is not installed or no cluster answers at the address, RunError when a range is given up.
    """
    if address:
        _require_answer(address)
        if (Path.home() / ".ray/auth_token").exists():  # then `ray start` asks for the token, which a driver does not send by itself
            os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError:
        raise UserError(f"--engine ray: Ray is not installed; run: {commands.install('ray')}") from None
    environment = {"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}}
    try:
        ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        what = f"--ray-address {address}: no Ray cluster answers there" if address else "--engine ray: Ray can't start on this machine"
        raise UserError(f"{what} ({one_line(error)[:200]})") from None
    try:
        _run(ray, job, tasks, done, tell, log)
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise UserError where nothing listens at the address: Ray itself would try for ten minutes and more, without a message."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), 5).close()
        except OSError as error:
            raise UserError(f"--ray-address {address}: nothing answers there ({error}); start it with: ray start --head") from None


def _run(ray: Any, job: Job, tasks: list[Task], done: Callable, tell: Callable, log: Path) -> None:
    has = ray.cluster_resources()
    gpus = int(has.get("GPU", 0)) if getattr(job, "uses_gpu", True) else 0
    number = min(len(tasks), gpus or int(has.get("CPU", 1)))
    if isinstance(job, Sharing):
        job.workers = math.ceil(number / max(1, sum(node["Alive"] for node in ray.nodes())))
    # Without a GPU an actor needs a core to be placed but none to stay: when a node dies, all actors fit on those that are left.
    options = {"num_gpus": 1} if gpus else {}
    kind = ray.remote(Actor).options(max_restarts=-1, max_task_retries=ATTEMPTS - 1, scheduling_strategy="SPREAD", **options)
    shared = ray.put(job)
    waiting = iter(tasks)
    at_work: dict[Any, tuple[Any, Task]] = {}

    def give(actor: Any) -> None:
        task = next(waiting, None)
        if task is None:
            ray.kill(actor)  # an actor that lost its node may be waiting for this GPU
        else:
            at_work[actor.do.remote(task[0], str(task[1]))] = (actor, task)

    for _ in range(number):
        give(kind.remote(shared, "cuda:0" if gpus else "cpu", os.getcwd()))
    while at_work:
        for ready in ray.wait(list(at_work), num_returns=1)[0]:
            actor, (items, _) = at_work.pop(ready)
            try:
                summary, said = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UserError):
                    raise error.cause from None
                raise failed(one_line(f"{type(error.cause).__name__}: {error.cause}"), str(error), items, log) from None
            except ray.exceptions.RayError as error:
                raise RunError(f"{log.parent}: an actor died on items {items[0]} to {items[1]} ({one_line(error)[:300]}); {KEPT}") from None
            for line in said:
                tell(line)
            done(summary)
            give(actor)
