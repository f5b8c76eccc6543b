"""A snapshot whose config or tensors are not what this version makes ends with one clear line, whoever made it."""

from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import nn

from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.frozen import Placed
from xvoken.encoders.matcher import build_heads, load_matcher
from xvoken.encoders.snapshot import ModelConfig
from xvoken.errors import UserError


def config() -> dict[str, Any]:
    parts = [
        {"head": "cca", "dim": 4, "text": [2, 6], "image": [0, 5], "weight": 1.0},
        {"head": "classes", "dim": 3, "text": [3, 6], "image": [1, 5], "weight": 0.5},
    ]
    more = {"head": "cca,classes", "parts": parts, "classes": 7, "rank": 4, "hubness": 0.5, "calibration": [0.0, 1.0, 1]}
    return asdict(ModelConfig.with_heads(text_width=6, image_width=5, dim=7, hidden=8, dropout=0, **more))


def test_what_a_training_writes_is_taken():
    assert asdict(ModelConfig.read(config())) == config()


@pytest.mark.parametrize(
    "change",
    [
        {"hubness": -0.5}, {"hubness": float("nan")}, {"hubness": "0.5"}, {"hubness": None}, {"key_views": 10**9}, {"key_views": 0},
        {"key_views": True}, {"rank": -1}, {"rank": "4"}, {"parts": None}, {"parts": "cca"}, {"parts": [1]}, {"parts": [{"head": "cca"}]},
        {"parts": []}, {"calibration": "abc"}, {"calibration": [1, "2"]}, {"dim": 8}, {"dim": 7.0}, {"lang_layers": [1.5]}, {"lang": 1},
    ],
)  # fmt: skip
def test_values_that_can_not_be(change):
    with pytest.raises(UserError, match="not a matcher's config"):
        ModelConfig.read({**config(), **change})


@pytest.mark.parametrize(
    "change",
    [
        {"weight": -0.5}, {"weight": float("inf")}, {"weight": "1"}, {"text": [2, 7]}, {"text": [6, 2]}, {"text": [-4, 6]},
        {"text": [0, 2, 6]}, {"image": [0.0, 5.0]}, {"head": "other"}, {"dim": 5}, {"more": 1},
    ],
)  # fmt: skip
def test_parts_that_can_not_be(change):
    said = config()
    said["parts"][0].update(change)
    with pytest.raises(UserError, match="not a matcher's config"):
        ModelConfig.read(said)
    said["parts"] = [{**part, "weight": 0.0} for part in config()["parts"]]
    with pytest.raises(UserError, match="all 0"):
        ModelConfig.read(said)


@pytest.mark.parametrize("what", ["missing", "shape", "type", "more", "huge", "beyond"])
def test_tensors_of_other_heads(what, tmp_path):
    said = config()
    tensors = nn.ModuleDict(build_heads(ModelConfig.read(said))).state_dict()
    name = "text_head.heads.0.out.weight"
    if what == "missing":
        del tensors[name]
    elif what in ("huge", "beyond"):  # no memory is taken for it
        said["classes"] = 10**11 if what == "huge" else 10**30
    else:
        one = tensors[name]
        tensors["other" if what == "more" else name] = {"shape": one[:2], "type": one.half(), "more": one.clone()}[what]
    snapshots.write(tmp_path, "BEST", {"model": said}, tensors, ["train"])
    with pytest.raises(UserError, match=str(tmp_path)):
        load_matcher(str(tmp_path), [], Placed("cpu", "fp32"))


@pytest.mark.parametrize("header", [[1], {"format": snapshots.FORMAT, "model": [1]}, {"format": snapshots.FORMAT, "model": None}])
def test_a_header_that_is_none(header, tmp_path):
    snapshots.write_tensors(tmp_path / "BEST.safetensors", {"a": torch.ones(1)}, header)
    with pytest.raises(UserError, match="not a matcher's snapshot"):
        snapshots.read(tmp_path)
