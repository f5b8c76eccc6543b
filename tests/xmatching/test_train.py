import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.worlds import World
from xmatching.data import CachedInputs, PairBatches
from xmatching.param import parse_args
from xvoken.cache.features import Features
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.encoder import load_encoder
from xvoken.errors import UserError
from xvoken.files.image_sets import Roots, read_captioned
from xvoken.pictures.decode import load_picture
from xvoken.recall import evaluate


def weights(output: Path, tag: str = "LAST") -> dict[str, torch.Tensor]:
    return load_file(snapshots.tensors_file(output, tag))


def pair_batches(count: int) -> PairBatches:
    rows = torch.arange(count, dtype=torch.float32)[:, None].repeat(1, 3).numpy()
    inputs = CachedInputs([Features(rows, [], Path("x"))])
    return PairBatches(inputs, inputs, np.arange(count), np.arange(count))


def test_batches_of_an_epoch():
    data = pair_batches(23)
    data.plan(epoch=1, batch_size=8, seed=0)
    first = [batch.tolist() for batch in data.batches]
    assert [len(batch) for batch in first] == [8, 8, 7]
    assert sorted(sum(first, [])) == list(range(23))
    data.plan(epoch=2, batch_size=8, seed=0)
    assert [batch.tolist() for batch in data.batches] != first  # the predecessor repeated the first epoch for good
    data.plan(epoch=1, batch_size=8, seed=0)
    assert [batch.tolist() for batch in data.batches] == first


@pytest.mark.parametrize("world_size", [2, 3, 10])
def test_shares_of_processes_are_the_batch_of_one(world_size: int):
    one, shares = pair_batches(23), [pair_batches(23) for _ in range(world_size)]
    one.plan(3, 8, seed=1)
    for rank, share in enumerate(shares):
        share.plan(3, 8, seed=1, rank=rank, world=world_size)
    for number, batch in enumerate(one.batches):
        assert sum((share.batches[number].tolist() for share in shares), []) == batch.tolist()
    text, image, owner = one[0]
    assert torch.equal(text[:, 0].long(), owner)
    assert torch.equal(text, image)


def test_snapshot_of_a_training(world: World, matcher: Path):
    assert {path.name for path in matcher.iterdir()} >= {
        "BEST.safetensors", "BEST.json", "LAST.safetensors", "LAST.json", "LAST.training.safetensors", "metrics.jsonl", "tokenizer",
    }  # fmt: skip
    described = json.loads((matcher / "LAST.json").read_text())
    assert described["model"]["lang_layers"] == [4, 3, 2, 1]
    assert "xmatching/main.py" in described["command"]
    records = [json.loads(line) for line in snapshots.metrics_file(matcher).read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    for record in records:
        assert record["images"] == 6
        assert record["captions"] == 12
        for direction in ("text_to_image", "image_to_text"):
            assert set(record[direction]) == {"R1", "R5", "R10", "median_rank"}
            assert set(record["chance"][direction]) == {"R1", "R5", "R10"}
    assert "matcher resnet18" in snapshots.check(matcher)


def test_validation_record_against_an_independent_computation(world: World, matcher: Path):
    """Every caption and picture through towers and heads one by one, without caches."""
    encoder = load_encoder(str(matcher / "LAST.safetensors"), ["text", "image"], "cpu")
    roots = Roots(world.folder / "lxmert", world.folder, world.folder / "images")
    valid = read_captioned("shapes_valid", ["mscoco"], roots)
    with torch.inference_mode():
        text = [
            encoder.text_head(encoder.text.tower(ids := torch.tensor([encoder.tokenizer(s)["input_ids"]]), torch.ones_like(ids)))
            for _, s in valid.captions
        ]
        image = [encoder.image_head(encoder.image.tower(encoder.image.tower.view(load_picture(p))[None])) for p in valid.paths]
    record = evaluate(torch.cat(text), torch.cat(image), torch.tensor([owner for owner, _ in valid.captions]))
    written = json.loads(snapshots.metrics_file(matcher).read_text().splitlines()[-1])
    for key in ("images", "captions", "text_to_image", "image_to_text", "chance"):
        assert written[key] == record[key], key


@pytest.mark.slow
def test_training_with_real_towers_learns(world: World, tmp_path: Path, script: Callable[..., str]):
    towers = ["--lang", "minilm", "--visn", "efficientnet_lite2", "--precision", "auto"]
    flags = [flag for flag in world.train_flags(tmp_path / "m") if flag not in ("--visn-weights", str(world.resnet))]
    printed = script("xmatching.main", *flags, *towers, "--epochs", 12, "--hidden", 128)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "m/metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.6 * losses[0]
    assert "epoch 12/12" in printed
    assert f"wrote the matcher to {tmp_path / 'm'}" in printed


@pytest.mark.slow
def test_two_processes_train_as_one(world: World, tmp_path: Path, script: Callable[..., str], process: Callable):
    # Dropout draws other masks in each process; Adam turns the last bits of tiny gradients into whole steps.
    flags = ["--dropout", 0, "--epochs", 3, "--optim", "sgd", "--lr", 0.5]
    script("xmatching.main", *world.train_flags(tmp_path / "one", *flags))
    run = ["torchrun", "--standalone", "--nproc-per-node", 2, "xmatching/main.py"]
    done = process(*run, *world.train_flags(tmp_path / "two", *flags))
    assert done.returncode == 0, done.stderr
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=1e-5), name
    first = [json.loads(line)["loss"] for line in (tmp_path / "one/metrics.jsonl").read_text().splitlines()]
    assert first == pytest.approx(
        [json.loads(line)["loss"] for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines()], abs=1e-5
    )


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_weights(world: World, tmp_path: Path, script: Callable, monkeypatch: pytest.MonkeyPatch):
    from xmatching import stage as module

    script("xmatching.main", *world.train_flags(tmp_path / "whole", "--epochs", 4))
    save, saved = module.save_epoch, []

    def stop_after_two(*args: object) -> None:
        save(*args)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_epoch", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        script("xmatching.main", *world.train_flags(tmp_path / "cut", "--epochs", 4))
    monkeypatch.setattr(module, "save_epoch", save)
    with pytest.raises(UserError, match="stopped after epoch 2; add --resume"):
        script("xmatching.main", *world.train_flags(tmp_path / "cut", "--epochs", 4))
    script("xmatching.main", *world.train_flags(tmp_path / "cut", "--epochs", 4, "--resume"))
    for tag in ("LAST", "BEST"):
        whole, cut = (snapshots.tensors_file(tmp_path / name, tag).read_bytes() for name in ("whole", "cut"))
        assert whole == cut, tag
    assert len((tmp_path / "cut/metrics.jsonl").read_text().splitlines()) == 4


