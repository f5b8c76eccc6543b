"""Pictures for sentences, and for lines that a filter kept: as for a text that has these as its lines, and shown with their text."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import xvoken
from tests import builder
from tests.running import run_here
from tests.tokenization.test_rows import byte_level
from tests.worlds import World
from vokenization.revokenize_corpus_mp import lines_of
from xvoken.cli.check import check
from xvoken.encoders.encoder import load_encoder
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files import tokens as token_files
from xvoken.files.offsets import Offsets
from xvoken.files.rows import LinesOfSentences, Rows
from xvoken.files.safe import sha256_of_file
from xvoken.towers.tokenizer import load_tokenizer, tokenize, tokenizer_hash

# Lines of sentences; the filter left the empty ones and the title out.
TEXT = [
    ["a red circle .", "two squares , one of them blue !"], [], ["do you like squares ?\tyes , black ones ."], [" = title = "],
    ["blue", "circle " * 30 + ".", "the end"], [],
]  # fmt: skip
KEPT = [0, 2, 4]
SENTENCES = [sentence.strip() for line in KEPT for sentence in TEXT[line]]
RETRIEVE, PAGE, DIVERSITY = "vokenization/vokenize_corpus_mp.py", "vokenization/page.py", "vokenization/evaluate_diversity.py"


@pytest.fixture(scope="module", params=["sentence", "token"])
def made(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matcher (random weights) with keys of 30 pictures; text.txt, whose tokens a filter and sentences were used for, and flat.txt.

    The latter has text.txt's sentences as its lines. Images for both are in flat/ and sentences/, for text.txt's lines in lines/.
    """
    from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec

    folder = tmp_path_factory.mktemp(request.param)
    builder.save_bert(folder / "tiny-bert", builder.spread, **builder.sizes(32, 5, 4, max_position_embeddings=50))
    load_tokenizer(str(world.bert)).save_pretrained(folder / "tiny-bert")
    text, image = TextTowerSpec(str(folder / "tiny-bert"), (2, 1)), ImageTowerSpec("resnet18", str(world.resnet))
    builder.save_snapshot(folder / "load", text, image, hidden=32, dim=16, max_len=32, level=request.param)
    encoder = load_encoder(str(folder / "load"), ["text"], "cpu")
    photos = builder.save_pictures(folder / "photos", {f"p{number}": (30, 20) for number in range(30)})
    paths = sorted(photos.iterdir())
    near = encoder.encode_texts(builder.phrases(60)[:30])
    near /= np.linalg.norm(near, axis=1, keepdims=True)  # on token level they are means of unit vectors
    key_files.write_keys(folder / "load/keys", "mine", near, [p.stem for p in paths], paths, encoder)
    (folder / "flat.txt").write_text("\n".join(SENTENCES) + "\n")
    (folder / "text.txt").write_text("\n".join(" ".join(line) for line in TEXT) + "\n")
    assert run_here("tokenization/tokenize_dataset.py", folder, "flat.txt", folder / "tiny-bert").returncode == 0
    write_tokens(folder / "text.txt")
    for name, corpus, more in (("flat", "flat.txt", ()), ("sentences", "text.txt", ["--sentences"]), ("lines", "text.txt", ())):
        done = run_here(RETRIEVE, *flags(folder, corpus), "--output", folder / name, "--topk", 3, *more)
        assert done.returncode == 0, done.stderr
    return folder


def write_tokens(path: Path) -> None:
    """The tokens of text.txt as two parts, the second one of the last line kept."""
    tokenizer = load_tokenizer(str(path.parent / "tiny-bert"))
    parts, at = [], 0
    for lines in (KEPT[:2], KEPT[2:]):
        ids, offsets = tokenize(tokenizer, [sentence for line in lines for sentence in TEXT[line]])
        sents = np.diff(offsets)
        counts = np.add.reduceat(sents, np.cumsum([0, *(len(TEXT[line]) for line in lines[:-1])]))
        spans = [
            (sum(len(one) + 1 for one in TEXT[n][:i]), min(sum(len(one) + 1 for one in TEXT[n][: i + 1]), len(" ".join(TEXT[n]))))
            for n in lines
            for i in range(len(TEXT[n]))
        ]
        text = path.with_name(f"part{at}")
        text.write_text("\n".join(" ".join(map(str, part.tolist())) for part in np.split(ids, np.cumsum(counts)[:-1])) + "\n")
        kept = np.array(lines) - at
        parts.append(token_files.Part(text, ids, counts, 4, kept, sents, np.array(spans, np.int32)))
        at += 4
    settings = {"tokenizer": "tiny-bert", "tokenizer_hash": tokenizer_hash(tokenizer), "corpus": sha256_of_file(path)}
    token_files.write(
        path, "tiny-bert", parts, {**settings, "limit": 0, "filter": "wiki103", "sentences": "spacy"}, lambda lines, tokens: None
    )


