"""Towers by OpenVINO against the same towers by torch."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests import builder
from tests.worlds import World
from xvoken.encoders.compiled import NotConvertible, compile_tower
from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.frozen import FrozenImage, FrozenText, all_batches
from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec
from xvoken.machine import Pace
from xvoken.towers.tokenizer import load_tokenizer

SENTENCES = ["a dog", "", "two red circles beside a large blue square on a green ground", "no", "one more line of a middling length"]
OPENVINO = Pace("openvino", 2, 1)


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def texts(tower: Callable[[], nn.Module], tokenizer: str) -> None:
    loaded = load_tokenizer(tokenizer)
    by_torch, by_openvino = (FrozenText(tower(), loaded, pace=pace) for pace in (Pace(), OPENVINO))
    tokens, offsets = by_torch.tokenize(SENTENCES)
    for size in (1, 3):  # other shapes than the one that was traced, with padding and without
        batches = list(all_batches(np.diff(offsets), size))
        for (rows, found), (at, expected) in zip(
            by_openvino.features(tokens, offsets, batches), by_torch.features(tokens, offsets, batches), strict=True
        ):
            assert rows.tolist() == at.tolist()
            same(found, expected)
    assert set(by_openvino.run.compiled) == {"forward"}  # and not torch in its place
    assert type(by_openvino.run.compiled["forward"]).__name__ == "Compiled"


def test_bert(world: World):
    texts(lambda: TextTowerSpec(str(world.bert), (4, 3, 2, 1), "mean").build(), str(world.bert))


def test_every_token_of_bert(world: World):
    loaded = load_tokenizer(str(world.bert))
    by_torch, by_openvino = (FrozenText(TextTowerSpec(str(world.bert), (2, 1)).build(), loaded, pace=pace) for pace in (Pace(), OPENVINO))
    tokens, offsets = by_torch.tokenize(SENTENCES)
    batches = list(all_batches(np.diff(offsets), 2))
    found, expected = (list(frozen.states(tokens, offsets, batches)) for frozen in (by_openvino, by_torch))
    for (_, states, mask), (_, wanted, _) in zip(found, expected, strict=True):
        same(states[mask.bool()], wanted[mask.bool()])


@pytest.mark.parametrize("save", [builder.save_clip, builder.save_siglip])
def test_both_towers_of_dual_encoders(tmp_path: Path, save: Callable[[Path], Path]):
    save(tmp_path / "model")
    by_torch, by_openvino = (load_encoder(tmp_path / "model", device="cpu", pace=pace) for pace in (Pace(), OPENVINO))
    # Their weights are spread so far that torch itself is 1e-5 from float64.
    np.testing.assert_allclose(by_openvino.encode_texts(SENTENCES, 2), by_torch.encode_texts(SENTENCES, 2), atol=3e-5)
    pictures = [builder.blurred_noise(60, 40, np.random.default_rng(n)) for n in range(3)]
    np.testing.assert_allclose(by_openvino.encode_images(pictures, 2), by_torch.encode_images(pictures, 2), atol=3e-5)
    for frozen in (by_openvino.text, by_openvino.image):
        assert frozen and type(frozen.run.compiled["forward"]).__name__ == "Compiled"


@pytest.mark.parametrize("pool", ["grid", "maps"])
def test_pictures(world: World, pool: str):
    spec = ImageTowerSpec("resnet18", str(world.resnet), pool)
    by_torch, by_openvino = (FrozenImage(spec.build(), pace=pace) for pace in (Pace(), OPENVINO))
    for size in (1, 3):
        pixels = torch.randint(256, (size, 3, 224, 224), dtype=torch.uint8)
        same(by_openvino.features(pixels), by_torch.features(pixels))
    assert type(by_openvino.run.compiled["forward"]).__name__ == "Compiled"


class Unknown(nn.Module):
    """Does what no graph can hold."""

    width = 3

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.linalg.pinv(pixels[:, 0].double().numpy())).sum((1, 2))[:, None].expand(-1, 3).to_sparse().float()


def test_what_openvino_can_not_take_is_computed_by_torch(world: World, caplog: pytest.LogCaptureFixture):
    tower = ImageTowerSpec("resnet18", str(world.resnet)).build()
    with pytest.raises(NotConvertible):
        pictures = (torch.zeros(1, 3, 4, 4, dtype=torch.uint8),)
        compile_tower(Unknown(), "forward", pictures, (0,), pictures, OPENVINO, "fp32")
    image = FrozenImage(tower, pace=OPENVINO)
    image.run.tower = tower.eval()
    tower.forward = Unknown().forward  # ty: ignore[invalid-assignment]
    pixels = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    assert image.features(pixels).to_dense().shape == (2, 3)
    assert "computing with torch: OpenVINO can't take ImageTower" in caplog.text


class Halves(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float() / 2


class SignalStack(ctypes.Structure):
    """stack_t of sigaltstack(2)."""

    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def test_towers_that_go_leave_a_stack_for_signals():
    """Without one, the next signal that has a handler kills the process."""
    example = (torch.ones(2, 4, dtype=torch.uint8),)
    towers = [compile_tower(Halves(), "forward", example, (0,), example, OPENVINO, "fp32") for _ in range(2)]
    while towers:
        del towers[0]
        gc.collect()
    stack = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    mapped = [[int(end, 16) for end in line.split()[0].split("-")] for line in Path("/proc/self/maps").read_text().splitlines()]
    assert stack.flags or any(start <= stack.start and stack.start + stack.size <= stop for start, stop in mapped)
