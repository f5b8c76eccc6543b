"""The usual image sets under the predecessors' names: Open Images and Conceptual Captions."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.running import run_here
from tests.worlds import World
from xvoken.cli.check import check
from xvoken.errors import UserError
from xvoken.files import image_ids, keys
from xvoken.files.image_sets import Roots, named_file, named_id, read_captioned

ROOTS = Roots(Path("data/lxmert"), Path("data/mscoco/images"), Path("data/vg/images"))


@pytest.fixture
def photos(world: World) -> list[Path]:
    return sorted((world.folder / "images").glob("*.png"))


@pytest.fixture
def open_images(photos: list[Path], tmp_path: Path) -> Path:
    """Pictures where Maria's `common.OI_ROOT` has them; one that its rule, {id}.jpg, does not reach, and one in a folder."""
    folder = tmp_path / "data/open_images/images"
    for photo, name in zip(photos, ["0312462f3202e152.jpg", "2fbaeaa35fb66ecf.jpg", "288f8c1263f6d3d5.jpg", "a.png", "b.png.jpg"]):  # noqa: B905
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, folder / name)
    return folder


def maria_path(img_id: str) -> str:
    """As retrieval_model/vokenization/extract_vision_keys.py finds a picture of open_images."""
    return f"data/open_images/images/{img_id}.jpg"


def test_ids_of_open_images_are_marias(open_images: Path, photos: list[Path], tmp_path: Path):
    """Ours are read by its rule, its file by ours; an older file of ours, with endings, stays and means the same pictures."""
    done = run_here("vokenization/create_image_ids.py", cwd=tmp_path)
    assert done.returncode == 0 and "wrote the order of 5 pictures" in done.stdout, done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        "coco_train", "coco_nominival", "coco_minival", "vg_nococo", "cc_train", "cc_valid",
    ]  # fmt: skip
    root = tmp_path / image_ids.ROOT
    ids = image_ids.read(root, "open_images")
    assert ids == ["0312462f3202e152", "288f8c1263f6d3d5", "2fbaeaa35fb66ecf", "a.png", "b.png.jpg"]
    assert all((tmp_path / maria_path(i)).is_file() for i in ids[:3])
    found = image_ids.paths(root, "open_images", ids, None, ROOTS)
    assert all((tmp_path / path).is_file() for path in found)
    image_ids.ids_file(root, "open_images_500k").write_text("".join(f"{i}\n" for i in ids[:3]))  # as its script names it
    assert all(path.is_file() for path in image_ids.paths(root, "open_images_500k", ids[:3], open_images, ROOTS))
    image_ids.source_file(root, "open_images").unlink()  # its own file has none beside it
    assert image_ids.paths(root, "open_images", ids, None, ROOTS) == found
    old = [path.name for path in found]
    image_ids.ids_file(root, "open_images").write_text("".join(f"{i}\n" for i in old))
    assert image_ids.paths(root, "open_images", old, None, ROOTS) == found
    again = run_here("vokenization/create_image_ids.py", "--image-sets", "open_images", cwd=tmp_path)
    assert again.returncode == 0 and "skipped" in again.stderr
    assert image_ids.read(root, "open_images") == old
    shutil.copy(photos[7], open_images / "4.jpg")
    assert run_here("vokenization/create_image_ids.py", "--image-sets", "open_images", cwd=tmp_path).returncode == 2


def test_open_images_from_shards(open_images: Path, tmp_path: Path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for path in sorted(open_images.iterdir()):
            tar.add(path, path.name)
    run_here("vokenization/create_image_ids.py", "--image-sets", "open_images=0.tar", "--ids-root", "ids", cwd=tmp_path)
    ids = image_ids.read(tmp_path / "ids", "open_images")
    assert ids[0] == "0312462f3202e152"
    for member, path in zip(
        image_ids.paths(tmp_path / "ids", "open_images", ids, tmp_path / "0.tar", ROOTS), sorted(open_images.iterdir()), strict=True
    ):
        with member.open() as file:
            assert file.read() == path.read_bytes()


@pytest.mark.parametrize("name", ["a.jpg", "a.b.jpg", "a.JPG", "a.jpg.jpg", "a.jpeg", "d/a.jpg", "a.png.jpg", ".jpg"])
def test_a_file_of_open_images_has_one_id(name: str):
    assert named_file("open_images", named_id("open_images", name)) == name
    assert named_id("album", name) == named_file("album", name) == name


def test_conceptual_captions(world: World, keyed: Path, photos: list[Path], tmp_path: Path):
    """As Vokenization's common.py, create_image_ids.py and evaluate_retrieval.py have them: two columns, files without an ending."""
    cc = tmp_path / "data/cc"
    names = [f"validation_{number:08}" for number in (9486, 2, 17)]
    (cc / "images/validation").mkdir(parents=True)
    for photo, name in zip(photos, names[:2], strict=False):
        shutil.copy(photo, cc / "images/validation" / name)
    (cc / "validation.tsv").write_text(
        "".join(f"a {word} circle \t{name}\n" for word, name in zip(("red", "blue", "green"), names, strict=True))
    )
    done = run_here("vokenization/create_image_ids.py", cwd=tmp_path)
    assert done.returncode == 0 and "cc_train: left out" in done.stderr and "cc_valid.ids" in done.stdout, done.stderr
    assert image_ids.read(tmp_path / image_ids.ROOT, "cc_valid") == names
    load = ["--load", keyed, "--image-sets", "cc_valid", "--num-workers", 1]
    where = ["--output", "keys"]
    done = run_here("vokenization/extract_vision_keys.py", *load, *where, cwd=tmp_path)
    assert done.returncode == 0 and "2 keys" in done.stdout and "1 left out" in done.stdout, done.stderr
    read = keys.read(tmp_path / "keys", "cc_valid")
    assert read.ids == names[:2] and read.paths == [f"data/cc/images/validation/{name}" for name in names[:2]]
    done = run_here("vokenization/evaluate_retrieval.py", *load, "--keys-dir", "keys", "--output", "eval", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "eval/cc_valid.json").read_text())["captions"] == 2
    assert "2 keys" in check(tmp_path / "keys/cc_valid.hdf5")


@pytest.mark.parametrize("line", ["a dog http://x.org/a.jpg", "a dog\thttp://x.org/a.jpg", "a dog\tvalidation_1\tdog", "a dog\t"])
def test_a_file_of_conceptual_captions_that_is_another(tmp_path: Path, line: str):
    (tmp_path / "validation.tsv").write_text(f"a cat\tvalidation_00000002\n{line}\n")
    with pytest.raises(UserError, match=r"validation.tsv: line 2: a sentence, a tab and an id such as training_00009486"):
        read_captioned("cc_valid", ["mscoco"], Roots(tmp_path, tmp_path, tmp_path, tmp_path))
