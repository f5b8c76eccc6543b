import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenization import prepare_reddit as module
from xvoken.errors import UserError

ROWS = [
    {"context": ["hi\tthere", "  what\nis \u00a0 up "], "response": "not\r\nmuch"},
    {"context": [], "response": "no context"},
    {"context": ["", " "], "response": "blank"},
    {"context": ["fine"], "response": "  "},
    {"context": ["fine"], "response": None},
    {"context": ["", "kept"], "response": "yes"},
    {"context": [1], "response": "x"},
]


def test_json_lines(tmp_path: Path, script: Callable[..., str]):
    text = "\n".join(json.dumps(row) for row in ROWS) + '\nnot json\n\n{"response": "x"}\n'
    for split in ("train", "valid"):
        (tmp_path / f"{split}.jsonl").write_text(text)
    printed = script("tokenization.prepare_reddit", tmp_path, tmp_path / "out")
    assert (tmp_path / "out/train.pkl.txt").read_text() == "hi there\twhat is up\tnot much\nkept\tyes\n"
    assert (tmp_path / "out/valid.pkl.txt").read_text() == "hi there\twhat is up\nfine\nfine\nkept\n"
    assert not (tmp_path / "out/test.pkl.txt").exists()
    listed = dict(line.split("\t") for line in (tmp_path / "out/train.skipped.tsv").read_text().splitlines())
    assert listed == {
        "2": "empty context", "3": "empty context", "4": "empty response", "5": "no response", "7": "context is no list of texts",
        "8": "not JSON", "9": "not JSON", "10": "no context",
    }  # fmt: skip
    assert "skipped" in printed
    assert "holds the dialogues of" in script("tokenization.prepare_reddit", tmp_path, tmp_path / "out")


def test_other_settings_and_other_raw_data_are_refused(tmp_path: Path, script: Callable[..., str]):
    raw, output = tmp_path / "train.jsonl", tmp_path / "out/train.pkl.txt"
    raw.write_text("".join(json.dumps({"context": ["hi"], "response": str(i)}) + "\n" for i in range(9)))
    script("tokenization.prepare_reddit", tmp_path, tmp_path / "out", "--limit", 5)
    with pytest.raises(UserError, match=r"other settings \(limit: 5 then, null now\).* rm .*train.pkl.txt"):
        script("tokenization.prepare_reddit", tmp_path, tmp_path / "out")
    os.utime(raw, (4e9, 4e9))  # newer, with the same content
    assert "skipped" in script("tokenization.prepare_reddit", tmp_path, tmp_path / "out", "--limit", 5)
    raw.write_text(raw.read_text().replace("hi", "ho"))
    os.utime(raw, (1, 1))  # older, with other content
    with pytest.raises(UserError, match=r"other settings \(sha256: "):
        script("tokenization.prepare_reddit", tmp_path, tmp_path / "out", "--limit", 5)
    output.unlink()  # as the message says
    script("tokenization.prepare_reddit", tmp_path, tmp_path / "out")
    assert output.read_text().count("ho\t") == 9


def test_corpora_without_a_receipt_are_taken_where_they_are_newer(tmp_path: Path, script: Callable[..., str]):
    raw, output = tmp_path / "valid.jsonl", tmp_path / "out/valid.pkl.txt"
    raw.write_text('{"context": ["raw"]}\n')
    output.parent.mkdir()
    output.write_text("by hand\n")
    os.utime(raw, (1, 1))
    assert "is newer than" in script("tokenization.prepare_reddit", tmp_path, tmp_path / "out", "--limit", 5)
    assert output.read_text() == "by hand\n"
    os.utime(raw, (4e9, 4e9))
    script("tokenization.prepare_reddit", tmp_path, tmp_path / "out")
    assert output.read_text() == "raw\n"


@pytest.mark.parametrize(("ending", "comma"), [("csv", ","), ("tsv", "\t")])
def test_csv_and_tsv(tmp_path: Path, script: Callable[..., str], ending: str, comma: str):
    cells = [["context", "response"], ['"[""hi, you"", ""so""]"', "yes"], ['"one\ntwo"', "no"], ["", "x"]]
    (tmp_path / f"train.{ending}").write_text("\n".join(comma.join(row) for row in cells) + "\n")
    script("tokenization.prepare_reddit", tmp_path, tmp_path / "out")
    assert (tmp_path / "out/train.pkl.txt").read_text() == "hi, you\tso\tyes\none two\tno\n"


def test_rows_that_break_the_parser_are_skipped(tmp_path: Path, script: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    good = '{"context": ["a"], "response": "b"}'
    (tmp_path / "train.jsonl").write_text("\n".join([good, "[" * 100_000, f'{{"id": {"9" * 5000}}}', "a\0b", good]) + "\n")
    cells = ["context", "one", "x" * 200, '"' + "[" * 90 + '"', "n\0l", f'"{"[" * 20}', "two" * 90]
    (tmp_path / "valid.csv").write_text("\n".join(cells) + "\n")
    monkeypatch.setattr(module, "LARGEST_CELL", 100)
    script("tokenization.prepare_reddit", tmp_path, tmp_path / "out")
    assert (tmp_path / "out/train.pkl.txt").read_text() == "a\tb\na\tb\n"
    assert (tmp_path / "out/train.skipped.tsv").read_text() == "2\tnot JSON\n3\tnot JSON\n4\tnot JSON\n"
    assert (tmp_path / "out/valid.pkl.txt").read_text() == f"one\n{'[' * 90}\nn\0l\n"
    assert (tmp_path / "out/valid.skipped.tsv").read_text() == "3\tnot CSV\n7\tnot CSV\n"
    (tmp_path / "valid.csv").write_text("context" * 20 + "\n")
    (tmp_path / "out/valid.pkl.txt").unlink()
    with pytest.raises(UserError, match="its first line is not CSV"):
        script("tokenization.prepare_reddit", tmp_path, tmp_path / "out")


def test_bad_input(tmp_path: Path, script: Callable[..., str]):
    with pytest.raises(UserError, match="none of train, valid, test"):
        script("tokenization.prepare_reddit", tmp_path, tmp_path / "out")
    (tmp_path / "train.csv").write_text("question,answer\na,b\n")
    with pytest.raises(UserError, match="no column named context"):
        script("tokenization.prepare_reddit", tmp_path, tmp_path / "out")
    (tmp_path / "train.csv").unlink()
    (tmp_path / "train.jsonl").write_bytes(b'{"context": ["caf\xe9"], "response": "x"}\n')
    with pytest.raises(UserError, match="not UTF-8"):
        script("tokenization.prepare_reddit", tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))
