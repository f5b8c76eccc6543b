"""The Python face: what docs/python.md shows, and the mistakes of who uses it."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import xvoken
from tests import builder
from tests.running import ROOT
from tests.worlds import World
from xvoken.pictures.decode import load_picture


@pytest.mark.slow
def test_the_page_on_python_runs(world: World, keyed: Path, tmp_path: Path, script, monkeypatch: pytest.MonkeyPatch):
    """As it stands, after the README's and the card's, in a folder with what the demo would have left, of a smaller matcher."""
    shutil.copytree(keyed, tmp_path / "snap/xmatching/demo")
    keys = tmp_path / "snap/xmatching/demo/keys"
    sets = ["openmoji_heldout", "openmoji_train", "openmoji_valid"]
    for path in list(keys.glob("shapes_valid.*")):
        for name in sets:
            shutil.copy(path, keys / path.name.replace("shapes_valid", name))
    (tmp_path / "data/demo/dialogues").mkdir(parents=True)
    (tmp_path / "data/demo/dialogues/train.pkl.txt").write_text("a red circle\n\nblue squares\n")
    (tmp_path / "photos").mkdir()
    for name, source in (("a.jpg", "red_circle.png"), ("b.png", "blue_square.png")):
        Image.open(world.folder / "images" / source).save(tmp_path / "photos" / name)
    (tmp_path / "phrases.txt").write_text("".join(f"{phrase}\n" for phrase in builder.phrases(30)))
    monkeypatch.chdir(tmp_path)
    dialogues = tmp_path / "data/demo/dialogues"
    script("tokenization.tokenize_dataset", dialogues, "train.pkl.txt", "minilm")
    shared = ["--load", "snap/xmatching/demo", "--image-sets", ",".join(sets), "--num-workers", 1, "--tokenizer-name", "minilm"]
    script("vokenization.vokenize_corpus_mp", *shared, "--corpus", dialogues / "train.pkl.txt")
    fast = ["--model", "snap/xmatching/demo", "--device", "cpu", "--num_workers", 1, "--exp_name", "demo"]
    script("ctx.encode_captions", *fast, "--captions", "phrases.txt")
    script("ctx.build_context", *fast, "--images", "photos", "--caption_db", "outputs/demo/caption_db.hdf5")
    shutil.copy(tmp_path / "photos/a.jpg", tmp_path / "photo.jpg")
    card = (tmp_path / "snap/xmatching/demo/README.md").read_text().replace('"matcher"', '"snap/xmatching/demo"')  # as it was called
    readme = (ROOT / "README.md").read_text().split("## From Python")[1].split("\n## ")[0]
    code = "".join(code_of(text) for text in (readme, card, (ROOT / "docs/python.md").read_text()))
    assert code.count("xvoken.") > 12
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "a red circle [" in done.stdout and "torch.Size([9, 8, " in done.stdout


def code_of(text: str) -> str:
    return "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_importing_it_loads_nothing_heavy():
    code = (
        "import sys, xvoken; dir(xvoken); xvoken.__version__; print(sorted({'torch', 'transformers', 'faiss', 'h5py'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment()).stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'load_encoders'"):
        xvoken.load_encoders  # noqa: B018


@pytest.fixture(scope="module")
def encoder(matcher: Path):
    return xvoken.load_encoder(matcher, device="cpu")


def test_texts_against_the_towers_own_way(encoder):
    """One at a time, with the tokenizer's own special tokens; in batches, the same to rounding."""
    texts = ["a red circle", "", "blue", "a red circle", "word " * 100]
    found = encoder.encode_texts(texts, batch_size=2)
    assert found.dtype == np.float32 and found.shape == (5, encoder.dim) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert encoder.max_tokens == 40
    for text, vector in zip(texts, found, strict=True):
        ids = torch.tensor([encoder.tokenizer(text, truncation=True, max_length=40)["input_ids"]])
        with torch.inference_mode():
            expected = encoder.text_head(encoder.text.tower(ids, torch.ones_like(ids)))[0]
        np.testing.assert_allclose(vector, expected, atol=1e-5)
    assert encoder.encode_texts([]).shape == (0, encoder.dim)


