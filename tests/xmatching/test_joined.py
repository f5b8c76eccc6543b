"""Trainings with heads in closed form: what they leave, what is chosen and what is given, going on and going on again, mistakes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.builder import save_torchvision
from tests.running import run_here
from tests.worlds import World
from xmatching.param import parse_args
from xvoken.encoders import snapshot as snapshots
from xvoken.errors import UserError
from xvoken.records import table

MAIN = "xmatching/main.py"
GOES_ON = ["--head", "cca,classes", "--visn-pool", "stages", "--text-pool", "mean", "--loss", "infonce", "--epochs", 3]


def trained(world: World, output: Path, *flags: object) -> Path:
    done = run_here(MAIN, *world.train_flags(output, *flags))
    assert done.returncode == 0, done.stderr
    return output


def records(output: Path) -> list[dict]:
    return [json.loads(line) for line in snapshots.metrics_file(output).read_text().splitlines()]


def tensors(output: Path, tag: str = "LAST") -> dict[str, Tensor]:
    return snapshots.read_tensors(snapshots.tensors_file(output, tag))[0]


@pytest.fixture(scope="module")
def best(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All is chosen."""
    return trained(world, tmp_path_factory.mktemp("best") / "m", "--recipe", "best", "--epochs", 4)


@pytest.fixture(scope="module")
def went_on(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(world, tmp_path_factory.mktemp("went_on") / "m", *GOES_ON)


def test_what_it_leaves(best: Path):
    names = {"BEST.json", "BEST.safetensors", "LAST.json", "LAST.safetensors", "LAST.training.safetensors", "README.md", "curves.png"}
    assert names | {"metrics.jsonl", "tokenizer"} == {path.name for path in best.iterdir() if not path.name.startswith(".")}
    said = json.loads((best / "BEST.json").read_text())
    choice, model = said["choice"], said["model"]
    assert set(choice["scores"]) == {"ridge, power", "directions", "epochs", "weight of head 2", "hubness"}
    ridge_power = choice["scores"]["ridge, power"]
    assert len(ridge_power) == 15 and ridge_power[str((choice["ridge"], choice["power"]))] == max(ridge_power.values())
    for name, found in (("directions", choice["directions"]), ("hubness", choice["hubness"])):
        scores = choice["scores"][name]
        assert max(scores, key=scores.__getitem__) == str(found)  # of equal ones the first
    scores = list(choice["scores"]["epochs"].values())
    first = int(np.argmax(scores))
    assert choice["epochs"] == (first if scores[first] > 1.02 * scores[0] else 0) == records(best)[-1]["epoch"]
    assert len(choice["agreement"]) == 8 and model["hubness"] == choice["hubness"]  # 4 times 2 ranges of columns
    assert model["parts"][0]["text"] == choice["columns"]["text"] and model["parts"][0]["image"] == choice["columns"]["image"]
    assert {part["head"]: part["weight"] for part in model["parts"]} == {n: w for n, w in choice["weights"].items() if w}
    assert model["dim"] == sum(part["dim"] for part in model["parts"]) and model["key_views"] == 2  # auto, of few pictures
    bank = snapshots.read(best).bank
    assert bank is not None and bank.text.shape == (36, model["dim"]) and bank.image.shape == (18, model["dim"])
    assert "ridge" in (best / "README.md").read_text()


def test_a_second_run_is_skipped_and_other_settings_are_refused(world: World, joined_matcher: Path):
    before = {path: path.stat().st_mtime_ns for path in joined_matcher.rglob("*")}
    command = json.loads((joined_matcher / "BEST.json").read_text())["command"].split()
    flags = command[1 + next(i for i, word in enumerate(command) if word.endswith("main.py")) :]
    done = run_here(MAIN, *flags)
    assert (done.returncode, done.stderr) == (0, f"skipped: {joined_matcher} is trained already (0 epochs, same settings)\n")
    changes = {
        "--ridge": ("2", "ridge: 1.0 then, 2.0 now"), "--power": ("auto", "power: 1.0 then, null now"),
        "--part-weights": ("1,1", "part_weights:"), "--hubness": ("auto", "hubness: 0.5 then, null now"),
        "--key-views": ("1", "key_views: 2 then, 1 now"), "--rank": ("5", "rank: 768 then, 5 now"),
        "--epochs": ("1", "epochs: 0 then, 1 now"),
        "--head": ("cca", 'head: "cca,classes" then, "cca" now'), "--seed": ("1", "seed:"),
    }  # fmt: skip
    for flag, (value, message) in changes.items():
        more = ["--part-weights", "1"] if flag == "--head" else []
        done = run_here(MAIN, *flags, flag, value, *more)
        assert done.returncode == 2 and "was trained with other settings" in done.stderr, (flag, done.stderr)
        assert message in done.stderr, (flag, done.stderr)
    assert {path: path.stat().st_mtime_ns for path in joined_matcher.rglob("*")} == before


def test_what_is_given_is_taken(joined_matcher: Path):
    said = json.loads((joined_matcher / "BEST.json").read_text())
    choice = said["choice"]
    assert (choice["ridge"], choice["power"], choice["hubness"], choice["weights"]) == (1, 1, 0.5, {"cca": 1, "classes": 0.5})
    assert set(choice["scores"]) == {"directions"}
    assert [part["weight"] for part in said["model"]["parts"]] == [1, 0.5] and said["model"]["hubness"] == 0.5


def test_test_only_prints_the_recall_of_the_last_record(world: World, joined_matcher: Path, best: Path, script: Callable[..., str]):
    for output in (joined_matcher, best):
        printed = script("xmatching.main", *world.train_flags(output, "--recipe", "best", "--test-only"))
        assert table(records(output)[-1]) in printed


def test_a_training_goes_on_from_the_solution(world: World, went_on: Path, tmp_path: Path):
    """Epoch 0 is the solution; after it the map behind cca's directions is trained, and nothing else."""
    found = records(went_on)
    assert [record["epoch"] for record in found] == [0, 1, 2, 3]
    assert found[0]["loss"] is None and all(record["loss"] > 0 for record in found[1:])
    start = trained(world, tmp_path / "m", *GOES_ON, "--epochs", 0)
    keys = ("images", "captions", "text_to_image", "image_to_text")
    assert [records(start)[0][key] for key in keys] == [found[0][key] for key in keys]
    before, after = tensors(start), tensors(went_on)
    changed = {name for name, tensor in before.items() if not name.startswith("bank.") and not tensor.equal(after[name])}
    assert changed == {f"{side}_head.heads.0.out.{kind}" for side in ("text", "image") for kind in ("weight", "bias")}


@pytest.mark.parametrize("stops", ["fit", "epoch 1"])
def test_a_stopped_training_ends_with_the_bytes_of_an_unbroken_one(
    world: World, went_on: Path, tmp_path: Path, script: Callable, monkeypatch: pytest.MonkeyPatch, stops: str
):
    from xmatching import stage

    save, choose = stage.save_epoch, stage.fit

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def saved(*args: object) -> None:
        save(*args)
        if f"epoch {args[4]['epoch']}" == stops:
            raise KeyboardInterrupt

    flags = world.train_flags(tmp_path / "cut", *GOES_ON)
    monkeypatch.setattr(stage, "save_epoch", saved)
    if stops == "fit":
        monkeypatch.setattr("xmatching.joined.correction_of", stop)
    with pytest.raises(KeyboardInterrupt):
        script("xmatching.main", *flags)
    monkeypatch.undo()
    if stops != "fit":
        with pytest.raises(UserError, match=f"stopped after {stops}; add --resume"):
            script("xmatching.main", *flags)
        monkeypatch.setattr(stage, "fit", stop)  # what was chosen is kept
    assert "wrote the matcher" in script("xmatching.main", *flags, "--resume")
    assert stage.fit in (choose, stop)
    for name in ("BEST.safetensors", "LAST.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (went_on / name).read_bytes()
    assert [record["epoch"] for record in records(tmp_path / "cut")] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("head", "more"),
    [("linear,cca,classes", ["--epochs", 2]), ("cca", ["--epochs", 0]),
     ("linear,classes", ["--epochs", 1, "--hubness", "auto"])],
)  # fmt: skip
def test_other_combinations(world: World, tmp_path: Path, head: str, more: list[object], script: Callable[..., str]):
    weights = ",".join(["1", "0.5", "2"][: head.count(",") + 1])
    output = trained(world, tmp_path / "m", "--head", head, "--part-weights", weights, *more)
    model = snapshots.read(output).model
    assert ",".join(part.head for part in model.joined) == model.head == head
    assert all(tensor.isfinite().all() for tensor in tensors(output).values())
    start, end = records(output)[0], records(output)[-1]
    assert end["epoch"] == more[1] and start["loss"] is None
    assert table(end) in script("xmatching.main", *world.train_flags(output), "--test-only", "--load", output / "LAST.safetensors")


def test_only_the_trained_head_is_trained(world: World, tmp_path: Path):
    flags = ["--head", "linear,cca", "--part-weights", "1,1", "--lr", 0.1]
    one, two = (tensors(trained(world, tmp_path / f"{epochs}", *flags, "--epochs", epochs), "LAST") for epochs in (1, 2))
    changed = {name for name, tensor in one.items() if not name.startswith("bank.") and not tensor.equal(two[name])}
    assert changed == {f"{side}_head.heads.0.layers.2.{kind}" for side in ("text", "image") for kind in ("weight", "bias")}


def test_a_trained_head_is_rehearsed_for_all_epochs(world: World, tmp_path: Path):
    """--early-stop is for cca: beside a trained head it changes nothing, not even what is chosen."""
    made = [trained(world, tmp_path / f"m{flag}", "--head", "linear,cca", "--epochs", 6, "--early-stop" if flag else "--no-early-stop")
            for flag in (0, 1)]  # fmt: skip
    choices = [json.loads((output / "BEST.json").read_text())["choice"] for output in made]
    assert choices[0] == choices[1] and "epochs" not in choices[0]["scores"] and choices[0]["epochs"] == 6
    assert all(tensor.equal(tensors(made[1])[name]) for name, tensor in tensors(made[0]).items())


def test_nothing_is_trained_where_the_part_that_would_be_has_no_weight(world: World, tmp_path: Path):
    output = trained(world, tmp_path / "m", *GOES_ON, "--part-weights", "0,1")
    assert [record["epoch"] for record in records(output)] == [0]
    assert [part.head for part in snapshots.read(output).model.joined] == ["classes"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--head foo", "argument --head: 'foo' is not one of cca, classes, glu, linear, mlp"),
        ("--head linear,mlp", "only one of mlp, linear and glu can be trained"),
        ("--head cca,cca", "cca is named twice"),
        ("--head classes", "--head classes: nothing to train; take --recipe zeroshot, or join it"),
        ("--recipe best --head linear", "leave out --recipe best"),
        ("--head cca --views 2", "--views: not with --head cca"),
        ("--head cca --level token", "--level token: not with --head cca"),
        ("--head cca --lang-finetune", "--lang-finetune: not with --head cca"),
        ("--head cca --visn-finetune", "--visn-finetune: not with --head cca"),
        ("--head cca --load x", "--load: not with --head cca"),
        ("--recipe best --part-weights 1,2,3", "--part-weights: 3 weights for the 2 heads cca,classes"),
        ("--recipe best --part-weights 0,0", "not all 0"),
        ("--recipe best --part-weights 1,-1", "'-1' is neither a number of at least 0"),
        ("--recipe best --hubness nan", "'nan' is neither a number of at least 0"),
        ("--recipe best --key-views 3", "'3' is not one of 1, 2, 4, auto"),
        ("--epochs 0", "--epochs 0: only with --head cca, classes or own; mlp is trained"),
        ("--head linear,cca --epochs 0", "--epochs 0: --head linear,cca has one that is trained"),
        ("--ridge 1", "--ridge: only with --head cca"), ("--power 1", "--power: only with --head cca"),
        ("--part-weights 1", "--part-weights: only with --head cca"), ("--hubness 0.5", "--hubness: only with --head cca"),
        ("--early-stop", "--early-stop: only with --head cca"), ("--other-lines x", "--other-lines: only with --head cca"),
        ("--head linear,classes --ridge 1", "--ridge, --power: of --head cca"),
    ],
)  # fmt: skip
def test_mistakes_in_flags(flags: str, message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises((UserError, SystemExit)) as caught:
        parse_args(flags.split())
    said = str(caught.value) if caught.type is UserError else capsys.readouterr().err
    assert message in said and len(said.strip().splitlines()) == 1
    assert caught.type is UserError or caught.value.code == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--visn-pool", "maps"], "--head classes: needs the average of the image tower's last map: --visn-pool avg or stages"),
        (["--limit", 1], "fewer than two pictures with captions; nothing can be held out"),
    ],
)
def test_mistakes_that_towers_and_data_show(world: World, tmp_path: Path, flags: list[object], message: str):
    done = run_here(MAIN, *world.train_flags(tmp_path / "m", "--recipe", "best", *flags))
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: ") and message in last
    assert not snapshots.training_file(tmp_path / "m").exists()


