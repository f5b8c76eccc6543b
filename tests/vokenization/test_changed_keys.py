"""Keys that are others than before are noticed, by what they hold and not by how they are called."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.worlds import World
from xvoken.cli.check import check
from xvoken.errors import UserError
from xvoken.files import keys


@pytest.fixture
def retrieve(world: World, keyed: Path, tmp_path: Path) -> list[object]:
    """The command that retrieves from a copy of the keys in tmp_path/keys."""
    shutil.copytree(keyed / "keys", tmp_path / "keys")
    return [
        "vokenization.vokenize_corpus_mp", "--load", keyed, "--corpus", world.folder / "corpus/lines.txt",
        "--tokenizer-name", world.bert.name, "--image-sets", "shapes_train",
        "--keys-dir", tmp_path / "keys", "--output", tmp_path / "vokens", "--num-workers", 1,
    ]  # fmt: skip


def make_others(where: Path) -> None:
    """Keys of the same number, size, ids and settings."""
    read = keys.read(where, "shapes_train")
    settings = keys.read_settings(where, "shapes_train")
    attributes = {name: value for name, value in read.attributes.items() if name not in ("settings", "sha256")}
    keys.write(where, "shapes_train", [np.array(read.keys[::-1])], read.ids, read.paths, [], settings, attributes)


def test_finished_results_of_other_keys(retrieve: list[object], tmp_path: Path, script: Callable[..., str]):
    script(*retrieve)
    assert "skipped" in script(*retrieve)
    make_others(tmp_path / "keys")
    with pytest.raises(UserError, match='made with other settings \\(keys: ".*" then, ".*" now'):
        script(*retrieve)


def test_shares_of_other_keys(retrieve: list[object], tmp_path: Path, script: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("vokenization.vokenize_corpus_mp.CHUNK", 8)
    script(*retrieve, "--part", 1, "--parts", 2)
    make_others(tmp_path / "keys")
    with pytest.raises(UserError, match='unfinished run with other settings \\(keys: ".*" then, ".*" now'):
        script(*retrieve, "--part", 2, "--parts", 2)


def test_keys_of_other_pictures(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    (tmp_path / "pictures").mkdir()
    for picture in sorted((world.folder / "images").glob("*.png"))[:3]:
        shutil.copy(picture, tmp_path / "pictures")
    ids = ["--ids-root", tmp_path / "ids"]
    script("vokenization.create_image_ids", "--image-sets", f"mine={tmp_path / 'pictures'}", *ids)
    extract = ["vokenization.extract_vision_keys", "--load-dir", keyed, "--image-sets", "mine", *ids, "--num-workers", 1]
    extract += ["--cache", tmp_path / "cache", "--output", tmp_path / "keys"]
    script(*extract)
    assert "skipped" in script(*extract)
    with open(tmp_path / "pictures" / picture.name, "ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match='made with other settings \\(data: ".*" then, ".*" now'):
        script(*extract)


def test_keys_without_a_hash_are_known_by_their_content(keyed: Path, tmp_path: Path):
    """Those of the predecessors, for one."""
    shutil.copytree(keyed / "keys", tmp_path / "keys")
    with h5py.File(tmp_path / "keys/shapes_train.hdf5", "r+") as file:
        del file.attrs["sha256"]
    assert keys.read(tmp_path / "keys", "shapes_train").identity == keys.read(keyed / "keys", "shapes_train").identity


def test_check_finds_a_changed_key(keyed: Path, tmp_path: Path):
    shutil.copytree(keyed / "keys", tmp_path / "keys")
    with h5py.File(tmp_path / "keys/shapes_train.hdf5", "r+") as file:
        file["keys"][0] = file["keys"][1]
    with pytest.raises(UserError, match="its keys are not those that were written"):
        check(tmp_path / "keys/shapes_train.hdf5")


def test_ids_that_are_not_those_of_the_keys(retrieve: list[object], tmp_path: Path, script: Callable[..., str]):
    """Each picture would go by the name of another one."""
    ids = tmp_path / "keys/shapes_train.ids"
    ids.write_text("\n".join(sorted(ids.read_text().split("\n")[:-1], reverse=True)) + "\n")
    with pytest.raises(UserError, match="shapes_train.ids: its ids differ from those in .*shapes_train.hdf5"):
        script(*retrieve)
    assert not (tmp_path / "vokens").exists()


def test_check_counts_the_ids_of_retrieved_images(retrieve: list[object], tmp_path: Path, script: Callable[..., str]):
    script(*retrieve)
    with open(tmp_path / "vokens/lines.txt.shapes_train.ids", "a") as file:
        file.write("shapes_train/another\n")
    with pytest.raises(UserError, match="lines.txt.shapes_train.ids: 19 ids, 18 images were searched"):
        check(tmp_path / "vokens/lines.txt.shapes_train.hdf5")


def test_shares_of_keys_with_other_settings(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str], monkeypatch):
    """They have a cache file each, by their settings: one would wait for the other for ever."""
    monkeypatch.setattr("xvoken.cache.images.IMAGE_CHUNK", 6)
    flags = ["--load-dir", keyed, "--image-sets", "shapes_train", "--ids-root", world.folder / "ids", *world.roots, "--num-workers", 1]
    extract = ["vokenization.extract_vision_keys", *flags, "--cache", tmp_path / "cache", "--output", tmp_path / "keys"]
    script(*extract, "--part", 1, "--parts", 2)
    for more in (["--part", 2, "--parts", 2], ["--join"]):
        with pytest.raises(UserError, match='shares of the same work with other settings \\(precision: "fp32" then, "bf16" now'):
            script(*extract, *more, "--precision", "bf16")
    assert "wrote" in script(*extract, "--part", 2, "--parts", 2)


def test_a_file_beside_the_finished_one_is_gone(retrieve: list[object], world: World, tmp_path: Path, script: Callable[..., str]):
    """The work is not skipped with what is missing, and the command that was named then is no circle."""
    script(*retrieve)
    (tmp_path / "vokens/lines.txt.shapes_train.ids").unlink()
    with pytest.raises(UserError, match=r"lines.txt.shapes_train.ids is gone, .*; make both again after: rm "):
        script(*retrieve)
    shutil.copytree(world.folder / "corpus", tmp_path / "corpus")
    tokenize = ["tokenization.tokenize_dataset", tmp_path / "corpus", "lines.txt", world.bert]
    assert "skipped" in script(*tokenize)
    (tmp_path / f"corpus/lines.txt.{world.bert.name}.line").unlink()
    with pytest.raises(UserError, match=r"\.line is gone, .*; make both again after: rm "):
        script(*tokenize)
