from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from transformers import BertTokenizerFast

from tests.worlds import World
from tokenization import tokenize_dataset as module
from xvoken.errors import UserError
from xvoken.files import corpus as corpora
from xvoken.towers.tokenizer import load_tokenizer

NAME = "tiny-bert"
LINES = [
    "Hello there\thow are you?",
    "",
    "a  red   circle",
    "  ",
    "naïve café 😀",
    "line\u2028separator \x0b inside",
    "[CLS] [SEP] x",
    "last",
]


def files(folder: Path, name: str = "c.txt") -> dict[str, bytes]:
    return {end: (folder / f"{name}.{NAME}{end}").read_bytes() for end in ("", ".line", ".hdf5")}


def test_three_files_against_the_tokenizer(world: World, tmp_path: Path, script: Callable[..., str]):
    (tmp_path / "c.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    printed = script("tokenization.tokenize_dataset", tmp_path, "c.txt", world.bert)
    tokenizer = load_tokenizer("minilm")
    expected = [tokenizer(line, add_special_tokens=False)["input_ids"] for line in LINES]
    with h5py.File(tmp_path / f"c.txt.{NAME}.hdf5") as file:
        tokens = file["tokens"][:]
        assert file["tokens"].dtype == np.int32
    offsets = [int(line) for line in (tmp_path / f"c.txt.{NAME}.line").read_text().split("\n")[:-1]]
    assert len(offsets) == len(LINES) + 1
    assert [tokens[a:b].tolist() for a, b in zip(offsets, offsets[1:], strict=False)] == expected
    text = (tmp_path / f"c.txt.{NAME}").read_text().split("\n")
    assert text == [" ".join(map(str, ids)) for ids in expected] + [""]
    assert f"wrote 8 lines (2 without tokens), {len(tokens)} tokens" in printed
    assert "8 lines" in corpora.check(tmp_path / "c.txt", NAME)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("ending", ["\n", "", "\r\n"])
def test_parts_workers_and_line_ends_change_nothing(
    world: World, tmp_path: Path, script: Callable, monkeypatch: pytest.MonkeyPatch, workers: int, ending: str
):
    """Small parts and small blocks, in one or two processes, against one part; with and without a newline at the end."""
    many = [f"{line} {i}" if i % 5 else "" for i, line in enumerate(LINES * 6)]
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    for folder in (whole, parted):
        folder.mkdir()
        (folder / "c.txt").write_bytes((ending or "\n").join(many).encode() + ending.encode())
    script("tokenization.tokenize_dataset", whole, "c.txt", world.bert)
    if workers == 1:  # a spawned worker imports the module anew, with its own constants
        monkeypatch.setattr(module, "CHUNK", 7)
        monkeypatch.setattr(module, "BLOCK", 50)
    script("tokenization.tokenize_dataset", parted, "c.txt", world.bert, "--num-workers", workers)
    assert files(whole) == files(parted)
    assert len(corpora.Corpus(parted / "c.txt", NAME)) == len(many)


def test_second_run_other_corpus_and_limit(world: World, tmp_path: Path, script: Callable[..., str]):
    path = tmp_path / "c.txt"
    path.write_text("one\ntwo\nthree\n")
    assert "wrote 2 lines" in script("tokenization.tokenize_dataset", tmp_path, "c.txt", world.bert, "--limit", 2)
    before = files(tmp_path)
    assert "skipped" in script("tokenization.tokenize_dataset", tmp_path, "c.txt", world.bert, "--limit", 2)
    with pytest.raises(UserError, match='limit: 2 then, "all" now'):
        script("tokenization.tokenize_dataset", tmp_path, "c.txt", world.bert)
    path.write_text("one\ntwo\nfour\n")
    with pytest.raises(UserError, match="made with other settings.*corpus"):
        script("tokenization.tokenize_dataset", tmp_path, "c.txt", world.bert, "--limit", 2)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fine\nalso fine\nbad \xff here\n", "line 3 is not UTF-8"),
        ("fine\nhalf a character: é".encode()[:-1], "line 2 is not UTF-8"),
        (b"", "is empty"),
    ],
)
def test_bad_corpora(world: World, tmp_path: Path, script: Callable, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str):
    monkeypatch.setattr(module, "BLOCK", 6)
    (tmp_path / "c.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        script("tokenization.tokenize_dataset", tmp_path, "c.txt", world.bert)
    assert [path.name for path in tmp_path.iterdir()] == ["c.txt"]


def test_missing_corpus_and_tokenizer(world: World, tmp_path: Path, script: Callable[..., str]):
    with pytest.raises(UserError, match="No such file"):
        script("tokenization.tokenize_dataset", tmp_path, "c.txt", world.bert)
    (tmp_path / "c.txt").write_text("x\n")
    with pytest.raises(UserError, match="hf download no-such-tokenizer"):
        script("tokenization.tokenize_dataset", tmp_path, "c.txt", "no-such-tokenizer")


def test_a_vocabulary_with_holes(tmp_path: Path, script: Callable[..., str]):
    """Its largest id is beyond the number of its tokens."""
    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "red": 70, "circle": 900}
    BertTokenizerFast(vocab=words).save_pretrained(tmp_path / "holes")
    (tmp_path / "c.txt").write_text("red circle\ncircle\n")
    script("tokenization.tokenize_dataset", tmp_path, "c.txt", tmp_path / "holes")
    assert (tmp_path / "c.txt.holes").read_text() == "70 900\n900\n"
    assert "2 lines, 3 tokens" in corpora.check(tmp_path / "c.txt", "holes")


def test_damaged_tokens_are_refused(world: World, tmp_path: Path, script: Callable[..., str]):
    (tmp_path / "c.txt").write_text("one two\nthree\n")
    script("tokenization.tokenize_dataset", tmp_path, "c.txt", world.bert)
    output = tmp_path / f"c.txt.{NAME}.hdf5"
    output.write_bytes(output.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"no whole hdf5 file .*remove it, then make it with: python tokenization/tokenize_dataset.py"):
        script("tokenization.tokenize_dataset", tmp_path, "c.txt", world.bert)
    with h5py.File(output, "w") as file:
        file["tokens"] = 3
    with pytest.raises(UserError, match="no dataset `tokens` of 1 dimensions"):
        script("tokenization.tokenize_dataset", tmp_path, "c.txt", world.bert)


def test_check_and_reading_find_damage(world: World, tmp_path: Path, script: Callable[..., str]):
    (tmp_path / "c.txt").write_text("one two\nthree\n")
    script("tokenization.tokenize_dataset", tmp_path, "c.txt", world.bert)
    line = tmp_path / f"c.txt.{NAME}.line"
    for content, message in (("0\n2\n4\n", "ends at token 4"), ("1\n2\n3\n", "starts with 0"), ("0\nx\n", "starts with 0"), ("", "starts")):
        line.write_text(content)
        with pytest.raises(UserError, match=message):
            corpora.Corpus(tmp_path / "c.txt", NAME)
    line.write_text("0\n1\n3\n")
    with pytest.raises(UserError, match="line 1 differs"):
        corpora.check(tmp_path / "c.txt", NAME)