def test_texts_and_pictures_are_those_of_the_stages(world: World, keyed: Path, encoder):
    keys = xvoken.read_keys(keyed / "keys", ["shapes_train", "shapes_valid"], encoder=encoder)
    assert keys.vectors.shape == (24, 16) and len(keys) == len(keys.paths) == 24
    pictures = encoder.encode_images(keys.paths)
    np.testing.assert_allclose(pictures, keys.vectors, atol=2e-3)
    texts = encoder.encode_texts(["a red circle", "black squares"])
    hits = xvoken.open_index(keys, device="cpu").search(texts, k=3)
    order = np.argsort(-(texts @ keys.vectors.T), axis=1, kind="stable")[:, :3]
    assert np.array_equal(hits.rows, order) and hits.ids == [[keys.ids[row] for row in line] for line in order]
    np.testing.assert_allclose(hits.scores, np.take_along_axis(encoder.similarity(texts, keys.vectors), order, 1), atol=1e-6)
    assert len(xvoken.read_keys(keyed / "keys", ["shapes_train", "shapes_valid"], limit=20)) == 20


def test_pictures_of_pillow_and_broken_ones(world: World, encoder, tmp_path: Path):
    path = world.folder / "images/red_circle.png"
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    clear = load_picture(path).convert("RGBA")
    clear.putalpha(0)
    turned = Image.open(path)
    found = encoder.encode_images([path, turned, clear, Image.new("RGB", turned.size, "white")])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_allclose(found[2], found[3], atol=1e-6)  # transparency on white
    with pytest.raises(xvoken.Error, match=f"picture {tmp_path / 'broken.jpg'}: not a picture"):
        encoder.encode_images([path, tmp_path / "broken.jpg"])
    with pytest.raises(xvoken.Error, match="gone.png: missing"):
        encoder.encode_images(["gone.png"])
    rows = encoder.encode_images([tmp_path / "broken.jpg", path], on_error="nan")
    assert np.isnan(rows[0]).all() and np.allclose(rows[1], found[0], atol=1e-6)


def test_on_token_level_a_text_is_the_mean_of_its_tokens(world: World, tmp_path: Path, script):
    script("xmatching.main", *world.train_flags(tmp_path / "m", "--level", "token", "--epochs", 1))
    encoder = xvoken.load_encoder(tmp_path / "m", towers=["text"], device="cpu")
    ids = torch.tensor([encoder.tokenizer("a red circle")["input_ids"]])
    with torch.inference_mode():
        tokens = encoder.text_head(encoder.text.tower.tokens(ids, torch.ones_like(ids)))[0]
    np.testing.assert_allclose(encoder.encode_texts(["a red circle", "blue"])[0], tokens.mean(0), atol=1e-5)


