"""Each mistake: one clear line, exit code 2, nothing written."""

import json
import shutil

import h5py
import numpy as np
import pytest

from ctx import encode_images
from ctx.coco import Source, read_pictures
from ctx.phrases import read_lines, read_visual_genome
from tests import builder
from tests.running import run_script
from xvoken.errors import UserError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    work = tmp_path_factory.mktemp("bad")
    builder.save_clip(work / "model")
    builder.save_clip(work / "other", seed=1)
    builder.save_clip(work / "wide", dim=16)
    builder.save_pictures(work / "pictures", {"a": (40, 40), "b": (50, 40)})
    (work / "phrases.txt").write_text("\n".join(builder.phrases(8)) + "\n", encoding="utf-8")
    run_script("encode_captions", work, "--model", "model", "--captions", "phrases.txt")
    return work


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--k", 9], "--k 9: the caption database has only 8 phrases"),
        (["--k", 0], "--k 0: must be at least 1"),
        (["--model", "other"], "made by another model (model"),
        (["--images", "none"], "none: no such folder of pictures"),
        (["--images", "model"], "model: no pictures in it"),
        (["--caption_db", "none.hdf5"], "none.hdf5 does not exist; make it with: python ctx/encode_captions.py --model model"),
        (["--caption_db", "phrases.txt"], "phrases.txt: no whole hdf5 file"),
        (["--device", "gpu"], "--device gpu: not one of auto, cpu, cuda or a GPU's number"),
        (["--batch_size", 0], "--batch_size 0: must be at least 1"),
        (["--num-workers", -1], "--num_workers -1: must be at least 1"),
        (["--model", "snap/none"], "hf download snap/none"),
        (["--model", "./none"], "no snapshot at ./none"),
    ],
)
def test_build_context_says_what_is_wrong(world, flags, said):
    good = ["--model", "model", "--images", "pictures", "--k", 4]
    assert said in run_script("build_context", world, *good, *flags, code=2)
    assert not (world / "outputs/image_features").exists()


def test_database_of_another_width_or_layout_is_refused(world):
    for name in ("plain", "broken"):
        shutil.copy(world / "outputs/captions_db/caption_db.hdf5", world / f"{name}.hdf5")
    with h5py.File(world / "plain.hdf5", "a") as file:  # as the predecessor wrote it: it does not say who made it
        for attribute in list(file.attrs):
            del file.attrs[attribute]
    with h5py.File(world / "broken.hdf5", "a") as file:
        del file["0/keys"]
    said = run_script("retrieve_captions", world, "--model", "wide", "--images", "pictures", "--caption_db", "plain.hdf5", code=2)
    assert "keys of 24 dimensions, but the vectors of wide have 16" in said
    said = run_script("retrieve_captions", world, "--model", "model", "--images", "pictures", "--caption_db", "broken.hdf5", code=2)
    assert "does not hold keys, features and captions" in said


