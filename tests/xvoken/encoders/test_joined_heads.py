"""Heads in closed form and joined heads: by hand from their tensors, one caption and one picture after another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.worlds import World
from xvoken import load_encoder
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.heads import AlignedHead, JoinedHead, UnitHead
from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec, build_heads
from xvoken.encoders.snapshot import ModelConfig
from xvoken.pictures.decode import load_picture

SIZE = {"text_width": 6, "image_width": 5, "hidden": 8, "dropout": 0.1}


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def by_hand(tensors: dict[str, Tensor], side: str, part: int, x: np.ndarray) -> np.ndarray:
    """What part number `part` of a snapshot makes of a tower's columns: of length 1."""
    own = {name.split(f".{part}.", 1)[1]: t.double().numpy() for name, t in tensors.items() if name.startswith(f"{side}.heads.{part}.")}
    if "basis" in own:
        return unit(own["out.weight"] @ ((x - own["mean"]) * own["scale"] @ own["basis"]) + own["out.bias"])
    if "names" in own:
        shares = np.exp((own["classifier.weight"] @ x + own["classifier.bias"]) / own["temperature"])
        best = np.argsort(-shares)[: int(own["kept"])]
        return unit(shares[best] @ own["names"][best])
    return unit(x)


def test_aligned_head_by_hand():
    torch.manual_seed(0)
    head = AlignedHead(width=7, dim=3, rank=4)
    assert head.basis.shape == (7, 4) and AlignedHead(width=3, dim=2, rank=9).basis.shape == (3, 3)
    for tensor in (head.mean, head.scale, head.basis):
        tensor.copy_(torch.randn(tensor.shape))
    x = torch.randn(2, 5, 7)
    found = head(x).detach().numpy()
    tensors = {f"image_head.heads.0.{name}": tensor for name, tensor in head.state_dict().items()}
    for place in np.ndindex(2, 5):
        assert np.allclose(found[place], by_hand(tensors, "image_head", 0, x[place].double().numpy()), atol=1e-5)
    assert [name for name, _ in head.named_parameters()] == ["out.weight", "out.bias"]  # all that a training changes


@pytest.mark.parametrize("weights", [(1.0, 0.5, 2.0), (0.0, 1.0, 0.0), (3.0, 3.0, 3.0)])
def test_joined_head_scores_are_the_weighted_mean_of_the_parts(weights: tuple[float, ...]):
    torch.manual_seed(0)
    columns = ([0, 5], [3, 9], [0, 9])
    heads = [[AlignedHead(5, 4, 9), UnitHead(6), AlignedHead(9, 2, 3)] for _ in range(2)]
    sides = [JoinedHead(side, columns, weights) for side in heads]
    text, image = torch.randn(4, 9), torch.randn(3, 2, 9)
    vectors = sides[0](text), sides[1](image)
    assert vectors[1].shape == (3, 2, 4 + 6 + 2)
    for found in vectors:
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(found.shape[:-1]))
    for a, b in ((a, b) for a in range(4) for b in np.ndindex(3, 2)):
        parts = [
            (one(text[a, slice(*taken)]) @ other(image[b][slice(*taken)])).item() for one, other, taken in zip(*heads, columns, strict=True)
        ]
        assert (vectors[0][a] @ vectors[1][b]).item() == pytest.approx(np.average(parts, weights=weights), abs=1e-5)


