"""Vokens of long lines in segments, in every kind; outputs that were begun before there were any; ids with slashes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import xvoken
from tests.running import run_here
from tests.vokenization.test_min_probability import SETS, flags
from tests.vokenization.varied import varied
from tests.worlds import World
from vokenization.layout import sets_name
from vokenization.segments import segments
from xvoken.cli.check import check
from xvoken.errors import UserError
from xvoken.files import image_ids, keys, vokens
from xvoken.files.safe import write_lines

WORDS = ["circle", "square", "pink", "black", "blue", "green", "red", "yellow", "a", "two", "of", "the", "on", "like", "white", "small"]
LENGTHS = [3, 0, 20, 21, 38, 39, 41, 100, 1]
STAGE = "vokenization.vokenize_corpus_mp"


def as_vokenization_cuts(tokens: list[int], most: int) -> list[list[int]]:
    """One line, piece by piece."""
    if len(tokens) <= most:
        return [tokens]
    step = int(len(tokens) / -(-len(tokens) // most))
    return [tokens[:step], *(tokens[start : start + step] for start in range(step, len(tokens), step))]


def test_lines_are_cut_as_by_vokenization():
    for most in (1, 7, 128):
        counts = np.array([0, *range(7), 127, 128, 129, 0, 255, 256, 257, 600, 0])
        cut, at = segments(np.cumsum([0, *counts]), most), 0
        for line, count in enumerate(counts):
            expected = [len(piece) for piece in as_vokenization_cuts(list(range(count)), most)]
            mine = np.flatnonzero(cut.lines == line)
            assert cut.sizes[mine].tolist() == expected and mine[0] == at and cut.first[mine].tolist() == [True] + [False] * (len(mine) - 1)
            at += len(mine)
    assert segments(np.array([0, 257]), 128).sizes.tolist() == [85, 85, 85, 2]
    assert segments(np.array([0, 257, 257]), None).sizes.tolist() == [257, 0]


@pytest.fixture(scope="module", params=["sentence", "token"], ids=["lines", "tokens"])  # an id may not put "sent" into paths
def level(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def load(world: World, level: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return varied(world, tmp_path_factory, level, f"by_{level}")


@pytest.fixture(scope="module")
def lines(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`long`: lines of so many words, each of which is a token; `cut`: their segments of 20, a line each."""
    folder, rng = tmp_path_factory.mktemp("lines"), np.random.default_rng(0)
    long = [list(map(str, rng.choice(WORDS, length))) for length in LENGTHS]
    cut = [piece for line in long for piece in as_vokenization_cuts(line, 20)]
    for name, texts in {"long": long, "cut": cut}.items():
        write_lines(folder / f"{name}.txt", map(" ".join, texts))
        assert run_here("tokenization/tokenize_dataset.py", folder, f"{name}.txt", world.bert).returncode == 0
    return {"long": folder / "long.txt", "cut": folder / "cut.txt"}


def retrieve(world: World, load: Path, corpus: Path, output: Path, *more: object) -> tuple[vokens.Vokens, str]:
    done = run_here("vokenization/vokenize_corpus_mp.py", *flags(world, load, output, "--corpus", corpus, *more))
    assert done.returncode == 0, done.stderr
    hdf5 = vokens.hdf5_file(output, corpus.name, SETS)
    assert check(hdf5, [corpus.with_name(f"{corpus.name}.tiny-bert.hdf5")])
    return vokens.read(output, corpus.name, SETS), done.stdout + done.stderr


def test_segments_are_lines_of_their_own(world: World, load: Path, lines: dict[str, Path], level: str, tmp_path: Path):
    found, printed = retrieve(world, load, lines["long"], tmp_path / "sent/long", "--segment", 20)
    alone, _ = retrieve(world, load, lines["cut"], tmp_path / "sent/cut", "--segment", 0)
    assert np.array_equal(found.vokens, alone.vokens) and len(set(found.vokens.tolist())) > 3
    firsts = np.cumsum([0, *(len(as_vokenization_cuts([0] * length, 20)) for length in LENGTHS[:-1])])
    assert np.array_equal(found.indices, alone.indices[firsts])
    assert np.allclose(found.scores, alone.scores[firsts], atol=1e-5, equal_nan=True)
    assert np.allclose(found.probability, alone.probability[firsts], atol=1e-3, equal_nan=True)
    assert "(1 empty, 5 in segments of at most 20 tokens)" in printed and "note:" not in printed
    text = (tmp_path / f"sent/long/long.txt.{SETS}").read_text().split("\n")[:-1]
    report = json.loads((tmp_path / f"sent/long/long.txt.{SETS}.hdf5.report.json").read_text())
    assert (report["cut"], report["segmented"]) == (0, 5)
    assert found.attributes["level"] == level
    if level == "token":  # an index a token, as Vokenization writes them
        assert [list(map(int, line.split())) for line in text] == [own.tolist() for own in np.split(found.vokens, np.cumsum(LENGTHS)[:-1])]
        assert text[1] == ""
    else:
        assert 'path contains "sent"' in report["vokens"] and len(text[0].split("\t")) == 5 and text[0].endswith(".png")
    (tmp_path / f"sent/long/long.txt.{SETS}").write_text("\n".join(["1 2", *text[1:]]) + "\n")
    if level == "token":
        with pytest.raises(UserError, match="do not hold the vokens"):
            check(tmp_path / f"sent/long/long.txt.{SETS}.hdf5")


