"""Image towers of timm and of transformers, against these libraries' own pixels and pooling of the same picture files."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from tests import builder
from tests.image_towers import SQUARE, TIMM, VISION, VIT, save_timm, save_vision
from tests.worlds import World
from xvoken import load_encoder
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.frozen import FrozenImage
from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec
from xvoken.errors import UserError
from xvoken.kinds import base_name
from xvoken.machine import Pace
from xvoken.pictures.augment import Crops
from xvoken.pictures.decode import load_picture
from xvoken.towers.hashes import weights_hash
from xvoken.towers.image import ImageTower
from xvoken.towers.sources import image_changes, image_files, image_kind


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of several ratios, and a JPEG so large that towers of torchvision would decode it at a fraction of its size."""
    folder = builder.save_pictures(tmp_path_factory.mktemp("pictures"))
    Image.open(folder / "huge.png").save(folder / "huge.jpg", quality=90)
    return [folder / name for name in ("landscape.png", "portrait.png", "square.png", "tiny.png", "huge.jpg")]


def ours(name: str, paths: list[Path], pool: str = "own", weights: Path | None = None) -> Tensor:
    tower = ImageTowerSpec(name, str(weights) if weights else None, pool).build()
    with torch.inference_mode():
        found = torch.cat([tower(tower.view(load_picture(path, tower.view.resize))[None]) for path in paths])
    assert found.shape == (len(paths), tower.width)
    return found


