"""What a training leaves for people: curves, card, a table of runs; and the recipes' flags."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worlds import World
from xmatching.param import parse_args
from xmatching.recipes import BEST
from xmatching.report import Reporter, draw_curves
from xmatching.training import Training
from xvoken.errors import UserError


def test_published_recipe_is_the_default():
    assert vars(parse_args([])) == vars(parse_args(["--recipe", "published"]))
    published = parse_args([])
    assert Training.from_args(published) == Training()
    assert (published.head, published.text_pool, published.visn_pool, published.hidden_layers) == ("mlp", "cls", "avg", 2)
    assert (published.loss, published.optim, published.lr, published.epochs, published.batch_size) == (
        "paired_hinge",
        "adam",
        1e-3,
        25,
        512,
    )


def test_flags_override_the_recipe():
    best = parse_args(["--recipe", "best"])
    assert {name: getattr(best, name) for name in BEST} == {**BEST, "lang_layers": (4, 3, 2, 1)}
    assert parse_args(["--head", "glu,cca", "--recipe", "best"]).head == "glu,cca"
    assert parse_args(["--epochs", "3", "--recipe", "best", "--visn-pool", "avg"]).epochs == 3
    assert parse_args(["--tiny"]).limit == 1000 and parse_args(["--fast"]).limit == 10_000
    assert parse_args(["--tiny", "--limit", "7"]).limit == 7


@pytest.mark.parametrize(
    ("flags", "reason"),
    [(["--crop-scale", "2"], "--crop-scale"), (["--temperature", "0"], "--temperature"),
     (["--views", "2", "--visn-finetune"], "frozen tower")],
)  # fmt: skip
def test_wrong_values_are_refused(flags: list[str], reason: str):
    with pytest.raises(UserError, match=reason):
        parse_args(flags)


def test_learning_rate_rises_and_falls():
    training = Training(schedule="cosine")
    rates = [training.learning_rate(step, 200) for step in range(200)]
    assert rates[0] == pytest.approx(0.1, rel=1e-3) and max(rates) > 0.99 and 0 < rates[-1] < 1e-3
    assert rates.index(max(rates)) == 9  # 5% of the steps
    assert {Training().learning_rate(step, 200) for step in range(200)} == {1.0}


def test_card_and_table_of_runs(world: World, matcher: Path, tmp_path: Path, script: Callable[..., str]):
    card = (matcher / "README.md").read_text()
    for part in ("| shapes_train | 18 | 36 |", "Recipe: published", "12 captions, 6 images", "torch ", "paired_hinge"):
        assert part in card, part
    for name, score in (("worse", 1.0), ("better", 99.0)):
        shutil.copytree(matcher, tmp_path / name)
        records = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for record in records:
            record["text_to_image"]["R1"] = score
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/metrics.jsonl").write_text("{")
    lines = script("xmatching.runs", tmp_path).splitlines()
    rows = [line.split()[0] for line in lines if line.split()[0] in ("run", "better", "worse")]
    assert rows == ["run", "better", "worse"]
    assert any("broken: left out" in line for line in lines)
    with pytest.raises(UserError, match="no trainings in it"):
        script("xmatching.runs", tmp_path / "better")


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="matplotlib is an extra")
def test_curves(matcher: Path, tmp_path: Path):
    from PIL import Image

    records = [json.loads(line) for line in (matcher / "metrics.jsonl").read_text().splitlines()]
    assert draw_curves(tmp_path / "curves.png", records)
    assert Image.open(tmp_path / "curves.png").size[0] > 1000


@pytest.mark.parametrize(
    ("tracker", "mend"),
    [
        ("tensorboard", r"pip install -e '.\[report\]' -c constraints.txt"),
        ("wandb", "pip install wandb"),
        ("trackio", "pip install trackio"),
    ],
)
def test_a_missing_tracker_stops_before_the_training(tracker: str, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    for name in ("tensorboard", "wandb", "trackio", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"{mend}, or --report-to none"):
        Reporter(tracker, tmp_path, {})
