"""BEST.pth of Vokenization and Maria, built by hand from their published names."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from tests.conftest import ROOT, World
from xvoken.messages import UserError


def published_state(prefix: str = "", width: int = 128, dim: int = 16, hidden_layers: int = 2) -> dict[str, torch.Tensor]:
    """Their joint model: lang_model.{backbone,mlp}, visn_model.{backbone,mlp}; mlp = (Linear, ReLU, Dropout) x n, Linear."""
    torch.manual_seed(3)
    state = {"lang_model.backbone.embeddings.position_ids": torch.arange(4)}
    for side, inputs in (("lang_model", width), ("visn_model", 512)):
        sizes = {3 * i: (32, 32) for i in range(hidden_layers)} | {0: (32, inputs), 3 * hidden_layers: (dim, 32)}
        for layer, (rows, columns) in sizes.items():
            state[f"{side}.mlp.{layer}.weight"] = torch.randn(rows, columns) / columns**0.5
            state[f"{side}.mlp.{layer}.bias"] = torch.randn(rows)
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.fixture(scope="module")
def tuned(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot whose two towers were trained as well."""
    output = tmp_path_factory.mktemp("tuned") / "m"
    flags = world.train_flags(output, "--lang-finetune", "--visn-finetune", "--tower-lr", 1e-4, "--epochs", 1)
    subprocess.run([sys.executable, "xmatching/main.py", *flags], cwd=ROOT, check=True, capture_output=True, timeout=240)
    return output


def plain_mlp(state: dict[str, torch.Tensor], side: str, x: torch.Tensor) -> torch.Tensor:
    last = max(int(name.split(".")[2]) for name in state if f"{side}.mlp" in name)
    for layer in range(0, last + 1, 3):
        x = x @ state[f"{side}.mlp.{layer}.weight"].T + state[f"{side}.mlp.{layer}.bias"]
        x = x.relu() if layer < last else x
    return x / x.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize(("prefix", "hidden_layers"), [("", 2), ("module.", 2), ("module.", 1)])
