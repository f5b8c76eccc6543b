"""Filters and sentences: against the rules of Vokenization's own scripts, written down here once more, and against plain tokenization."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.worlds import World
from tokenization import tokenize_dataset as module
from xvoken.errors import UserError
from xvoken.files import corpus as corpora
from xvoken.towers.tokenizer import load_tokenizer

NAME = "tiny-bert"
SCRIPT = "tokenization.tokenize_dataset"
LINES = [
    " = A Title = ", "", "one", "a line of five words", " only four words here ", " = = Another Title of Seven Words = = ", "  ",
    "two lines in one of them\rparted by a return , the second too short\rso", "tabs\tdo not part\twords , [UNK] naïve café 😀",
    "a b\x0bc d e f", "\x00 \x01 \x02 \x03 \x04", "blanks  count  here", "an end of its own kind\r",
    "a line\u2028separator ends no line . at all",
]  # fmt: skip


def byte_level(folder: Path) -> Path:
    """A tokenizer as RoBERTa's, for which tabs and newlines are tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({character: number for number, character in enumerate(["<s>", "</s>", *alphabet])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


def theirs(path: Path, rule: str, tokenize: Callable[[str], list[int]]) -> tuple[list[int], list[list[int]]]:
    """What Vokenization's tokenize_dataset.py keeps of a text: the numbers of the lines, as Python reads them, and their tokens."""
    kept, found = [], []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file):
            words = len(line.strip().split(" "))
            title = (rule == "wiki103" and line.startswith(" = ")) or (rule == "wiki" and words == 1)
            if title or (rule.startswith("wiki") and words < 5) or not line.strip():
                continue
            if ids := tokenize(line):
                kept.append(number)
                found.append(ids)
    return kept, found


@pytest.mark.parametrize(("rule", "ending", "kind"), [("wiki103", "\n", "bert"), ("wiki", "", "bert"), ("empty", "", "bytes")])
def test_what_a_filter_keeps(
    world: World, tmp_path: Path, script: Callable[..., str], monkeypatch: pytest.MonkeyPatch, rule: str, ending: str, kind: str
):
    """The three files that Vokenization writes, and the numbers of the lines; in parts and by two processes the same."""
    tokenizer = world.bert if kind == "bert" else byte_level(tmp_path / "bytes")
    lines = [f"{line} {number}" if number % 4 == 3 and line.strip() else line for number, line in enumerate(LINES * 4)]
    (tmp_path / "c.txt").write_bytes(("\n".join(lines) + ending).encode())
    loaded = load_tokenizer(str(tokenizer))
    kept, ids = theirs(tmp_path / "c.txt", rule, lambda line: loaded.convert_tokens_to_ids(loaded.tokenize(line)))
    beside = {end: tmp_path / f"c.txt.{tokenizer.name}{end}" for end in ("", ".line", ".kept", ".hdf5")}
    beside[".kept"].write_text("of tokens that were here before\n")
    script(SCRIPT, tmp_path, "c.txt", tokenizer, "--filter", rule, "--num-workers", 2)
    assert beside[""].read_text() == "".join(" ".join(map(str, line)) + "\n" for line in ids)
    assert list(map(int, beside[".kept"].read_text().split())) == kept
    with h5py.File(beside[".hdf5"]) as file:
        assert file["tokens"][:].tolist() == sum(ids, [])
    corpus = corpora.Corpus(tmp_path / "c.txt", tokenizer.name)
    assert corpus.offsets[:].tolist() == [sum(map(len, ids[:number])) for number in range(len(ids) + 1)]
    everything = (tmp_path / "c.txt").read_text().split("\n")  # which reads \r as an end too
    assert list(corpus.texts()) == [everything[number] for number in kept]
    assert f"kept by --filter {rule}" in corpora.check(tmp_path / "c.txt", tokenizer.name)
    made = {end: path.read_bytes() for end, path in beside.items()}
    beside[".hdf5"].unlink()
    monkeypatch.setattr(module, "CHUNK", 5)
    monkeypatch.setattr(module, "LINES_AT_ONCE", 2)
    script(SCRIPT, tmp_path, "c.txt", tokenizer, "--filter", rule)
    assert made == {end: path.read_bytes() for end, path in beside.items()}
    with pytest.raises(UserError, match=f'made with other settings .*filter: "{rule}" then, null now'):
        script(SCRIPT, tmp_path, "c.txt", tokenizer)
    beside[".hdf5"].unlink()
    script(SCRIPT, tmp_path, "c.txt", tokenizer)
    assert not beside[".kept"].exists()  # or it would be taken for the numbers of these lines


def test_what_belongs_to_kept_lines(world: World, tmp_path: Path, script: Callable[..., str]):
    (tmp_path / "c.txt").write_text("one\na line of five words\n")
    with pytest.raises(UserError, match=r"--filter wiki leaves none of its lines \(\{'titles': 1\}\)"):
        script(SCRIPT, tmp_path, "c.txt", world.bert, "--filter", "wiki", "--limit", 1)
    script(SCRIPT, tmp_path, "c.txt", world.bert, "--filter", "wiki103", "--lines-are-sents")
    corpus = corpora.Corpus(tmp_path / "c.txt", NAME, sentences=True)
    assert list(corpus.texts()) == ["a line of five words"] and corpus.rows.named(0) == "a sentence of line 2"
    kept, mend = tmp_path / f"c.txt.{NAME}.kept", f"make all again: rm .*{NAME}.hdf5 && .*bert --filter wiki103 --lines-are-sents"
    for text, said in (("0\n1\n", "2 lines, .*line has 1"), ("x\n", f"not .* rising numbers; {mend}"), (None, "is gone, which says where")):
        kept.write_text(text) if text else kept.unlink()
        with pytest.raises(UserError, match=said):
            corpora.check(tmp_path / "c.txt", NAME)