def test_a_line_below_the_least_probability_has_none_in_any_segment(world: World, load: Path, lines: dict[str, Path], tmp_path: Path):
    every, _ = retrieve(world, load, lines["long"], tmp_path / "sent/all", "--segment", 20)
    least = float(np.nanmedian(every.probability))
    some, _ = retrieve(world, load, lines["long"], tmp_path / "sent/some", "--segment", 20, "--min-probability", least)
    out = every.probability < least
    assert out.any() and np.array_equal(some.vokens, np.where(np.repeat(out, LENGTHS), -100, every.vokens))


def test_defaults(world: World, load: Path, lines: dict[str, Path], level: str, tmp_path: Path):
    """On token level every token has a picture; on sentence level all is as it was, but for a note where the folder is not for "sent"."""
    found, printed = retrieve(world, load, lines["long"], tmp_path / "a")
    settings = vokens.read_settings(vokens.hdf5_file(tmp_path / "a", "long.txt", SETS))
    if level == "token":
        assert settings["segment"] == 128 and (found.vokens >= 0).all() and "3 in segments" in printed and "note:" not in printed
        done = run_here(
            "vokenization/vokenize_corpus_mp.py", *flags(world, load, tmp_path / "b", "--corpus", lines["long"], "--vokens", "all")
        )
        assert done.returncode == 2 and "each token has a picture of its own" in done.stderr
        return
    assert not {"segment", "vokens"} & settings.keys() and f"{tmp_path / 'a'} has none" in printed and "3 cut to the tower's" in printed
    starts = np.cumsum([0, *LENGTHS])[:-1][np.array(LENGTHS) > 0]
    rows = np.where(found.vokens < 0, -found.vokens - 1, found.vokens)
    behind = ~np.isin(np.arange(len(rows)), starts)
    assert np.array_equal(found.vokens < 0, behind) and np.array_equal(rows, np.repeat(found.indices[:, 0], LENGTHS))
    for kind, expected in {"all": rows, "first": np.where(behind, -100, rows)}.items():
        other, printed = retrieve(world, load, lines["long"], tmp_path / kind, "--vokens", kind)
        assert np.array_equal(other.vokens, expected) and "note:" not in printed
        assert np.array_equal(other.indices, found.indices)
        with h5py.File(tmp_path / kind / f"long.txt.{SETS}.hdf5", "r+") as file:
            file["vokens"][4] = -2
        with pytest.raises(UserError, match="voken of token 5 .-2. is none"):
            check(tmp_path / kind / f"long.txt.{SETS}.hdf5")
    with pytest.raises(UserError, match="vokens: null then, .all. now"):
        retrieve_again(world, load, lines["long"], tmp_path / "a", "--vokens", "all")
    with h5py.File(tmp_path / f"a/long.txt.{SETS}.hdf5", "r+") as file:
        file["vokens"][1] = -file["vokens"][1]
    with pytest.raises(UserError, match="voken of token 3 "):
        check(tmp_path / f"a/long.txt.{SETS}.hdf5")


def retrieve_again(world: World, load: Path, corpus: Path, output: Path, *more: object) -> None:
    from vokenization.vokenize_corpus_mp import main

    main([str(word) for word in flags(world, load, output, "--corpus", corpus, *more)])


@pytest.mark.parametrize("level", ["token"], indirect=True)
def test_what_was_begun_without_segments(world: World, load: Path, lines: dict[str, Path], tmp_path: Path, script: Callable[..., str]):
    """Is gone on with, read and skipped as it is; parts and files of earlier versions have -1 and names of files."""
    corpus = tmp_path / "lines.txt"
    corpus.write_text(lines["long"].read_text() * 200)  # two parts
    script("tokenization.tokenize_dataset", tmp_path, corpus.name, world.bert)
    output, hdf5 = tmp_path / "v", vokens.hdf5_file(tmp_path / "v", corpus.name, SETS)
    share = lambda part: flags(world, load, output, "--corpus", corpus, "--part", part, "--parts", 2)  # noqa: E731
    script(STAGE, *share(1), "--segment", 0)
    plan = hdf5.with_name(f"{hdf5.name}.parts") / "plan.json"
    written = json.loads(plan.read_text())
    assert written["settings"].pop("segment") == 0
    plan.write_text(json.dumps(written))
    (part,) = plan.parent.glob("*.npz")
    with np.load(part) as arrays:
        old = dict(arrays)
    assert (old["vokens"] == -100).any()
    old["vokens"] = np.where(old["vokens"] < 0, -1, old["vokens"]).astype(np.int32)
    np.savez(part, **old)
    script(STAGE, *share(2))
    found = vokens.read(output, corpus.name, SETS)
    counts = np.array(LENGTHS * 200)
    beyond = np.concatenate([np.arange(count) >= 38 for count in counts])
    assert np.array_equal(found.vokens == -100, beyond) and not (found.vokens[~beyond] < 0).any()
    assert "segment" not in vokens.read_settings(hdf5)
    with h5py.File(hdf5, "r+") as file:  # as an earlier version left it
        file["vokens"][:] = np.where(found.vokens < 0, -1, found.vokens)
        del file.attrs["level"]
    vokens.text_file(output, corpus.name, SETS).write_text("a.png\n" * len(counts))
    command = flags(world, load, output, "--corpus", corpus)
    printed = script(STAGE, *command)
    assert "skipped" in printed and f"note: {hdf5} was made before lines of more than 128 tokens" in printed and check(hdf5)
    with pytest.raises(UserError, match="segment: null then, 128 now"):
        script(STAGE, *command, "--segment", 128)


