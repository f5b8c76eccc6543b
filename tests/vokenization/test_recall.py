"""Evaluation encodes captions as retrieval encodes lines: the chain's stages agree with each other."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests import builder
from tests.running import run_here
from tests.worlds import World
from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec
from xvoken.files import keys as key_files
from xvoken.files import vokens

LONG = "a big red circle near the small blue square , and under both of them "


@pytest.mark.parametrize(("level", "precision", "alpha"), [("sentence", "fp32", 0), ("sentence", "bf16", 0.75), ("token", "fp32", 0)])
def test_captions_as_a_corpus_have_the_recall_of_the_evaluation(
    world: World, tmp_path: Path, script: Callable[..., str], level: str, precision: str, alpha: float
):
    """Tokenized and retrieved for as a corpus, captions find their pictures as often as evaluation says, also those longer than max_len."""
    specs = TextTowerSpec(str(world.bert), (1,)), ImageTowerSpec("resnet18", str(world.resnet))
    load = builder.save_snapshot(tmp_path / "snap", *specs, hidden=32, dim=16, max_len=8, level=level)
    rows = [
        {"img_id": f"{name} {number}", "sentf": {"mscoco": [f"{LONG[: 9 * number]}a {name} {shape}" for shape in ("circle", "bar")]}}
        for number, name in enumerate(builder.COLOURS)
    ]
    (tmp_path / "drawn.json").write_text(json.dumps(rows))
    captions = [(number, text) for number, row in enumerate(rows) for text in row["sentf"]["mscoco"]]
    (tmp_path / "captions.txt").write_text("".join(f"{text}\n" for _, text in captions))
    encoder, numbers = load_encoder(load, ["text"], "cpu"), np.random.default_rng(0)
    # Each picture near to one of its captions, so that some are found and some are not; what max_len cuts off must not be missing.
    keys = encoder.encode_texts([text for _, text in captions][::2]) + 0.02 * numbers.standard_normal((len(rows), 16), np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    ids = [row["img_id"] for row in rows]
    key_files.write(load / "keys", "drawn", [keys], ids, ids, [], {}, {"snapshot_hash": encoder.hash})

    script("tokenization.tokenize_dataset", tmp_path, "captions.txt", world.bert)
    flags = ["--load", load, "--image-sets", "drawn", "--num-workers", 1, "--precision", precision]
    flags += ["--output", tmp_path / "out", "--hubness", alpha]
    shared = ["--corpus", tmp_path / "captions.txt", "--tokenizer-name", world.bert]
    script("vokenization.vokenize_corpus_mp", *flags, *shared, "--topk", 10, "--index", "flat")
    with h5py.File(vokens.hdf5_file(tmp_path / "out", "captions.txt", "drawn")) as file:
        found, scores = file["indices"][:], file["scores"][:]
    assert (np.diff(scores, axis=1) < 0).all()  # no ties: evaluation would count their expected value
    bank = ["--bank-set", "drawn"] if alpha else []  # the same bank here: all lines of the corpus, all captions of the set
    printed = script("vokenization.evaluate_retrieval", *flags, "--lxmert-root", tmp_path, *bank)
    assert ("warning: drawn is its own bank" in printed) == bool(alpha)
    record, owner = json.loads((tmp_path / "out/drawn.json").read_text()), np.array([row for row, _ in captions])
    for k in (1, 5, 10):
        assert record["text_to_image"][f"R{k}"] == pytest.approx(100 * (found[:, :k] == owner[:, None]).any(1).mean(), abs=1e-3)
    assert 0 < record["text_to_image"]["R1"] < 100


@pytest.mark.slow
def test_two_processes_evaluate_as_one(world: World, keyed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vokenization.recall.CHUNK", 5)  # three parts
    leftover = tmp_path / "1/shapes_valid.json.0123456789ab.npy.parts"  # of a run that was killed, on other captions
    leftover.mkdir(parents=True)
    for name in ("plan.json", "000000.npy"):
        (leftover / name).write_text("{}")
    for workers in (1, 2):
        flags = ["--load", keyed, "--image-sets", "shapes_valid", *world.roots, "--num-workers", workers, "--device", "cpu"]
        done = run_here("vokenization/evaluate_retrieval.py", *flags, "--output", tmp_path / str(workers))
        assert done.returncode == 0, done.stderr
    one, two = (tmp_path / str(n) for n in (1, 2))
    assert (one / "shapes_valid.json").read_bytes() == (two / "shapes_valid.json").read_bytes()
    assert [path.name for path in one.iterdir()] == ["shapes_valid.json"]
