"""BEST.pth of Vokenization and Maria as a snapshot that all stages take, and back; their models: tests/xmatching/theirs.py."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models
from transformers import BertModel

from tests.running import run_here
from tests.worlds import World
from tests.xmatching.theirs import SCALED, SIZES, Joint

CONVERT = "xmatching/convert.py"
TEXTS = ["a red circle", "square painted blue, and a very green one", "x"]


def named(world: World) -> list[str]:
    """The towers, which are none of those that are known by their sizes; that the image tower is a resnet18 is seen."""
    return ["--lang", str(world.bert), "--visn-weights", str(world.resnet)]


def save(joint: nn.Module, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(joint.state_dict(), folder / "BEST.pth")
    return folder / "BEST.pth"


def pictures(world: World) -> list[Path]:
    return sorted((world.folder / "images").glob("*.png"))


def compare(joint: Joint, snapshot: Path, world: World) -> None:
    """The snapshot's vectors are those of their model: of texts to the bit, of pictures up to a grey level in their scaling."""
    import xvoken

    encoder = xvoken.load_encoder(snapshot)
    with torch.inference_mode():
        for text in TEXTS:
            tokens, offsets = encoder.text.tokenize([text])
            if encoder.level == "token":
                states = next(iter(encoder.text.states(tokens, offsets, [np.array([0])])))[1]
                found = encoder.text_vectors(states)[0]
            else:
                found = torch.from_numpy(encoder.encode_texts([text])[0])
            assert torch.equal(found, joint.lang_model.of_text(encoder.tokenizer(text)["input_ids"]))
        expected = joint.visn_model.of_pictures(pictures(world))
        pixels = [np.array(SCALED(Image.open(path).convert("RGB"))) for path in pictures(world)]
        scaled = encoder.image_vectors(encoder.image.features(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)))
    torch.testing.assert_close(scaled, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.from_numpy(encoder.encode_images(pictures(world))), expected, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("project", SIZES)
def test_a_snapshot_and_back(world: World, tmp_path: Path, script: Callable[..., str], project: str):
    joint = Joint(project, world.bert, world.resnet)
    path, snapshot = save(joint, tmp_path / "old"), tmp_path / "new"
    level, length = {"vokenization": ("token", 20), "maria": ("sentence", 40)}[project]  # the tower takes no more than 40
    printed = script("xmatching.convert", path, snapshot, *named(world))
    assert f"{level} level (as its names say), captions of at most {length} tokens" in printed and "as published, layers 4,3,2,1" in printed
    assert not list(snapshot.glob("BEST.*tower*"))
    compare(joint, snapshot, world)
    assert "skipped" in script("xmatching.convert", path, snapshot)
    assert "skipped" in script("xmatching.convert", path, snapshot, *named(world))
    done = run_here(CONVERT, path, snapshot, "--max-len", 30)
    assert done.returncode == 2 and f"max_len: {20 if level == 'token' else 75} then, 30 now" in done.stderr
    done = run_here("xmatching/main.py", *world.train_flags(snapshot))
    assert done.returncode == 2 and "holds converted weights" in done.stderr

    back = tmp_path / "BEST.pth"
    script("xmatching.convert", "--to", back, snapshot)
    state = torch.load(back, weights_only=True)
    assert state.keys() == joint.state_dict().keys() and all(torch.equal(state[name], one) for name, one in joint.state_dict().items())
    assert Joint(project, world.bert, world.resnet).load_state_dict(state, strict=True)
    assert "skipped" in script("xmatching.convert", "--to", back, snapshot)
    done = run_here(CONVERT, "--to", back, snapshot, "--no-position-ids")
    assert done.returncode == 2 and "holds other weights" in done.stderr
    script("xmatching.convert", "--to", tmp_path / "later.pth", snapshot, "--no-position-ids")
    later = torch.load(tmp_path / "later.pth", weights_only=True)
    assert Joint(project, world.bert, world.resnet, position_ids=False).load_state_dict(later, strict=True)
    if level == "token":
        use(world, snapshot, tmp_path, joint)


def use(world: World, snapshot: Path, folder: Path, joint: Joint) -> None:
    """Keys, retrieval and evaluation take it, and keys are what their extract_vision_keys.py would write."""
    ids = ["--ids-root", folder, *world.roots]
    few = ["--cache", folder / "cache", "--num-workers", 1]
    corpus = folder / "lines.txt"
    corpus.write_text("a red circle\n\nsquares\n")
    for stage, *flags in (
        ("vokenization/create_image_ids.py", "--image-sets", "shapes_valid", *ids),
        ("vokenization/extract_vision_keys.py", "--load-dir", snapshot, "--image-sets", "shapes_valid", *ids, *few),
        ("tokenization/tokenize_dataset.py", folder, corpus.name, world.bert),
        ("vokenization/vokenize_corpus_mp.py", "--load", snapshot, "--corpus", corpus, "--image-sets", "shapes_valid", "--num-workers", 1),
        ("vokenization/evaluate_retrieval.py", "--load", snapshot, "--image-sets", "shapes_valid", *world.roots, *few[2:]),
    ):
        done = run_here(stage, *flags)
        assert done.returncode == 0, done.stderr
    with h5py.File(snapshot / "keys/shapes_valid.hdf5") as file, torch.inference_mode():
        paths = [world.folder / "images" / f"{name}.png" for name in file["ids"].asstr()[:]]
        torch.testing.assert_close(torch.from_numpy(file["keys"][:]), joint.visn_model.of_pictures(paths), atol=1e-3, rtol=0)
    with h5py.File(snapshot / "vokens/lines.txt.shapes_valid.hdf5") as file:
        assert len(file["indices"]) == 3 and (file["indices"][1] == -1).all()
    assert json.loads((snapshot / "eval/shapes_valid.json").read_text())["captions"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("project", SIZES)
def test_towers_that_were_trained_too(world: World, tmp_path: Path, script: Callable[..., str], project: str):
    joint = Joint(project, world.bert, world.resnet)
    torch.manual_seed(4)
    for name, parameter in joint.named_parameters():
        if "backbone" in name and not name.startswith("visn_model.backbone.layer1"):  # their first layers stay frozen
            parameter.data.add_(0.01 * torch.randn_like(parameter))
    path = save(joint, tmp_path / "old")
    printed = script("xmatching.convert", path, tmp_path / "old", *named(world))  # beside the weights, as all stages look there
    assert "the file's own, layers 4,3,2,1" in printed and printed.strip().endswith("resnet18, the file's own")
    compare(joint, tmp_path / "old", world)
    (tmp_path / "old/BEST.image_tower.safetensors").rename(tmp_path / "tower")
    done = run_here(CONVERT, path, tmp_path / "old")
    assert done.returncode == 2 and "BEST.image_tower.safetensors is gone" in done.stderr
    (tmp_path / "tower").rename(tmp_path / "old/BEST.image_tower.safetensors")
    script("xmatching.convert", "--to", tmp_path / "back.pth", tmp_path / "old")
    (tmp_path / "old/BEST.safetensors").unlink()
    other = save(Joint(project, world.bert, world.resnet), tmp_path / "other")
    done = run_here(CONVERT, other, tmp_path / "old", *named(world))
    assert done.returncode == 2 and "BEST.text_tower is a tower of another matcher" in done.stderr
    state = torch.load(tmp_path / "back.pth", weights_only=True)
    assert all(torch.equal(state[name], one) for name, one in joint.state_dict().items())


def test_published_weights_that_can_not_be_had_are_not_needed(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The image tower of the file is kept then. Copies in 16 bits are the published tower."""
    from xmatching import converted

    class Unreached(converted.ImageTower):
        def __init__(self, name: str, weights: str | None = None):
            if not weights:
                raise converted.UserError(f"--visn {name}: its weights can't be downloaded (no network); fetch them elsewhere")
            super().__init__(name, weights)

    monkeypatch.setattr(converted, "ImageTower", Unreached)
    joint = Joint("maria", world.bert, world.resnet)
    joint.lang_model.backbone.half()
    path = save(joint, tmp_path / "old")
    done = run_here(CONVERT, path, tmp_path / "new", "--lang", world.bert)
    assert done.returncode == 0 and "its weights can't be downloaded" in done.stderr, done.stderr
    own, published = load_file(tmp_path / "new/BEST.image_tower.safetensors"), load_file(world.resnet)
    assert all(torch.equal(tensor, published[name]) for name, tensor in own.items())
    assert not (tmp_path / "new/BEST.text_tower").exists()


def test_sizes_that_their_scripts_name_are_seen(tmp_path: Path):
    from xmatching.converted import _seen_image, _seen_text
    from xmatching.published import tower_of

    with torch.device("meta"):
        for name in ("resnet50", "wide_resnet50_2", "resnext101_32x8d"):
            state = models.get_model(name, weights=None).state_dict()
            theirs = {f"visn_model.backbone.{key}": one for key, one in state.items() if not key.startswith("fc.")}
            assert _seen_image(tower_of(theirs, "visn_model.backbone."), "BEST.pth") == name
        bert = BertModel.config_class()
        assert _seen_text(BertModel(bert).state_dict(), "BEST.pth") == "bert"


@pytest.fixture(scope="module")
def heads(world: World) -> dict[str, torch.Tensor]:
    return Joint("vokenization", world.bert, world.resnet).state_dict()


def test_heads_alone(world: World, heads: dict[str, torch.Tensor], tmp_path: Path, script: Callable[..., str]):
    torch.save({name: tensor for name, tensor in heads.items() if ".mlp." in name}, tmp_path / "BEST.pth")
    done = run_here(CONVERT, tmp_path / "BEST.pth", tmp_path / "new", "--visn", "resnet18", "--visn-weights", world.resnet)
    assert done.returncode == 2 and "it holds no text tower of a known kind; say which" in done.stderr
    told = script("xmatching.convert", tmp_path / "BEST.pth", tmp_path / "new", *named(world), "--visn", "resnet18", "--level", "sentence")
    assert "sentence level (as asked)" in told and told.count("published, as the file holds none") == 2


@pytest.mark.parametrize(
    ("change", "flags", "reason"),
    [
        ({}, [], r"its text tower \(30522 words, 5 layers of 32 numbers\) is none of those .*--lang"),
        ({"lang_model.backbone.wte.weight": torch.ones(2, 2)}, [], r"its text tower is GPT-2 \(lang_model.backbone.wte.weight\)"),
        ({"lang_model.mlp.0.weight": torch.ones(256, 32)}, ["--lang", "BERT"], "takes 32 numbers, .* 32 each; .*--lang-layers 1"),
        ({}, ["--lang", "BERT", "--lang-layers", "1"], "takes 128 numbers, --lang .* --lang-layers 1 gives 32"),
        ({}, ["--lang", "BERT", "--lang-layers", "-1"], "without a sign: 1 is the last one. Vokenization takes -1"),
        ({"visn_model.backbone.conv1.weight": torch.ones(1)}, ["--lang", "BERT"], "no image tower of a known kind; .*--visn"),
        ({"lang_model.proj.weight": torch.ones(1)}, [], "lang_model.proj.weight is neither of the towers nor of the heads"),
        ({"visn_model.mlp.3.bias": torch.full((64,), torch.nan)}, [], "visn_model.mlp.3.bias has numbers that are not finite"),
        ({}, ["--lang", "BERT", "--visn", "resnet34"], "its image tower, .* is another one .*layer1.2.conv1"),
        ({}, ["--lang", "SHALLOW"], "its text tower, .* is another one than the flags' .encoder.layer.4"),
    ],
)  # fmt: skip
def test_what_is_asked_for(world: World, heads: dict[str, torch.Tensor], tmp_path: Path, change: dict, flags: list[str], reason: str):
    torch.save(heads | change, tmp_path / "BEST.pth")
    if "SHALLOW" in flags:  # of the same sizes, with a layer less
        model = BertModel.from_pretrained(world.bert)
        del model.encoder.layer[4]
        model.config.num_hidden_layers = 4
        shutil.copytree(world.bert, tmp_path / "shallow")
        model.save_pretrained(tmp_path / "shallow")
    if "resnet34" in flags:
        save_file(models.resnet34().state_dict(), tmp_path / "34.safetensors")
        flags = [*flags, "--visn-weights", str(tmp_path / "34.safetensors")]
    elif "SHALLOW" in flags:
        flags = [*flags, "--visn-weights", str(world.resnet)]
    places = {"BERT": world.bert, "SHALLOW": tmp_path / "shallow"}
    done = run_here(CONVERT, tmp_path / "BEST.pth", tmp_path / "new", *(places.get(flag, flag) for flag in flags))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert re.search(reason, done.stderr), done.stderr
    assert not (tmp_path / "new").exists()


def test_where_a_snapshot_is_expected(world: World, matcher: Path, heads: dict[str, torch.Tensor], tmp_path: Path):
    """The message names the command that makes one, for both ways in which torch has saved; a pickled model has a message of its own."""
    folder = tmp_path / "bert_resnext"
    folder.mkdir()
    torch.save(heads, folder / "BEST.pth")
    torch.save(heads, folder / "old.pth", _use_new_zipfile_serialization=False)
    torch.save(nn.Linear(2, 2), folder / "BEST.pth.model")
    stages = {
        "vokenization/extract_vision_keys.py": "--load-dir", "vokenization/vokenize_corpus_mp.py": "--load",
        "vokenization/evaluate_retrieval.py": "--load", "vokenization/search.py": "--load",
    }  # fmt: skip
    more = {"vokenization/vokenize_corpus_mp.py": ["--corpus", "x"], "vokenization/search.py": ["a dog", "--image-sets", "x"]}
    for stage, flag in stages.items():
        for load, name in ((folder, "BEST.pth"), (folder / "BEST.pth", "BEST.pth"), (folder / "old.pth", "old.pth")):
            done = run_here(stage, flag, load, *more.get(stage, []))
            assert done.returncode == 2 and f"python xmatching/convert.py {folder / name} {folder}" in done.stderr, done.stderr
        done = run_here(stage, flag, folder / "BEST.pth.model", *more.get(stage, []))
        assert done.returncode == 2 and "A pickled model (BEST.pth.model) can run code" in done.stderr
    for command in (
        [CONVERT, folder / "BEST.pth.model", folder],
        ["xmatching/main.py", "--test-only", "--load", folder / "BEST.pth.model"],
    ):
        done = run_here(*command, *(world.towers if "main" in str(command[0]) else []))
        assert done.returncode == 2 and "A pickled model (BEST.pth.model) can run code" in done.stderr, done.stderr
    (folder / "cut.pth").write_bytes((folder / "BEST.pth").read_bytes()[:9000])
    assert "9,000 bytes that are no whole file of torch" in run_here(CONVERT, folder / "cut.pth", tmp_path / "new").stderr
    for number, odd in enumerate(({1: torch.ones(1)}, {"lang_model.mlp.0.weight": torch.ones(2, 2).to_sparse()}, [torch.ones(1)])):
        torch.save(odd, folder / f"{number}.pth")
        assert "not a state dict (tensors by their names)" in run_here(CONVERT, folder / f"{number}.pth", tmp_path / "new").stderr
    assert f"{folder}: a folder; give the file in it, such as {folder}/BEST.pth" in run_here(CONVERT, folder, tmp_path / "new").stderr
    assert "holds another matcher" in run_here(CONVERT, folder / "BEST.pth", matcher).stderr
    assert "its heads are none that" in run_here(CONVERT, "--to", folder / "back.pth", matcher).stderr