def test_lines_that_are_sentences(world: World, tmp_path: Path, script: Callable[..., str]):
    """As Vokenization's --lines-are-sents, an empty line is none; its own file, without .line, is read too."""
    (tmp_path / "c.txt").write_text("one two\n\nthree\n")
    script(SCRIPT, tmp_path, "c.txt", world.bert, "--lines-are-sents")
    sent, line = (tmp_path / f"c.txt.{NAME}.{end}" for end in ("sent", "line"))
    assert (sent.read_text(), line.read_text()) == ("0\n2\n3\n", "0\n2\n2\n3\n")
    corpus = corpora.Corpus(tmp_path / "c.txt", NAME, sentences=True)
    assert (list(corpus.texts()), corpus.rows.numbers(0, 2).tolist(), len(corpus[0])) == (["one two", "three"], [0, 2], 2)
    assert "3 lines, 3 tokens of tiny-bert, 2 sentences" in corpora.check(tmp_path / "c.txt", NAME)
    for text, said in (
        ("0\n1\n3\n", "over a line's end, at token 2"),
        ("0\n2\n2\n3\n", "sentence 2 is empty"),
        ("0\n2\n", "ends at token 2"),
    ):
        sent.write_text(text)
        with pytest.raises(UserError, match=said):
            corpora.check(tmp_path / "c.txt", NAME)
    sent.write_text("0\n2\n3\n")
    line.unlink()
    assert len(corpora.Corpus(tmp_path / "c.txt", NAME, sentences=True)) == 2
    sent.unlink()
    (tmp_path / f"c.txt.{NAME}.hdf5").unlink()
    script(SCRIPT, tmp_path, "c.txt", world.bert)
    with pytest.raises(UserError, match=rf"{sent} does not exist; to have sentences, tokenize again: rm .* --sentences"):
        corpora.Corpus(tmp_path / "c.txt", NAME, sentences=True)


def test_without_spacy(world: World, tmp_path: Path, script: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "spacy" else find(name, *more))
    (tmp_path / "c.txt").write_text("one two\n")
    with pytest.raises(UserError, match=r"split by spaCy, which is missing; pip install -e '\.\[sentences\]'"):
        script(SCRIPT, tmp_path, "c.txt", world.bert, "--sentences")


def test_sentences(world: World, tmp_path: Path, script: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    """By Vokenization's rule, counted in tokens; a sentence's text has its tokens; one that starts inside a token starts behind it."""
    spacy = pytest.importorskip("spacy", reason="spaCy is an extra: pip install -e '.[sentences]' -c constraints.txt")
    lines = [
        "It rained. Did it? Unaffable café!  Yes\tit did.",
        "",
        "one sentence only",
        "☃ [UNK]. And 12.5 % ... more",
        "e.g. this",
        "a.b c",
    ] * 3
    (tmp_path / "c.txt").write_text("\n".join(lines))
    script(SCRIPT, tmp_path, "c.txt", world.bert, "--sentences", "--num-workers", 2)
    files = {end: tmp_path / f"c.txt.{NAME}{end}" for end in ("", ".line", ".sent", ".hdf5")}
    tokenizer, english = load_tokenizer(str(world.bert)), spacy.blank("en")
    english.add_pipe("sentencizer")
    expected = [0]
    for line in lines:
        pieces = " ".join(tokenizer.tokenize(line)).replace("[UNK]", "UNK")
        expected += [len(str(sentence).split(" ")) for sentence in english(pieces).sents]
    corpus = corpora.Corpus(tmp_path / "c.txt", NAME, sentences=True)
    assert corpus.offsets[:].tolist() == [sum(expected[: number + 1]) for number in range(len(expected))]
    texts = list(corpus.texts())
    assert texts[:4] == ["It rained.", "Did it?", "Unaffable café!", "Yes\tit did."]
    assert [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts] == [ids.tolist() for ids in corpus]
    assert "sentences" in corpora.check(tmp_path / "c.txt", NAME)
    made = {end: path.read_bytes() for end, path in files.items()}
    files[".hdf5"].unlink()
    monkeypatch.setattr(module, "CHUNK", 4)
    script(SCRIPT, tmp_path, "c.txt", world.bert, "--sentences")
    assert made == {end: path.read_bytes() for end, path in files.items()}
    inside = module.SentenceSplitter(tokenizer)
    tokenizer.add_tokens(["!end", "x"])
    ids = tokenizer.convert_tokens_to_ids(["red", "!end", "x", "blue"])
    sents, _ = inside.split(["red !end x blue"], np.array(ids, np.int32), np.array([4]))
    assert sents.tolist() == [2, 2]
