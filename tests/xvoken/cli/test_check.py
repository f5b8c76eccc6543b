import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from tests.worlds import World
from xvoken.errors import UserError


def test_check_of_missing_and_foreign_files(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    shutil.copytree(world.folder / "corpus", tmp_path / "corpus")
    tokens = tmp_path / "corpus/lines.txt.tiny-bert.hdf5"
    text = tokens.with_suffix("")
    text.write_text(text.read_text().replace(" ", " x ", 1))
    with pytest.raises(UserError, match="line 1 differs"):
        script("xvoken.cli.check", tokens)
    text.unlink()
    with pytest.raises(UserError, match="lines.txt.tiny-bert does not exist"):
        script("xvoken.cli.check", tokens)
    sets = ["--image-sets", "shapes_train", "--num-workers", 1, "--output", tmp_path]
    script("vokenization.vokenize_corpus_mp", "--load", keyed, "--corpus", world.folder / "corpus/lines.txt", *sets)
    for ending in ("", ".ids"):
        (tmp_path / f"lines.txt.shapes_train{ending}").unlink()
        with pytest.raises(UserError, match=f"lines.txt.shapes_train{ending} does not exist, .* after: rm "):
            script("xvoken.cli.check", tmp_path / "lines.txt.shapes_train.hdf5")


@pytest.mark.parametrize("names", [[], ["other"], ["indices"], ["keys/x"], ["tokens/x"], ["0"]])
def test_check_of_hdf5_files_of_others(tmp_path: Path, script: Callable[..., str], names: list[str]):
    with h5py.File(tmp_path / "foreign.hdf5", "w") as file:
        for name in names:
            file[name] = [1, 2]
    with pytest.raises(UserError, match="foreign"):
        script("xvoken.cli.check", tmp_path / "foreign.hdf5")


def test_check_says_what_files_hold(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    corpus = world.folder / "corpus/lines.txt"
    sets = ["--image-sets", "shapes_train", "--num-workers", 1]
    script("vokenization.vokenize_corpus_mp", "--load", keyed, "--corpus", corpus, *sets, "--output", tmp_path)
    paths = [
        keyed, keyed / "keys/shapes_train.hdf5", world.folder / "ids/shapes_train.ids",
        world.folder / "corpus/lines.txt.tiny-bert.hdf5", tmp_path / "lines.txt.shapes_train.hdf5",
    ]  # fmt: skip
    said = script("xvoken.cli.check", *paths)
    for part in ("matcher resnet18", "18 keys of 16", "order of 18 pictures", "corpus of 21 lines", "top 5 of 18 images for 21 lines"):
        assert part in said
    with h5py.File(tmp_path / "lines.txt.shapes_train.hdf5", "r+") as file:
        file["scores"][0, 4] = 9
    with pytest.raises(UserError, match="scores of line 1 do not descend"):
        script("xvoken.cli.check", tmp_path / "lines.txt.shapes_train.hdf5")
    with pytest.raises(UserError, match="made.ivf.json does not exist"):
        script("xvoken.cli.check", tmp_path / "made.ivf.faiss")
    with pytest.raises(UserError, match="expected a snapshot"):
        script("xvoken.cli.check", "README.md")
