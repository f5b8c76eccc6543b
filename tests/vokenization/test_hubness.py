"""--hubness through the commands, against numpy: what is taken off scores, in which bank, and what second runs do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests import builder
from tests.worlds import World
from vokenization import hubness
from xvoken.cli.check import check
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files import vokens
from xvoken.files.image_sets import Roots, read_captioned

SETS = ("shapes_train", "shapes_valid")


def less(vectors: np.ndarray, bank: np.ndarray, alpha: float) -> np.ndarray:
    return alpha * np.sort(vectors.astype(np.float64) @ bank.astype(np.float64).T, axis=1)[:, -16:].mean(1)


def lines_of(path: Path) -> list[str]:
    return [line.replace("\t", " ") for line in path.read_text().split("\n")[:-1]]


def require_best(found: vokens.Vokens, text: np.ndarray, keys: np.ndarray, off: np.ndarray, filled: list[int], k: int) -> None:
    """Scores of the lines `filled`, whose vectors are `text`, are the best corrected ones, of the rows that are named."""
    scores = text @ keys.T - off
    np.testing.assert_allclose(found.scores[filled], -np.sort(-scores, 1)[:, :k], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(scores, found.indices[filled].astype(np.int64), 1), found.scores[filled], atol=1e-5)


@pytest.fixture
def retrieve(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]) -> Callable[..., str]:
    """Run vokenize_corpus_mp.py over both sets, whose keys are copied to tmp_path/keys, into tmp_path/out."""
    shutil.copytree(keyed / "keys", tmp_path / "keys", ignore=shutil.ignore_patterns("*.hubness.*"))

    def run(*more: object) -> str:
        flags = ["--load", keyed, "--keys-dir", tmp_path / "keys", "--image-sets", ",".join(SETS), "--num-workers", 1]
        corpus = ["--corpus", world.folder / "corpus/lines.txt", "--output", tmp_path / "out"]
        return script("vokenization.vokenize_corpus_mp", *flags, *corpus, *more)

    return run


@pytest.mark.parametrize("backend", ["faiss", "torch"])
def test_retrieval_against_numpy(world: World, keyed: Path, tmp_path: Path, retrieve: Callable[..., str], backend: str):
    retrieve("--hubness", 0.75, "--backend", backend)
    lines = lines_of(world.folder / "corpus/lines.txt")
    filled = [row for row, line in enumerate(lines) if line.strip()]
    text = load_encoder(keyed, ["text"], "cpu").encode_texts([lines[row] for row in filled])
    keys = np.concatenate([key_files.read(keyed / "keys", name).keys for name in SETS])
    off = less(keys, text, 0.75)
    require_best(vokens.read(tmp_path / "out", "lines.txt", "_".join(SETS)), text, keys, off, filled, 5)
    (path,) = (tmp_path / "keys").glob("*.hubness.npy")
    np.testing.assert_allclose(np.load(path), off, atol=1e-6)
    assert "hubness of 24 keys, alpha 0.75, in a bank of 15 lines" in check(path)
    out = vokens.hdf5_file(tmp_path / "out", "lines.txt", "_".join(SETS))
    assert vokens.read_settings(out).items() >= {"hubness": 0.75, "bank": path.name.split(".")[1]}.items()
    with h5py.File(out) as file:
        assert "less 0.75 times each image's mean with its 16 nearest of the bank" in file.attrs["scores"]
    assert "top 5 of 24 images" in check(out)


def test_second_runs(tmp_path: Path, retrieve: Callable[..., str]):
    printed = retrieve("--hubness", 0.5)
    assert "measuring the hubness of 24 images in 15 vectors of 15 lines" in printed
    files = {path: path.stat().st_mtime_ns for path in [*(tmp_path / "out").iterdir(), *(tmp_path / "keys").iterdir()]}
    assert "skipped" in retrieve("--hubness", 0.5)
    with pytest.raises(UserError, match="bank: .* then, .* now, hubness: 0.5 then, 0.75 now"):
        retrieve("--hubness", 0.75)
    for plain in ([], ["--hubness", 0]):
        with pytest.raises(UserError, match="bank: .* then, null now, hubness: 0.5 then, null now"):
            retrieve(*plain)
    # The corpus decides the bank, not how much of it is retrieved for.
    assert "measuring" not in retrieve("--hubness", 0.5, "--limit", 3, "--output", tmp_path / "few")
    whole, few = (vokens.read(tmp_path / name, "lines.txt", "_".join(SETS)) for name in ("out", "few"))
    np.testing.assert_allclose(whole.scores[:3], few.scores, atol=1e-6)
    assert np.array_equal(whole.indices[:3], few.indices)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    retrieve("--output", tmp_path / "plain")
    settings = vokens.read_settings(vokens.hdf5_file(tmp_path / "plain", "lines.txt", "_".join(SETS)))
    assert not {"hubness", "bank"} & set(settings)  # as in files from before there was a correction


def test_another_corpus_is_another_bank(world: World, tmp_path: Path, retrieve: Callable[..., str], script: Callable[..., str]):
    corpus = tmp_path / "lines.txt"
    for text in ("a red circle\nblue\n", "a red circle\ngreen\n"):
        for path in tmp_path.glob("lines.txt*"):
            path.unlink()
        corpus.write_text(text)
        script("tokenization.tokenize_dataset", tmp_path, "lines.txt", world.bert)
        if "blue" in text:
            retrieve("--hubness", 0.5, "--corpus", corpus)
    with pytest.raises(UserError, match="bank: .* then, .* now, corpus: .* then"):
        retrieve("--hubness", 0.5, "--corpus", corpus)
    retrieve("--hubness", 0.5, "--corpus", corpus, "--output", tmp_path / "again")
    assert len(list((tmp_path / "keys").glob("*.hubness.npy"))) == 2


def test_damaged_numbers_and_mistakes(world: World, tmp_path: Path, retrieve: Callable[..., str], script: Callable[..., str], monkeypatch):
    retrieve("--hubness", 0.5)
    (path,) = (tmp_path / "keys").glob("*.hubness.npy")
    again = ["--hubness", 0.5, "--output", tmp_path / "again"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + b"\0\0\0\0")
    for call in (lambda: retrieve(*again), lambda: check(path)):
        with pytest.raises(UserError, match=r"not the file that .*hubness.json describes; remove it, .* rm .*hubness.json"):
            call()
    path.write_bytes(whole)
    other = path.with_name(path.name.replace(path.name.split(".")[1], "0" * 12))
    for ending in (".npy", ".json"):
        shutil.copy(path.with_suffix(ending), other.with_suffix(ending))
    with pytest.raises(UserError, match="the hash in its name is not that of its bank"):
        check(other)
    path.with_suffix(".json").unlink()  # as a kill leaves it: made again
    assert "measuring the hubness" in retrieve(*again) and path.read_bytes() == whole
    (tmp_path / "empty.txt").write_text("\n\n")
    script("tokenization.tokenize_dataset", tmp_path, "empty.txt", world.bert)
    with pytest.raises(UserError, match="no line with tokens to measure hubness in; take --hubness 0"):
        retrieve("--hubness", 0.5, "--corpus", tmp_path / "empty.txt")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"hubness.npy: can't be written; copy the keys .* or take --hubness 0"):
        retrieve("--hubness", 0.6, "--output", tmp_path / "third")
    for wrong in ("-1", "nan", "inf", "x"):
        with pytest.raises(SystemExit):
            retrieve("--hubness", wrong)


def random_keys(folder: Path, load: Path, number: int) -> np.ndarray:
    encoder = load_encoder(load, [], "cpu")
    keys = np.random.default_rng(0).standard_normal((number, encoder.dim), np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    names = [f"{i}.jpg" for i in range(number)]
    key_files.write(folder, "made", [keys], names, names, [], {}, {"snapshot_hash": encoder.hash})
    return keys


@pytest.mark.parametrize("kind", ["ivf", "ivfpq"])
def test_approximate_indexes_have_a_bank(world: World, tmp_path: Path, keyed: Path, retrieve: Callable[..., str], kind: str):
    """ivfpq's short codes keep too little of a key where 0.75 of what all scores have in common is taken off; it says its recall."""
    keys = random_keys(tmp_path / "keys", keyed, 1200)
    shared = ["--image-sets", "made", "--hubness", 0.75]
    retrieve(*shared, "--index", "flat")
    asked = [*shared, "--index", kind, "--index-recall", 0.9 if kind == "ivfpq" else 1, "--output", tmp_path / kind]
    printed = retrieve(*asked)
    assert "against exact search for 15 queries" in printed and (kind == "ivfpq" or "recall@5 1.000" in printed)
    (path,) = (tmp_path / "keys").glob("*.hubness.npy")
    bank = path.name.split(".")[1]
    receipt = json.loads((tmp_path / f"keys/made.{bank}.{kind}.json").read_text())
    assert receipt["bank"] == bank and receipt["dim"] == 24 and not (tmp_path / f"keys/made.{kind}.faiss").exists()
    assert f"{kind} index of 1,200 keys" in check(tmp_path / f"keys/made.{bank}.{kind}.faiss")
    flat, found = (vokens.read(tmp_path / name, "lines.txt", "made") for name in ("out", kind))
    assert kind == "ivfpq" or np.array_equal(flat.indices, found.indices)
    filled = flat.indices[:, 0] >= 0
    exact = load_encoder(keyed, ["text"], "cpu").encode_texts(lines_of(world.folder / "corpus/lines.txt")) @ keys.T - np.load(path)
    here = np.take_along_axis(exact, found.indices.astype(np.int64), 1)
    np.testing.assert_allclose(found.scores[filled], here[filled], atol=1e-5)
    assert "skipped" in retrieve(*asked)
    retrieve("--image-sets", "made", "--index", kind, "--output", tmp_path / "plain")  # another index, of the keys themselves
    assert "bank" not in json.loads((tmp_path / f"keys/made.{kind}.json").read_text())


