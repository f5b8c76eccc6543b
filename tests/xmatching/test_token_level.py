"""Matching on token level: training, keys, and an image for every token, against the towers by hand."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests.worlds import World
from xmatching.data import TokenStates
from xvoken.cache.texts import TokenFeatures
from xvoken.encoders.encoder import load_encoder
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.recall import evaluate

LINES = ["a red circle", "", "blue", "square painted yellow , and " + "circle " * 60]


@pytest.fixture(scope="module")
def token_matcher(world: World) -> Path:
    return world.folder / "snap" / "token"


@pytest.mark.slow
def test_chain(world: World, token_matcher: Path, script: Callable[..., str]):
    printed = script("xmatching.main", *world.train_flags(token_matcher, "--level", "token", "--epochs", 3))
    assert "epoch 3/3" in printed
    corpus = world.folder / "token-corpus" / "lines.txt"
    corpus.parent.mkdir()
    corpus.write_text("\n".join(LINES) + "\n")
    ids, shared = ["--ids-root", world.folder / "token-ids"], [*world.roots, "--num-workers", 1, "--precision", "fp32"]
    cache = ["--cache", world.folder / "cache"]
    script("vokenization.create_image_ids", "--image-sets", "shapes_valid", *ids, *world.roots)
    script("vokenization.extract_vision_keys", "--load", token_matcher, "--image-sets", "shapes_valid", *ids, *shared, *cache)
    script("tokenization.tokenize_dataset", corpus.parent, corpus.name, world.bert)
    script(
        "vokenization.vokenize_corpus_mp", "--load", token_matcher, "--corpus", corpus, "--image-sets", "shapes_valid", "--topk", 2,
        "--num-workers", 1, "--precision", "fp32", "--tokenizer-name", world.bert,
    )  # fmt: skip
    with h5py.File(token_matcher / "keys/shapes_valid.hdf5") as file:
        keys = torch.from_numpy(file["keys"][:])
    with h5py.File(token_matcher / "vokens/lines.txt.shapes_valid.hdf5") as file:
        vokens, indices = file["vokens"][:], file["indices"][:]
    encoder, at = load_encoder(str(token_matcher), ["text"], "cpu"), 0
    for number, line in enumerate(LINES):
        ids, pieces = encoder.tokenizer(line)["input_ids"], []
        count, most = len(ids) - 2, encoder.text.tower.max_tokens - 2
        own, at = vokens[at : at + count], at + count
        if not line:
            assert (indices[number] == -1).all()
            continue
        step = count // -(-count // most)  # of equal length, as many as the tower takes
        for start in range(0, count, step):
            piece = torch.tensor([[ids[0], *ids[1:-1][start : start + step], ids[-1]]])
            with torch.inference_mode():
                pieces.append(encoder.text_head(encoder.text.tower.tokens(piece, torch.ones_like(piece))[0]))
        scores = torch.cat([vectors[1:-1] for vectors in pieces]) @ keys.T
        torch.testing.assert_close(scores.gather(1, torch.from_numpy(own).long()[:, None])[:, 0], scores.max(1).values, atol=1e-5, rtol=0)
        mean = (pieces[0] @ keys.T).mean(0)
        torch.testing.assert_close(mean[torch.from_numpy(indices[number]).long()], mean.topk(2).values, atol=1e-5, rtol=0)
    assert at == len(vokens)
    record = script(
        "vokenization.evaluate_retrieval", "--load", token_matcher, "--image-sets", "shapes_valid", *shared
    )  # fmt: skip
    assert "12 captions, 6 images" in record
    compare_with_towers(world, token_matcher, keys, encoder)
    compare_indexes(world, token_matcher, encoder, script)


def compare_indexes(world: World, folder: Path, encoder, script: Callable[..., str]) -> None:
    """All of an approximate index gives lines and tokens the images of exact search."""
    made, corpus = np.random.default_rng(0).standard_normal((600, encoder.dim), np.float32), world.folder / "token-corpus/lines.txt"
    names, where = [f"{i}.jpg" for i in range(600)], world.folder / "token-keys"
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    key_files.write(where, "made", [made], names, names, [], {}, {"snapshot_hash": encoder.hash})
    flags = ["--load", folder, "--corpus", corpus, "--keys-dir", where, "--image-sets", "made", "--num-workers", 1]
    printed = script("vokenization.vokenize_corpus_mp", *flags, "--output", where / "tuned", "--index", "ivf", "--index-recall", 1)
    assert "recall@5 1.000 against exact search for 6 queries of 3 lines" in printed  # three lines, and as many of their tokens
    receipt = json.loads((where / "made.ivf.json").read_text())
    for record in receipt["recall"].values():  # six queries are few to tune on: here all cells are searched
        record["effort"] = record["most"]
    (where / "made.ivf.json").write_text(json.dumps(receipt))
    for kind in ("flat", "ivf"):
        script("vokenization.vokenize_corpus_mp", *flags, "--output", where / kind, "--index", kind, "--index-recall", 1)
    with h5py.File(where / "flat/lines.txt.made.hdf5") as flat, h5py.File(where / "ivf/lines.txt.made.hdf5") as found:
        assert np.array_equal(flat["indices"][:], found["indices"][:])
        assert np.array_equal(flat["vokens"][:], found["vokens"][:])


def compare_with_towers(world: World, folder: Path, keys: torch.Tensor, encoder) -> None:
    """The validation record of the training is the recall of the mean of the tokens' scores."""
    from xvoken.files.image_sets import Roots, read_captioned

    valid = read_captioned("shapes_valid", ["mscoco"], Roots(world.folder / "lxmert", world.folder, world.folder / "images"))
    with torch.inference_mode():
        text = []
        for _, sentence in valid.captions:
            ids = torch.tensor([encoder.tokenizer(sentence)["input_ids"]])
            text.append(encoder.text_head(encoder.text.tower.tokens(ids, torch.ones_like(ids)))[0].mean(0))
    record = evaluate(torch.stack(text), keys, torch.tensor([owner for owner, _ in valid.captions]))
    assert json.loads((folder / "eval/shapes_valid.json").read_text())["text_to_image"].items() >= record["text_to_image"].items()
    described = json.loads((folder / "BEST.json").read_text())
    assert described["validation"]["text_to_image"] == record["text_to_image"]