def test_a_state_dict_has_one_head(world: World, tmp_path: Path):
    flags = world.train_flags(tmp_path / "m", "--recipe", "best", "--test-only", "--load", tmp_path / "BEST.pth")
    done = run_here(MAIN, *flags)
    assert done.returncode == 2 and "BEST.pth: a state dict has one trained head; leave out --recipe best" in done.stderr


def test_a_tower_without_stages_says_what_to_do(world: World, tmp_path: Path):
    save_torchvision(tmp_path / "w.safetensors", "mobilenet_v3_small")
    flags = world.train_flags(
        tmp_path / "m", "--recipe", "best", "--visn", "mobilenet_v3_small", "--visn-weights", tmp_path / "w.safetensors"
    )
    done = run_here(MAIN, *flags, "--train-imgs", "shapes_valid")
    assert done.returncode == 2 and "not for mobilenet_v3_small; take --visn-pool avg" in done.stderr


def test_later_stages_take_it(world: World, joined_matcher: Path, script: Callable[..., str]):
    shared = ["--image-sets", "shapes_valid", *world.roots]
    ids, compute = ["--ids-root", f"{world.folder}/ids-joined"], ["--num-workers", 1, "--precision", "fp32"]
    script("vokenization.create_image_ids", *shared, *ids)
    script("vokenization.extract_vision_keys", "--load", joined_matcher, *shared, *ids, "--cache", world.folder / "cache", *compute)
    (world.folder / "corpus-joined").mkdir()
    lines = ["a red circle", "", "square painted blue"]
    (world.folder / "corpus-joined/lines.txt").write_text("".join(f"{line}\n" for line in lines))
    script("tokenization.tokenize_dataset", world.folder / "corpus-joined", "lines.txt", world.bert)
    corpus = ["--corpus", world.folder / "corpus-joined/lines.txt", "--image-sets", "shapes_valid", "--topk", 2]
    script("vokenization.vokenize_corpus_mp", "--load", joined_matcher, *corpus, *compute)
    found = (joined_matcher / "vokens/lines.txt.shapes_valid").read_text().splitlines()
    assert len(found) == 3 and len(found[0].split("\t")) == 2
    assert "12 captions, 6 images" in script("vokenization.evaluate_retrieval", "--load", joined_matcher, *shared, *compute)


