import pytest
import torch

from xmatching.gpus import torchrun_processes
from xvoken.errors import UserError
from xvoken.machine import LANES, cores, workers_on


def test_on_a_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert workers_on("auto", None) == ["cpu"] * -(-cores() // LANES)  # each uses as many cores by itself
    assert workers_on("0", 3) == ["cpu"] * 3
    assert torchrun_processes("0") == ("", 1)
    assert torchrun_processes(",".join(map(str, range(100)))) == ("", cores())
    with pytest.raises(UserError, match="this machine has no GPU"):
        workers_on("cuda", None)


def test_on_a_machine_with_two_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert workers_on("auto", None) == ["cuda:0", "cuda:1"]
    assert workers_on("auto", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert workers_on("1", None) == ["cuda:1"]
    assert workers_on("cpu", 1) == ["cpu"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert torchrun_processes("0,1") == ("0,1", 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-8a5f")  # as Slurm leaves a job its share of a machine
    assert torchrun_processes("1,0") == ("GPU-8a5f,4", 2)
    with pytest.raises(UserError, match=r"GPU 2 does not exist, this machine has 0 to 1"):
        workers_on("2", None)
    with pytest.raises(UserError, match=r"GPU 3 does not exist, this machine has 0 to 1"):
        torchrun_processes("0,3")


@pytest.mark.parametrize("gpus", ["x", "", "0,,1", "0,0", "-1"])
def test_what_is_no_list_of_gpus(gpus: str):
    with pytest.raises(UserError, match="expected different numbers"):
        torchrun_processes(gpus)
