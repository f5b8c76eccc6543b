import argparse
from pathlib import Path

import pytest

from xvoken.cli.flags import Help, Parser, at_least, at_least_one, names, some_path


def test_help_names_defaults_where_there_are_some():
    parser = argparse.ArgumentParser(formatter_class=Help)
    parser.add_argument("--zero", default=0, help="a")
    parser.add_argument("--none", help="b")
    parser.add_argument("--switch", action="store_true", help="c")
    parser.add_argument("--said", help="d (default: all)", default=3)
    parser.add_argument("--needed", required=True, help="e")
    lines = {line.split()[0]: line for line in parser.format_help().splitlines() if line.startswith("  --")}
    assert lines["--zero"].endswith("a (default: 0)")
    assert lines["--said"].endswith("d (default: all)")
    assert [lines[name][-1] for name in ("--none", "--switch", "--needed")] == list("bce")


def test_numbers(capsys: pytest.CaptureFixture[str]):
    parser = Parser(prog="script.py")
    parser.add_argument("--n", type=at_least_one)
    parser.add_argument("--most", type=at_least(1, also=-1))
    assert parser.parse_args(["--n", "1", "--most", "-1"]) == argparse.Namespace(n=1, most=-1)
    for wrong in (["--n", "0"], ["--n", "x"], ["--most", "0"], ["--most", "-2"]):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args(wrong)
        said = capsys.readouterr().err
        assert said.startswith(f"error: argument {wrong[0]}: {wrong[1]}: a whole number of at least 1 is needed")
        assert said.endswith("; script.py --help says more\n") and said.count("\n") == 1


def test_names():
    parser = Parser(prog="script.py")
    parser.add_argument("--langs", type=names, default="mscoco")
    assert parser.parse_args([]).langs == ["mscoco"]
    assert parser.parse_args(["--langs", " mscoco, vg ,"]).langs == ["mscoco", "vg"]


def test_an_empty_path_is_not_the_current_folder(capsys: pytest.CaptureFixture[str]):
    parser = Parser(prog="script.py")
    parser.add_argument("--images", type=some_path)
    assert [parser.parse_args(["--images", given]).images for given in (".", "a/b")] == [Path("."), Path("a/b")]
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--images", ""])
    assert capsys.readouterr().err.startswith("error: argument --images: an empty path; give a folder or a file")