def test_a_sample_of_a_long_corpus(tmp_path: Path, retrieve: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hubness, "LINES", 4)
    assert "in 4 vectors of 4 lines" in retrieve("--hubness", 0.5)


def test_clip(world: World, tmp_path: Path, script: Callable[..., str]):
    clip = builder.save_clip(tmp_path / "clip")
    keys = random_keys(tmp_path / "keys", clip, 300)
    lines = ["a red dog", "", *(f"a {word} near the house" for word in builder.WORDS)]
    (tmp_path / "lines.txt").write_text("\n".join(lines) + "\n")
    script("tokenization.tokenize_dataset", tmp_path, "lines.txt", clip)
    flags = ["--keys-dir", tmp_path / "keys", "--image-sets", "made", "--num-workers", 1, "--corpus", tmp_path / "lines.txt"]
    script("vokenization.vokenize_corpus_mp", "--load", clip, *flags, "--output", tmp_path / "out", "--hubness", 0.5)
    filled = [row for row, line in enumerate(lines) if line]
    text = load_encoder(clip, ["text"], "cpu").encode_texts([lines[row] for row in filled])
    require_best(vokens.read(tmp_path / "out", "lines.txt", "made"), text, keys, less(keys, text, 0.5), filled, 5)


def test_token_level(world: World, tmp_path: Path, script: Callable[..., str]):
    """The bank: the vectors of lines, and of about as many of their tokens; vokens are each token's best by the corrected scores."""
    specs = TextTowerSpec(str(world.bert), (1,)), ImageTowerSpec("resnet18", str(world.resnet))
    load = builder.save_snapshot(tmp_path / "snap", *specs, hidden=32, dim=16, max_len=30, level="token")
    keys = random_keys(tmp_path / "keys", load, 300)
    shutil.copy(world.folder / "corpus/lines.txt", tmp_path)
    script("tokenization.tokenize_dataset", tmp_path, "lines.txt", world.bert)
    flags = ["--keys-dir", tmp_path / "keys", "--image-sets", "made", "--num-workers", 1, "--corpus", tmp_path / "lines.txt"]
    flags += ["--tokenizer-name", world.bert, "--index", "flat", "--segment", 0]
    script("vokenization.vokenize_corpus_mp", "--load", load, *flags, "--output", tmp_path / "out", "--hubness", 0.5)
    (path,) = (tmp_path / "keys").glob("*.hubness.npy")
    off, found, at, said = np.load(path), vokens.read(tmp_path / "out", "lines.txt", "made"), 0, {}
    encoder, lines = load_encoder(load, ["text"], "cpu"), lines_of(tmp_path / "lines.txt")
    filled = [row for row, line in enumerate(lines) if line.strip()]
    text = encoder.encode_texts([lines[row] for row in filled])
    require_best(found, text, keys, off, filled, 5)
    for number, line in enumerate(lines):
        own = encoder.tokenizer(line, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([encoder.tokenizer(line, truncation=True, max_length=40)["input_ids"]])
        words = encoder.text_vectors(encoder.text.tower.tokens(ids, torch.ones_like(ids)))[0, 1:-1].numpy()
        scores, rows = words @ keys.T - off, found.vokens[at : at + len(words)]
        np.testing.assert_allclose(np.take_along_axis(scores, rows[:, None].astype(np.int64), 1)[:, 0], scores.max(1), atol=1e-5)
        at += len(own)
        said[number] = words
    assert at == len(found.vokens)
    words = np.concatenate([said[row] for row in sorted(filled, key=lambda row: len(said[row]))])  # as they come in batches
    np.testing.assert_allclose(off, less(keys, np.concatenate([text, words[:: len(words) // len(text)]]), 0.5), atol=1e-5)


def captions_of(world: World, name: str) -> tuple[list[str], np.ndarray]:
    """Captions of a set, and each one's row, the keys being in the file's order."""
    read = read_captioned(name, ["mscoco"], Roots(world.folder / "lxmert", world.folder, world.folder / "images"))
    return [text for _, text in read.captions], np.array([row for row, _ in read.captions])


def recalls(text: np.ndarray, image: np.ndarray, owner: np.ndarray, less_text: np.ndarray, less_image: np.ndarray) -> dict:
    """R@1 and 5 both ways, by sorting; no two scores may be equal."""
    scores, found = text.astype(np.float64) @ image.T.astype(np.float64), {}
    to_image, to_text = np.argsort(-(scores - less_image), 1), np.argsort(-(scores.T - less_text), 1)
    for k in (1, 5):
        found["text_to_image", k] = 100 * (to_image[:, :k] == owner[:, None]).any(1).mean()
        found["image_to_text", k] = 100 * (owner[to_text[:, :k]] == np.arange(len(image))[:, None]).any(1).mean()
    return found


def require_recalls(record: dict, expected: dict) -> None:
    for (side, k), value in expected.items():
        assert record[side][f"R{k}"] == pytest.approx(value, abs=1e-3), (side, k)


def test_evaluation_in_a_set(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    evaluate = ["vokenization.evaluate_retrieval", "--load", keyed, "--image-sets", "shapes_valid", *world.roots, "--num-workers", 1]
    evaluate += ["--output", tmp_path]
    with pytest.raises(UserError, match="has no bank of its own; name a captioned set that has keys: --bank-set NAME"):
        script(*evaluate, "--hubness", 0.5)
    with pytest.raises(UserError, match="--bank-set shapes_train: is used only with --hubness A"):
        script(*evaluate, "--bank-set", "shapes_train")
    plain = script(*evaluate)
    assert "hubness" not in plain
    printed = script(*evaluate, "--hubness", 2, "--bank-set", "shapes_train")
    assert "shapes_valid, hubness 2 taken off: 12 captions, 6 images" in printed and "wrote" in printed
    record = json.loads((tmp_path / "shapes_valid.json").read_text())
    assert record["hubness"] == record["settings"]["hubness"] == 2
    assert record["bank"] == {"of": "shapes_train", "sentences": 36, "pictures": 18}
    encoder = load_encoder(keyed, ["text"], "cpu")
    image, pictures = (key_files.read(keyed / "keys", name).keys for name in ("shapes_valid", "shapes_train"))
    (captions, owner), (sentences, _) = captions_of(world, "shapes_valid"), captions_of(world, "shapes_train")
    text, said = encoder.encode_texts(captions), encoder.encode_texts(sentences)
    require_recalls(record, recalls(text, image, owner, less(text, pictures, 2), less(image, said, 2)))
    assert "skipped" in script(*evaluate, "--hubness", 2, "--bank-set", "shapes_train")
    assert "wrote" in script(*evaluate, "--hubness", 1, "--bank-set", "shapes_train")
    assert script(*evaluate).split("\nwrote")[0] == plain.split("\nwrote")[0]
    assert not {"hubness", "bank"} & set(json.loads((tmp_path / "shapes_valid.json").read_text())["settings"])


def test_a_snapshot_with_a_bank_of_its_own(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str], retrieve: Callable):
    """Its hubness is the default of evaluation and of retrieval; in evaluation it is measured in its own bank."""
    load = tmp_path / "snap"
    shutil.copytree(keyed, load, ignore=shutil.ignore_patterns("eval", "vokens", "keys"))
    tensors, config = snapshots.read_tensors(load / "BEST.safetensors")
    numbers = torch.Generator().manual_seed(0)
    bank = snapshots.Bank(*(torch.nn.functional.normalize(torch.randn(n, 16, generator=numbers)).half() for n in (30, 9)))
    config["model"]["hubness"] = 0.75
    snapshots.write_tensors(load / "BEST.safetensors", {**tensors, **bank.tensors}, config)
    encoder = load_encoder(load, ["text"], "cpu")
    assert encoder.hubness == 0.75 and torch.equal(encoder.bank.text, bank.text.float())
    assert load_encoder(keyed, [], "cpu").bank is None
    for name in SETS:
        with h5py.File(tmp_path / f"keys/{name}.hdf5", "r+") as file:
            file.attrs["snapshot_hash"] = encoder.hash
    shared = ["--load", load, "--keys-dir", tmp_path / "keys"]
    evaluate = ["vokenization.evaluate_retrieval", *shared, "--image-sets", "shapes_valid", *world.roots, "--num-workers", 1]
    script(*evaluate)
    record = json.loads((load / "eval/shapes_valid.json").read_text())
    assert record["bank"] == {"of": "the snapshot", "sentences": 30, "pictures": 9}
    image, (captions, owner) = key_files.read(tmp_path / "keys", "shapes_valid").keys, captions_of(world, "shapes_valid")
    text = encoder.encode_texts(captions)
    off = less(text, bank.image.numpy(), 0.75), less(image, bank.text.numpy(), 0.75)
    require_recalls(record, recalls(text, image, owner, *off))
    assert "hubness" not in script(*evaluate, "--hubness", 0, "--output", tmp_path / "plain")
    retrieve(*shared)
    path = vokens.hdf5_file(tmp_path / "out", "lines.txt", "_".join(SETS))
    assert vokens.read_settings(path)["hubness"] == 0.75
    tensors.pop("bank.image", None)
    for wrong in (
        {"bank.text": bank.text},
        {**bank.tensors, "bank.image": torch.ones(2, 3)},
        {**bank.tensors, "bank.text": torch.full((2, 16), torch.nan)},
        {**bank.tensors, "bank.text": 1.5 * bank.text},
    ):
        snapshots.write_tensors(load / "BEST.safetensors", {**tensors, **wrong}, config)
        with pytest.raises(UserError, match="bank.text and bank.image must be 1 to 4096 rows of 16 numbers, of length 1"):
            snapshots.read(load)