def test_a_second_run_is_skipped_and_other_settings_are_refused(world: World, matcher: Path, script: Callable[..., str]):
    before = snapshots.tensors_file(matcher, "LAST").stat().st_mtime_ns
    assert "trained already" in script("xmatching.main", *world.train_flags(matcher))
    with pytest.raises(UserError, match="lr: 0.001 then, 0.01 now"):
        script("xmatching.main", *world.train_flags(matcher, "--lr", 0.01))
    assert snapshots.tensors_file(matcher, "LAST").stat().st_mtime_ns == before


def test_towers_are_run_once(world: World, matcher: Path, tmp_path: Path, script: Callable, monkeypatch: pytest.MonkeyPatch):
    from xvoken.towers.image import ImageTower
    from xvoken.towers.text import TextTower

    def fail(*_: object) -> None:
        raise AssertionError("a frozen tower ran again")

    monkeypatch.setattr(ImageTower, "forward", fail)
    monkeypatch.setattr(TextTower, "forward", fail)
    script("xmatching.main", *world.train_flags(tmp_path / "m", "--lr", 0.01))


def test_frozen_towers_stay_in_eval_mode_and_untouched(world: World, matcher: Path):
    encoder = load_encoder(str(matcher), ["text", "image"], "cpu")
    for tower in (encoder.text.tower, encoder.image.tower):
        assert not any(module.training for module in tower.modules())
        assert not any(parameter.requires_grad for parameter in tower.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("which", ["--lang-finetune", "--visn-finetune"])
def test_fine_tuned_towers_are_trained_saved_and_used(world: World, tmp_path: Path, script: Callable[..., str], which: str):
    script("xmatching.main", *world.train_flags(tmp_path / "m", which, "--epochs", 1, "--train-imgs", "shapes_valid"))
    tuned = load_encoder(str(tmp_path / "m"), ["text", "image"], "cpu")
    fresh = load_encoder(str(tmp_path / "m"), [], "cpu")
    assert tuned.hash == fresh.hash
    beside = (snapshots.text_tower_folder if "lang" in which else snapshots.image_tower_file)(tmp_path / "m", "BEST")
    assert beside.exists()


def test_broken_pictures_are_left_out_and_listed(world: World, tmp_path: Path, script: Callable[..., str]):
    (tmp_path / "lxmert").mkdir()
    rows = json.loads((world.folder / "lxmert/shapes_train.json").read_text())
    shutil.copytree(world.folder / "images", tmp_path / "images")
    (tmp_path / "images/broken.png").write_bytes(b"broken")
    for row in (rows[2], rows[5]):
        row["img_id"] = {2: "broken", 5: "nowhere"}[rows.index(row)]
    for name in ("shapes_train", "shapes_valid"):
        (tmp_path / f"lxmert/{name}.json").write_text(json.dumps(rows))
    roots = ["--lxmert-root", tmp_path / "lxmert", "--image-root", tmp_path / "images"]
    printed = script("xmatching.main", *world.train_flags(tmp_path / "m", *roots, "--epochs", 1))
    assert "2 of 18 pictures can't be used" in printed
    assert "training on 32 pairs" in printed
    assert json.loads((tmp_path / "m/metrics.jsonl").read_text())["images"] == 16
    listed = [json.loads(p.read_text())["skipped"] for p in (world.folder / "cache").glob("shapes_train-resnet18-*.json")]
    assert [[2, "not a picture"], [5, "missing"]] in listed


def test_flags_that_make_no_sense():
    for flags, message in (
        (["--lang-layers", "4,x"], "expected numbers"),
        (["--dropout", "1"], "expected a share"),
    ):
        with pytest.raises(UserError, match=message):
            parse_args(flags)
    with pytest.raises(SystemExit) as caught:
        parse_args(["--loss", "nosuchloss"])
    assert caught.value.code == 2
