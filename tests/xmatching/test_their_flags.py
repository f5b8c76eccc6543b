"""The commands of Vokenization and Maria: their scripts/run_xmatching.bash, README and xmatching/param.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.running import run_here
from tests.worlds import World
from xmatching.param import parse_args
from xmatching.settings import Training
from xmatching.training import make_optimizer
from xvoken.encoders import snapshot as snapshots
from xvoken.errors import UserError

VOKENIZATION = (
    "--train-imgs mscoco_train,mscoco_nominival --valid-imgs mscoco_minival --train-langs mscoco --valid-langs mscoco --max-len 20 "
    "--dim 64 --lang-layers 4,3,2,1 --lang-pretrained --visn-pretrained --num-workers 8 --batchSize 256 --optim adam --lr 1e-3 --epochs 20 "
    "--nodes 1 --nr 0 --output snap/xmatching/bert_resnext --visn resnext101_32x8d --lang bert"
)


def test_their_script_is_taken(capfd: pytest.CaptureFixture[str]):
    args = parse_args(VOKENIZATION.split())
    assert (args.max_len, args.dim, args.batch_size, args.epochs, args.lang_layers) == (20, 64, 256, 20, (4, 3, 2, 1))
    assert (args.train_imgs, args.train_langs, args.level, args.output) == (
        ["mscoco_train", "mscoco_nominival"], ["mscoco"], "sentence", "snap/xmatching/bert_resnext",
    )  # fmt: skip
    assert vars(args).keys() == vars(parse_args([])).keys() and capfd.readouterr() == ("", "")


def test_what_is_not_read_is_said(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    flags = ["--fp16", "--sources", "mscoco", "--test", "mscoco", "-g", "2", "-n", "1", "-nr", "0", "--optim", "sgd"]
    parse_args(flags)
    said = capfd.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["--fp16", "--sources", "--test", "--gpus", "--optim sgd"]
    monkeypatch.setenv("RANK", "1")  # a process of torchrun's: the launcher has said it
    parse_args(flags)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--nodes", "2"], "NNODES=2 NODE_RANK=0 MASTER_ADDR="),
        (["--nr", "1"], "NNODES=1 NODE_RANK=1 MASTER_ADDR="),
        (["--lang", "xlnet"], "bert, bert-large, roberta, xlm-roberta and gpt2 have a short name here"),
        (["--lang-layers", "-1"], "without a sign: 1 is the last one"),
        (["--loss", "summed_hinge", "--level", "token"], "works only with --loss paired_hinge"),
    ],
)
def test_what_would_give_another_result_is_refused(flags: list[str], reason: str):
    with pytest.raises(UserError, match=reason):
        parse_args(flags)


def test_machines_may_be_said_twice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NNODES", "2")
    monkeypatch.setenv("NODE_RANK", "1")
    parse_args(["--nodes", "2", "--nr", "1"])
    with pytest.raises(UserError, match="counted in the environment"):
        parse_args(["--nodes", "3"])


def test_optimizer_of_bert():
    """Rates as transformers' schedule has them; no decay of biases and of layer normalizations."""
    from transformers import get_linear_schedule_with_warmup

    from xmatching.model import Matcher

    args = parse_args(["--optim", "bert", "--epochs", "2", "--warmup-ratio", "0.3"])
    assert (args.schedule, args.weight_decay) == ("linear", 0.01)
    training = Training.from_args(args)
    assert parse_args(["--optim", "bert", "--weight-decay", "0"]).weight_decay == 0
    size = {"text_width": 8, "image_width": 8, "dim": 4, "hidden": 4, "dropout": 0.0}
    matcher = Matcher(size)
    matcher.text_tower = nn.ModuleDict({"LayerNorm": nn.LayerNorm(4), "dense": nn.Linear(4, 4)})
    groups = make_optimizer(matcher, nn.Module(), training).param_groups
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups] == [
        (1e-3, 0.01, 6), (1e-3, 0.0, 6), (2e-5, 0.01, 1), (2e-5, 0.0, 3),
    ]  # fmt: skip
    steps = 17
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=int(steps * 0.3), num_training_steps=steps)
    for step in range(steps):
        assert training.learning_rate(step, steps) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("optim", ["bert", "rms", "adamax", "sgd"])
def test_their_optimizers_go_on(world: World, tmp_path: Path, script: Callable[..., str], monkeypatch: pytest.MonkeyPatch, optim: str):
    """A training that was stopped after an epoch ends with the bytes of an unbroken one."""
    from xmatching import stage

    flags = ["--optim", optim, "--momentum", 0.9, "--lr", 1e-4, "--loss", "summed_hinge"]
    script("xmatching.main", *world.train_flags(tmp_path / "whole", *flags))
    epochs = stage.one_epoch

    def stopped(learner, epoch, *rest):
        if epoch == 2:
            raise KeyboardInterrupt
        return epochs(learner, epoch, *rest)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(stage, "one_epoch", stopped)
        script("xmatching.main", *world.train_flags(tmp_path / "cut", *flags))
    script("xmatching.main", *world.train_flags(tmp_path / "cut", *flags, "--resume"))
    whole, cut = (snapshots.tensors_file(tmp_path / name, "LAST").read_bytes() for name in ("whole", "cut"))
    assert whole == cut


def test_the_level_of_their_heads_is_asked_for(world: World, tmp_path: Path):
    """Vokenization's are trained token by token; without --level they would be measured as if for whole captions."""
    from tests.xmatching.test_predecessors import published_state, published_towers, size_flags

    torch.save(published_state("vokenization") | published_towers(world), tmp_path / "BEST.pth")
    load = ["--test-only", "--load", tmp_path / "BEST.pth"]
    flags = world.train_flags(tmp_path / "none", *load, "--hidden-layers", 1)
    done = run_here("xmatching/main.py", *flags)
    assert done.returncode == 2 and "give --level token --max-len 20 (as its scripts do), or --level sentence" in done.stderr
    for more in (["--level", "sentence"], size_flags("vokenization")):
        assert "12 captions, 6 images" in run_here("xmatching/main.py", *flags, *more).stdout
    done = run_here("xmatching/main.py", *world.train_flags(tmp_path / "none", *load, "--level", "token"))
    assert "they are --hidden 32 --hidden-layers 1 --dim 16, of text towers with 128 numbers" in done.stderr
