import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertModel, DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

from tests.worlds import World
from xvoken.encoders.frozen import batches_by_length
from xvoken.errors import UserError
from xvoken.kinds import base_name, full_name
from xvoken.towers.hashes import weights_hash
from xvoken.towers.image import ImageTower
from xvoken.towers.padding import Padding, pad_lines
from xvoken.towers.text import TextTower
from xvoken.towers.tokenizer import load_tokenizer, tokenize, tokenizer_hash


def test_text_tower_against_transformers(world: World):
    tower = TextTower(str(world.bert), (4, 3, 2, 1)).eval()
    model = BertModel.from_pretrained(world.bert).eval()
    batch = AutoTokenizer.from_pretrained(world.bert)(["a red circle", "no"], return_tensors="pt", padding=True)
    with torch.inference_mode():
        states = model(**batch, output_hidden_states=True).hidden_states
        found = tower(batch["input_ids"], batch["attention_mask"])
    expected = torch.cat([states[2][:, 0], states[3][:, 0], states[4][:, 0], states[5][:, 0]], -1)
    assert torch.allclose(found, expected, atol=1e-6)
    assert (tower.width, tower.max_tokens) == (128, 40)


def test_other_text_models_load(tmp_path: Path):
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    RobertaModel(RobertaConfig(vocab_size=50, max_position_embeddings=34, **small)).save_pretrained(tmp_path / "roberta")
    assert TextTower(str(tmp_path / "roberta"), (2, 1)).max_tokens == 32
    DistilBertModel(DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32)).save_pretrained(tmp_path / "distil")
    tower = TextTower(str(tmp_path / "distil"), (1,))
    assert tower(torch.ones(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)).shape == (2, 16)


def test_weights_that_files_lack(world: World, tmp_path: Path):
    """Those of a pooler, as RoBERTa's lack, are not random: the tower is the same each time. Others are refused."""
    folder, whole = shutil.copytree(world.bert, tmp_path / "bert"), load_file(world.bert / "model.safetensors")
    save_file({name: one for name, one in whole.items() if "pooler" not in name}, folder / "model.safetensors", {"format": "pt"})
    assert weights_hash(TextTower(str(folder))) == weights_hash(TextTower(str(folder)))
    save_file({name: one for name, one in whole.items() if "layer.3" not in name}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"its files lack weights \(encoder.layer.3.attention"):
        TextTower(str(folder))


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("./no/such/folder", (1,), "no such folder"),
        ("no-such-model-anywhere", (1,), "hf download no-such-model-anywhere"),
        ("bert", (1,), "hf download bert-base-uncased"),
    ],
)
def test_text_models_that_can_not_be_had(name: str, layers: tuple[int, ...], message: str):
    with pytest.raises(UserError, match=message):
        TextTower(name, layers)


def test_too_many_layers_and_pickled_weights_are_refused(world: World, tmp_path: Path):
    with pytest.raises(UserError, match="layers 1 to 5"):
        TextTower(str(world.bert), (6,))
    (tmp_path / "config.json").write_bytes((world.bert / "config.json").read_bytes())
    torch.save(BertModel.from_pretrained(world.bert).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="can't be loaded"):
        TextTower(str(tmp_path), (1,))