def test_published_weights_give_the_same_embeddings(tmp_path: Path, prefix: str, hidden_layers: int):
    from xmatching.model import Matcher
    from xmatching.predecessors import start_from

    state = published_state(hidden_layers=hidden_layers)
    torch.save({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "BEST.pth")
    config = {"text_width": 128, "image_width": 512, "dim": 16, "hidden": 32, "hidden_layers": hidden_layers, "dropout": 0.2}
    matcher = Matcher(config).eval()
    start_from(str(tmp_path / "BEST.pth"), matcher, config)
    text, image = torch.randn(4, 128), torch.randn(5, 512)
    torch.testing.assert_close(matcher.embed_text(text), plain_mlp(state, "lang_model", text))
    torch.testing.assert_close(matcher.embed_image(image), plain_mlp(state, "visn_model", image))


def test_test_only_measures_what_is_loaded(world: World, tmp_path: Path, script: Callable[..., str]):
    torch.save(published_state("module."), tmp_path / "BEST.pth")
    printed = script("xmatching.main", *world.train_flags(tmp_path / "none"), "--test-only", "--load", tmp_path / "BEST.pth")
    assert "12 captions, 6 images" in printed
    assert not (tmp_path / "none").exists()


def test_test_only_repeats_the_record_of_the_training(world: World, matcher: Path, script: Callable[..., str]):
    from xvoken.recall import table
    from xvoken.snapshot import read

    roots = [*world.roots, "--valid-imgs", "shapes_valid", "--cache", f"{world.folder}/cache", "--precision", "fp32"]
    printed = script("xmatching.main", *roots, "--num-workers", 1, "--test-only", "--load", matcher)
    assert table(read(matcher).config["validation"]) in printed


def test_test_only_takes_the_tokenizer_of_a_fine_tuned_snapshot(world: World, tuned: Path, script: Callable[..., str]):
    """Its text tower's folder holds none. Trained towers ran in other batches and in full precision: what scores almost the same may
    change places, so that a query or two may count otherwise."""
    from xvoken.recall import TOP
    from xvoken.snapshot import read

    roots = [*world.roots, "--valid-imgs", "shapes_valid", "--cache", f"{world.folder}/cache", "--precision", "fp32"]
    printed = script("xmatching.main", *roots, "--num-workers", 1, "--test-only", "--load", tuned)
    expected = read(tuned).config["validation"]
    for direction, queries in (("text_to_image", expected["captions"]), ("image_to_text", expected["images"])):
        row = re.search(rf"^{direction.replace('_', ' ')} +([\d. ]+)$", printed, re.MULTILINE)
        found = [float(number) for number in row[1].split()][: len(TOP)]
        assert found == pytest.approx([expected[direction][f"R{k}"] for k in TOP], abs=100 * 2 / queries + 0.01)


def test_training_goes_on_from_published_weights(world: World, tmp_path: Path, script: Callable[..., str]):
    torch.save(published_state(), tmp_path / "BEST.pth")
    script("xmatching.main", *world.train_flags(tmp_path / "out", "--load", tmp_path / "BEST.pth", "--epochs", 1, "--lr", 1e-9))
    from xvoken.snapshot import read

    loaded = read(tmp_path / "out").tensors["text_head.layers.6.weight"]
    torch.testing.assert_close(loaded, published_state()["lang_model.mlp.6.weight"], atol=1e-6, rtol=0)


def test_trained_towers_go_on_from_those_of_the_snapshot(world: World, tuned: Path, tmp_path: Path, script: Callable[..., str]):
    from xvoken import snapshot as snapshots
    from xvoken.text_towers import TextTower

    still = ["--epochs", 1, "--lr", 1e-12, "--tower-lr", 1e-12, "--dropout", 0]
    script("xmatching.main", *world.train_flags(tmp_path / "m", "--load", tuned, "--lang-finetune", "--visn-finetune", *still))
    then, now = ({**snapshots.read_tensors(snapshots.image_tower_file(folder, "BEST"))[0]} for folder in (tuned, tmp_path / "m"))
    for folder, tensors in ((tuned, then), (tmp_path / "m", now)):
        tensors |= TextTower(str(snapshots.text_tower_folder(folder, "BEST"))).model.state_dict()
    assert then.keys() == now.keys()
    for name, tensor in then.items():
        torch.testing.assert_close(tensor, now[name], atol=1e-6, rtol=1e-6, msg=name)


def test_frozen_towers_must_be_those_of_the_snapshot(world: World, matcher: Path, tuned: Path, tmp_path: Path, script: Callable[..., str]):
    flags = world.train_flags(tmp_path / "m", "--epochs", 1, "--load", tuned)
    with pytest.raises(UserError, match=r"trained on another --lang tower .*go on training it with --lang-finetune, or freeze it: --lang"):
        script("xmatching.main", *flags)
    with pytest.raises(UserError, match=r"trained on another --visn tower .*freeze it: --visn-weights .*BEST.image_tower.safetensors"):
        script("xmatching.main", *flags, "--lang-finetune")
    mended = shutil.copytree(tuned, tmp_path / "tuned")
    for path in (mended / "tokenizer").iterdir():  # as the message says
        shutil.copy(path, mended / "BEST.text_tower")
    towers = ["--lang", mended / "BEST.text_tower", "--visn-weights", mended / "BEST.image_tower.safetensors"]
    assert "wrote the matcher" in script("xmatching.main", *flags, "--load", mended, *towers)
    other = tmp_path / "resnet18.safetensors"
    save_file(torchvision.models.resnet18().state_dict(), other)
    with pytest.raises(UserError, match=f"give theirs: --visn resnet18 --visn-weights {world.resnet}"):
        script("xmatching.main", *world.train_flags(tmp_path / "n", "--load", matcher, "--visn-weights", other))


def test_frozen_towers_must_be_those_of_a_state_dict(world: World, tmp_path: Path, script: Callable[..., str]):
    state = published_state()
    state |= {f"visn_model.backbone.{name}": tensor.half() for name, tensor in load_file(world.resnet).items()}  # a copy in 16 bits
    flags = world.train_flags(tmp_path / "m", "--test-only", "--load", tmp_path / "BEST.pth")
    torch.save(state, tmp_path / "BEST.pth")
    assert "12 captions" in script("xmatching.main", *flags)
    state["visn_model.backbone.layer1.0.conv1.weight"] *= 1.1
    torch.save(state, tmp_path / "BEST.pth")
    with pytest.raises(UserError, match=r"another image_tower \(layer1.0.conv1.weight differs\); .*--visn-finetune"):
        script("xmatching.main", *flags)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("module", "A pickled model"),
        ("list", "a state dict was expected"),
        ("foreign", "no lang_model.mlp"),
        ("narrow", "do not fit --head"),
    ],
)
def test_what_is_refused(world: World, tmp_path: Path, script: Callable[..., str], content: str, reason: str):
    path = tmp_path / "BEST.pth"
    state = {"module": nn.Linear(2, 2), "list": [torch.ones(2)], "foreign": {"a": torch.ones(1)}, "narrow": published_state(dim=8)}
    torch.save(state[content], path)
    with pytest.raises(UserError, match=reason):
        script("xmatching.main", *world.train_flags(tmp_path / "out"), "--load", path)
