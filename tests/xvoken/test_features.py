"""The cache of the towers' outputs: who finds what again."""

from pathlib import Path

import numpy as np

from xvoken.cache.texts import text_features
from xvoken.encoders.matcher import TextTowerSpec
from xvoken.encoders.tokenizer import load_tokenizer
from xvoken.kinds import full_name
from xvoken.machine import Compute


def test_a_snapshot_finds_what_its_training_made_of_sentences(tmp_path: Path) -> None:
    """A training has the short name of its text tower, a snapshot the hub id: the same weights and tokenizer."""
    made = []
    for name in ("minilm", full_name("minilm")):
        spec, tokenizer = TextTowerSpec(name, (2, 1), "mean"), load_tokenizer(name)
        made.append(text_features(spec, spec.build(), tokenizer, ["a red circle", "", "a square"], 16, Compute(cache=tmp_path), "x"))
    assert full_name("minilm") != "minilm" and made[0].path == made[1].path
    assert [path.name for path in tmp_path.glob("*.npy")] == [made[0].path.name]
    assert made[0].path.name.startswith("x-all-MiniLM-L6-v2-") and np.isfinite(made[1].rows).all()
