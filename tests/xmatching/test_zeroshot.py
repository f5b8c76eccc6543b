"""A matcher without training: the classes' names, against torchvision's and transformers' own models."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertModel

from tests.running import run_here
from tests.worlds import World
from xvoken import load_encoder
from xvoken.encoders.heads import ClassNamesHead
from xvoken.errors import UserError
from xvoken.towers.image import classifier

MAIN = "xmatching/main.py"


@pytest.fixture(scope="module")
def flags(world: World, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of a finished one."""
    flags = ["--recipe", "zeroshot", *world.towers, "--output", str(tmp_path_factory.mktemp("zeroshot") / "m")]
    done = run_here(MAIN, *flags)
    assert done.returncode == 0 and "1,000 class names, 32 dimensions" in done.stdout, done.stderr
    return flags


def test_the_head_by_hand():
    """The likeliest of few classes, with weights from their softened probabilities; further pictures change nothing."""
    torch.manual_seed(0)
    head = ClassNamesHead(width=5, dim=3, classes=30)
    head.names.copy_(torch.randn(30, 3))
    pictures = torch.randn(2, 4, 5)
    found = head(pictures)
    assert found.shape == (2, 4, 3)
    weight, bias, names = (tensor.detach().double().numpy() for tensor in (head.classifier.weight, head.classifier.bias, head.names))
    for place in np.ndindex(2, 4):
        shares = np.exp((weight @ pictures[place].double().numpy() + bias) / 2)
        best = sorted(range(30), key=lambda k: -shares[k])[:20]
        vector = sum(shares[k] * names[k] for k in best)
        assert np.allclose(found[place].detach(), vector / np.linalg.norm(vector), atol=1e-5)


def test_fewer_classes_than_are_kept():
    head = ClassNamesHead(width=5, dim=3, classes=4)
    head.names.copy_(torch.eye(4, 3) + 1)
    assert head(torch.randn(6, 5)).norm(dim=-1).allclose(torch.ones(6))


@torch.no_grad()
def test_vectors_are_those_of_the_whole_models(world: World, flags: list[str]):
    """The classifier with its last layer, the text model's last layer averaged over all tokens of a name or a sentence."""
    encoder = load_encoder(flags[-1])
    tokenizer, bert = AutoTokenizer.from_pretrained(world.bert), BertModel.from_pretrained(world.bert).eval()

    def said(texts: list[str]) -> torch.Tensor:
        vectors = torch.cat([bert(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1) for text in texts])
        return torch.nn.functional.normalize(vectors, dim=-1)

    sentences = ["a red circle", "square painted blue", ""]
    assert np.allclose(encoder.encode_texts(sentences), said(sentences), atol=1e-5)
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    resnet = torchvision.models.resnet18().eval()
    resnet.load_state_dict(load_file(world.resnet))
    path = world.folder / "images/red_circle.png"
    shares = (resnet(weights.transforms()(Image.open(path))[None])[0] / 2).softmax(0)
    best = shares.topk(20)
    vector = best.values @ said([weights.meta["categories"][k] for k in best.indices])
    assert np.allclose(encoder.encode_images([path])[0], vector / vector.norm(), atol=1e-3)


def test_later_stages_take_it(world: World, flags: list[str], tmp_path: Path, script: Callable[..., str]):
    shared = ["--image-sets", "shapes_valid", *world.roots]
    ids, cache, one = ["--ids-root", f"{world.folder}/ids"], ["--cache", f"{world.folder}/cache"], ["--num-workers", 1]
    script("vokenization.create_image_ids", *shared, *ids)
    script("vokenization.extract_vision_keys", "--load", flags[-1], *shared, *ids, *cache, *one)
    printed = script("vokenization.evaluate_retrieval", "--load", flags[-1], *shared, *one)
    assert "12 captions, 6 images" in printed
    tested = script("xmatching.main", *world.train_flags(tmp_path / "m"), "--test-only", "--load", flags[-1])
    assert "12 captions, 6 images" in tested


def test_a_second_run_is_skipped_and_other_settings_are_refused(flags: list[str]):
    best = Path(flags[-1]) / "BEST.safetensors"
    before = best.read_bytes()
    done = run_here(MAIN, *flags)
    assert (done.returncode, done.stderr) == (0, f"skipped: {best} holds the untrained matcher of these towers already\n")
    done = run_here(MAIN, *flags, "--lang-layers", 2)
    assert done.returncode == 2 and "was made with other settings (lang_layers: [1] then, [2] now)" in done.stderr
    assert best.read_bytes() == before


def test_the_same_bytes_in_another_folder(flags: list[str], tmp_path: Path):
    assert run_here(MAIN, *flags, "--output", tmp_path / "again").returncode == 0
    assert (tmp_path / "again/BEST.safetensors").read_bytes() == (Path(flags[-1]) / "BEST.safetensors").read_bytes()


@pytest.mark.parametrize("more", [["--epochs", 3], ["--train-imgs", "shapes_train"], ["--visn-pool", "max"], ["--lr", 0.1]])
def test_flags_that_nothing_would_read(flags: list[str], tmp_path: Path, more: list[object]):
    done = run_here(MAIN, *flags, *more, "--output", tmp_path / "m")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: {more[0]}: --recipe zeroshot trains nothing")
    assert not (tmp_path / "m").exists()


def test_a_training_and_a_matcher_without_one_leave_each_other_alone(world: World, flags: list[str], matcher: Path):
    done = run_here(MAIN, *world.train_flags(Path(flags[-1])))
    assert done.returncode == 2 and f"{flags[-1]} holds a matcher of --recipe zeroshot; choose another --output" in done.stderr
    before = {path: path.read_bytes() for path in matcher.glob("BEST*")}
    done = run_here(MAIN, *flags, "--output", matcher)
    assert done.returncode == 2 and f"{matcher} holds a training; choose another --output" in done.stderr
    assert {path: path.read_bytes() for path in matcher.glob("BEST*")} == before


def test_classes_without_names(world: World, tmp_path: Path):
    state = load_file(world.resnet)
    state |= {"fc.weight": state["fc.weight"][:10].contiguous(), "fc.bias": state["fc.bias"][:10].contiguous()}
    save_file(state, tmp_path / "ten.safetensors")
    with pytest.raises(UserError, match="ten.safetensors: 10 classes, the 1000 of ImageNet are needed"):
        classifier("resnet18", str(tmp_path / "ten.safetensors"))
    whole = load_file(world.resnet)
    del whole["fc.bias"]
    save_file(whole, tmp_path / "plain.safetensors")
    weight, bias, _ = classifier("resnet18", str(tmp_path / "plain.safetensors"))
    assert weight.equal(whole["fc.weight"]) and bias.equal(torch.zeros(1000))
    del state["fc.weight"], state["fc.bias"]
    save_file(state, tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="none.safetensors: no classifier"):
        classifier("resnet18", str(tmp_path / "none.safetensors"))


@pytest.mark.slow
def test_several_processes_are_not_needed(world: World, tmp_path: Path, process: Callable):
    flags = ["--recipe", "zeroshot", *world.towers]
    done = process("bash", "scripts/run_xmatching.bash", "0,1", *flags, OUTPUT=str(tmp_path / "m"), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0 and "wrote a matcher without training" in done.stdout, done.stderr
