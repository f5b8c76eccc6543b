import threading

import numpy as np
import pytest
import torch

from tests.worlds import World
from xvoken.encoders.frozen import FrozenImage, FrozenText, all_batches
from xvoken.encoders.lanes import in_lanes
from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec
from xvoken.encoders.running import computing
from xvoken.machine import Pace
from xvoken.towers.tokenizer import load_tokenizer
from xvoken.work import trial


@pytest.mark.parametrize("lanes", [1, 3])
def test_results_come_in_order_and_from_so_many_threads(lanes: int):
    meet = threading.Barrier(lanes, timeout=20)

    def work(item: int) -> tuple[int, str]:
        meet.wait()  # passed only where all lanes are at work at once
        return item * item, threading.current_thread().name

    found = list(in_lanes(work, range(12), Pace(lanes=lanes)))
    assert [square for square, _ in found] == [n * n for n in range(12)]
    assert len({name for _, name in found}) == lanes


def test_an_error_stops_the_lanes_and_threads_are_as_before():
    before, done = torch.get_num_threads(), []

    def work(item: int) -> int:
        if item == 3:
            raise ValueError("no such luck")
        done.append(item)
        return torch.get_num_threads()

    with pytest.raises(ValueError, match="no such luck"):
        list(in_lanes(work, range(100), Pace(lanes=2, threads=1)))
    assert len(done) < 20
    assert torch.get_num_threads() == before
    taken = in_lanes(work, [0, 1], Pace(lanes=2, threads=1))
    assert next(taken) == 1
    taken.close()
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_lanes_compute_the_same_bits(world: World, engine: str):
    tokenizer = load_tokenizer(str(world.bert))
    lines = [" ".join(["word"] * (n % 13)) for n in range(60)]

    def vectors(lanes: int) -> np.ndarray:
        text = FrozenText(TextTowerSpec(str(world.bert), (1,)).build(), tokenizer, pace=Pace(engine, lanes, 1))
        tokens, offsets = text.tokenize(lines)
        rows = np.empty((len(lines), text.width), np.float32)
        for batch, out in text.features(tokens, offsets, all_batches(np.diff(offsets), 4)):
            rows[batch] = out.numpy()
        return rows

    assert vectors(1).tobytes() == vectors(3).tobytes()


def test_a_trial_is_made_once(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    image = FrozenImage(ImageTowerSpec("resnet18", str(world.resnet)).build(), pace=Pace(lanes=2, threads=1))
    seen = []

    def seconds(batch_size: int, pace: Pace) -> float:  # larger batches pay up to 4, and two threads a batch do not
        seen.append((batch_size, pace.threads))
        return batch_size * {1: 1.0, 2: 0.8, 4: 0.6}.get(batch_size, 0.9) * (pace.threads or 1) ** 0.1

    monkeypatch.setattr(image, "seconds", seconds)
    assert trial.fastest(image, 2) == trial.Best(4, 1)
    tried = len(seen)
    assert {(1, 1), (4, 1), (4, 2)} <= set(seen)
    assert trial.fastest(image, 2) == trial.Best(4, 1) and len(seen) == tried
    assert trial.fastest(image, 4) and len(seen) > tried  # other cores, another trial


def test_what_a_trial_measures(world: World):
    image = FrozenImage(ImageTowerSpec("resnet18", str(world.resnet)).build(), pace=Pace(lanes=2, threads=1))
    text = FrozenText(TextTowerSpec(str(world.bert), (1,)).build(), load_tokenizer(str(world.bert)))
    assert all(0 < tower.seconds(2, tower.pace) < 60 for tower in (image, text))


def test_lanes_leave_the_settings_of_gpus_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)

    def one(_: int) -> bool:
        with computing("cpu", "fp32"):
            return torch.backends.cudnn.allow_tf32

    assert all(in_lanes(one, range(4), Pace(lanes=2, threads=1))) and torch.backends.cudnn.allow_tf32