def test_no_picture_that_can_be_used(world, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no")
    said = run_script("encode_images", world, "--model", "model", "--images", tmp_path, "--exp_name", "none", code=2)
    assert "none of the 1 pictures can be used" in said and "not a picture" in said


@pytest.mark.parametrize(
    "content, said",
    [(b"", "no captions in it"), (b"\n \n", "no captions in it"), (b"good\nbad \xff\n", "line 2 is not UTF-8")],
)
def test_captions_file(world, tmp_path, content, said):
    (tmp_path / "lines.txt").write_bytes(content)
    assert said in run_script("encode_captions", world, "--model", "model", "--captions", tmp_path / "lines.txt", code=2)


def test_lines_are_trimmed_and_unique_in_their_order(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffzebra\r\n  b\x07ird \n\nzebra\nünïcode 北京".encode())
    assert read_lines(path) == ["zebra", "bird", "ünïcode 北京"]
    with pytest.raises(UserError, match="No such file"):
        read_lines(tmp_path / "none.txt")


def write_visual_genome(folder, attributes, relationships):
    folder.mkdir(exist_ok=True)
    for name, entries in (("attributes", attributes), ("relationships", relationships)):
        (folder / f"{name}.json").write_text(json.dumps([{"image_id": 1, name: [entry]} for entry in entries]), encoding="utf-8")
    return folder


def test_visual_genome_phrases(tmp_path):
    attributes = [
        {"synsets": ["dog.n.01"], "attributes": [" Brown", "big\n", ""], "names": ["doggy"], "x": 1.5},
        {"synsets": ["st._bernard.n.01", "dog.n.01"], "attributes": ["big"]},
        {"synsets": [], "attributes": ["lost"]},
        {"synsets": ["cat.n.01"]},
    ]
    relations = [
        {"predicate": "ON", "subject": {"synsets": ["dog.n.01"]}, "object": {"synsets": ["sofa.n.01", "rug.n.01"]}},
        {"predicate": " ", "subject": {"synsets": ["dog.n.01"]}, "object": {"synsets": ["sofa.n.01"]}},
        {"predicate": "has", "subject": {"synsets": []}, "object": {"synsets": ["sofa.n.01"]}},
    ]
    folder = write_visual_genome(tmp_path / "vg", attributes, relations)
    assert read_visual_genome(folder) == ["big dog", "big st._bernard", "brown dog", "dog on rug", "dog on sofa"]


def test_visual_genome_that_ends_in_the_middle(tmp_path, world):
    folder = write_visual_genome(tmp_path / "vg", [{"synsets": ["dog.n.01"], "attributes": ["big"]}] * 50, [])
    text = (folder / "attributes.json").read_text()
    (folder / "attributes.json").write_text(text[: len(text) // 2])
    said = run_script("encode_captions", world, "--model", "model", "--ann_dir", folder, code=2)
    assert "attributes.json: ends in the middle" in said
    (folder / "attributes.json").write_text("[{]")
    assert "is not valid JSON" in run_script("encode_captions", world, "--model", "model", "--ann_dir", folder, code=2)
    (folder / "attributes.json").unlink()
    assert "does not exist" in run_script("encode_captions", world, "--model", "model", "--ann_dir", folder, code=2)
    write_visual_genome(folder, [{"synsets": 3, "attributes": 4}], [])
    assert "not in Visual Genome's layout" in run_script("encode_captions", world, "--model", "model", "--ann_dir", folder, code=2)


def write_coco(root, year="2014", train=(1, 2), val=(3,)):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, ids in (("train", train), ("val", val)):
        (root / f"{split}{year}").mkdir(exist_ok=True)
        loaded = {
            "images": [{"id": i, "file_name": f"{i:012}.jpg"} for i in ids],
            "annotations": [{"id": 100 * i + n, "image_id": i, "caption": "x"} for i in ids for n in range(2)],
        }
        (root / f"annotations/captions_{split}{year}.json").write_text(json.dumps(loaded))
    return root


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco_pictures_by_id(tmp_path, year):
    root = write_coco(tmp_path, year, train=(10, 9), val=(7,))
    pictures = read_pictures(Source(dataset_root=root))
    assert pictures.ids == ["7", "9", "10"]
    assert pictures.paths == [root / f"{folder}{year}/{i:012}.jpg" for folder, i in (("val", 7), ("train", 9), ("train", 10))]
    assert read_pictures(Source(dataset_root=root), 2).ids == ["7", "9"]


def test_karpathy_files_choose_the_pictures(tmp_path):
    root = write_coco(tmp_path, train=(1, 2, 3), val=(4, 5, 6))
    for name, ids in (("train", [101, 100, 300]), ("restval", [400]), ("dev", []), ("test", [601])):
        np.save(root / f"annotations/coco_{name}_ids.npy", np.array(ids, np.int64))
    assert read_pictures(Source(dataset_root=root)).ids == ["1", "3", "4", "6"]
    np.save(root / "annotations/coco_dev_ids.npy", np.array([999]))
    with pytest.raises(UserError, match="1 annotation ids do not exist in .*captions_val2014.json, 999"):
        read_pictures(Source(dataset_root=root))
    np.save(root / "annotations/coco_dev_ids.npy", np.array(["x"], object))
    with pytest.raises(UserError, match="not a numpy array of whole numbers"):
        read_pictures(Source(dataset_root=root))


def test_coco_mistakes(tmp_path):
    with pytest.raises(UserError, match="captions_train2014.json does not exist"):
        read_pictures(Source(dataset_root=tmp_path))
    with pytest.raises(UserError, match="image id 3 is in both"):
        read_pictures(Source(dataset_root=write_coco(tmp_path / "twice", train=(1, 3), val=(3,))))
    with pytest.raises(UserError, match="image id 3 occurs twice"):
        read_pictures(Source(dataset_root=write_coco(tmp_path / "same", train=(3, 3))))
    with pytest.raises(UserError, match="no images in"):
        read_pictures(Source(dataset_root=write_coco(tmp_path / "empty", train=(), val=())))
    root = write_coco(tmp_path / "cut")
    file = root / "annotations/captions_val2014.json"
    file.write_text(file.read_text()[:40])
    with pytest.raises(UserError, match="captions_val2014.json is not valid JSON"):
        read_pictures(Source(dataset_root=root))
    file.write_text(json.dumps({"images": [], "annotations": [{"id": 5, "image_id": 77}]}))
    with pytest.raises(UserError, match="annotation 5 is of image 77, which is not in it"):
        read_pictures(Source(dataset_root=root))
    shutil.rmtree(write_coco(tmp_path / "bare") / "val2014")
    with pytest.raises(UserError, match="val2014: no such folder of pictures"):
        read_pictures(Source(dataset_root=tmp_path / "bare"))


def test_two_files_with_one_name_are_refused(tmp_path):
    builder.save_pictures(tmp_path, {"a": (9, 9)})
    shutil.copy(tmp_path / "a.png", tmp_path / "a.jpg")
    with pytest.raises(UserError, match="1 image ids occur twice, for example a for a.jpg, a.png"):
        read_pictures(Source(images=tmp_path))


def test_a_gpu_that_is_not_there_is_refused_as_in_all_stages(world, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.chdir(world)
    with pytest.raises(UserError, match="--device 7: GPU 7 does not exist, this machine has 0 to 1"):
        encode_images.main(["--device", "7", "--images", "pictures", "--model", "model"])
