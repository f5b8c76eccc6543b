"""Several processes and machines train as one process does."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.running import ROOT
from tests.worlds import World
from xmatching.data import CachedInputs, PairBatches
from xmatching.kinds import LOSSES
from xmatching.model import Matcher
from xmatching.training import Learner, Training
from xvoken.cache.features import Features
from xvoken.encoders import snapshot as snapshots

CONFIG = {"text_width": 6, "image_width": 5, "hidden": 8, "dim": 4, "dropout": 0.0}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def pairs(count: int) -> PairBatches:
    torch.manual_seed(1)
    text, image = torch.randn(count, 6).half().numpy(), torch.randn(count, 5).half().numpy()
    rows = torch.arange(count).numpy()
    return PairBatches(CachedInputs([Features(text, [], Path())]), CachedInputs([Features(image, [], Path())]), rows, rows // 2)


def trained(loss: str, count: int, rank: int, world: int) -> dict[str, torch.Tensor]:
    """Two epochs of plain gradient descent, batches of 4."""
    torch.manual_seed(0)
    training = Training(loss=loss, batch_size=4, optim="sgd", lr=0.2, epochs=2, hinge_warmup=1, temperature=0.5)
    learner = Learner.to_train(Matcher(CONFIG), training, "cpu")
    for epoch in (1, 2):
        learner.epoch(epoch, pairs(count), rank, world)
    return {**learner.matcher.state_dict(), **{f"objective.{k}": v for k, v in learner.objective.state_dict().items()}}


# 10 pairs in batches of 4: an uneven last batch. 3 pairs: less than a batch. 2 pairs for 3 processes: one has nothing to do.
WORLDS = {2: [10, 3], 3: [2]}


def work(rank: int, ports: dict[int, int], folder: str) -> None:
    """One of three processes, of which two are a world of their own first: their start takes most of the time."""
    torch.set_num_threads(1)
    for world, counts in WORLDS.items():
        if rank < world:
            dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{ports[world]}", rank=rank, world_size=world)
            for loss, count in itertools.product(LOSSES, counts):
                torch.save(trained(loss, count, rank, world), f"{folder}/{loss}-{count}-{rank}.pt")
            dist.destroy_process_group()


@pytest.mark.slow
def test_every_loss_gives_the_weights_of_one_process(tmp_path: Path):
    mp.spawn(work, ({world: free_port() for world in WORLDS}, str(tmp_path)), nprocs=max(WORLDS))
    for world, counts in WORLDS.items():
        for loss, count, rank in itertools.product(LOSSES, counts, range(world)):
            one = trained(loss, count, 0, 1)
            found = torch.load(tmp_path / f"{loss}-{count}-{rank}.pt", weights_only=True)
            for name, tensor in one.items():
                assert tensor.isfinite().all()
                torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-4, msg=f"{loss}, process {rank}, {name}")


def start_machine(rank: int, port: int, flags: list[str], output: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "NNODES": "2", "NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    env |= {"OUTPUT": str(output), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "VIRTUAL_ENV": sys.prefix}
    command = ["bash", "scripts/run_xmatching.bash", "0", *flags]
    return subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_two_machines_train_as_one(world: World, tmp_path: Path, script: Callable[..., str]):
    """Two launchers that meet at an address; the second has neither the snapshot's folder nor the cache of the first, nor its solution.

    Nor does it choose: the first trains on the rest of a fold by itself (--early-stop), and the second waits for what it chose.
    """
    heads = ["--head", "cca,classes", "--ridge", 1, "--power", 1, "--part-weights", "1,0.5", "--visn-pool", "stages"]  # solved by one
    more = ["--dropout", 0, "--optim", "sgd", "--lr", 0.5, "--loss", "infonce", *heads, "--epochs", 3, "--early-stop"]
    script("xmatching.main", *world.train_flags(tmp_path / "one", *more))
    flags = world.train_flags(tmp_path / "two", *more)
    flags = flags[: flags.index("--output")] + flags[flags.index("--output") + 2 :]
    port = free_port()
    machines = [start_machine(0, port, flags, tmp_path / "two")]
    machines.append(start_machine(1, port, [*flags, "--cache", str(tmp_path / "cache")], tmp_path / "nothing"))
    ends = [machine.communicate(timeout=120) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], ends
    one, two = (snapshots.read(tmp_path / name / "LAST.safetensors") for name in ("one", "two"))
    assert one.config["choice"]["scores"]["epochs"] and one.config["choice"]["epochs"] == two.config["choice"]["epochs"]
    one, two = one.tensors, two.tensors
    for name, tensor in one.items():
        near = {"atol": 1e-3, "rtol": 0} if name.startswith("bank.") else {"atol": 1e-5, "rtol": 1e-4}  # float16
        torch.testing.assert_close(two[name], tensor, **near)
        if ".out." not in name and ".names" not in name and not name.startswith("bank."):  # neither trained nor a tower's output
            assert two[name].equal(tensor), name
    assert not (tmp_path / "nothing").exists()


@pytest.mark.slow
def test_a_lost_machine_ends_the_other_with_its_reason(world: World, tmp_path: Path):
    flags = world.train_flags(tmp_path / "out", "--epochs", 5000)
    flags = flags[: flags.index("--output")] + flags[flags.index("--output") + 2 :]
    port = free_port()
    machines = [start_machine(rank, port, flags, tmp_path / "out") for rank in (0, 1)]
    deadline = time.time() + 90
    while not snapshots.training_file(tmp_path / "out").exists() and time.time() < deadline:
        time.sleep(0.05)
    found = subprocess.run(["pgrep", "-P", str(machines[1].pid)], capture_output=True, text=True).stdout.split()
    for child in found or [machines[1].pid]:
        os.kill(int(child), signal.SIGKILL)
    output, errors = machines[0].communicate(timeout=60)
    machines[1].communicate(timeout=60)
    assert machines[0].returncode == 1
    assert "lost" in errors.splitlines()[-1], errors
    epochs = [json.loads(line)["epoch"] for line in snapshots.metrics_file(tmp_path / "out").read_text().splitlines()]
    assert epochs and snapshots.check(tmp_path / "out")


def test_incomplete_rendezvous_is_refused(process: Callable[..., subprocess.CompletedProcess[str]]):
    done = process(sys.executable, "xmatching/launch.py", 1, NNODES="2", NODE_RANK="2", MASTER_ADDR="a", MASTER_PORT="1")
    assert done.returncode == 2
    assert "NODE_RANK is missing or wrong" in done.stderr
