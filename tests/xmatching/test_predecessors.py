"""BEST.pth of Vokenization and Maria, built by hand with the names that their code gives (xmatching/model.py of each).

Vokenization's heads are Sequential(Linear, ReLU, Dropout, Linear): mlp.0 and mlp.3. Maria's keep their three linear maps in a
ModuleList, with relu and dropout as functions between them: mlp.linears.0 to 2. Both divide by the norm, and save without
`module.`; their reader takes files with it too. The image towers' batch normalization counts no batches, and fc is gone.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertModel

from tests.running import run_here
from tests.worlds import World
from xvoken.encoders.snapshot import ModelConfig
from xvoken.errors import UserError

LAYERS = {"vokenization": ("mlp.0", "mlp.3"), "maria": ("mlp.linears.0", "mlp.linears.1", "mlp.linears.2")}


def published_state(project: str, prefix: str = "", width: int = 128, dim: int = 16, hidden: int = 32) -> dict[str, torch.Tensor]:
    """The joint model's heads, and a buffer of its text tower that ours does not have; width: of the text tower's output."""
    torch.manual_seed(3)
    state = {"lang_model.backbone.embeddings.position_ids": torch.arange(4)}
    for side, inputs in (("lang_model", width), ("visn_model", 512)):
        sizes = [inputs, *[hidden] * (len(LAYERS[project]) - 1), dim]
        for layer, columns, rows in zip(LAYERS[project], sizes, sizes[1:], strict=False):
            state[f"{side}.{layer}.weight"] = torch.randn(rows, columns) / columns**0.5
            state[f"{side}.{layer}.bias"] = torch.randn(rows)
    return {prefix + name: tensor for name, tensor in state.items()}


def published_towers(world: World) -> dict[str, torch.Tensor]:
    """The frozen towers as they lie in the file: pooler and position ids with them, fc and counts of batches not."""
    text = BertModel.from_pretrained(world.bert).state_dict()
    image = {name: t for name, t in load_file(world.resnet).items() if not name.startswith("fc.") and "num_batches_tracked" not in name}
    towers = {"lang_model.backbone": text, "visn_model.backbone": image}
    return {f"{prefix}.{name}": tensor for prefix, state in towers.items() for name, tensor in state.items()}


def size_flags(project: str) -> list[object]:
    return {"vokenization": ["--hidden-layers", 1, "--level", "token", "--max-len", 20], "maria": []}[project]


@pytest.fixture(scope="module")
def tuned(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot whose two towers were trained as well."""
    output = tmp_path_factory.mktemp("tuned") / "m"
    flags = world.train_flags(output, "--lang-finetune", "--visn-finetune", "--tower-lr", 1e-4, "--epochs", 1)
    assert run_here("xmatching/main.py", *flags).returncode == 0
    return output


def plain_mlp(state: dict[str, torch.Tensor], project: str, side: str, x: torch.Tensor) -> torch.Tensor:
    """What their heads compute when dropout is off."""
    *inner, last = LAYERS[project]
    for layer in inner:
        x = F.relu(F.linear(x, state[f"{side}.{layer}.weight"], state[f"{side}.{layer}.bias"]))
    x = F.linear(x, state[f"{side}.{last}.weight"], state[f"{side}.{last}.bias"])
    return x / x.norm(2, dim=-1, keepdim=True)


@pytest.mark.parametrize("project", LAYERS)
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "as torch 1.4 wrote it"])
def test_published_weights_give_the_same_embeddings(tmp_path: Path, project: str, prefix: str, zipped: bool):
    from xmatching.model import Matcher
    from xmatching.predecessors import start_from

    torch.save(published_state(project, prefix), tmp_path / "BEST.pth", _use_new_zipfile_serialization=zipped)
    level = "token" if project == "vokenization" else "sentence"
    size = {"text_width": 128, "image_width": 512, "dim": 16, "hidden": 32, "hidden_layers": len(LAYERS[project]) - 1}
    config = ModelConfig.with_heads(**size, dropout=0.2, level=level)
    matcher = Matcher(config).eval()
    start_from(str(tmp_path / "BEST.pth"), matcher, config)
    text, image, state = torch.randn(4, 7, 128), torch.randn(5, 512), published_state(project)
    inputs = {"states": text, "mask": torch.ones(4, 7)} if level == "token" else text[:, 0]
    expected = plain_mlp(state, project, "lang_model", text if level == "token" else text[:, 0])
    assert torch.equal(matcher.embed_text(inputs), expected)
    assert torch.equal(matcher.embed_image(image), plain_mlp(state, project, "visn_model", image))


@pytest.mark.parametrize("project", LAYERS)
def test_test_only_measures_what_is_loaded(world: World, tmp_path: Path, script: Callable[..., str], project: str):
    torch.save(published_state(project) | published_towers(world), tmp_path / "BEST.pth")
    flags = world.train_flags(tmp_path / "none", *size_flags(project))
    printed = script("xmatching.main", *flags, "--test-only", "--load", tmp_path / "BEST.pth")
    assert "12 captions, 6 images" in printed
    assert not (tmp_path / "none").exists()