def flags(folder: Path, corpus: str) -> list[object]:
    return ["--load", folder / "load", "--corpus", folder / corpus, "--image-sets", "mine", "--device", "cpu"]


def found(folder: Path, name: str, corpus: str) -> dict[str, np.ndarray]:
    with h5py.File(folder / name / f"{corpus}.mine.hdf5") as file:
        return {key: file[key][:] for key in file}


def test_a_row_a_sentence(made: Path):
    """Indices, scores, vokens and text as of a corpus of these lines; of lines, those kept."""
    flat, rows = found(made, "flat", "flat.txt"), found(made, "sentences", "text.txt")
    assert rows.pop("line").tolist() == [0, 0, 2, 4, 4, 4] and rows.pop("span").shape == (6, 2)
    np.testing.assert_allclose(rows.pop("scores"), flat.pop("scores"), atol=1e-5)
    assert {key: array.tolist() for key, array in rows.items()} == {key: array.tolist() for key, array in flat.items()}
    assert (made / "sentences/text.txt.mine").read_text() == (made / "flat/flat.txt.mine").read_text()
    lines = found(made, "lines", "text.txt")
    assert lines["line"].tolist() == KEPT and lines["indices"].shape == (3, 3) and "span" not in lines and "line" not in flat
    assert len(lines["vokens"]) == len(rows["vokens"])


def test_the_text_of_a_row(made: Path, tmp_path: Path):
    """In Python, on the page and by check."""
    vokens = xvoken.read_vokens(made / "sentences/text.txt.mine")
    assert list(vokens.texts(made / "text.txt")) == SENTENCES and vokens.lines.tolist() == [0, 0, 2, 4, 4, 4]
    assert "6 sentences" in repr(vokens)
    kept = xvoken.read_vokens(made / "lines/text.txt.mine")
    whole = [" ".join(TEXT[line]) for line in KEPT]
    assert list(kept.texts(made / "text.txt")) == whole and list(xvoken.read_corpus(made / "text.txt", "tiny-bert").texts()) == whole
    assert list(xvoken.read_vokens(made / "flat/flat.txt.mine").texts(made / "flat.txt")) == SENTENCES
    with pytest.raises(UserError, match=r"text.txt.mine.hdf5 was made of another text than .*flat.txt holds now"):
        vokens.texts(made / "flat.txt")
    for name, texts, noun, numbers in (("sentences", SENTENCES, "sentence", [0, 0, 2, 4, 4, 4]), ("lines", whole, "kept line", KEPT)):
        page = tmp_path / f"{name}.html"
        given = ["--vokens", made / name / "text.txt.mine", "--corpus", made / "text.txt", "--keys-dir", made / "load/keys"]
        done = run_here(PAGE, *given, "--output", page)
        assert done.returncode == 0, done.stderr
        (chunk,) = (tmp_path / name).rglob("text.0.js")
        assert json.loads(re.search(r"0,(.*)\);", chunk.read_text())[1]).split("\n") == texts
        assert f'"noun":"{noun}"' in page.read_text()
        packed = json.loads(re.search(r"0,(.*)\);", chunk.with_name("found.0.js").read_text())[1])["lines"]
        assert np.frombuffer(base64.b64decode(packed), "<i4").tolist() == numbers
    tokens = made / "text.txt.tiny-bert.hdf5"
    done = run_here("scripts/check.py", *(made / name / "text.txt.mine.hdf5" for name in ("sentences", "lines")), tokens)
    assert done.returncode == 0 and "images for 6 sentences" in done.stdout and "3 lines, " in done.stdout, done.stderr