def test_heads_of_parts_are_built_as_the_config_says():
    parts = [
        {"head": "cca", "dim": 4, "text": [2, 6], "image": [0, 5], "weight": 1.0},
        {"head": "linear", "dim": 3, "text": [0, 6], "image": [0, 5], "weight": 0.5},
        {"head": "classes", "dim": 2, "text": [4, 6], "image": [1, 5], "weight": 0.25},
    ]
    model = ModelConfig.with_heads(**SIZE, dim=9, head="linear,cca,classes", classes=7, rank=3, parts=parts)
    heads = build_heads(model)
    assert [type(head).__name__ for head in heads["text_head"].heads] == ["AlignedHead", "LinearHead", "UnitHead"]
    assert [type(head).__name__ for head in heads["image_head"].heads] == ["AlignedHead", "LinearHead", "ClassNamesHead"]
    assert heads["image_head"].heads[0].basis.shape == (5, 3) and heads["image_head"].heads[2].names.shape == (7, 2)
    for name, width in (("text_head", 6), ("image_head", 5)):
        found = heads[name].eval()(torch.randn(3, width))
        assert found.shape == (3, 9)
        lengths = torch.stack([part.square().sum(-1) for part in found.split([4, 3, 2], -1)], -1)[:, : 3 if name == "text_head" else 2]
        torch.testing.assert_close(lengths, torch.tensor([1.0, 0.5, 0.25])[: lengths.shape[1]].expand(lengths.shape) / 1.75)


def test_a_config_without_parts_is_one_head_of_all_columns():
    """As all older snapshots: the names of its tensors too."""
    plain = ModelConfig.with_heads(**SIZE, dim=4, head="linear")
    assert [(part.head, part.dim, part.text, part.image, part.weight) for part in plain.joined] == [("linear", 4, [0, 6], [0, 5], 1.0)]
    assert not isinstance(build_heads(plain)["text_head"], JoinedHead)
    assert sorted(build_heads(plain)["text_head"].state_dict()) == ["layers.2.bias", "layers.2.weight"]
    one = replace(plain, parts=[{"head": "linear", "dim": 4, "text": [0, 6], "image": [0, 5], "weight": 0.7}])
    joined = build_heads(one)
    single = build_heads(plain)["image_head"].eval()
    joined["image_head"].heads[0].load_state_dict(single.state_dict())
    x = torch.randn(3, 5)
    torch.testing.assert_close(joined["image_head"].eval()(x), single(x))


@torch.inference_mode()
def test_encoder_of_joined_heads_by_hand(world: World, joined_matcher: Path):
    """From the snapshot's tensors: tower, columns, heads; a picture is the mean of its views' vectors, brought to length 1."""
    snapshot = snapshots.read(joined_matcher)
    model, tensors = snapshot.model, snapshots.read_tensors(joined_matcher / "BEST.safetensors")[0]
    assert [part.head for part in model.joined] == ["cca", "classes"] and [part.weight for part in model.joined] == [1.0, 0.5]
    towers = TextTowerSpec(str(world.bert), (4, 3, 2, 1), "mean").build(), ImageTowerSpec("resnet18", str(world.resnet), "stages").build()

    def joined(side: str, x: Tensor) -> np.ndarray:
        row = x[0].double().numpy()
        taken = [slice(*(part.text if side == "text_head" else part.image)) for part in model.joined]
        parts = [by_hand(tensors, side, number, row[columns]) for number, columns in enumerate(taken)]
        return np.concatenate([parts[0] * np.sqrt(1 / 1.5), parts[1] * np.sqrt(0.5 / 1.5)])

    encoder = load_encoder(str(joined_matcher))
    assert encoder.dim == model.dim == 16 + model.parts[1]["dim"]
    sentences = ["a red circle", "", "square painted blue"]
    for sentence, found in zip(sentences, encoder.encode_texts(sentences), strict=True):
        ids = torch.tensor([encoder.tokenizer(sentence)["input_ids"]])
        assert np.allclose(found, joined("text_head", towers[0](ids, torch.ones_like(ids))), atol=1e-4)
    path = world.folder / "images/red_circle.png"
    picture, view = load_picture(path), towers[1].view
    views = [joined("image_head", towers[1](cut(picture)[None])) for cut in (view, view.squeezed)]
    assert not np.allclose(views[0], views[1], atol=1e-3)
    assert np.allclose(encoder.encode_images([path])[0], unit(views[0] + views[1]), atol=2e-3)
    assert np.allclose(encoder.encode_images([path], views=1)[0], views[0], atol=2e-3)
