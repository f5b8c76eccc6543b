"""Pictures of a context from folders in a folder, tar shards and image sets: the same values, wherever they lie."""

import dataclasses
import io
import json
import shutil
import tarfile

import h5py
import numpy as np
import pytest

from tests import builder
from tests.running import run_script
from vokenization import create_image_ids
from xvoken.errors import UserError
from xvoken.pictures import sources

SIZES = {"one": (90, 60), "two": (40, 80), "tiny": (3, 2)}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """pictures/{a,b}: `same.png` in both, with different content, and one more in each; tars/: the same in two shards; plain/."""
    work = tmp_path_factory.mktemp("sources")
    builder.save_clip(work / "model")
    plain = builder.save_pictures(work / "plain", SIZES)
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


def repack(tar, names, folder):
    with tarfile.open(tar, "w") as file:
        for name in names:
            file.add(folder / name, name)


def test_a_shard_whose_files_changed_places_is_refused(work, monkeypatch):
    monkeypatch.chdir(work)
    same = builder.save_pictures(work / "same", dict.fromkeys(("one", "two"), (40, 40)))
    for path in same.iterdir():  # of equal size, so that the tar's size tells nothing
        path.write_bytes(path.read_bytes().ljust(20_000, b" "))
    (work / "turned").mkdir()
    repack(work / "turned/0.tar", ["one.png", "two.png"], same)
    create_image_ids.main(["--image-sets", "turned=turned/*.tar", "--ids-root", "ids"])
    size = (work / "turned/0.tar").stat().st_size
    repack(work / "turned/0.tar", ["two.png", "one.png"], same)
    assert (work / "turned/0.tar").stat().st_size == size
    flags = ["encode_images", work, "--model", "model", "--exp_name", "turned", "--image-sets", "turned", "--ids-root", "ids"]
    line = run_script(*flags, code=2)
    assert "turned/0.tar: one.png was at byte" in line and "create_image_ids.py --image-sets NAME=SHARDS" in line
    assert not (work / "outputs/turned/vis_ctx.hdf5").exists()
    create_image_ids.main(["--image-sets", "turned=turned/*.tar", "--ids-root", "ids"])
    run_script(*flags)
    assert set(values(work, "turned")) == {"one", "two"}


NAMES = ["a.png", "./a/b.png", "/a.png", "é/ß.png", "d/" * 60 + "x.png", "n" * 95 + ".png"]
LONGER = ["n" * 99 + ".png"]  # than a plain header, as ustar's, can hold without a slash


@pytest.mark.parametrize(
    ("format", "name"),
    [(tarfile.USTAR_FORMAT, name) for name in NAMES]
    + [(format, name) for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT) for name in NAMES + LONGER],
)
def test_members_are_known_by_their_headers(tmp_path, name, format):
    with tarfile.open(tmp_path / "x.tar", "w", format=format) as tar:
        member = tarfile.TarInfo(name)
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
    (found,) = sources.scan([str(tmp_path / "x.tar")], lambda name: True)[0].values()
    assert found.open().read() == b"hello"
    for offset in (0, found.offset + 512, 10**6):  # as a damaged file of places may say
        with pytest.raises(UserError, match="was at byte"):
            dataclasses.replace(found, offset=offset).open()


def test_open_images_from_shards_is_read_from_them(work, plain, monkeypatch):
    monkeypatch.chdir(work)
    create_image_ids.main(["--image-sets", "open_images=tars/00001.tar", "--ids-root", "ids"])
    found, _ = encode(work, "open", "--image-sets", "open_images", "--ids-root", "ids")
    np.testing.assert_allclose(found["same"], plain["two"], atol=1e-6)


def test_ids_of_captioned_sets_are_kept_whole(work, plain, monkeypatch):
    monkeypatch.chdir(work)
    (work / "lx").mkdir()
    (work / "cap").mkdir()
    for i, name in (("t.png", "one"), ("t", "two"), ("v1.2", "tiny")):
        shutil.copy(work / f"plain/{name}.png", work / f"cap/{i}.png")
    rows = [{"img_id": i, "labelf": {}, "sentf": {"mscoco": ["a dog"]}} for i in ("t.png", "t", "v1.2")]
    (work / "lx/cap.json").write_text(json.dumps(rows))
    roots = ["--lxmert-root", "lx", "--image-root", "cap", "--ids-root", "ids"]
    create_image_ids.main(["--image-sets", "cap", *roots])
    found, _ = encode(work, "cap", "--image-sets", "cap", *roots)
    assert set(found) == {"t.png", "t", "v1.2"}
    np.testing.assert_allclose(found["t.png"], plain["one"], atol=1e-6)