def test_rows_of_another_kind_are_refused(made: Path, tmp_path: Path):
    done = run_here(RETRIEVE, *flags(made, "text.txt"), "--output", made / "lines", "--topk", 3, "--sentences")
    assert done.returncode == 2 and "lines: 3 then, 6 now, sentences: null then" in done.stderr
    done = run_here(RETRIEVE, *flags(made, "text.txt"), "--output", made / "sentences", "--topk", 3, "--sentences")
    assert done.returncode == 0 and "holds the images of these 6 sentences already" in done.stderr + done.stdout
    name = tmp_path / "text.txt.mine"
    for end in ("", ".hdf5", ".ids"):
        name.with_name(name.name + end).write_bytes((made / f"sentences/text.txt.mine{end}").read_bytes())
    sent = made / "text.txt.tiny-bert.sent"
    before = sent.read_text()
    try:
        sent.write_text("\n".join(before.split("\n")[:1] + before.split("\n")[2:]))  # a sentence less
        done = run_here("scripts/check.py", f"{name}.hdf5", made / "text.txt.tiny-bert.hdf5")
        assert done.returncode == 2 and "is not two numbers a sentence" in done.stderr
    finally:
        sent.write_text(before)
    with h5py.File(f"{name}.hdf5", "r+") as file:
        file["line"][0] = 3
    done = run_here("scripts/check.py", f"{name}.hdf5")
    assert done.returncode == 2 and "do not say where each row stands" in done.stderr


def test_diversity_of_rows(made: Path, tmp_path: Path):
    """Of sentences as of a text of these lines; of a filtered corpus only the lines that were kept."""
    records = {}
    for name, corpus, more in (("flat", "flat.txt", ()), ("sentences", "text.txt", ["--sentences"]), ("lines", "text.txt", ())):
        done = run_here(DIVERSITY, *flags(made, corpus), "--output", tmp_path / name, *more)
        assert done.returncode == 0, done.stderr
        records[name] = json.loads((tmp_path / name / f"diversity.mine.{corpus}.json").read_text())
        del records[name]["settings"]
    assert records["sentences"].pop("rows") == "sentence" and records["sentences"] == records["flat"]
    assert records["lines"]["lines"] == 3


@pytest.mark.parametrize("name", ["one line", "\ttabs"])
def test_sentences_that_vokenization_left(made: Path, tmp_path: Path, script: Callable[..., str], name: str):
    """Its own .sent beside its own files: without attributes, and without the characters of sentences, whose whole line is shown."""
    (tmp_path / "c.txt").write_text(f"{name} . two\nthree\n")
    script("tokenization.tokenize_dataset", tmp_path, "c.txt", made / "tiny-bert")
    with h5py.File(tmp_path / "c.txt.tiny-bert.hdf5", "r+") as file:
        for key in list(file.attrs):
            del file.attrs[key]
    total = len(xvoken.read_corpus(tmp_path / "c.txt", "tiny-bert").tokens)
    (tmp_path / "c.txt.tiny-bert.sent").write_text(f"0\n{total - 2}\n{total - 1}\n{total}\n")
    script("vokenization.vokenize_corpus_mp", *flags(made, str(tmp_path / "c.txt")), "--output", tmp_path, "--topk", 1, "--sentences")
    vokens = xvoken.read_vokens(tmp_path / "c.txt.mine")
    assert vokens.lines.tolist() == [0, 0, 1] and list(vokens.texts(tmp_path / "c.txt")) == [f"{name} . two"] * 2 + ["three"]


