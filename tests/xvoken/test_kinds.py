"""What there is a choice of: every entry can be made, and tables and configs are read without torch."""

import subprocess
import sys
from dataclasses import asdict, fields

import pytest
import torch

from tests.running import ROOT
from xmatching.kinds import LOSSES, OPTIMIZERS, REPORTS, SCHEDULES
from xmatching.loss import Objective
from xvoken.encoders.matcher import build_heads
from xvoken.encoders.snapshot import ModelConfig
from xvoken.errors import UserError
from xvoken.kinds import DUALS, ENCODERS, HEADS, IMAGE_POOLS, IMAGE_TOWERS, TEXT_POOLS, TEXT_TOWERS, made_by
from xvoken.towers.image import pooling

SIZE = {"text_width": 6, "image_width": 5, "hidden": 8, "dim": 4, "dropout": 0.1}
LAYERS = {name: pool.layer for name, pool in IMAGE_POOLS.items() if pool.layer}
# As the first snapshots have it.
OLD = {
    "lang": "bert", "lang_hash": "a", "lang_layers": [4, 3, 2, 1], "text_width": 6, "visn": "resnet18", "visn_hash": "b",
    "image_width": 5, "dim": 4, "hidden": 8, "dropout": 0.1, "max_len": 20,
}  # fmt: skip


def test_every_entry_is_there():
    entries = [*ENCODERS.values(), *TEXT_POOLS.values(), *OPTIMIZERS.values(), *SCHEDULES.values(), *REPORTS.values()]
    entries += [*LAYERS.values(), *IMAGE_TOWERS.values(), *TEXT_TOWERS.values(), *DUALS.values()]
    entries += [entry for head in HEADS.values() for entry in (head.text, head.image or head.text)]
    for loss in LOSSES.values():
        entries += [loss.function, *([loss.by_token] if loss.by_token else [])]
    assert all(callable(made_by(entry)) for entry in entries)


def test_they_are_listed_without_torch():
    modules = "xvoken.kinds, xmatching.kinds, xmatching.param, xmatching.finished, xvoken.encoders.snapshot"
    program = f"import sys, {modules}; print(sorted({{'torch', 'transformers', 'h5py', 'faiss'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("name", HEADS)
def test_every_head_can_be_made(name: str):
    size = {**SIZE, "dim": 6, "classes": 3} if HEADS[name].made == "given" else SIZE  # the joint space is then the text tower's
    heads, dim = build_heads(ModelConfig.with_heads(**size, head=name)), size["dim"]
    assert heads["text_head"](torch.randn(2, 3, 6)).shape == (2, 3, dim) and heads["image_head"](torch.randn(2, 5)).shape == (2, dim)


@pytest.mark.parametrize("name", LAYERS)
def test_every_pooling_has_the_side_it_says(name: str):
    side = IMAGE_POOLS[name].side
    assert pooling(name)(torch.randn(2, 3, 7, 7)).shape == (2, 3, side, side)


def test_parameters_of_losses_are_those_of_their_knobs():
    """Their numbers are those of the optimizer's state on disk."""
    own = {loss: [name for name, _ in Objective(loss, 0.5, 0.07, 1).named_parameters()] for loss in LOSSES}
    hinges = dict.fromkeys(("paired_hinge", "summed_hinge", "hardest_hinge"), [])
    assert own == {**hinges, "infonce": ["log_scale"], "sigmoid": ["log_scale", "bias"]}


def test_config_of_an_old_snapshot():
    read = ModelConfig.read(OLD)
    assert (read.head, read.hidden_layers, read.text_pool, read.visn_pool, read.level) == ("mlp", 2, "cls", "avg", "sentence")
    assert read.tokenizer is read.visn_weights is None
    assert {**ModelConfig.unsaid(), **OLD} == asdict(read)


def test_config_of_a_newer_snapshot():
    assert ModelConfig.read({**OLD, "head": "glu", "new": 1}) == ModelConfig.read({**OLD, "head": "glu"})


@pytest.mark.parametrize("name", OLD)
def test_what_no_snapshot_leaves_out(name: str):
    with pytest.raises(UserError, match=f"missing: .*'{name}'"):
        ModelConfig.read({key: value for key, value in OLD.items() if key != name})


def test_config_goes_to_json_and_back():
    config = ModelConfig.read({**OLD, "level": "token", "visn_weights": "x"})
    assert ModelConfig.read(asdict(config)) == config
    assert list(asdict(config)) == [field.name for field in fields(ModelConfig)]
    assert type(asdict(config)["lang_layers"]) is list
