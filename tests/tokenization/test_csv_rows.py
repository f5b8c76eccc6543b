"""Records of CSV files against the library's DictReader where they are whole, and around quotes that are not closed."""

import csv
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenization.prepare_reddit import raw_rows

FAR, END = "a quote is opened here and not closed within 1,000 lines", "a quote is opened here and never closed"


def prepared(script: Callable[..., str], folder: Path, text: str | bytes, ending: str = "csv") -> tuple[list[str], list[str]]:
    """The lines of valid.pkl.txt and of its listing, made of this raw text."""
    (folder / f"valid.{ending}").write_bytes(text if isinstance(text, bytes) else text.encode())
    script("tokenization.prepare_reddit", folder, folder / "out")
    return tuple((folder / f"out/valid.{name}").read_text().splitlines() for name in ("pkl.txt", "skipped.tsv"))


@pytest.mark.parametrize(("ending", "comma", "newline"), [("csv", ",", "\n"), ("tsv", "\t", "\n"), ("csv", ",", "\r\n")])
def test_an_open_quote_costs_its_own_row(tmp_path: Path, script: Callable[..., str], ending: str, comma: str, newline: str):
    rows = [f"row {i}{comma}x" for i in range(20_000)]
    rows[9] = f'"row 9{comma}x'
    text = newline.join([f"context{comma}response", *rows]) + newline
    kept, listed = prepared(script, tmp_path, text, ending)
    assert kept == [f"row {i}" for i in range(20_000) if i != 9]
    assert listed == [f"11\t{FAR}"]


def test_the_line_is_that_of_the_quote(tmp_path: Path, script: Callable[..., str]):
    """It may lie behind cells of the same record with lines of their own; and the numbers stay right behind it."""
    rows = [
        "context,response",
        "first,x",
        '"two',
        "",
        'lines","and',
        "",
        '", "not a quote,"open',
        *["after,x"] * 1200,
        ",no context",
        "last",
    ]
    kept, listed = prepared(script, tmp_path, "\n".join(rows))
    assert kept == ["first", *["after"] * 1200, "last"]
    assert listed == [f"7\t{FAR}", "1208\tempty context"]


@pytest.mark.parametrize("follow", ['"quoted, it is",x', 'plain,"quoted, it is"', '"all","of ""them"""'])
@pytest.mark.parametrize("between", [0, 3])
def test_an_open_quote_before_rows_with_quotes(tmp_path: Path, script: Callable[..., str], follow: str, between: int):
    """The next quote ended it: two rows became one, a good one as it seemed."""
    rows = ["context,response", '"first\nof two",x', '"one","open', *["plain,x"] * between, follow, '"last","x"']
    kept, listed = prepared(script, tmp_path, "\n".join(rows) + "\n")
    expected = next(csv.reader([follow]))[0]
    assert kept == ["first of two", *["plain"] * between, expected, "last"]
    assert listed == ["4\ta quote is opened here and closed in the middle of a cell, some lines below"]


@pytest.mark.parametrize("follow", [0, 1, 7, 999])
def test_a_quote_that_is_open_at_the_end(tmp_path: Path, script: Callable[..., str], follow: int):
    rows = ["context,response", "first,x", '"open,x', *["after,x"] * follow]
    kept, listed = prepared(script, tmp_path, "\n".join(rows) + "\n")
    assert kept == ["first", *["after"] * follow]
    assert listed == [f"3\t{END if follow < 999 else FAR}"]


def test_several_open_quotes(tmp_path: Path, script: Callable[..., str]):
    rows = ["context,response"]
    for start in range(3):
        rows += [f'"open {start},x', *[f"{start} {i},x" for i in range(1500)]]
    kept, listed = prepared(script, tmp_path, "\n".join([*rows, '"']))
    assert kept == [f"{start} {i}" for start in range(3) for i in range(1500)]
    assert listed == [f"2\t{FAR}", f"1503\t{FAR}", f"3004\t{FAR}", f"4505\t{END}"]


def test_long_cells_are_whole(tmp_path: Path, script: Callable[..., str]):
    """A record of 1,000 lines, and one of a line more."""
    cell = lambda lines: '"' + "\n".join(["a"] * lines) + '"'  # noqa: E731
    kept, listed = prepared(script, tmp_path, f"context\nfirst\n{cell(1000)}\nbetween\n{cell(1001)}\n")
    assert kept[:3] == ["first", " ".join("a" * 1000), "between"]
    assert listed[0] == f"1004\t{FAR}"
    assert (kept[3:], listed[1:]) == (["a"] * 999 + ['a"'], [])  # what lies behind the quote's line is rows by itself


def test_a_header_that_is_not_closed(tmp_path: Path, script: Callable[..., str]):
    with pytest.raises(Exception, match="its first line is not CSV .a quote is opened here and not closed within 1,000 lines."):
        prepared(script, tmp_path, '"context,response\n' + "a,b\n" * 2000)


def test_whole_files_are_read_as_the_library_reads_them(tmp_path: Path):
    chosen, alphabet = random.Random(0), ["a", "é", ",", "\t", '"', "\n", "\r\n", "\r", " ", "\0", ""]
    for number in range(300):
        columns = ["context", "response", "response"][: chosen.randint(1, 3)]
        ending, delimiter = chosen.choice([("csv", ","), ("tsv", "\t")])
        path = tmp_path / f"{number}.{ending}"
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, quoting=chosen.choice([0, 1]), lineterminator=chosen.choice(["\n", "\r\n"]))
            writer.writerow(columns)
            for _ in range(chosen.randint(0, 12)):
                cells = ["".join(chosen.choices(alphabet, k=chosen.randint(0, 6))) for _ in range(chosen.randint(1, 4))]
                file.write("\n") if chosen.random() < 0.1 else writer.writerow(cells)
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter)
            expected = [(reader.reader.line_num, row) for row in reader]
        found = list(raw_rows(path))
        assert [(at, {key: row[key] for key in columns}) for at, row in expected] == found


def test_time_grows_with_the_file_only(tmp_path: Path, script: Callable[..., str]):
    """Where every row has an open quote, where every second has, and where the quotes lie as close as they can be open."""
    for name, rows in (
        ("every", ['"open,x'] * 20_000), ("second", ['"open,x', "row,x"] * 10_000), ("chain", ['x","y'] * 20_000),
        ("thousandth", (['"open,x'] + ["row,x"] * 1000) * 20),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        started = time.perf_counter()
        prepared(script, tmp_path / name, "\n".join(["context,response", "first,x", *rows]))
        assert time.perf_counter() - started < 10


def test_a_mark_in_front(tmp_path: Path, script: Callable[..., str]):
    """Excel writes it."""
    assert prepared(script, tmp_path, "\ufeffcontext,response\nhello,x\n") == (["hello"], [])


def test_dialogues_of_the_version_that_lost_rows(tmp_path: Path, script: Callable[..., str]):
    prepared(script, tmp_path, "context,response\nhello,x\n")
    receipt = tmp_path / "out/valid.pkl.txt.json"
    assert "warning" not in script("tokenization.prepare_reddit", tmp_path, tmp_path / "out")
    receipt.write_text(json.dumps({key: value for key, value in json.loads(receipt.read_text()).items() if key != "reader"}))
    printed = script("tokenization.prepare_reddit", tmp_path, tmp_path / "out")
    assert "skipped" in printed and f"make it again after: rm {tmp_path}/out/valid.pkl.txt\n" in printed