def test_mistakes_are_one_line(encoder, keyed: Path, tmp_path: Path):
    keys = xvoken.read_keys(keyed / "keys", ["shapes_train"])
    index = xvoken.open_index(keys, device="cpu")
    vectors = np.eye(3, 16, dtype=np.float32)
    text_only = xvoken.load_encoder(keyed, towers=["text"], device="cpu")
    for call, line in (
        (lambda: encoder.encode_texts("a red circle"), "a list of texts was expected, this is a single str"),
        (lambda: encoder.encode_texts(["a", 3]), "text 1 is not a str but int"),
        (lambda: encoder.encode_images("a.png"), "a list of pictures was expected"),
        (lambda: encoder.encode_images([], on_error="skip"), 'on_error=\'skip\': "raise" or "nan"'),
        (lambda: text_only.encode_images(["a.png"]), "loaded without its image tower"),
        (lambda: xvoken.load_encoder(keyed, towers=["words"]), "'words' is not"),
        (lambda: xvoken.load_encoder(tmp_path / "none"), "no snapshot at"),
        (lambda: xvoken.load_encoder(keyed, device="gpu"), "--device gpu: not one of auto, cpu, cuda"),
        (lambda: xvoken.load_encoder(keyed, device=0), "device=0: this machine has no GPU; use cpu or auto"),
        (lambda: xvoken.load_encoder(keyed, device="cuda:0"), "device='cuda:0': this machine has no GPU"),
        (lambda: xvoken.load_encoder(keyed, device=None), "--device None: not one of auto, cpu, cuda"),
        (lambda: xvoken.load_encoder(keyed, towers=None), "a list of towers was expected, this is NoneType"),
        (lambda: xvoken.open_index(keys, device=0), "device=0: this machine has no GPU"),
        (lambda: xvoken.open_index("snap/keys"), "keys: vectors were expected, as encode_texts and encode_images give them; this is str"),
        (
            lambda: index.search(["a red heart"]),
            "queries: vectors were expected, as encode_texts and encode_images give them; this is list",
        ),
        (lambda: index.search(vectors, k="5"), "k=5: a whole number from 1 to 18, the number of keys"),
        (lambda: encoder.similarity(["a"], ["b"]), "texts: vectors were expected"),
        (lambda: encoder.similarity(vectors, vectors[:, :5]), "texts have 16 dimensions, pictures 5"),
        (lambda: encoder.encode_texts(None), "a list of texts was expected, this is NoneType"),
        (lambda: encoder.encode_images([np.zeros((2, 2, 3))]), "0 is neither .* but ndarray; convert an array with PIL.Image.fromarray"),
        (lambda: encoder.encode_images([Image.new("RGB", (0, 0))]), "picture number 0: "),
        (lambda: xvoken.read_keys(keyed / "keys", None), "image_sets=None: a list of names was expected"),
        (lambda: xvoken.read_keys(None, ["a"]), "None: the folder of the keys was expected"),
        (
            lambda: xvoken.read_keys(keyed / "keys", ["shapes_train"], encoder="snap"),
            "encoder='snap': an encoder from load_encoder was expected",
        ),
        (lambda: xvoken.write_keys(tmp_path, "a", vectors, None), "ids=None: a list was expected"),
        (lambda: xvoken.write_keys(tmp_path, 3, vectors, list("abc")), "image set 3: a name alone was expected"),
        (lambda: xvoken.read_vokens(None), "None: the name of a file was expected"),
        (lambda: xvoken.read_corpus(tmp_path, None), "the text file's path and the tokenizer's name were expected"),
        (lambda: xvoken.read_keys(keyed / "keys", "shapes_train"), "a list of names was expected"),
        (lambda: xvoken.read_keys(keyed / "keys", ["others"]), "others.hdf5 does not exist; make it with: python vokenization/extract"),
        (lambda: xvoken.open_index(keys, kind="annoy"), "kind='annoy': not one of flat, ivf, hnsw, ivfpq"),
        (lambda: index.search(np.zeros((2, 8))), r"queries of shape \(2, 8\): \(Q, 16\) was expected"),
        (lambda: index.search(vectors[0]), r"queries of shape \(16,\)"),
        (lambda: index.search(vectors * np.nan), "query 0 is not finite"),
        (lambda: index.search(vectors, k=1000), "k=1000: a whole number from 1 to 18, the number of keys"),
        (lambda: xvoken.write_keys(tmp_path, "a", vectors * 2, list("abc")), "row 0 has length 2"),
        (lambda: xvoken.write_keys(tmp_path, "a", vectors, ["a", "b"]), "3 vectors, 2 ids"),
        (lambda: xvoken.write_keys(tmp_path, "a", vectors, ["a", "b", "a"]), "the same id"),
        (lambda: xvoken.write_keys(tmp_path, "a", vectors, ["a", "b", "c\n"]), "can't stand in a list"),
        (lambda: xvoken.write_keys(tmp_path, "../a", vectors, list("abc")), "names are made of letters"),
        (lambda: xvoken.read_vokens(tmp_path / "lines.txt.set"), "lines.txt.set.hdf5 does not exist"),
        (lambda: xvoken.read_corpus(tmp_path / "lines.txt", "minilm"), "make it with: python tokenization/tokenize_dataset.py"),
    ):
        with pytest.raises(xvoken.Error, match=line) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_batch_size_that_makes_no_sense(encoder, world: World, size: float):
    """Of -1 no batch would be done, and what lay in memory be given back."""
    for encode, one in ((encoder.encode_texts, "a"), (encoder.encode_images, world.folder / "images/red_circle.png")):
        with pytest.raises(xvoken.Error, match="a whole number of at least 1 was expected"):
            encode([one], batch_size=size)


def test_more_mistakes_are_one_line(encoder, matcher: Path, keyed: Path, tmp_path: Path):
    few, many = np.eye(3, 16, dtype=np.float32), np.random.default_rng(0).standard_normal((300, 16), np.float32)
    none = np.where(np.arange(300)[:, None] == 7, np.nan, many)
    for call, said in (
        (lambda: xvoken.load_encoder(matcher, precision="fp16"), "precision='fp16': not one of auto, bf16, fp32"),
        (lambda: encoder.encode_texts(["a", "\udcff"]), "text 1 is not valid Unicode"),
        (lambda: encoder.encode_images([np.zeros((5, 5, 3), np.uint8)]), "picture 0 is neither a path nor a Pillow image but ndarray"),
        (lambda: encoder.encode_images([Image.new("RGB", (0, 5))]), "picture number 0: empty: 0 x 5"),
        (lambda: xvoken.open_index(none), "key 7 is not finite"),
        (lambda: xvoken.open_index(none, "ivf"), "key 7 is not finite"),
        (lambda: xvoken.open_index(few[:, :0]), "keys of shape .3, 0."),
        (lambda: xvoken.open_index(few).search(few, 2.0), "k=2.0: a whole number from 1 to 3, the number of keys"),
        (lambda: xvoken.open_index(many, "ivf", recall=2), "recall=2: a share above 0"),
        (lambda: xvoken.open_index(many, "ivf", queries=few[0]), "queries of shape .16,."),
        (lambda: xvoken.open_index(many, "ivf", queries=few * np.nan), "queries of shape .3, 16.: at least one row of .Q, 16., all finite"),
        (lambda: xvoken.read_keys(keyed / "keys", ["shapes_train"], limit=0), "limit=0: a whole number of at least 1"),
        (lambda: xvoken.write_keys(tmp_path, "x", np.eye(3), ["a", "b", "c"], encoder=encoder), "of 3 dimensions, but those of .* have 16"),
    ):  # fmt: skip
        with pytest.raises(xvoken.Error, match=said):
            call()
    assert xvoken.open_index(many.astype(np.float64), "ivf", queries=few.astype(np.float64)).search(few, np.int64(2)).rows.shape == (3, 2)
    assert xvoken.load_encoder(matcher, device=torch.device("cpu")).device == "cpu"


