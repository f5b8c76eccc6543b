"""Vokens carried over to another tokenizer's tokens, against every pair of tokens of a line."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import RobertaTokenizerFast

import xvoken
from tests.running import run_here
from tests.vokenization.test_min_probability import SETS, flags
from tests.vokenization.varied import varied
from tests.worlds import World
from vokenization.spans import aligned, carried, trimmed
from xvoken.cli.check import check
from xvoken.files import vokens
from xvoken.towers.tokenizer import load_tokenizer

LINES = [
    "a red circle", "", "  two  blanks\tand a café naïve", "北京 squares 😀😀 go, unaffable", "\u200b", "   ", "square " * 50 + "circle",
    "... don't paint it black-and-white (or pink)!", "ﬁne ligature ½ ẞtraße",
]  # fmt: skip
STAGE = "vokenization/revokenize_corpus_mp.py"


@pytest.fixture(scope="module", params=["token", "signed", "all", "first"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def corpus(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text and its tokens by the matcher's tokenizer and by a byte-level one, as RoBERTa's, called bpe."""
    folder = tmp_path_factory.mktemp("text")
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(LINES * 3, vocab_size=330, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    (folder / "raw").mkdir()
    trained.save_model(str(folder / "raw"))
    (folder / "raw/config.json").write_text('{"model_type": "roberta"}')
    RobertaTokenizerFast.from_pretrained(folder / "raw").save_pretrained(folder / "bpe")
    (folder / "lines.txt").write_text("\r\n".join(LINES * 2) + "\n")
    for tokenizer in (world.bert, folder / "bpe"):
        assert run_here("tokenization/tokenize_dataset.py", folder, "lines.txt", tokenizer).returncode == 0
    return folder / "lines.txt"


@pytest.fixture(scope="module")
def load(world: World, corpus: Path, kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matcher with vokens of the corpus of this kind, in segments of 20 tokens; lines below a probability are left without."""
    load = varied(world, tmp_path_factory, "token" if kind == "token" else "sentence", f"sent_{kind}")
    more = ["--corpus", corpus, "--segment", 20, *([] if kind == "token" else ["--vokens", kind])]
    retrieve = ["vokenization/vokenize_corpus_mp.py", *flags(world, load, load / "vokens", *more)]
    assert run_here(*retrieve).returncode == 0
    least = float(np.nanquantile(vokens.read(load / "vokens", "lines.txt", SETS).probability, 0.2))
    shutil.rmtree(load / "vokens")
    assert run_here(*retrieve, "--min-probability", least).returncode == 0
    return load


def asked(world: World, load: Path, corpus: Path, *more: object) -> list[object]:
    where = ["--load", load, "--corpus", corpus, "--image-sets", "shapes_train,shapes_valid"]
    return [STAGE, *where, "--forward-tokenizer-name", world.bert, "--backward-tokenizer-name", corpus.parent / "bpe", *more]


def best_of_all(own: tuple[int, int], others: list[tuple[int, int]]) -> list[int]:
    """The places of the spans that share the largest part with `own`; none where no character is shared."""
    shared = [len({*range(*own)} & {*range(*other)}) / max(len({*range(*own)} | {*range(*other)}), 1) for other in others]
    return [place for place, part in enumerate(shared) if part == max(shared)] if max(shared, default=0) else []


def test_each_token_has_the_voken_of_its_characters(world: World, load: Path, corpus: Path, kind: str):
    command = asked(world, load, corpus)
    done = run_here(*command)
    assert done.returncode == 0, done.stderr
    where = load / "vokens/bpe"
    old, new = vokens.read(load / "vokens", "lines.txt", SETS), vokens.read(where, "lines.txt", SETS)
    ours, theirs = (xvoken.read_corpus(corpus, str(name)) for name in (world.bert, corpus.parent / "bpe"))
    assert len(new.vokens) == len(theirs.tokens) != len(old.vokens) and new.ids == old.ids  # as Vokenization's loader demands
    for name in ("indices", "scores", "probability"):
        assert np.array_equal(getattr(old, name), getattr(new, name), equal_nan=True)
    tokenizers, compared, without = [load_tokenizer(str(name)).backend_tokenizer for name in (world.bert, corpus.parent / "bpe")], 0, 0
    for line, text in enumerate(text.replace("\t", " ") for text in LINES * 2):
        spans = [trimmed(text, tokenizer.encode(text, add_special_tokens=False).offsets) for tokenizer in tokenizers]
        mine, got = (side.vokens[slice(*of.offsets[line : line + 2])] for side, of in ((old, ours), (new, theirs)))
        if kind in ("signed", "first"):  # by their lines' and segments' rows
            mine, starts = rows_of(mine, kind)
            got, new_starts = rows_of(got, kind)
            assert len(starts) == len(new_starts) or not len(mine)
        for own, voken in zip(spans[1], got, strict=True):
            places = best_of_all(own, spans[0])
            assert not places or voken == mine[places[0]]
            compared, without = compared + bool(places), without + (voken < 0)
    assert compared > 200 and without > 2
    assert check(vokens.hdf5_file(where, "lines.txt", SETS), [corpus.with_name("lines.txt.bpe.hdf5")])
    text = vokens.text_file(where, "lines.txt", SETS).read_text().split("\n")[:-1]
    source = vokens.text_file(load / "vokens", "lines.txt", SETS).read_text().split("\n")[:-1]
    assert text == source if kind != "token" else [len(line.split()) for line in text] == np.diff(theirs.offsets[:]).tolist()
    assert "skipped" in run_here(*command).stderr
    report = json.loads(vokens.hdf5_file(where, "lines.txt", SETS).with_suffix(".hdf5.report.json").read_text())
    assert (report["lines"], report["tokens"], report["vokens"]) == (18, len(new.vokens), kind)


def rows_of(found: np.ndarray, kind: str) -> tuple[np.ndarray, list[int]]:
    """Token by token: the row of each, -1 without, and where a new one starts."""
    rows, starts = [], []
    for place, voken in enumerate(found.tolist()):
        if voken >= 0:
            starts.append(place)
        rows.append(voken if voken >= 0 else -1 if not starts else found[starts[-1]])
        assert voken in (rows[-1], -100, -rows[-1] - 1)
        assert voken >= 0 or not starts or voken == {"signed": -rows[-1] - 1, "first": -100}[kind]
    return np.array(rows), starts


@pytest.mark.parametrize("kind", ["token"], indirect=True)
def test_what_does_not_go_together(world: World, load: Path, corpus: Path, tmp_path: Path):
    right = asked(world, load, corpus, "--output", tmp_path / "out")
    for flag, value, said in [
        ("--forward-tokenizer-name", corpus.parent / "bpe", "bpe: not the tokenizer of"),
        ("--backward-tokenizer-name", corpus.parent / "raw", "no such folder|does not exist; make it with: python tokenization"),
        ("--image-sets", "shapes_valid", "does not exist; make it with: python vokenization/vokenize_corpus_mp.py"),
        ("--output", load / "vokens", "the vokens that are read lie there"),
    ]:
        done = run_here(*right, flag, value)
        assert done.returncode == 2 and any(part in done.stderr for part in said.split("|")), done.stderr
    for name in ("lines.txt", "lines.txt.bpe.hdf5", "lines.txt.bpe.line", "lines.txt.tiny-bert.hdf5", "lines.txt.tiny-bert.line"):
        shutil.copy(corpus.with_name(name), tmp_path / name)
    with h5py.File(tmp_path / "lines.txt.bpe.hdf5", "r+") as file:  # tokens of another text, which do not say so
        file["tokens"][1] = file["tokens"][0]
    moved = [tmp_path / "lines.txt" if word == corpus else word for word in right]
    done = run_here(*moved)
    assert done.returncode != 0 and "its tokens of line 1 are not those that" in done.stderr
    assert not (tmp_path / "out/lines.txt.shapes_train_shapes_valid.hdf5").exists()


def test_the_rule_by_hand():
    """The first of those that overlap most; without any, where the token before has come to."""
    assert aligned([(0, 1), (2, 6), (6, 9), (9, 9)], [(0, 1), (2, 4), (4, 9)]) == [0, 1, 2, 2]
    assert aligned([(0, 4)], [(0, 2), (2, 4)]) == [0] and aligned([(5, 6)], [(0, 2)]) == [0]
    assert trimmed(" a b ", [(0, 2), (2, 5), (0, 1)]) == [(1, 2), (3, 4), (1, 1)]
    signed = np.array([7, -8, 3, -4, -4], np.int32)
    assert carried(signed, np.array([1, 1, 4]), "signed").tolist() == [7, -8, 3]
    assert carried(np.array([-100, -100], np.int32), np.array([0, 0, 1]), "signed").tolist() == [-100] * 3
    assert carried(np.array([99, -100], np.int32), np.array([0, 1, 1]), "signed").tolist() == [99, -100, -100]
    assert carried(np.empty(0, np.int32), np.array([0]), "all").tolist() == [-100]
