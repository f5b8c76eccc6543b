"""The cache of the towers' outputs: who finds what again."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.worlds import World
from xvoken.cache.augmented import augmented_features
from xvoken.cache.images import image_features
from xvoken.cache.texts import text_features, token_features
from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec
from xvoken.errors import UserError
from xvoken.kinds import full_name
from xvoken.machine import Compute
from xvoken.pictures.augment import Crops
from xvoken.towers.tokenizer import load_tokenizer
from xvoken.work.product import report_file


def test_a_snapshot_finds_what_its_training_made_of_sentences(tmp_path: Path) -> None:
    """A training has the short name of its text tower, a snapshot the hub id: the same weights and tokenizer."""
    made = []
    for name in ("minilm", full_name("minilm")):
        spec, tokenizer = TextTowerSpec(name, (2, 1), "mean"), load_tokenizer(name)
        made.append(text_features(spec, spec.build(), tokenizer, ["a red circle", "", "a square"], 16, Compute(cache=tmp_path), "x"))
    assert full_name("minilm") != "minilm" and made[0].path == made[1].path
    assert [path.name for path in tmp_path.glob("*.npy")] == [made[0].path.name]
    assert made[0].path.name.startswith("x-all-MiniLM-L6-v2-") and np.isfinite(made[1].rows).all()


def test_views_and_token_features_say_what_was_done(world: World, tmp_path: Path) -> None:
    """And are refused where a file is gone that the receipt promises, instead of failing somewhere behind."""
    image, compute = ImageTowerSpec("resnet18", str(world.resnet)), Compute(cache=tmp_path)
    paths = [*sorted((world.folder / "images").iterdir())[:3], tmp_path / "missing.png"]
    arguments = image, image.build(), [path.stem for path in paths], paths
    plain = augmented_features(*arguments, Crops(2, 0.5, seed=1), compute, "x").evaluation.path
    (views,) = tmp_path.glob("*-views-*.npy")
    for path in (plain, views):
        report = json.loads(report_file(path).read_text())
        assert report["items"] == 4 and report["skipped"] == {"missing": 1} and len(report["seconds_per_part"]) == 1
    text, tokenizer = TextTowerSpec(str(world.bert), (2, 1)), load_tokenizer(str(world.bert))
    sentences = text, text.build(), tokenizer, ["a red circle", "a square"], 16, compute, "x"
    token_features(*sentences)
    (rows,) = (path for path in tmp_path.glob("*-tokens-*.npy") if ".offsets" not in path.name)
    report = json.loads(report_file(rows).read_text())
    assert report["items"] == 2 and report["tokens"] == len(np.load(rows)) == 9
    rows.with_suffix(".offsets.npy").unlink()
    with pytest.raises(UserError, match=f"offsets.npy is gone, {rows.with_suffix('.json')} is still there; make both again after: rm "):
        token_features(*sentences)
    # Other views of the same pictures leave their evaluation view as it is.
    stamp = plain.stat().st_mtime_ns
    augmented_features(*arguments, Crops(2, 0.5, seed=2), compute, "x")
    assert plain.stat().st_mtime_ns == stamp and image_features(*arguments, compute, "x").path == plain