def test_a_tracker_takes_epoch_0(world: World, tmp_path: Path):
    pytest.importorskip("tensorboard")
    output = trained(world, tmp_path / "m", "--head", "cca", "--ridge", 1, "--power", 1, "--epochs", 0, "--report-to", "tensorboard")
    assert list((output / "tensorboard").iterdir())


# Data that is not as one would wish

PLAIN = ["--head", "cca", "--ridge", 1, "--power", 1, "--epochs", 1]


def rows_of(world: World, number: int) -> list[dict]:
    return json.loads((world.folder / "lxmert/shapes_train.json").read_text())[:number]


def with_rows(world: World, folder: Path, rows: list[dict], *flags: object) -> Path:
    """A training on these pictures and captions; its validation is that of the world."""
    return trained(world, folder / "m", *rooted(world, folder, rows), *flags)


def rooted(world: World, folder: Path, rows: list[dict]) -> list[object]:
    """The flags for these training pictures and captions."""
    (folder / "lxmert").mkdir(parents=True)
    (folder / "lxmert/shapes_train.json").write_text(json.dumps(rows))
    shutil.copy(world.folder / "lxmert/shapes_valid.json", folder / "lxmert")
    if not (folder / "images").exists():
        (folder / "images").symlink_to(world.folder / "images")
    return [*PLAIN, "--lxmert-root", folder / "lxmert", "--image-root", folder / "images"]