def of_tokens(states: Tensor, prefix: int | None) -> dict[str, Tensor]:
    """Poolings by hand of tokens (B, T, C), or, without a prefix, of a map (B, C, h, w)."""
    if prefix is None:
        h, w = (size // 2 for size in states.shape[2:])
        quarters = [states[:, :, y, x].mean((2, 3)) for y in (slice(h), slice(-h, None)) for x in (slice(w), slice(-w, None))]
        grid = {} if states.shape[2] % 2 else {"grid": torch.stack(quarters, -1).flatten(1)}
        return {"avg": states.mean((2, 3)), "max": states.amax((2, 3)), **grid}
    patches = states[:, prefix:]
    plain = {"avg": patches.mean(1), "max": patches.amax(1)}
    return plain | ({"cls": states[:, 0], "both": torch.cat([states[:, 0], patches.mean(1)], 1)} if prefix else {})


def require_equal(found: Tensor, expected: Tensor) -> None:
    largest = max(1, expected.abs().max().item())
    assert (found - expected).abs().max() < 1e-5 * largest
    assert expected.std(0).max() > 1e-3 * largest  # different pictures are different


@torch.inference_mode()
@pytest.mark.parametrize("kind", VISION)
def test_vision_models_of_transformers(tmp_path: Path, paths: list[Path], kind: str):
    folder, prefix = save_vision(tmp_path / "model", kind), VISION[kind][2]
    processor, model = AutoImageProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    inputs = processor(images=[Image.open(path).convert("RGB") for path in paths], return_tensors="pt")
    out = model(**inputs)
    require_equal(ours(str(folder), paths), out.pooler_output.flatten(1))
    for pool, expected in of_tokens(out.last_hidden_state, prefix).items():
        require_equal(ours(str(folder), paths, pool), expected)
    if not prefix:
        with pytest.raises(UserError, match=r"--visn-pool both: .* has avg, max, grid, own"):
            ours(str(folder), paths, "both")


@torch.inference_mode()
@pytest.mark.parametrize("kind", TIMM)
def test_models_of_timm(tmp_path: Path, paths: list[Path], kind: str):
    (model, name), prefix = save_timm(tmp_path / "model", kind), TIMM[kind][1]
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    pixels = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
    states = model.forward_features(pixels)
    require_equal(ours(name, paths), model.forward_head(states, pre_logits=True))
    if prefix is None and "swin" in kind:
        states = states.permute(0, 3, 1, 2)
    for pool, expected in of_tokens(states, prefix).items():
        require_equal(ours(name, paths, pool), expected)
    if not prefix:
        with pytest.raises(UserError, match=r"--visn-pool cls: .* has avg, max, grid, own"):
            ours(name, paths, "cls")


@torch.inference_mode()
def test_a_classifier_without_pooler_gives_its_class_token(tmp_path: Path, paths: list[Path]):
    """ViT classifiers have no pooler; transformers would make a random one. Saved and loaded again, it is the same tower."""
    torch.manual_seed(0)
    whole = builder.spread(ViTForImageClassification(ViTConfig(**VIT)))
    whole.save_pretrained(tmp_path)
    processor = ViTImageProcessor(size=SQUARE)
    processor.save_pretrained(tmp_path)
    seen: list[Tensor] = []
    whole.classifier.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    whole(**processor(images=[Image.open(path).convert("RGB") for path in paths], return_tensors="pt"))
    found = ours(str(tmp_path), paths)
    require_equal(found, seen[0])
    tower = ImageTowerSpec(str(tmp_path), None, "own").build()
    save_file(tower.model.state_dict(), tmp_path / "own.safetensors")
    assert torch.equal(ours(str(tmp_path), paths, weights=tmp_path / "own.safetensors"), found)
    assert weights_hash(ImageTowerSpec(str(tmp_path), str(tmp_path / "own.safetensors"), "own").build()) == weights_hash(tower)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    return save_timm(tmp_path_factory.mktemp("timm") / "model", "vit_tiny_patch16_224")


def test_weights_from_a_file(small: tuple[Any, str], paths: list[Path], tmp_path: Path):
    """With the classifier, without it, and neither whole nor plain."""
    model, name = small
    other = {key: tensor * 1.5 for key, tensor in model.state_dict().items()}
    torch.save(other, tmp_path / "whole.pth")
    save_file({key: tensor for key, tensor in other.items() if not key.startswith("head.")}, tmp_path / "plain.safetensors")
    found = [ours(name, paths, weights=tmp_path / file) for file in ("whole.pth", "plain.safetensors")]
    assert torch.equal(*found) and not torch.allclose(found[0], ours(name, paths))
    del other["norm.weight"]
    torch.save(other, tmp_path / "part.pth")
    torch.save(model, tmp_path / "pickled.pth")
    for file, said in (("part.pth", "do not fit"), ("pickled.pth", "not a file of plain tensors"), ("none.pth", "no such weights file")):
        with pytest.raises(UserError, match=said):
            ours(name, paths, weights=tmp_path / file)


def test_googlenet_and_inception_are_torchvisions_own(world: World, tmp_path: Path, paths: list[Path]):
    """As torchvision builds them with published weights; their hash says that earlier versions did otherwise, a weights file does not."""
    torch.manual_seed(0)
    plain = torchvision.models.googlenet(weights=None, init_weights=False, transform_input=True).eval()
    for module in plain.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    torch.save(plain.state_dict(), tmp_path / "google.pth")
    tower = ImageTower("googlenet", str(tmp_path / "google.pth")).eval()
    plain.fc = torch.nn.Identity()
    pixels = torch.stack([tower.view(load_picture(path)) for path in paths[:2]])
    with torch.inference_mode():
        require_equal(tower(pixels), plain(tower.view.normalize(pixels)))
        plain.transform_input = False
        assert not torch.allclose(tower(pixels), plain(tower.view.normalize(pixels)))
    assert "transform_input" not in tower.model.state_dict()
    assert image_changes("googlenet") and not image_changes("resnet18")  # what is known of it from before does not count
    text = TextTowerSpec(str(world.bert), (1,))
    snapshot = builder.save_snapshot(tmp_path / "m", text, ImageTowerSpec("googlenet", str(tmp_path / "google.pth")), 8, 4, 8)
    assert load_encoder(snapshot, ["image"], "cpu").image is not None
    del tower.xvoken_settings
    said = snapshots.read(snapshot)
    config = {**said.config, "model": {**said.config["model"], "visn_hash": weights_hash(tower)}}
    snapshots.write(snapshot, "BEST", config, said.tensors, ["test"])
    with pytest.raises(UserError, match="pixels which its weights do not expect; .*train again"):
        load_encoder(snapshot, ["image"], "cpu")


@pytest.mark.parametrize("kind", ["dinov3", "clip"])
def test_other_precision_engine_and_crops(tmp_path: Path, paths: list[Path], kind: str):
    """Views in float32 and in uint8: frozen towers in bf16 and by OpenVINO are near, and crops have the tower's size."""
    spec = ImageTowerSpec(str(save_vision(tmp_path / "model", kind)), None, "both")
    tower = spec.build()
    pixels = torch.stack([tower.view(load_picture(path)) for path in paths])
    plain = FrozenImage(tower).features(pixels)
    compiled = FrozenImage(spec.build(), pace=Pace(engine="openvino")).features(pixels)
    assert torch.allclose(compiled, plain, atol=1e-3)
    half = FrozenImage(spec.build(), precision="bf16").features(pixels).float()
    assert torch.nn.functional.cosine_similarity(half, plain).min() > 0.99
    crops = Crops(3, 0.3, 0)(load_picture(paths[0]), tower.view, 5)
    assert crops.shape == (3, *pixels.shape[1:]) and crops.dtype == pixels.dtype
    whole = tower.view.cropped(load_picture(paths[2]), (0, 0, 96, 96)).float() - tower.view(load_picture(paths[2])).float()
    assert whole.abs().mean() < (0.05 if kind == "dinov3" else 4)


def test_files_and_names(small: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The files that facts about a tower follow from; where they are not known, nothing is kept."""
    folder = Path(small[1].removeprefix("timm:local-dir:"))
    version = Path(timm.__file__).parent / "version.py"
    (tmp_path / "w.pth").touch()
    weights = str(tmp_path / "w.pth")
    assert image_files(small[1], None) == [folder, version]
    assert image_files(small[1], weights) == [folder, tmp_path / "w.pth", version]
    assert image_files("timm:resnet18", weights) == [tmp_path / "w.pth", version]
    assert image_files("timm:resnet18", None) == image_files("timm:hf-hub:a/b", None) == image_files(small[1], "nosuch.pth") == []
    hub = tmp_path / "hub/models--timm--resnet18.a1_in1k"
    (hub / "snapshots/0123").mkdir(parents=True)
    (hub / "refs").mkdir()
    (hub / "refs/main").write_text("0123")
    shutil.copy(folder / "model.safetensors", hub / "snapshots/0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("timm:resnet18.a1_in1k", "timm:hf-hub:timm/resnet18.a1_in1k"):
        assert image_files(name, None) == [hub / "snapshots/0123", hub / "refs/main", version]
    named = {"timm:hf-hub:a/b.c": "b.c", "timm:local-dir:/x/y/": "y", "timm:vit.x": "vit.x", "facebook/dinov2": "dinov2"}
    assert {name: base_name(name) for name in named} == named


def test_a_folder_called_as_a_tower_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Such as an --output: --visn resnet18 means torchvision's still. With a config.json it is a model of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("resnet18", "mine"):
        Path(name).mkdir()
    Path("mine/config.json").write_text("{}")
    assert (image_kind("resnet18"), image_kind("mine"), image_kind("./resnet18")) == ("torchvision", "transformers", "transformers")


@pytest.mark.parametrize(("kind", "file", "change"), [
    ("vit", "preprocessor_config.json", {"image_mean": [0.1, 0.2, 0.3]}),
    ("convnext", "preprocessor_config.json", {"crop_pct": 0.5}),
    ("vit_tiny_patch16_224", "config.json", {"pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}),
])  # fmt: skip
def test_other_pixels_are_another_tower(tmp_path: Path, kind: str, file: str, change: dict[str, Any]):
    """With the same weights: else a finished training, and a snapshot, would go on with pixels that they were not made of."""
    folder = tmp_path / "model"
    name = str(save_vision(folder, kind)) if kind in VISION else save_timm(folder, kind)[1]
    said, hashes = json.loads((folder / file).read_text()), []
    timm_change = {"pretrained_cfg": {**said.get("pretrained_cfg", {}), **change.get("pretrained_cfg", {})}}
    for more in ({}, {"said_by_a_later_version": 1}, change if kind in VISION else timm_change):
        (folder / file).write_text(json.dumps({**said, **more}))
        hashes.append(weights_hash(ImageTowerSpec(name, pool="own").build()))
    assert hashes[0] == hashes[1] != hashes[2]