def test_test_only_repeats_the_record_of_the_training(world: World, matcher: Path, script: Callable[..., str]):
    from xvoken.encoders.snapshot import read
    from xvoken.records import table

    roots = [*world.roots, "--valid-imgs", "shapes_valid", "--cache", f"{world.folder}/cache", "--precision", "fp32"]
    printed = script("xmatching.main", *roots, "--num-workers", 1, "--test-only", "--load", matcher)
    assert table(read(matcher).config["validation"]) in printed


def test_test_only_takes_the_model_of_an_old_snapshot_and_leaves_the_flags(
    world: World, matcher: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    """It says nothing of head and pooling; what the flags say of them does not count."""
    from xmatching import stage
    from xmatching.param import parse_args
    from xvoken.encoders import snapshot as snapshots
    from xvoken.records import table

    tensors, config = snapshots.read_tensors(snapshots.tensors_file(matcher, "BEST"))
    for name in ("head", "hidden_layers", "text_pool", "visn_pool", "level"):
        del config["model"][name]
    snapshots.write_tensors(tmp_path / "BEST.safetensors", tensors, config)
    shutil.copytree(matcher / "tokenizer", tmp_path / "tokenizer")
    roots = [*world.roots, "--valid-imgs", "shapes_valid", "--cache", f"{world.folder}/cache", "--precision", "fp32", "--num-workers", "1"]
    args = parse_args([*roots, "--test-only", "--load", str(tmp_path), "--head", "glu", "--text-pool", "mean", "--dim", "3"])
    before = {**vars(args)}
    stage.test(args, "cpu")
    assert vars(args) == before
    assert table(config["validation"]) in capfd.readouterr().out


@pytest.mark.slow
def test_test_only_takes_the_tokenizer_of_a_fine_tuned_snapshot(world: World, tuned: Path, script: Callable[..., str]):
    """Its text tower's folder holds none. Trained towers ran in other batches and in full precision: what scores almost the same may
    change places, so that a query or two may count otherwise."""
    from xvoken.encoders.snapshot import read
    from xvoken.records import TOP

    roots = [*world.roots, "--valid-imgs", "shapes_valid", "--cache", f"{world.folder}/cache", "--precision", "fp32"]
    printed = script("xmatching.main", *roots, "--num-workers", 1, "--test-only", "--load", tuned)
    expected = read(tuned).config["validation"]
    for direction, queries in (("text_to_image", expected["captions"]), ("image_to_text", expected["images"])):
        row = re.search(rf"^{direction.replace('_', ' ')} +([\d. ]+)$", printed, re.MULTILINE)
        found = [float(number) for number in row[1].split()][: len(TOP)]
        assert found == pytest.approx([expected[direction][f"R{k}"] for k in TOP], abs=100 * 2 / queries + 0.01)


@pytest.mark.parametrize("project", LAYERS)
def test_training_goes_on_from_published_weights(world: World, tmp_path: Path, script: Callable[..., str], project: str):
    torch.save(published_state(project) | published_towers(world), tmp_path / "BEST.pth")
    still = ["--epochs", 1, "--lr", 1e-9, *size_flags(project)]
    script("xmatching.main", *world.train_flags(tmp_path / "out", "--load", tmp_path / "BEST.pth", *still))
    from xvoken.encoders.snapshot import read

    loaded = read(tmp_path / "out").tensors
    for ours, theirs in (("text_head", "lang_model"), ("image_head", "visn_model")):
        weight = published_state(project)[f"{theirs}.{LAYERS[project][-1]}.weight"]
        torch.testing.assert_close(loaded[f"{ours}.layers.{3 * len(LAYERS[project]) - 3}.weight"], weight, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_trained_towers_go_on_from_those_of_the_snapshot(world: World, tuned: Path, tmp_path: Path, script: Callable[..., str]):
    from xvoken.encoders import snapshot as snapshots
    from xvoken.towers.text import TextTower

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
    state = published_state("maria")
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
        ("list", r"not a state dict \(tensors by their names"),
        ("foreign", "no tensor lang_model.mlp"),
        ("narrow", "do not fit --head"),
    ],
)
def test_what_is_refused(world: World, tmp_path: Path, script: Callable[..., str], content: str, reason: str):
    path = tmp_path / "BEST.pth"
    state = {"module": nn.Linear(2, 2), "list": [torch.ones(2)], "foreign": {"a": torch.ones(1)}, "narrow": published_state("maria", dim=8)}
    torch.save(state[content], path)
    with pytest.raises(UserError, match=reason):
        script("xmatching.main", *world.train_flags(tmp_path / "out"), "--load", path)