@pytest.mark.parametrize("level", ["sentence"], indirect=True)
def test_ids_of_nested_folders_have_one_slash(world: World, load: Path, lines: dict[str, Path], tmp_path: Path, script: Callable[..., str]):
    """Readers of {IMAGE_SET}/{id} expect one; here ids are as they were, and files that hold them so are read too."""
    pictures, names = tmp_path / "pictures", ["a/b/100%.png", "a/x.png", "c%2Fd.png", "plain.png"]
    for name, path in zip(names, sorted((world.folder / "images").glob("*.png")), strict=False):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, pictures / name)
    where = ["--ids-root", tmp_path / "ids"]
    for _ in range(2):
        printed = script("vokenization.create_image_ids", "--image-sets", f"nest={pictures}", *where)
    assert "skipped" in printed
    escaped = ["a%2Fb%2F100%25.png", "a%2Fx.png", "c%252Fd.png", "plain.png"]
    kept = tmp_path / "ids/nest.ids"
    assert kept.read_text().split("\n")[:-1] == escaped and image_ids.read(tmp_path / "ids", "nest") == names
    extract = ["--load", load, *where, "--num-workers", 1, "--cache", tmp_path / "cache", "--output", tmp_path / "keys"]
    script("vokenization.extract_vision_keys", "--image-sets", "nest", *extract)
    assert (tmp_path / "keys/nest.ids").read_text().split("\n")[:-1] == escaped and keys.read(tmp_path / "keys", "nest").ids == names
    ask = flags(world, load, tmp_path / "v", "--corpus", lines["long"], "--keys-dir", tmp_path / "keys", "--topk", 3)
    ask[ask.index("shapes_train,shapes_valid")] = "nest"
    script(STAGE, *ask)
    ids = tmp_path / "v/long.txt.nest.ids"
    assert ids.read_text().split("\n")[:-1] == [f"nest/{i}" for i in escaped]
    assert vokens.read(tmp_path / "v", "long.txt", "nest").ids == [f"nest/{i}" for i in names]
    page = ["--vokens", tmp_path / "v/long.txt.nest", "--corpus", lines["long"], "--keys-dir", tmp_path / "keys", "--load", load]
    assert "wrote" in script("vokenization.page", *page)
    # Files of earlier versions.
    (tmp_path / "ids/nest.json").write_text(json.dumps({"folder": str(pictures)}))
    for path, text in ((kept, names), (tmp_path / "keys/nest.ids", names), (ids, [f"nest/{i}" for i in names])):
        path.write_text("".join(f"{i}\n" for i in text))
    with h5py.File(tmp_path / "v/long.txt.nest.hdf5", "r+") as file:
        del file.attrs["ids"]
    assert "skipped" in script("vokenization.create_image_ids", "--image-sets", f"nest={pictures}", *where)
    assert kept.read_text().split("\n")[:-1] == names == image_ids.read(tmp_path / "ids", "nest")
    assert "skipped" in script("vokenization.extract_vision_keys", "--image-sets", "nest", *extract)
    assert "skipped" in script(STAGE, *ask)
    assert xvoken.read_vokens(tmp_path / "v/long.txt.nest").ids == [f"nest/{i}" for i in names]
    assert "top 3 of 4" in check(tmp_path / "v/long.txt.nest.hdf5") and "wrote" in script("vokenization.page", *page, "--title", "again")


def test_the_number_in_the_name_is_that_of_the_images(tmp_path: Path):
    assert sets_name(tmp_path, "a.txt", ["y", "x"], None, 12) == "x_y"
    assert sets_name(tmp_path, "a.txt", ["y", "x"], 50, 12) == "x_y.12"
    (tmp_path / "a.txt.x_y.50.hdf5.parts").mkdir()  # begun by an earlier version
    assert sets_name(tmp_path, "a.txt", ["y", "x"], 50, 12) == "x_y.50"
