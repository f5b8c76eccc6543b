"""Pictures of context files found among captioned ones, by whichever of their names each has."""

import json

import pytest

from ctx.captioned import Captioned, coco_number, read_coco, read_image_sets
from xvoken.errors import UserError
from xvoken.files.image_sets import Roots


def lxmert(tmp_path, **sets):
    for name, rows in sets.items():
        entries = [{"img_id": img_id, "sentf": {"mscoco": texts}} for img_id, texts in rows.items()]
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    return read_image_sets(list(sets), ["mscoco"], Roots(tmp_path, tmp_path, tmp_path))


def coco(root, year="2014", **splits):
    """Annotation files; splits: of each, image id -> file name and captions."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, pictures in splits.items():
        images = [{"id": number, "file_name": name} for number, (name, _) in pictures.items()]
        rows = [{"id": 1, "image_id": number, "caption": text} for number, (_, texts) in pictures.items() for text in texts]
        (root / f"annotations/captions_{split}{year}.json").write_text(json.dumps({"images": images, "annotations": rows}))
    return root


def captions_of(captioned: Captioned, image_id: str):
    row = captioned.find(image_id)
    return None if row is None else captioned.captions[row]


@pytest.mark.parametrize(
    ("name", "number"),
    [("COCO_val2014_000000000042", 42), ("000000000042", 42), ("42", None), ("COCO_val2014_42", None), ("a_000000000042", None)],
)
def test_coco_number(name, number):
    assert coco_number(name) == number


def test_pictures_of_lxmert_files(tmp_path):
    found = lxmert(tmp_path, one={"COCO_val2014_000000000042": ["a dog"], "107": ["a cat"], "red.x": ["a car"]}, two={"a/b": ["a tree"]})
    for image_id in ("42", "000000000042", "COCO_val2014_000000000042"):
        assert captions_of(found, image_id) == ["a dog"]
    assert captions_of(found, "107") == ["a cat"]
    assert captions_of(found, "COCO_val2014_000000000107") is None, "a number that is not COCO's"
    assert captions_of(found, "042") is None
    assert captions_of(found, "red.x") == ["a car"]
    assert captions_of(found, "b") == captions_of(found, "a_b") == ["a tree"]
    assert captions_of(found, "nothing") is None


def test_two_pictures_that_an_id_could_mean_are_refused(tmp_path):
    found = lxmert(tmp_path, vg={"42": ["a cat"]}, coco={"COCO_val2014_000000000042": ["a dog"]})
    with pytest.raises(UserError, match="picture 42 could be each of 42, COCO_val2014_000000000042"):
        found.find("42")
    assert captions_of(found, "COCO_val2014_000000000042") == ["a dog"]


def test_a_picture_in_two_sets_has_the_captions_of_both(tmp_path):
    found = lxmert(tmp_path, one={"a": ["a dog"]}, two={"b": ["a cat"], "a": ["a tree"]})
    assert len(found) == 2 and captions_of(found, "a") == ["a dog", "a tree"]


def test_a_set_without_captions_is_named(tmp_path):
    lxmert(tmp_path, one={"a": ["a dog"]})
    with pytest.raises(UserError, match="other: has no captions; sets with captions in .*: one"):
        read_image_sets(["other"], ["mscoco"], Roots(tmp_path, tmp_path, tmp_path))


@pytest.mark.parametrize(("year", "name"), [("2014", "COCO_train2014_000000000042"), ("2017", "000000000042")])
def test_pictures_of_cocos_files(tmp_path, year, name):
    found = read_coco(coco(tmp_path, year, train={42: (f"{name}.jpg", ["a dog", "a cat"])}, val={7: ("seven.jpg", [])}))
    for image_id in ("42", "000000000042", "COCO_train2014_000000000042"):
        assert captions_of(found, image_id) == ["a dog", "a cat"]
    assert captions_of(found, "7") == captions_of(found, "seven") == []


def test_cocos_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="captions_train2014.json does not exist .* --dataset_root, or name image sets"):
        read_coco(tmp_path)
    root = coco(tmp_path, train={1: ("a.jpg", ["a dog"])}, val={1: ("a.jpg", [])})
    with pytest.raises(UserError, match="image id 1 is in both"):
        read_coco(root)
    for broken, message in (
        ([], "not COCO's layout"),
        ({"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 2, "caption": "a dog"}]}, "a caption of image 2"),
        ({"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "caption": 5}]}, "a caption of image 1"),
    ):
        (root / "annotations/captions_train2014.json").write_text(json.dumps(broken))
        with pytest.raises(UserError, match=message):
            read_coco(root)