def test_keys_are_written_and_those_of_another_encoder_refused(encoder, keyed: Path, tmp_path: Path):
    vectors = encoder.encode_texts(["a", "b", "c"])
    path = xvoken.write_keys(tmp_path, "mine", vectors, ["x", "y", "z"], encoder=encoder)
    assert path == tmp_path / "mine.hdf5" and sorted(p.name for p in tmp_path.iterdir()) == [
        "mine.hdf5", "mine.ids", "mine.path", "mine.skipped.tsv",
    ]  # fmt: skip
    assert np.array_equal(xvoken.read_keys(tmp_path, ["mine"], encoder=encoder).vectors, vectors)
    with pytest.raises(xvoken.Error, match="is there already; choose another name, or make it again after: rm"):
        xvoken.write_keys(tmp_path, "mine", vectors, ["x", "y", "z"])

    class Other:
        name, hash, dim = "other", "0123456789abcdef", 16

    xvoken.write_keys(tmp_path, "theirs", vectors, ["x", "y", "z"], encoder=Other)
    with pytest.raises(xvoken.Error, match="keys of another snapshot"):
        xvoken.read_keys(tmp_path, ["theirs"], encoder=encoder)
    with pytest.raises(xvoken.Error, match="theirs.hdf5: keys of another snapshot .*the first set's is"):
        xvoken.read_keys(tmp_path, ["mine", "theirs"])


@pytest.mark.slow
def test_threads_share_an_encoder(world: World, tmp_path: Path, script):
    """Also one whose tower averages earlier maps, which hooks collect."""
    script("xmatching.main", *world.train_flags(tmp_path / "m", "--visn-pool", "maps", "--epochs", 1))
    encoder = xvoken.load_encoder(tmp_path / "m", device="cpu")
    paths = sorted((world.folder / "images").iterdir())[:12]
    texts = [f"a {path.stem}" for path in paths]
    pictures, sentences = encoder.encode_images(paths), encoder.encode_texts(texts)
    with ThreadPoolExecutor(4) as threads:
        images = list(threads.map(lambda path: encoder.encode_images([path])[0], paths * 3))
        words = list(threads.map(lambda text: encoder.encode_texts([text])[0], texts * 3))
    np.testing.assert_allclose(images, np.tile(pictures, (3, 1)), atol=1e-5)
    np.testing.assert_allclose(words, np.tile(sentences, (3, 1)), atol=1e-5)


def test_another_process_loads_its_own(encoder, world: World, keyed: Path):
    again = pickle.loads(pickle.dumps(encoder))
    assert again.hash == encoder.hash and np.array_equal(again.encode_texts(["blue"]), encoder.encode_texts(["blue"]))
    corpus = xvoken.read_corpus(world.folder / "corpus/lines.txt", world.bert)
    assert np.array_equal(pickle.loads(pickle.dumps(corpus))[0], corpus[0])
    keys = xvoken.read_keys(keyed / "keys", ["shapes_train"])
    assert len(repr(encoder)) < 200 and len(repr(keys)) < 200


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "ivfpq"])
def test_approximate_indexes_in_memory(kind: str):
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((2000, 16), np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    queries = rng.standard_normal((100, 16), np.float32)
    exact = np.sort(queries @ keys.T, axis=1)[:, ::-1][:, :10]
    hits = xvoken.open_index(keys, kind=kind, queries=queries, recall=0.9).search(queries, k=10)
    assert (hits.scores >= exact[:, -1:] - 1e-6).mean() >= 0.9
    assert hits.ids[0][0] == str(hits.rows[0, 0])
    few = xvoken.open_index(keys[:100], kind=kind).search(queries, k=10)  # too few for an index: exact
    np.testing.assert_allclose(few.scores, np.sort(queries @ keys[:100].T, axis=1)[:, ::-1][:, :10], atol=1e-5)