def test_names_and_tokenizer_hash(world: World, tmp_path: Path):
    assert full_name("bert") == base_name("bert") == "bert-base-uncased"
    assert base_name("minilm") == "all-MiniLM-L6-v2"
    assert base_name("some/folder/") == "folder"
    tokenizer = load_tokenizer("minilm")
    assert tokenizer_hash(tokenizer) == tokenizer_hash(load_tokenizer(str(world.bert)))  # a copy under another name
    tokenizer.add_tokens(["xvoken"])
    assert tokenizer_hash(tokenizer) != tokenizer_hash(load_tokenizer("minilm"))


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet", "t5"])
def test_a_tokenizer_made_up_from_a_config_is_refused(tmp_path: Path, kind: str):
    """transformers makes one of special tokens only, to which every word is unknown."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(UserError, match=f"tokenizer {tmp_path}: no words in it, only .* special tokens"):
        load_tokenizer(str(tmp_path))


def test_padded_batches_against_the_tokenizer():
    tokenizer = load_tokenizer("minilm")
    sentences = ["a red circle", "", "Hello, you there: what is this?", "no"]
    tokens, offsets = tokenize(tokenizer, sentences)
    padding = Padding.for_tokenizer(tokenizer, 8)
    ids, mask = pad_lines(tokens, offsets[:-1], np.diff(offsets), padding)
    expected = tokenizer(sentences, return_tensors="pt", padding=True, truncation=True, max_length=8)
    assert torch.equal(ids, expected["input_ids"])
    assert torch.equal(mask, expected["attention_mask"])
    batches = [batch.tolist() for batch in batches_by_length(np.diff(offsets), 2)]
    assert batches == [[2], [3, 0]]  # by length, the empty line left out


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_32"])
def test_image_tower_is_the_model_without_its_classifier(tmp_path: Path, name: str):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    tower = ImageTower(name, str(tmp_path / "w.safetensors")).eval()
    last = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    seen = []
    last.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        model(tower.view.normalize(pixels))
        found = tower(pixels)
    assert found.shape == (2, tower.width)
    assert torch.allclose(found, seen[0], atol=1e-4)


def test_published_weights_are_read_from_torch_hubs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The loading code for downloaded weights, with a file that lies where a download would put it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = torchvision.models.resnet18()
    published = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(model.state_dict(), tmp_path / "hub/checkpoints" / published)
    tower = ImageTower("resnet18")
    assert torch.equal(tower.model.conv1.weight, model.conv1.weight)
    assert (tower.view.resize, tower.view.crop, tower.width) == (256, 224, 512)


def test_weights_that_can_not_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there: every download fails at once
    with pytest.raises(UserError, match=r"resnet18-.*\.pth.*--visn-weights"):
        ImageTower("resnet18")
    with pytest.raises(UserError, match="did you mean resnext101_32x8d"):
        ImageTower("resnext101_32x8")
    with pytest.raises(UserError, match="does not end in a linear classifier"):
        ImageTower("squeezenet1_0", "any")
    with pytest.raises(UserError, match="no such weights file"):
        ImageTower("resnet18", str(tmp_path / "none.pth"))
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(UserError, match="do not fit"):
        ImageTower("resnet50", str(tmp_path / "resnet34.pth"))
    torch.save(torchvision.models.resnet18(), tmp_path / "pickled.pth")
    with pytest.raises(UserError, match="not a file of plain tensors"):
        ImageTower("resnet18", str(tmp_path / "pickled.pth"))


def test_efficientnet_lite2_tells_kinds_of_pictures_apart():
    """Its real weights: two pictures of one kind are closer than pictures of two kinds."""
    from PIL import Image, ImageDraw

    tower = ImageTower("efficientnet_lite2").eval()
    views = []
    for shape, shift in (("ellipse", 0), ("ellipse", 9), ("line", 0), ("line", 9)):
        picture = Image.new("RGB", (300, 300), "white")
        pen = ImageDraw.Draw(picture)
        for i in range(0, 300, 60):
            getattr(pen, shape)((i + shift, 80 + shift, i + 40 + shift, 220), fill="black")
        views.append(tower.view(picture))
    with torch.inference_mode():
        out = torch.nn.functional.normalize(tower(torch.stack(views)))
    close = out @ out.T
    assert tower.width == 1280
    assert min(close[0, 1], close[2, 3]) > max(close[0, 2], close[0, 3], close[1, 2], close[1, 3])


def test_weights_hash_sees_every_tensor():
    one = torchvision.models.resnet18()
    two = torchvision.models.resnet18()
    two.load_state_dict(one.state_dict())
    assert weights_hash(one) == weights_hash(two)
    two.bn1.running_mean[0] += 1
    assert weights_hash(one) != weights_hash(two)


@pytest.mark.parametrize(
    ("name", "content"),
    [("model.safetensors", b"\x08"), ("config.json", b"[]"), ("config.json", b'{"model_type": "bert", "hidden_size": "a"}')],
)
def test_a_damaged_model_is_one_line(world: World, tmp_path: Path, name: str, content: bytes):
    """A download that broke off, for one."""
    folder = shutil.copytree(world.bert, tmp_path / "bert")
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match="text model .*bert: can't be loaded from"):
        TextTower(str(folder), (1,))
