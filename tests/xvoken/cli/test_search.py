"""The command search, as it is typed: values against numpy, JSON, standard input, the prompt, mistakes."""

import json
import os
import pty
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import xvoken
from tests import builder
from tests.running import run_here
from xvoken.cli.answers import drawing
from xvoken.cli.search import main
from xvoken.encoders.encoder import Encoder

NASTY = "odd \x1b[31mred\x07‮.png"  # colours, the bell, and a character that turns what follows around


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model, pictures, some of them copies of one, their keys as the set `shapes`."""
    folder = tmp_path_factory.mktemp("asked")
    encoder = xvoken.load_encoder(builder.save_clip(folder / "clip"), device="cpu")
    (folder / "pics").mkdir()
    files = []
    for number, colour in enumerate(list(builder.COLOURS)[:8]):
        files.append(folder / "pics" / f"{colour}.png")
        files[-1].write_bytes(builder.png("red" if number > 5 else colour, "circle", 60, 60))
    ids = [file.stem for file in files]
    xvoken.write_keys(folder / "keys", "shapes", encoder.encode_images(files), ids, [str(file) for file in files], encoder)
    return folder


@pytest.fixture(scope="module")
def encoder(world: Path) -> Encoder:
    return xvoken.load_encoder(world / "clip", device="cpu")


@pytest.fixture
def ask(world: Path) -> Callable[..., str]:
    """Run the stage script on the set; returns what it prints, or of a mistake its one line."""

    def run(*words: object, code: int = 0, gallery: bool = True) -> str:
        given = ["--device", "cpu", "--keys-dir", world / "keys", "--load", world / "clip", "--image-sets", "shapes"] if gallery else []
        done = run_here("vokenization/search.py", *given, *words)
        assert done.returncode == code, done.stderr
        assert code == 0 or done.stderr.count("\n") == 1
        return done.stderr if code else done.stdout

    return run


def ranking(world: Path, encoder: Encoder, vector: np.ndarray) -> list[tuple[str, float]]:
    """Paths and scores of all pictures, best first."""
    files = sorted((world / "pics").iterdir())
    scores = encoder.encode_images(files) @ (vector / np.linalg.norm(vector))
    return [(str(files[row]), scores[row]) for row in np.argsort(-scores, kind="stable")]


def test_a_sentence(world: Path, encoder: Encoder, ask: Callable[..., str]):
    expected = dict(ranking(world, encoder, encoder.encode_texts(["a blue dog"])[0]))
    lines = [line.split(maxsplit=2) for line in ask("a blue dog", "-k", 4).splitlines()]
    assert [line[0] for line in lines] == ["1", "2", "3", "4"]
    np.testing.assert_allclose([float(line[1]) for line in lines], list(expected.values())[:4], atol=1e-4)
    np.testing.assert_allclose([float(line[1]) for line in lines], [expected[line[2]] for line in lines], atol=1e-4)


def test_pictures_added_and_subtracted_as_json(world: Path, encoder: Encoder, ask: Callable[..., str]):
    black, blue = encoder.encode_images([world / "pics/black.png", world / "pics/blue.png"])
    car, people = encoder.encode_texts(["a car", "people"])
    parts = ["--image", world / "pics/black.png", "--plus", world / "pics/blue.png", "--minus", "people"]
    for words, names, vectors in (
        (["a car", *parts], ["a car + blue.png - people", "black.png + blue.png - people"], [car + blue - people, black + blue - people]),
        (["a car"], ["a car"], [car]),
        (["--plus", "a car", "--minus", "people"], ["a car - people"], [car - people]),
    ):
        found = [json.loads(line) for line in ask(*words, "--json", "-k", 2).splitlines()]
        assert [answer["query"] for answer in found] == names
        for answer, vector in zip(found, vectors, strict=True):
            best = ranking(world, encoder, vector)[:2]
            assert [hit.keys() for hit in answer["results"]] == [{"rank", "score", "id", "path"}] * 2
            np.testing.assert_allclose([hit["score"] for hit in answer["results"]], [score for _, score in best], atol=1e-5)
            assert answer["results"][0]["id"] == f"shapes/{Path(answer['results'][0]['path']).stem}"


def test_near_duplicates(ask: Callable[..., str], world: Path):
    words = ["--image", world / "pics/red.png", "-k", 3]
    assert ask(*words).count("1.0000") == 3 and "alike" not in ask(*words)
    assert "(3 alike)" in ask(*words, "--dedupe", 0.99999).splitlines()[0]
    (found,) = [json.loads(line) for line in ask(*words, "--json", "--dedupe", 0.99999).splitlines()]
    assert [hit["copies"] for hit in found["results"]] == [3, 1, 1]


def test_standard_input(ask: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "lines.txt").write_text("a dog\n\n  \na car\r\nthe last one")
    with open(tmp_path / "lines.txt") as lines:
        monkeypatch.setattr(sys, "stdin", lines)
        found = [json.loads(line) for line in ask("--json", "-k", 1).splitlines()]
    assert [answer["query"] for answer in found] == ["a dog", "", "", "a car", "the last one"]
    assert [len(answer["results"]) for answer in found] == [1, 0, 0, 1, 1]
    with open(tmp_path / "lines.txt") as lines:
        monkeypatch.setattr(sys, "stdin", lines)
        printed = ask("a cat", "-", "--minus", "people", "-k", 1).splitlines()
    assert printed[::2] == [f"{line} - people" for line in ("a cat", "a dog", "a car", "the last one")]
    (tmp_path / "bad.txt").write_bytes(b"a dog\n\xff\n")
    with open(tmp_path / "bad.txt") as lines:
        monkeypatch.setattr(sys, "stdin", lines)
        assert "not UTF-8" in ask("-", code=2)


def test_phrases_of_a_picture(world: Path, encoder: Encoder, ask: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    phrases = builder.phrases(20)
    (tmp_path / "phrases.txt").write_text("".join(f"{phrase}\n" for phrase in phrases))
    flags = ["--model", world / "clip", "--device", "cpu", "--num_workers", 1, "--captions", "phrases.txt"]
    assert run_here("ctx/encode_captions.py", *flags, cwd=tmp_path).returncode == 0
    db = next(tmp_path.rglob("caption_db.hdf5"))
    scores = encoder.encode_texts(phrases) @ encoder.encode_images([world / "pics/black.png"])[0]
    for gallery in (["--image-sets", "shapes", "--keys-dir", world / "keys"], []):
        words = ["--load", world / "clip", "--device", "cpu", *gallery, "--phrases", db, "--json", "-k", 3]
        answer = json.loads(ask("--image", world / "pics/black.png", *words, gallery=False))
        assert len(answer["results"]) == (3 if gallery else 0)
        assert answer["phrases"][0]["phrase"] == phrases[int(scores.argmax())]
        np.testing.assert_allclose([found["score"] for found in answer["phrases"]], np.sort(scores)[::-1][:3], atol=1e-3)
    flags = ["--load", world / "clip", "--device", "cpu", "--phrases", db]
    assert "phrases are found for pictures" in ask("a dog", *flags, gallery=False, code=2)


def test_the_prompt(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A terminal for input and output: each line is answered, a mistake is told, Ctrl-D ends."""
    ours, theirs = pty.openpty()
    red = world / "pics/red.png"
    os.write(ours, f"a dog\n\nnowhere.jpg\n{red} - people\n- a dog\n".encode() + b"\x04")
    with open(theirs, "r+b", buffering=0) as terminal, open(theirs, closefd=False) as lines:
        monkeypatch.setattr(sys, "stdin", lines)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        main([*map(str, ("--load", world / "clip", "--image-sets", "shapes", "--keys-dir", world / "keys", "--no-pictures", "-k", 2))])
        assert terminal
    os.close(ours)
    out, said = capsys.readouterr()
    assert out.count(" 1  ") == 3 and out.count(" 2  ") == 3 and out.count("> ") == 6
    assert "error: nowhere.jpg: no such picture" in said and "Ctrl-D ends" in said


