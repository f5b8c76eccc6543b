"""Names, files and configs that are no image tower, or none that can be pooled as asked: each ends in one line."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    ViTConfig,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

from tests import builder
from tests.image_towers import LARGE, SQUARE, VIT, save_timm, save_vision
from tests.running import run_here
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec
from xvoken.errors import UserError
from xvoken.towers.hashes import weights_hash
from xvoken.towers.image import ImageTower


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    return save_timm(tmp_path_factory.mktemp("timm") / "model", "vit_tiny_patch16_224")


def test_weights_that_timm_would_leave_random(small: tuple[Any, str], tmp_path: Path):
    """timm asks for all weights only where the number of classes is the model's; a norm begins the same each time."""
    folder = shutil.copytree(small[1].removeprefix("timm:local-dir:"), tmp_path / "model")
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, "model_args": {**said["model_args"], "num_classes": 3}}))
    state, name = load_file(folder / "model.safetensors"), f"timm:local-dir:{folder}"
    del state["norm.weight"]
    save_file(state, folder / "model.safetensors")
    one, two = (weights_hash(ImageTowerSpec(name, None, "own").build()) for _ in range(2))
    assert one == two
    del state["blocks.0.attn.qkv.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(UserError, match="lack weights .*qkv.weight.* random"):
        ImageTowerSpec(name, None, "own").build()


def test_names_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wrong = {
        "timm:vit_bsae_patch16_224": "did you mean timm:vit_base_patch16_224", "timm:resnet18.other": "there are resnet18.a1_in1k",
        "timm:timm/resnet18": "timm:hf-hub:timm/resnet18", "timm:other:x": "timm takes timm:NAME",
        "timm:resnet18": "hf download timm/resnet18.a1_in1k", f"timm:local-dir:{tmp_path}": "needs config.json",
        "./nosuch": "no such folder", "nosuch/model": "hf download nosuch/model",
    }  # fmt: skip
    for name, said in wrong.items():
        with pytest.raises(UserError, match=said):
            ImageTowerSpec(name, None, "own").build()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"timm is not installed; run: pip install -e '.\[timm\]'"):
        ImageTowerSpec("timm:resnet18", None, "own").build()


def test_models_that_are_no_image_towers(tmp_path: Path, small: tuple[Any, str]):
    def refused(said: str, pool: str = "own", name: object = tmp_path) -> None:
        with pytest.raises(UserError, match=said):
            ImageTowerSpec(str(name), None, pool).build()

    ViTMAEModel(ViTMAEConfig(**VIT)).save_pretrained(tmp_path)
    refused("needs preprocessor_config.json")
    ViTImageProcessor(size=SQUARE).save_pretrained(tmp_path)
    refused("draws random numbers")
    ViTModel(ViTConfig(**VIT)).save_pretrained(tmp_path)
    refused(r"--visn-pool stages: .* has avg, max, grid, cls, both, own", "stages")
    state = load_file(tmp_path / "model.safetensors")
    save_file({key: tensor for key, tensor in state.items() if key != "layernorm.weight"}, tmp_path / "model.safetensors", {"format": "pt"})
    refused("lack weights")
    ViTImageProcessor(size=LARGE).save_pretrained(tmp_path)
    ViTModel(ViTConfig(**VIT)).save_pretrained(tmp_path)
    refused("takes no pictures of 64x64 pixels")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    refused("convert its pytorch_model.bin once")
    builder.save_bert(tmp_path, **builder.sizes(32, 1, 2))
    refused("takes input_ids")
    with pytest.raises(UserError, match="no class token"):
        ImageTower("resnet18", None, "cls")
    refused("a model of timm; name it timm:local-dir:", name=small[1].removeprefix("timm:local-dir:"))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"hidden_size": 10**9}), ("config.json", {"num_hidden_layers": "x"}), ("config.json", {"patch_size": 0}),
        ("config.json", {"model_type": ["vit"]}), ("preprocessor_config.json", {"size": {"height": 10**6, "width": 10**6}}),
        ("preprocessor_config.json", {"resample": "x"}), ("preprocessor_config.json", {"do_resize": False}),
    ],
)  # fmt: skip
def test_configs_of_strangers(tmp_path: Path, file: str, change: dict[str, Any]):
    folder = save_vision(tmp_path / "model", "vit")
    said = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**said, **change}))
    with pytest.raises(UserError):
        ImageTowerSpec(str(folder), None, "own").build()


