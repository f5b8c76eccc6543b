"""The pictures that a voken file names, collected: as a list, links, copies and tar shards, from folders and from tar shards."""

import json
import os
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.running import run_here
from tests.worlds import World
from vokenization.collecting import LinesOfTokens, Pictures, read_wanted, token_pictures, write_shards
from xvoken.cli.page import corpus_in
from xvoken.errors import UserError
from xvoken.files import keys, vokens
from xvoken.files.rows import read_rows
from xvoken.pictures.sources import list_pictures

SETS = "shapes_train_shapes_valid"


@pytest.fixture(scope="module")
def voken_file(world: World, keyed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a corpus that names some of the pictures, not all."""
    output = tmp_path_factory.mktemp("vokens")
    corpus = ["--corpus", world.folder / "corpus/lines.txt", "--limit", 7, "--topk", 2]
    sets = ["--image-sets", "shapes_train,shapes_valid", "--output", output]
    assert run_here("vokenization/vokenize_corpus_mp.py", "--load", keyed, *corpus, *sets, "--num-workers", 1).returncode == 0
    return output / f"lines.txt.{SETS}"


def collect(voken_file: Path, keyed: Path, output: Path, *more: object):
    where = ["--vokens", voken_file, "--keys-dir", keys.folder(keyed), "--output", output]
    return run_here("vokenization/collect_images.py", *where, *more)


def listed(path: Path) -> list[tuple[str, str, list[int]]]:
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    return [(file, picture, [int(line) for line in lines.split(",")]) for file, picture, lines in rows]


@pytest.mark.parametrize("topk", [1, 2])
def test_each_picture_once_with_the_lines_that_want_it(voken_file: Path, keyed: Path, tmp_path: Path, topk: int):
    done = collect(voken_file, keyed, tmp_path / "out", "--topk", topk)
    assert done.returncode == 0 and not done.stderr, done.stderr
    found = vokens.read_vokens(voken_file)
    expected: dict[str, list[int]] = {}
    for line in range(len(found)):
        for picture in found.images(line)[:topk]:
            expected.setdefault(picture, []).append(line)
    rows = listed(tmp_path / "out/pictures.tsv")
    assert {picture: lines for _, picture, lines in rows} == expected and len(rows) == len(expected)
    assert all(Path(file).is_file() and Path(file).stem == picture.partition("/")[2] for file, picture, _ in rows)
    assert (tmp_path / "out/pictures.path").read_text().splitlines() == [file for file, _, _ in rows]
    assert (tmp_path / "out/missing.tsv").read_text() == ""
    assert "skipped" in collect(voken_file, keyed, tmp_path / "out", "--topk", topk).stderr
    other = collect(voken_file, keyed, tmp_path / "out", "--topk", 3 - topk)
    assert other.returncode == 2 and f"topk: {topk} then, {3 - topk} now" in other.stderr


@pytest.mark.parametrize("way", ["symlinks", "hardlinks", "copies"])
def test_pictures_in_a_folder(voken_file: Path, keyed: Path, tmp_path: Path, way: str):
    """Under the names that the voken file's text has."""
    assert collect(voken_file, keyed, tmp_path / "out", "--as", way).returncode == 0
    names = {name for line in voken_file.read_text().splitlines() for name in line.split("\t") if name}
    assert {path.name for path in (tmp_path / "out/images").iterdir()} == names
    paths = dict(zip(*[keys.read(keys.folder(keyed), "shapes_train").__dict__[name] for name in ("ids", "paths")], strict=True))
    for file, picture, _ in listed(tmp_path / "out/pictures.tsv"):
        if picture.startswith("shapes_train"):
            original = Path(paths[picture.partition("/")[2]])
            assert Path(file).read_bytes() == original.read_bytes()
            assert Path(file).is_symlink() == (way == "symlinks") and os.path.samefile(file, original) == (way != "copies")
    assert not [path for path in (tmp_path / "out/images").iterdir() if path.name.startswith(".")]
    before = (tmp_path / "out/pictures.tsv").read_bytes()
    for name in ("pictures.json", "pictures.tsv", f"images/{next(iter(names))}"):  # as if a run had been stopped
        (tmp_path / "out" / name).unlink()
    assert "wrote" in collect(voken_file, keyed, tmp_path / "out", "--as", way).stdout
    assert (tmp_path / "out/pictures.tsv").read_bytes() == before and len(list((tmp_path / "out/images").iterdir())) == len(names)


def test_shards_are_a_source_of_pictures_and_of_samples(voken_file: Path, keyed: Path, tmp_path: Path):
    assert collect(voken_file, keyed, tmp_path / "out", "--as", "shards", "--shard-size", 3).returncode == 0
    rows = listed(tmp_path / "out/pictures.tsv")
    members, _ = list_pictures(tmp_path / "out/*.tar")
    assert len(members) == len(rows) and len(list((tmp_path / "out").glob("*.tar"))) == -(-len(rows) // 3)
    for file, picture, lines in rows:
        tar, _, name = file.rpartition("/")
        with tarfile.open(tar) as opened:
            assert json.load(opened.extractfile(f"{Path(name).stem}.json")) == {"id": picture, "lines": lines}
        with members[name].open() as inside:
            assert inside.read(4) == b"\x89PNG"


def test_a_sample_of_a_shard_holds_one_picture(world: World, tmp_path: Path):
    """Readers of webdataset join files whose names differ behind the first dot."""
    names, picture = ["a.png", "a.jpg", "a.b.png"], next((world.folder / "images").iterdir())
    write_shards(Pictures(names, names, [picture] * 3, [np.array([0])] * 3), tmp_path, 3)
    with tarfile.open(tmp_path / "00000.tar") as tar:
        assert sorted(tar.getnames()) == sorted(f"{key}.{end}" for key, ending in (("a%2Epng", "png"), ("a%2Ejpg", "jpg"), ("a%2Eb", "png"))
                                                for end in (ending, "json"))  # fmt: skip
    (tmp_path / "broken").write_text("no picture")
    with pytest.raises(UserError, match="broken: has no ending, and what it holds is no picture"):
        write_shards(Pictures(["broken"], ["x"], [tmp_path / "broken"], [np.array([0])]), tmp_path / "more", 3)


def test_missing_pictures_are_listed_and_moved_ones_found(voken_file: Path, keyed: Path, world: World, tmp_path: Path):
    """From a folder, and from tar shards, that the pictures have moved to."""
    whole = collect(voken_file, keyed, tmp_path / "whole")
    assert whole.returncode == 0
    rows = listed(tmp_path / "whole/pictures.tsv")
    (tmp_path / "moved").mkdir()
    with tarfile.open(tmp_path / "moved.tar", "w") as tar:
        for file, picture, _ in rows[1:]:
            os.link(file, tmp_path / "moved" / f"{picture.partition('/')[2]}.png")  # the ids of these sets have no ending
            tar.add(file, f"{picture.partition('/')[2]}.png")
    sets = f"shapes_train={tmp_path}/moved,shapes_valid={tmp_path}/moved"
    done = collect(voken_file, keyed, tmp_path / "out", "--image-sets", sets, "--as", "copies")
    assert done.returncode == 0 and "pictures that are not there: 1, listed in" in done.stderr, done.stderr
    assert [row[1:] for row in listed(tmp_path / "out/missing.tsv")] == [rows[0][1:]]
    assert [row[1:] for row in listed(tmp_path / "out/pictures.tsv")] == [row[1:] for row in rows[1:]]
    linked = collect(voken_file, keyed, tmp_path / "tars", "--image-sets", sets.replace("moved,", "moved.tar,"), "--as", "symlinks")
    assert linked.returncode == 2 and "take --as copies" in linked.stderr and not (tmp_path / "tars").exists()
    absent = collect(tmp_path / "nothing", keyed, tmp_path / "none")
    assert absent.returncode == 2 and f"--vokens {tmp_path}/nothing: {tmp_path}/nothing.hdf5 does not exist" in absent.stderr
    (tmp_path / "empty").mkdir()
    none = collect(voken_file, keyed, tmp_path / "none", "--image-sets", sets.replace("moved", "empty"))
    assert none.returncode == 2 and "none of the" in none.stderr and not (tmp_path / "none/pictures.tsv").exists()


def test_where_links_can_not_be_made_copies_may(voken_file: Path, keyed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    done = collect(voken_file, keyed, tmp_path / "out", "--as", "hardlinks")
    assert done.returncode == 2 and "(Invalid cross-device link); take --as copies" in done.stderr
    assert collect(voken_file, keyed, tmp_path / "out", "--as", "copies").returncode == 0


def test_a_file_of_fewer_images_is_named(keyed: Path, tmp_path: Path):
    (tmp_path / "x.txt.s.9.hdf5").touch()
    words = ["--load", keyed, "--corpus", tmp_path / "x.txt", "--image-sets", "s", "--vokens-dir", tmp_path]
    assert f"there is --vokens {tmp_path}/x.txt.s.9.hdf5" in run_here("vokenization/collect_images.py", *words).stderr


def test_the_corpus_is_known_by_the_name():
    for name, sets, images in (
        ("a.txt.t_s", ["t_s"], 9), ("a.txt.s_t", ["t", "s"], 9), ("a.txt.s.9", ["s"], 9), ("a.txt.s_t.9", ["s"], 9), ("a.txt.9", ["9"], 9),
    ):  # fmt: skip
        assert corpus_in(name, sets, images) == "a.txt"


def test_another_folder_is_left_alone(voken_file: Path, keyed: Path, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    done = collect(voken_file, keyed, tmp_path)
    assert done.returncode == 2 and "holds other files (notes.txt)" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["notes.txt"]


@pytest.mark.parametrize("kept", [None, [0, 3, 7, 8]])
def test_pictures_of_tokens(tmp_path: Path, kept: list[int] | None):
    """Each token's own, with the line it is in; where a filter has left lines out, by their numbers in the text."""
    with h5py.File(tmp_path / "v.hdf5", "w") as file:
        file["indices"] = np.array([[4, 1], [-1, -1], [2, 4], [1, 0]], np.int32)
        file["vokens"] = np.array([4, 5, -100, 2, 5, 5, 1], np.int32)
        if kept:
            file["line"] = np.array(kept)
    (tmp_path / "t.txt").write_text("")
    (tmp_path / "t.txt.another.line").write_text("0\n2\n4\n7\n8\n")  # another tokenizer's lines may end at the same number of tokens
    (tmp_path / "t.txt.bert.line").write_text("0\n3\n3\n6\n7\n")
    if kept:
        (tmp_path / "t.txt.bert.kept").write_text("".join(f"{line}\n" for line in kept))
    assert token_pictures(tmp_path / "v.hdf5") == 7
    wanted = read_wanted(tmp_path / "v.hdf5", None, LinesOfTokens(tmp_path / "t.txt", 7, read_rows(tmp_path / "v.hdf5", "")))
    found = {row: wanted.of(place).tolist() for place, row in enumerate(wanted.rows.tolist())}
    lines = kept or [0, 1, 2, 3]
    assert found == {
        0: [lines[3]],
        1: [lines[0], lines[3]],
        2: [lines[2]],
        4: [lines[0], lines[2]],
        5: [lines[0], lines[2]],
    }