def test_names_that_steer_a_terminal(world: Path, tmp_path: Path, ask: Callable[..., str], encoder: Encoder):
    path = tmp_path / NASTY
    path.write_bytes((world / "pics/red.png").read_bytes())
    folder = tmp_path / "keys"
    xvoken.write_keys(folder, "shapes", encoder.encode_images([path]), ["odd"], ["a.png"], encoder)
    (folder / "shapes.path").write_text(f"{path}\n")
    flags = ["--load", world / "clip", "--device", "cpu", "--image-sets", "shapes", "--keys-dir", folder]
    for words in (["a \x1b[2J dog", "two"], ["two", "--json"], ["--image", path]):
        printed = ask(*words, *flags, gallery=False)
        assert all(char == "\n" or char.isprintable() for char in printed), printed
    assert json.loads(ask("two", "--json", *flags, gallery=False))["results"][0]["path"] == str(path)


def test_pictures_are_drawn_in_terminals_alone(
    ask: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert "\x1b" not in ask("a dog", "--pictures")
    assert drawing(True) is None and "this is no terminal" in capsys.readouterr().err
    monkeypatch.setenv("TERM", "xterm-kitty")
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "textual_image", None)  # as where it is not installed
    assert drawing(None) is None and capsys.readouterr().err == ""
    assert drawing(True) is None and "pip install textual-image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "--image-sets", "nowhere"], "nowhere.hdf5 does not exist"),
        (["--image", "nowhere.png"], "nowhere.png: no such picture"),
        (["a", "--plus", "nowhere.png"], "nowhere.png: no such picture"),
        (["  "], "an empty sentence"),
        (["a", "--images", "."], "--images goes with neither"),
        (["a", "-k", "0"], "at least 1"),
        (["--dedupe", "a dog"], "a sentence comes before --dedupe"),
    ],
)
def test_mistakes(ask: Callable[..., str], words: list[str], message: str):
    assert message in ask(*words, code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "nothing to search in"),
        (["a", "--image-sets", "shapes"], "--load: the model"),
        (["a", "--images", "nowhere"], "nowhere: no such folder of pictures"),
    ],
)
def test_no_gallery(ask: Callable[..., str], world: Path, words: list[str], message: str):
    given = ["--load", world / "clip"] if "--images" in words else []
    assert message in ask(*words, *given, gallery=False, code=2)


def test_a_broken_picture_as_the_query(ask: Callable[..., str], tmp_path: Path):
    (tmp_path / "x.png").write_text("no picture")
    assert "x.png: not a picture" in ask("--image", tmp_path / "x.png", code=2)


def test_a_folder(ask: Callable[..., str], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: Encoder):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = ask("a blue dog", "--images", world / "pics", "--load", world / "clip", "--device", "cpu", "--precision", "fp32", gallery=False)
    expected = ranking(world, encoder, encoder.encode_texts(["a blue dog"])[0])
    np.testing.assert_allclose([float(line.split()[1]) for line in found.splitlines()], [score for _, score in expected], atol=2e-3)
