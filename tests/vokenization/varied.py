"""A matcher without training that finds different pictures for different tokens and lines."""

from pathlib import Path

import numpy as np
import pytest

from tests import builder
from tests.vokenization.test_min_probability import calibrate
from tests.worlds import World
from xvoken.encoders.encoder import load_encoder
from xvoken.files import keys
from xvoken.towers.tokenizer import load_tokenizer

SETS = {"shapes_train": 18, "shapes_valid": 6}


def varied(world: World, factory: pytest.TempPathFactory, level: str, name: str) -> Path:
    """A calibrated matcher of this level in a new folder, with keys near the vectors of sentences; the tower takes 38 tokens."""
    from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec

    folder = factory.mktemp(name)
    builder.save_bert(folder / "tiny-bert", builder.spread, **builder.sizes(32, 5, 4, max_position_embeddings=40))
    load_tokenizer(str(world.bert)).save_pretrained(folder / "tiny-bert")
    text, image = TextTowerSpec(str(folder / "tiny-bert"), (2, 1)), ImageTowerSpec("resnet18", str(world.resnet))
    builder.save_snapshot(folder / "plain", text, image, hidden=32, dim=16, max_len=32, level=level)
    encoder, rng = load_encoder(folder / "plain", ["text"], "cpu"), np.random.default_rng(0)
    for image_set, number in SETS.items():
        near = encoder.encode_texts(builder.phrases(60)[:number]) + 0.1 * rng.standard_normal((number, 16), np.float32)
        ids = [f"{row}.png" for row in range(number)]
        keys.write_keys(folder / "plain/keys", image_set, near / np.linalg.norm(near, axis=1, keepdims=True), ids, encoder=encoder)
    return calibrate(folder / "plain", folder / "matcher", [0.0, 20.0, 5.0], level)