def test_rows_of_tokens_are_padded_in_order():
    rows = np.arange(12, dtype=np.float16)[:, None].repeat(2, 1)
    caches = [TokenFeatures(rows[:5], np.array([0, 2, 5])), TokenFeatures(rows[5:], np.array([0, 1, 1, 7]))]
    inputs, _ = TokenStates(caches).load(np.array([4, 0, 2, 1]))
    assert inputs["mask"].tolist() == [[1] * 6, [1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
    assert inputs["states"][:, :, 0].tolist() == [[6, 7, 8, 9, 10, 11], [0, 1, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0], [2, 3, 4, 0, 0, 0]]


@pytest.mark.slow
def test_two_processes_train_as_one(world: World, tmp_path: Path, script: Callable[..., str], process: Callable):
    from safetensors.torch import load_file

    flags = ["--level", "token", "--dropout", 0, "--optim", "sgd", "--lr", 0.5]
    script("xmatching.main", *world.train_flags(tmp_path / "one", *flags))
    run = ["torchrun", "--standalone", "--nproc-per-node", 2, "xmatching/main.py"]
    done: subprocess.CompletedProcess[str] = process(*run, *world.train_flags(tmp_path / "two", *flags))
    assert done.returncode == 0, done.stderr
    one, two = (load_file(tmp_path / name / "LAST.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=1e-4)


def test_other_losses_are_refused(world: World, tmp_path: Path, script: Callable[..., str]):
    with pytest.raises(UserError, match="works only with --loss paired_hinge"):
        script("xmatching.main", *world.train_flags(tmp_path / "x", "--level", "token", "--loss", "infonce"))


@pytest.mark.slow
def test_fine_tuning_on_both_levels(world: World, tmp_path: Path, script: Callable[..., str]):
    """Towers that are trained change, with a learning rate of their own, checkpointing and bf16; and load again."""
    more = [
        "--epochs",
        1,
        "--limit",
        3,
        "--visn-finetune",
        "--lang-finetune",
        "--checkpointing",
        "--train-precision",
        "bf16",
        "--tower-lr",
        1e-3,
    ]
    for level in ("sentence", "token"):
        script("xmatching.main", *world.train_flags(tmp_path / level, "--level", level, *more))
        encoder = load_encoder(str(tmp_path / level), ["text", "image"], "cpu")  # refuses towers of another hash
        before = load_encoder_of(world).text.state_dict()
        changed = [name for name, tensor in encoder.text.tower.state_dict().items() if not tensor.equal(before[name])]
        assert len(changed) > 20


def load_encoder_of(world: World):
    from xmatching.pairs import Towers
    from xmatching.param import parse_args

    return Towers.from_args(parse_args([*world.towers]))
