from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from tests.conftest import World
from xvoken.messages import UserError


def test_check_says_what_files_hold(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    corpus = world.folder / "corpus/lines.txt"
    sets = ["--image-sets", "shapes_train", "--num-workers", 1]
    script("vokenization.vokenize_corpus_mp", "--load", keyed, "--corpus", corpus, *sets, "--output", tmp_path)
    paths = [
        keyed, keyed / "keys/shapes_train.hdf5", world.folder / "ids/shapes_train.ids",
        world.folder / "corpus/lines.txt.tiny-bert.hdf5", tmp_path / "lines.txt.shapes_train.hdf5",
    ]  # fmt: skip
    said = script("scripts.check", *paths)
    for part in ("matcher resnet18", "18 keys of 16", "order of 18 pictures", "corpus of 21 lines", "top 5 of 18 images for 21 lines"):
        assert part in said
    with h5py.File(tmp_path / "lines.txt.shapes_train.hdf5", "r+") as file:
        file["scores"][0, 4] = 9
    with pytest.raises(UserError, match="scores of line 1 do not descend"):
        script("scripts.check", tmp_path / "lines.txt.shapes_train.hdf5")
    with pytest.raises(UserError, match="made.ivf.json does not exist"):
        script("scripts.check", tmp_path / "made.ivf.faiss")
    with pytest.raises(UserError, match="expected a snapshot"):
        script("scripts.check", "README.md")