@pytest.mark.parametrize(
    "change",
    [{"crop_pct": 2.0}, {"crop_mode": "x"}, {"interpolation": "random"}, {"mean": [0.5]}, {"input_size": [3, 10**6, 10**6]}, {"std": None}],
)
def test_pretrained_configs_of_strangers(tmp_path: Path, change: dict[str, Any]):
    _, name = save_timm(tmp_path / "model", "convnext_atto")
    said = json.loads((tmp_path / "model/config.json").read_text())
    said["pretrained_cfg"] |= change
    (tmp_path / "model/config.json").write_text(json.dumps(said))
    if change == {"std": None}:  # timm's default
        assert ImageTowerSpec(name, None, "own").build().view.std == timm.data.IMAGENET_DEFAULT_STD
        return
    with pytest.raises(UserError, match="no pictures can be made as its config says"):
        ImageTowerSpec(name, None, "own").build()


@pytest.mark.parametrize(("kind", "said"), [("coat_lite_tiny", "has own"), ("crossvit_tiny_240", "has own"), ("sequencer2d_s", "has avg,")])
def test_layouts_that_are_not_known(tmp_path: Path, kind: str, said: str):
    """CoaT's class token is told by no attribute, CrossViT gives several tensors; Sequencer's classifier is its whole head."""
    snapshots.write_tensors(tmp_path / "w.safetensors", timm.create_model(kind).state_dict(), {})  # CoaT's layers share weights
    with pytest.raises(UserError, match=f"--visn-pool cls: timm:{kind} {said}"):
        ImageTowerSpec(f"timm:{kind}", str(tmp_path / "w.safetensors"), "cls").build()


def test_what_is_torchvisions_alone(small: tuple[Any, str], tmp_path: Path):
    """Class names and raw features are refused in one line; --recipe best leaves the class names out and says so."""
    flags = ["--lang", "minilm", "--visn", small[1], "--output", tmp_path / "m"]
    for more in (["--recipe", "zeroshot"], ["--head", "cca,classes"]):
        done = run_here("xmatching/main.py", *flags, *more)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "such as --visn resnet50" in done.stderr
    (tmp_path / "pics").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "pics/a.png")
    ids = ["--image-sets", f"p={tmp_path / 'pics'}", "--ids-root", tmp_path]
    assert run_here("vokenization/create_image_ids.py", *ids).returncode == 0
    done = run_here("vokenization/extract_vision_keys.py", "--torchvision-model", small[1], *ids, "--output-dir", tmp_path / "raw")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "not one of torchvision's" in done.stderr


def test_more_layers_than_any_model_has(tmp_path: Path):
    """They would take all memory, and minutes, before anything is found wrong."""
    timm_name, plain = f"timm:local-dir:{tmp_path}", str(tmp_path)
    for spec, said in (
        (ImageTowerSpec(plain), {"model_type": "vit", "num_hidden_layers": 10**7}),
        (ImageTowerSpec(timm_name), {"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 10**7}}),
        (ImageTowerSpec(timm_name), {"architecture": "convnext_atto", "model_args": {"depths": [1, 10**7]}}),
        (TextTowerSpec(plain, (1,)), {"model_type": "gpt2", "n_layer": 10**7}),
        (TextTowerSpec(plain, (1,)), {"model_type": "clip", "text_config": {"num_hidden_layers": 10**7}}),
    ):
        (tmp_path / "config.json").write_text(json.dumps(said))
        with pytest.raises(UserError, match="its config says .* 10000000; at most 1,000 layers"):
            spec.build()