def test_pictures_that_can_t_be_used_leave_no_trace(world: World, tmp_path: Path):
    """The heads are those of a training without them."""
    rows = rows_of(world, 9)
    shutil.copytree(world.folder / "images", tmp_path / "broken/images")
    (tmp_path / "broken/images/broken.png").write_bytes(b"broken")
    more = [{"img_id": name, "sentf": {"mscoco": ["what is not there", "again"]}} for name in ("broken", "nowhere")]
    one = with_rows(world, tmp_path / "broken", [*rows[:3], more[0], *rows[3:], more[1]])
    two = with_rows(world, tmp_path / "whole", rows)
    for name, tensor in tensors(two).items():
        torch.testing.assert_close(tensors(one)[name], tensor, atol=1e-4, rtol=1e-3, msg=name)
    assert len(tensors(one)["bank.image"]) == 9


@pytest.mark.parametrize("kind", ["captions without tokens", "one has all captions", "two", "three"])
def test_odd_data_gives_finite_heads(world: World, tmp_path: Path, kind: str):
    rows = rows_of(world, 6)
    for number, row in enumerate(rows):
        if kind == "captions without tokens":
            row["sentf"]["mscoco"] = ["", "  "] if number % 2 else row["sentf"]["mscoco"]
    if kind == "one has all captions":
        rows = [{**rows[0], "sentf": {"mscoco": [f"number {number}" for number in range(20)]}}, {**rows[1], "sentf": {"mscoco": ["x"]}}]
    rows = rows[: {"two": 2, "three": 3}.get(kind)]
    output = with_rows(world, tmp_path, rows)
    assert all(tensor.isfinite().all() for tensor in tensors(output).values())
    for name in ("BEST.json", "metrics.jsonl"):
        assert "NaN" not in (output / name).read_text() and "Infinity" not in (output / name).read_text()


def test_captions_that_are_all_the_same_are_refused(world: World, tmp_path: Path):
    """Their matcher would have no vectors."""
    rows = [{**row, "sentf": {"mscoco": ["the same"]}} for row in rows_of(world, 6)]
    done = run_here(MAIN, *world.train_flags(tmp_path / "m", *rooted(world, tmp_path, rows)))
    assert done.returncode == 2 and "all captions, or all pictures, are one and the same" in done.stderr.splitlines()[-1]
    assert not snapshots.training_file(tmp_path / "m").exists()
