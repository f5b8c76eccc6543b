"""A training, keys and retrieval with an image tower of timm and with one of transformers, from the flags to the files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel

from tests import builder
from tests.running import run_here
from tests.worlds import World
from xmatching.finished import known_towers
from xmatching.param import parse_args
from xvoken import load_encoder
from xvoken.encoders import snapshot as snapshots

MAIN = "xmatching/main.py"


def flags_of(world: World, output: Path, visn: str, *more: object) -> list[str]:
    """A training's flags, with the published weights of another image tower."""
    flags = world.train_flags(output, "--visn", visn, *more)
    at = flags.index("--visn-weights")
    return flags[:at] + flags[at + 2 :]


def keys_and_images(world: World, load: Path, script: Callable[..., str], tmp_path: Path) -> dict[str, np.ndarray]:
    """Keys by picture, after retrieval for a few lines and the evaluation."""
    sets, ids = ["--image-sets", "shapes_valid"], ["--ids-root", tmp_path]
    shared = ["--num-workers", 1, "--precision", "fp32"]
    script("vokenization.create_image_ids", *sets, *ids, *world.roots)
    script("vokenization.extract_vision_keys", "--load", load, *sets, *ids, *world.roots, *shared, "--cache", f"{world.folder}/cache")
    (tmp_path / "lines.txt").write_text("a red circle\n\na blue square\n")
    script("tokenization.tokenize_dataset", tmp_path, "lines.txt", world.bert)
    corpus = ["--corpus", tmp_path / "lines.txt", "--tokenizer-name", world.bert]
    script("vokenization.vokenize_corpus_mp", "--load", load, *corpus, *sets, *shared)
    assert "12 captions, 6 images" in script("vokenization.evaluate_retrieval", "--load", load, *sets, *world.roots, *shared)
    with h5py.File(next((load / "vokens").glob("*.hdf5"))) as file:
        assert len(file[next(iter(file))]) == 3
    with h5py.File(load / "keys/shapes_valid.hdf5") as file:
        keys = file["keys"][:]
    paths = (load / "keys/shapes_valid.path").read_text().split()
    return dict(zip(paths, keys, strict=True))


@torch.inference_mode()
def require_keys(load: Path, keys: dict[str, np.ndarray], of_library: Callable[[Image.Image], torch.Tensor]) -> None:
    """Keys are what the snapshot's head makes of the library's own features."""
    encoder = load_encoder(load)
    for path, key in keys.items():
        features = of_library(Image.open(path).convert("RGB"))
        assert np.allclose(encoder.image_head(features)[0].numpy(), key, atol=2e-3)
        assert np.allclose(encoder.encode_images([path])[0], key, atol=2e-3)
    assert np.std(np.stack([*keys.values()]), 0).max() > 0.01


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    folder = tmp_path_factory.mktemp("timm") / "resnet"
    folder.mkdir()
    torch.manual_seed(0)
    small = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 24)}
    model = timm.create_model("resnet10t", pretrained_cfg_overlay={"input_size": (3, 64, 64)}, **small)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    timm.models.save_for_hf(model.eval(), folder, safe_serialization=True)
    return model, f"timm:local-dir:{folder}"


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vision") / "dinov3"
    torch.manual_seed(0)
    sizes = builder.sizes(32, 2, 2, image_size=32, patch_size=8)
    builder.spread(DINOv3ViTModel(DINOv3ViTConfig(**sizes, num_register_tokens=2))).save_pretrained(folder)
    DINOv3ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def best(world: World, resnet: tuple[Any, str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of a training by --recipe best, the last one its output."""
    output = tmp_path_factory.mktemp("best") / "m"
    chosen = ["--recipe", "best", "--epochs", 0, "--ridge", 1, "--power", 1, "--key-views", 1]
    flags = [*flags_of(world, output, resnet[1], *chosen), "--output", str(output)]
    done = run_here(MAIN, *flags)
    assert done.returncode == 0 and "--recipe best: --head cca alone" in done.stderr, done.stderr
    return flags


def test_the_best_recipe_takes_a_tower_of_timm(resnet: tuple[Any, str], best: list[str]):
    """Where it is finished it answers without the tower, and says what is another."""
    said = snapshots.read(best[-1]).model
    assert (said.visn, said.visn_pool, said.image_width, said.head) == (resnet[1], "own", 24, "cca")
    assert known_towers(parse_args(best)) is not None
    again = run_here(MAIN, *best, "--visn", resnet[1] + "/")
    assert again.returncode == 0 and "is trained already" in again.stderr
    other = run_here(MAIN, *best, "--visn-pool", "max")
    assert other.returncode == 2 and "visn_pool" in other.stderr and other.stderr.count("error") == 1


def test_keys_by_timm(world: World, resnet: tuple[Any, str], best: list[str], tmp_path: Path, script: Callable[..., str]):
    model, output = resnet[0], Path(best[-1])
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))

    def features(picture: Image.Image) -> torch.Tensor:
        return model.forward_head(model.forward_features(transform(picture)[None]), pre_logits=True)

    require_keys(output, keys_and_images(world, output, script, tmp_path), features)


def test_transformers_with_crops(world: World, dino: Path, tmp_path: Path, script: Callable[..., str]):
    output = tmp_path / "m"
    done = run_here(MAIN, *flags_of(world, output, str(dino), "--views", 2, "--visn-pool", "both", "--epochs", 1))
    assert done.returncode == 0, done.stderr
    said = snapshots.read(output).model
    assert (said.visn_pool, said.image_width) == ("both", 64)
    assert "dinov3" in (output / "README.md").read_text()
    processor, model = AutoImageProcessor.from_pretrained(dino), AutoModel.from_pretrained(dino).eval()

    def features(picture: Image.Image) -> torch.Tensor:
        states = model(**processor(images=picture, return_tensors="pt")).last_hidden_state
        return torch.cat([states[:, 0], states[:, 3:].mean(1)], 1)

    require_keys(output, keys_and_images(world, output, script, tmp_path), features)


@pytest.mark.parametrize("kind", ["timm", "transformers"])
def test_trained_towers_are_loaded_again(world: World, resnet: tuple[Any, str], dino: Path, tmp_path: Path, kind: str):
    """A fine-tuned tower lies beside the heads; from there it is loaded, and trained on."""
    name, output = resnet[1] if kind == "timm" else str(dino), tmp_path / "m"
    flags = flags_of(world, output, name, "--visn-finetune", "--epochs", 1, "--tower-lr", 1e-3)
    assert run_here(MAIN, *flags).returncode == 0
    said = snapshots.read(output)
    image = load_encoder(output).image
    assert image is not None and snapshots.image_tower_file(output, "BEST").is_file()
    plain = load_encoder(output).image_spec
    assert plain.weights == str(snapshots.image_tower_file(output, "BEST")) and said.model.visn == name
    path = next((world.folder / "images").iterdir())
    pixels = image.view(Image.open(path).convert("RGB"))[None]
    untrained = type(image.tower)(name, None, "own").eval()
    with torch.inference_mode():
        assert not torch.allclose(image.tower(pixels), untrained(pixels), atol=1e-3)
    more = run_here(MAIN, *flags_of(world, tmp_path / "n", name, "--visn-finetune", "--epochs", 1, "--load", output))
    assert more.returncode == 0, more.stderr
    back = run_here("xmatching/convert.py", "--to", tmp_path / "BEST.pth", output)
    assert (back.returncode, back.stderr.count("\n")) == (2, 1), back.stderr
