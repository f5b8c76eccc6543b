"""The diversity of a corpus' pictures: against one token at a time, second runs, edited inputs, mistakes."""

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import builder
from tests.running import run_here
from tests.worlds import World
from vokenization import assignments
from xvoken.encoders.encoder import Encoder, load_encoder
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.towers.tokenizer import load_tokenizer

LINES = ["a red circle", "", "do you like squares?\tyes , black ones", "   ", "blue " + "circle " * 60, "a red circle", "a pink square"]
CAPTIONS = {"p0": ["a red circle", "circle painted red"], "p1": ["a blue square"], "p2": ["", "a red square and a red circle"]}
SCRIPT = "vokenization/evaluate_diversity.py"


@pytest.fixture(scope="module", params=["sentence", "token"])
def level(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def made(world: World, level: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a matcher (load/, random weights), keys of the sets mine (30 pictures) and other (8), captions, and a text."""
    from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec

    folder = tmp_path_factory.mktemp(level)
    builder.save_bert(folder / "tiny-bert", builder.spread, **builder.sizes(32, 5, 4, max_position_embeddings=40))
    load_tokenizer(str(world.bert)).save_pretrained(folder / "tiny-bert")
    text, image = TextTowerSpec(str(folder / "tiny-bert"), (2, 1)), ImageTowerSpec("resnet18", str(world.resnet))
    builder.save_snapshot(folder / "load", text, image, hidden=32, dim=16, max_len=32, level=level)
    save_keys(folder)
    (folder / "lxmert").mkdir()
    (folder / "lxmert/mine.json").write_text(json.dumps([{"img_id": i, "sentf": {"mscoco": said}} for i, said in CAPTIONS.items()]))
    (folder / "lines.txt").write_text("\n".join(LINES) + "\n")
    return folder


def save_keys(folder: Path, seed: int = 0) -> None:
    """Random keys near the vectors of sentences, so that these find many different ones; p2 has none, and p1 has p0's twin."""
    encoder = load_encoder(str(folder / "load"), ["text"], "cpu")
    near, noise = encoder.encode_texts(builder.phrases(60)[:38]), np.random.default_rng(seed).standard_normal((38, 16), np.float32)
    vectors = (near + 0.1 * noise).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[1] = vectors[0]
    ids = [f"p{i}" for i in range(31) if i != 2]
    key_files.write_keys(folder / "load/keys", "mine", vectors[:30], ids, encoder=encoder)
    key_files.write_keys(folder / "load/keys", "other", vectors[30:], [f"p{i}" for i in range(8)], encoder=encoder)


def flags(folder: Path, *more: object) -> list[object]:
    roots = ["--lxmert-root", folder / "lxmert", "--image-root", folder, "--coco-root", folder]
    return ["--load", folder / "load", "--image-sets", "other,mine", "--device", "cpu", *roots, *more]


def measured(folder: Path, corpus: object, output: Path, *more: object) -> tuple[dict, str]:
    """The record, and what was printed."""
    done = run_here(SCRIPT, *flags(folder, "--corpus", corpus, "--output", output, *more))
    assert done.returncode == 0, done.stderr
    return json.loads((output / f"diversity.mine_other.{Path(str(corpus)).name}.json").read_text()), done.stdout + done.stderr


def inputs(ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64)


@torch.inference_mode()
def by_hand(folder: Path, lines: list[str]) -> tuple[Encoder, list[list[tuple[int, torch.Tensor]]]]:
    """One line at a time: of each token that has a picture, its id and its scores of all keys (N,)."""
    encoder = load_encoder(str(folder / "load"), ["text"], "cpu")
    keys = torch.from_numpy(np.concatenate([key_files.read(folder / "load/keys", name).keys for name in ("mine", "other")]))
    found = []
    for line in lines:
        ids = encoder.tokenizer(line)["input_ids"]
        most, inner = encoder.text.tower.max_tokens - 2, ids[1:-1]
        if encoder.level == "token":  # in pieces of equal length that the tower takes
            step, found_here = max(len(inner) // max(-(-len(inner) // most), 1), 1), []
            for piece in (inner[start : start + step] for start in range(0, len(inner), step)):
                vectors = encoder.text_head(encoder.text.tower.tokens(*inputs([ids[0], *piece, ids[-1]]))[0])[1:-1]
                found_here += [(token, keys @ vector) for token, vector in zip(piece, vectors, strict=True)]
            found.append(found_here)
        else:
            (vector,) = encoder.text_head(encoder.text.tower(*inputs([ids[0], *inner[:most], ids[-1]])))
            found.append([(token, keys @ vector) for token in inner])
    return encoder, found


def test_a_corpus_against_one_token_at_a_time(made: Path, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(assignments, "SLAB", 2)  # one slab without any token
    lines = [LINES[0], "", "   ", "", *LINES[2:]]
    (tmp_path / "lines.txt").write_text("\r\n".join(lines))
    record, printed = measured(made, tmp_path / "lines.txt", tmp_path)
    counts = defaultdict(lambda: defaultdict(int))
    for tokens in by_hand(made, [line.replace("\t", " ") for line in lines])[1]:
        for token, scores in tokens:
            counts[token][int(scores.argmax())] += 1
    times = [sum(of.values()) for of in counts.values()]
    assert (record["lines"], record["tokens"], record["types"], record["level"]) == (len(lines), sum(times), len(counts), level)
    averages = np.mean([(len(of), max(of.values()), np.mean([*of.values()]), np.std([*of.values()])) for of in counts.values()], 0)
    assert list(record["averages"].values()) == pytest.approx(averages.tolist(), abs=1e-3)
    used = {row for of in counts.values() for row in of}
    assert len(used) > 2 and record["usage"]["used"] == len(used) and record["usage"]["pictures"] == 38
    assert record["recall"] is None and "recall" not in printed and "Gini" in printed


def test_captions_and_their_recall(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """p2 has no key: its tokens count in all but the recall. p0 and p1 share a key: either is first in half of the orders."""
    monkeypatch.setattr(assignments, "SLAB", 2)
    record, printed = measured(made, "mine", tmp_path)
    texts = [(picture, text) for picture, said in CAPTIONS.items() for text in said]
    rows, hits, tokens = {"p0": 0, "p1": 1}, dict.fromkeys((1, 5, 10), 0.0), 0
    for (picture, _), found in zip(texts, by_hand(made, [text for _, text in texts])[1], strict=True):
        for _, scores in found if picture in rows else []:
            tokens += 1
            above, twins = int((scores > scores[rows[picture]] + 1e-6).sum()), 2
            for k in hits:
                hits[k] += min(max(k - above, 0), twins) / twins
    found = record["recall"]
    assert (found["captions"], found["tokens"]) == (3, tokens) and record["tokens"] > tokens and record["lines"] == 5
    assert {k: found[f"R{k}"] for k in hits} == pytest.approx({k: 100 * hit / tokens for k, hit in hits.items()}, abs=1e-3)
    assert found["R1"] < found["R10"] and 0 < sum(found[f"R{k}"] for k in hits) < 300  # or this would show nothing
    assert found["chance"] == {"R1": 2.632, "R5": 13.158, "R10": 26.316}
    assert "mine: 2 of 5 captions have no recall" in printed and f"recall of {tokens} captions' tokens: R@1, R@5, R@10" in printed


def test_captions_whose_pictures_are_not_searched(made: Path, tmp_path: Path):
    """The set `other` has pictures of the same ids, which are others."""
    done = run_here(SCRIPT, *flags(made, "--corpus", "mine", "--output", tmp_path, "--image-sets", "other"))
    assert done.returncode == 0 and "5 of 5 captions have no recall" in done.stderr
    assert json.loads((tmp_path / "diversity.other.mine.json").read_text())["recall"] is None


def test_a_captioned_set_under_its_other_name(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("xvoken.files.image_sets.LXMERT_NAMES", {"also_mine": "mine"})
    one, other = measured(made, "mine", tmp_path)[0], measured(made, "also_mine", tmp_path)[0]
    assert one["recall"] and one == other


def test_tokens_alone_give_the_record_of_the_text(world: World, made: Path, tmp_path: Path):
    corpus, dropped = tmp_path / "lines.txt", ("settings",)
    shutil.copy(made / "lines.txt", corpus)
    whole, first = (measured(made, corpus, tmp_path / f"text{n}", "--maxsents", n)[0] for n in (-1, 3))
    assert whole["lines"] == 7 and first["lines"] == 3
    assert run_here("tokenization/tokenize_dataset.py", tmp_path, "lines.txt", world.bert).returncode == 0
    corpus.unlink()
    for n, text in ((10, whole), (3, first)):
        tokens = measured(made, corpus, tmp_path / f"tokens{n}", "--maxsents", n)[0]
        assert {k: v for k, v in tokens.items() if k not in dropped} == {k: v for k, v in text.items() if k not in dropped}


def test_second_runs_and_edited_inputs(made: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    corpus, both = folder / "lines.txt", f"mine, {folder}/lines.txt"

    def run(*more: object) -> tuple[list[bool], list[bytes]]:
        """Which of both were measured, and the files."""
        done = run_here(SCRIPT, *flags(folder, "--corpus", both, *more))
        assert done.returncode == 0, done.stderr
        paths = [folder / f"load/eval/diversity.mine_other.{name}.json" for name in ("mine", "lines.txt")]
        assert all(f"skipped: {path} holds this diversity already" in done.stderr or f"wrote {path}" in done.stdout for path in paths)
        assert "mine in mine_other: 5 lines" in done.stdout and "lines.txt in mine_other" in done.stdout
        return [f"wrote {path}" in done.stdout for path in paths], [path.read_bytes() for path in paths]

    first = run()[1]
    assert run("--image-sets", "mine,other") == ([False, False], first)
    corpus.write_text("\n".join([*LINES[:6], "a green square"]) + "\n")
    assert run()[0] == [False, True]
    corpus.write_text("\n".join(LINES) + "\n")
    assert run() == ([False, True], first)
    captions = folder / "lxmert/mine.json"
    text = captions.read_text()
    captions.write_text(text.replace('"p0"', '"p9"'))  # the same sentences, of another picture
    assert run()[0] == [True, False]
    captions.write_text(text)
    assert run() == ([True, False], first)
    for path in (folder / "load/keys").glob("*"):
        path.unlink()
    save_keys(folder, seed=1)
    assert run()[0] == [True, True]


@pytest.mark.parametrize(
    ("corpus", "more", "said"),
    [
        ("nothing.txt", [], "--corpus nothing.txt: neither a set with captions (in LXMERT there are: mine), nor a text file"),
        ("coco_minival", [], "mscoco_minival.json does not exist; docs/data.md says how to get it"),
        ("mine", ["--langs", "cc"], "no sentence of cc in it"),
        ("empty.txt", [], "empty.txt: no token in its 2 lines"),
        ("latin.txt", [], "latin.txt: line 2 is not UTF-8"),
        ("lines.txt", ["--image-sets", "nowhere"], "nowhere.hdf5 does not exist; make it with: python vokenization/extract_vision_keys.py"),
        ("lines.txt,sub/lines.txt", [], "--corpus: 2 are called lines.txt"),
        (" , ", [], "argument --corpus: no name in it"),
        ("lines.txt", ["--maxsents", 0], "a whole number of at least 1 is needed, or -1"),
    ],
)
def test_mistakes(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: str, more: list[object], said: str):
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "latin.txt").write_bytes(b"a\n\xe9\n")
    (tmp_path / "sub").mkdir()
    for name in ("lines.txt", "sub/lines.txt"):
        shutil.copy(made / "lines.txt", tmp_path / name)
    done = run_here(SCRIPT, *flags(made, "--corpus", corpus, "--output", tmp_path / "out", *more), cwd=tmp_path)
    assert done.returncode == 2 and said.replace("LXMERT", f"{made}/lxmert") in done.stderr, done.stderr
    assert len([line for line in done.stderr.splitlines() if "error" in line]) == 1 and not list(tmp_path.glob("out/*.json"))


def test_tokens_given_as_a_text(world: World, made: Path, tmp_path: Path):
    """The ids would be read as words."""
    shutil.copy(made / "lines.txt", tmp_path / "lines.txt")
    assert run_here("tokenization/tokenize_dataset.py", tmp_path, "lines.txt", world.bert).returncode == 0
    for ending in ("", ".hdf5"):
        done = run_here(SCRIPT, *flags(made, "--corpus", tmp_path / f"lines.txt.tiny-bert{ending}"))
        assert done.returncode == 2 and f"give the name of that text, such as: --corpus {tmp_path}/lines.txt" in done.stderr, done.stderr


def test_tokens_of_another_tokenizer(made: Path, tmp_path: Path, script: Callable[..., str]):
    builder.save_wordpiece(tmp_path / "words", builder.WORDS, "abcdefghijklmnopqrstuvwxyz")
    shutil.copy(made / "lines.txt", tmp_path / "lines.txt")
    script("tokenization.tokenize_dataset", tmp_path, "lines.txt", tmp_path / "words")
    (tmp_path / "lines.txt").unlink()
    with pytest.raises(UserError, match=r"made by another tokenizer \(words"):
        script("vokenization.evaluate_diversity", *flags(made, "--corpus", tmp_path / "lines.txt", "--tokenizer-name", tmp_path / "words"))


def test_an_output_that_is_not_finite(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The line is named, and nothing is written."""
    keep = Encoder.text_vectors
    monkeypatch.setattr(Encoder, "text_vectors", lambda self, features: keep(self, features) * torch.nan)
    for corpus, named in ((made / "lines.txt", f"{made}/lines.txt: line "), ("mine", f"{made}/lxmert/mine.json: caption ")):
        done = run_here(SCRIPT, *flags(made, "--corpus", corpus, "--output", tmp_path))
        assert done.returncode == 2 and re.search(rf"{re.escape(named)}\d: the model's output for it", done.stderr)
    assert not list(tmp_path.glob("*.json"))
