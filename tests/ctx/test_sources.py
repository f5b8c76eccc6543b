"""Pictures of a context from folders in a folder, tar shards and image sets: the same values, wherever they lie."""

import shutil
import tarfile

import h5py
import numpy as np
import pytest

from tests import ctx_fixtures as fixtures
from tests.ctx_fixtures import run_script
from vokenization import create_image_ids

SIZES = {"one": (90, 60), "two": (40, 80), "tiny": (3, 2)}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """pictures/{a,b}: `same.png` in both, with different content, and one more in each; tars/: the same in two shards; plain/."""
    work = tmp_path_factory.mktemp("sources")
    fixtures.save_clip(work / "model")
    plain = fixtures.save_pictures(work / "plain", SIZES)
    for folder, own in (("a", "one"), ("b", "two")):
        (work / "pictures" / folder).mkdir(parents=True)
        shutil.copy(plain / f"{own}.png", work / "pictures" / folder / "same.png")
    shutil.copy(plain / "tiny.png", work / "pictures/b/other.png")
    (work / "pictures/b/broken.png").write_bytes(b"no picture")
    (work / "tars").mkdir()
    for number, folder in enumerate("ab"):
        with tarfile.open(work / f"tars/0000{number}.tar", "w") as tar:
            for path in sorted((work / "pictures" / folder).iterdir()):
                tar.add(path, f"{folder}/{path.name}")
    return work


def values(work, name):
    with h5py.File(work / f"outputs/{name}/vis_ctx.hdf5") as file:
        return {key: file[key][:] for key in file}


def encode(work, name, *flags):
    line = run_script("encode_images", work, "--model", "model", "--exp_name", name, *flags)
    return values(work, name), line


@pytest.fixture(scope="module")
def plain(work):
    return encode(work, "plain", "--images", "plain")[0]


def test_equal_names_in_two_folders_are_told_apart(work, plain):
    found, line = encode(work, "folders", "--images", "pictures")
    assert set(found) == {"a_same", "b_same", "other"} and "1 left out" in line
    for key, name in (("a_same", "one"), ("b_same", "two"), ("other", "tiny")):
        np.testing.assert_allclose(found[key], plain[name], atol=1e-6)
    assert "b/broken.png" in (work / "outputs/folders/vis_ctx.skipped.tsv").read_text()


@pytest.mark.parametrize("flags", [["--images", "tars/*.tar"], ["--images", "tars/{00000..00001}.tar"]])
def test_shards_give_what_their_unpacked_files_give(work, plain, flags):
    found, line = encode(work, "shards", *flags)
    assert set(found) == {"a_same", "b_same", "other"}
    np.testing.assert_allclose(found["b_same"], plain["two"], atol=1e-6)


def test_image_sets_in_their_fixed_order(work, plain, monkeypatch):
    monkeypatch.chdir(work)
    create_image_ids.main(["--image-sets", "mine=pictures/a,other=tars/00001.tar", "--ids-root", "ids"])
    found, line = encode(work, "sets", "--image-sets", "mine,other", "--ids-root", "ids")
    assert set(found) == {"same", "b_same", "other"}, line
    for key, name in (("same", "one"), ("b_same", "two"), ("other", "tiny")):
        np.testing.assert_allclose(found[key], plain[name], atol=1e-6)


def test_mistakes(work):
    line = run_script("encode_images", work, "--model", "model", "--images", "plain", "--image-sets", "mine", code=2)
    assert line.endswith("--images plain and --image-sets mine: give one of them")
    line = run_script("encode_images", work, "--model", "model", "--image-sets", "nothing", "--ids-root", "nowhere", code=2)
    assert "nothing" in line and "create_image_ids" in line
    line = run_script("encode_images", work, "--model", "model", "--images", "tars/{00000..00003}.tar", code=2)
    assert "00002.tar: no such tar file" in line