def test_vokens_of_another_tokenizer_after_a_filter(made: Path, tmp_path: Path, script: Callable[..., str]):
    """As of a text without the other lines; the byte-level tokenizer has a token for the newline too, which takes the voken before it."""
    kept = ["a red circle\tand two", "a line that a return ends", "blue"]
    (tmp_path / "c.txt").write_bytes(f"{kept[0]}\r\n\n{kept[1]}\r{kept[2]}\n \n".encode())
    (tmp_path / "flat.txt").write_text("\n".join(kept) + "\n")
    found = {}
    for name, rule in (("c.txt", ["--filter", "empty"]), ("flat.txt", [])):
        for tokenizer in (made / "tiny-bert", byte_level(tmp_path / "bytes")):
            script("tokenization.tokenize_dataset", tmp_path, name, tokenizer, *rule)
        where = ["--load", made / "load", "--corpus", tmp_path / name, "--image-sets", "mine"]
        script("vokenization.vokenize_corpus_mp", *where, "--device", "cpu", "--output", tmp_path / "out")
        there = ["--vokens-dir", tmp_path / "out", "--backward-tokenizer-name", tmp_path / "bytes", "--output", tmp_path / "bytes-out"]
        script("vokenization.revokenize_corpus_mp", *where, *there)
        carried = xvoken.read_vokens(tmp_path / f"bytes-out/{name}.mine")
        offsets = xvoken.read_corpus(tmp_path / name, str(tmp_path / "bytes")).offsets[:]
        found[name] = [carried.vokens[start:stop].tolist() for start, stop in zip(offsets, offsets[1:], strict=False)]
    assert [line[:-1] for line in found["c.txt"]] == found["flat.txt"]
    assert carried.indices.shape == (3, 5) and list(xvoken.read_vokens(tmp_path / "bytes-out/c.txt.mine").texts(tmp_path / "c.txt")) == kept
    one = tmp_path / "one.txt"  # with a line that is control characters, of which BERT's tokenizer makes nothing
    one.write_text("a red circle\n\x01 \x02\nblue\n")
    for tokenizer in (made / "tiny-bert", tmp_path / "bytes"):
        script("tokenization.tokenize_dataset", tmp_path, one.name, tokenizer, "--filter", "empty")
    ours, theirs = (xvoken.read_corpus(one, name) for name in ("tiny-bert", "bytes"))
    (tmp_path / "v").mkdir()
    with h5py.File(tmp_path / "v/one.txt.mine.hdf5", "w") as file:
        file["vokens"] = np.zeros(len(ours.tokens), np.int32)
        file.attrs["settings"] = json.dumps({"corpus": ours.identity})
    with pytest.raises(UserError, match=r"bytes.hdf5: line 2 of the text, as 1 in all, has tokens by one of the two tokenizers"):
        lines_of(tmp_path / "v/one.txt.mine", ours, theirs)
    with h5py.File(tmp_path / "v/one.txt.mine.hdf5", "r+") as file:
        del file["vokens"]
        file["vokens"] = np.zeros(2, np.int32)
        file.attrs["settings"] = json.dumps({"corpus": ours.identity, "sentences": "of these", "lines": 1})
    with pytest.raises(UserError, match="of the first 1 sentences only, where lines are needed"):
        lines_of(tmp_path / "v/one.txt.mine", ours, ours)


def test_revokenized_sentences_are_checked(made: Path, tmp_path: Path, script: Callable[..., str]):
    """Beside the second tokenizer's tokens, which know other sentences or none."""
    (tmp_path / "c.txt").write_text("a red circle . two\n")
    for tokenizer in (made / "tiny-bert", byte_level(tmp_path / "bytes")):
        script("tokenization.tokenize_dataset", tmp_path, "c.txt", tokenizer)
    (tmp_path / "c.txt.tiny-bert.sent").write_text("0\n4\n5\n")
    where = ["--load", made / "load", "--corpus", tmp_path / "c.txt", "--image-sets", "mine"]
    script("vokenization.vokenize_corpus_mp", *where, "--device", "cpu", "--output", tmp_path / "out", "--sentences")
    script("vokenization.revokenize_corpus_mp", *where, "--vokens-dir", tmp_path / "out", "--backward-tokenizer-name", tmp_path / "bytes")
    carried, tokens = tmp_path / "out/bytes/c.txt.mine.hdf5", tmp_path / "c.txt.bytes.hdf5"
    assert "for 2 sentences" in check(carried, [carried, tokens])
    assert "for 2 sentences" in check(carried.parents[1] / carried.name, [tmp_path / "c.txt.tiny-bert.hdf5"])


def test_sentences_that_are_none_in_the_text(tmp_path: Path):
    """Characters that a line has not, and sentences that are empty or go over a line's end: refused, not shown as something else."""
    (tmp_path / "t").write_text("one two\nthree\n")
    for span in ((-3, 4), (4, 3), (0, 8)):
        with pytest.raises(UserError, match=rf"t: line 1 has 7 characters, a sentence is said to be its characters {span[0]} to {span[1]}"):
            list(Rows(1, np.zeros(1, np.int64), np.array([span])).texts(tmp_path / "t"))
    offsets = []
    for name, numbers in (("line", "0 2 2 3"), ("over.sent", "0 3"), ("empty.sent", "0 2 3 3"), ("right.sent", "0 1 2 3")):
        (tmp_path / name).write_text(numbers.replace(" ", "\n") + "\n")
        offsets.append(Offsets(tmp_path / name, ""))
    lines, over, empty, right = offsets
    for wrong, what in ((over, "a sentence goes over a line's end, at token 2"), (empty, "sentence 3 is empty")):
        with pytest.raises(UserError, match=rf"{wrong.path}: {what}; make all again after: rm .*{wrong.path.stem}.hdf5"):
            LinesOfSentences(wrong, lines, None)[0:9]
    assert LinesOfSentences(right, lines, None)[1:3].tolist() == [0, 2] and not len(LinesOfSentences(right, lines, None)[3:3])
