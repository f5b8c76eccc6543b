"""Training on one GPU by the command for it, against the CPU; and what several processes say to each other through NCCL."""

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.worlds import World
from xmatching.data import CachedInputs, PairBatches
from xmatching.model import Matcher, gather_batch, pad_tokens
from xmatching.training import Learner, Training
from xvoken.cache.features import Features
from xvoken.encoders import snapshot as snapshots

Trainings = dict[str, tuple[str, list[str]]]  # name -> the GPUs, and flags besides the world's


def train(world: World, folder: Path, process: Callable, trainings: Trainings) -> dict[str, str]:
    """Train beside each other, each into folder/NAME with a cache of its own; returns what each said."""

    def one(name: str) -> str:
        gpus, more = trainings[name]
        flags = world.train_flags(folder / name, *more)
        flags[flags.index("--cache") + 1] = str(folder / f"cache-{name}")
        done = process("bash", "scripts/run_xmatching.bash", gpus, *flags, timeout=90, VIRTUAL_ENV=sys.prefix)
        assert done.returncode == 0, done.stderr
        return done.stderr

    with ThreadPoolExecutor() as pool:
        return dict(zip(trainings, pool.map(one, trainings), strict=True))


def losses(snapshot: Path) -> list[float]:
    records = [json.loads(line) for line in snapshots.metrics_file(snapshot).read_text().splitlines()]
    return [record["loss"] for record in records if record.get("loss") is not None]


def test_one_gpu_trains_as_the_cpu(world: World, tmp_path: Path, process: Callable, gpu: str):
    """Without dropout, whose draws differ by device; both in fp32."""
    flags = ["--level", "token", "--dropout", "0", "--optim", "sgd", "--lr", "0.1", "--train-precision", "fp32"]
    said = train(world, tmp_path, process, {"cpu": ("cpu", flags), "gpu": ("0", flags)})
    assert "1 process on cpu" in said["cpu"] and f"1 process on {'cpu' if gpu == 'cpu:0' else gpu}" in said["gpu"]
    ours, theirs = (snapshots.read_tensors(snapshots.tensors_file(tmp_path / name, "LAST"))[0] for name in ("gpu", "cpu"))
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=5e-3, rtol=1e-2, msg=name)
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-2)


def test_bf16_with_dropout_and_trained_towers_learn_too(world: World, tmp_path: Path, process: Callable):
    low = ["--precision", "bf16", "--train-precision", "bf16", "--epochs", "6", "--loss", "infonce"]
    towers = ["--lang-finetune", "--visn-finetune", "--epochs", "1"]
    train(world, tmp_path, process, {"bf16": ("0", low), "towers": ("0", towers)})
    assert losses(tmp_path / "bf16")[-1] < losses(tmp_path / "bf16")[0]
    assert snapshots.check(tmp_path / "towers")


CONFIG = {"text_width": 6, "image_width": 5, "hidden": 8, "dim": 4, "dropout": 0.0}


def pairs(count: int) -> PairBatches:
    numbers = torch.Generator().manual_seed(1)
    text, image = (torch.randn(count, width, generator=numbers).half().numpy() for width in (6, 5))
    rows = torch.arange(count).numpy()
    return PairBatches(CachedInputs([Features(text, [], Path())]), CachedInputs([Features(image, [], Path())]), rows, rows // 2)


def trained(device: str, wrap: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    training = Training(loss="infonce", batch_size=4, optim="sgd", lr=0.2, epochs=2, hinge_warmup=1, temperature=0.5)
    learner = Learner.to_train(Matcher(CONFIG), training, device)
    if wrap:  # as Learner does for several processes
        learner.model = torch.nn.parallel.DistributedDataParallel(learner.matcher)
    for epoch in (1, 2):
        learner.epoch(epoch, pairs(10))
    return {name: tensor.cpu() for name, tensor in learner.matcher.state_dict().items()}


def one_of_one(rank: int, gpu: str, folder: str) -> None:
    """What xmatching.stage says through its process group, in a group of one: NCCL takes a GPU for one process only."""
    device = gpu if gpu != "cpu:0" else "cpu"
    if device != "cpu":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device != "cpu" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder}/met", rank=rank, world_size=1)
    try:
        dist.barrier()
        box: list[object] = [{"chosen": 1}]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        local = torch.arange(12.0, device=device).reshape(3, 4)
        sizes = [torch.zeros(1, dtype=torch.int64, device=device)]
        dist.all_gather(sizes, torch.tensor([3], device=device))
        rows = [torch.empty_like(local)]
        dist.all_gather(rows, local)
        longest = torch.tensor(7, device=device)
        dist.all_reduce(longest, dist.ReduceOp.MAX)
        assert box == [{"chosen": 1}] and sizes[0].item() == 3 and longest.item() == 7 and rows[0].equal(local)
        assert gather_batch(pad_tokens(local[None], 1), 1).equal(local[None])
        torch.save(trained(device, wrap=True), f"{folder}/trained.pt")
    finally:
        dist.destroy_process_group()


def test_a_process_group_on_the_gpu(tmp_path: Path, gpu: str):
    mp.spawn(one_of_one, (gpu, str(tmp_path)), nprocs=1, daemon=True)
    found, expected = torch.load(tmp_path / "trained.pt", weights_only=True), trained("cpu", wrap=False)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


def test_two_gpus_train_as_one(world: World, tmp_path: Path, process: Callable):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    flags = ["--dropout", "0", "--optim", "sgd", "--lr", "0.1"]
    train(world, tmp_path, process, {"one": ("0", flags), "two": ("0,1", flags)})
    one, two = (snapshots.read_tensors(snapshots.tensors_file(tmp_path / name, "LAST"))[0] for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-3, rtol=1e-2, msg=name)
