"""From a made-up file of the Karpathy split to the figures of its protocols."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import xvoken
from tests.running import run_here
from tests.worlds import World
from vokenization.protocols import PROTOCOLS, remarks
from xvoken.errors import UserError

SPLIT = "vokenization.split_karpathy"


def images(world: World) -> list[dict]:
    """Entries as dataset_coco.json has them: 15 pictures of the test split among others, not sorted, one with six captions."""
    names = sorted(path.stem for path in (world.folder / "images").glob("*.png"))
    found = []
    for number, name in enumerate(names[::-1]):
        colour, shape = name.split("_")
        said = [f"a {colour} {shape}", f"{shape} painted {colour}", f"the {shape} is {colour}\n", f" {colour}", f"one {shape}", "a sixth"]
        split = {1: "val", 4: "restval", 6: "val"}.get(number % 8, "test")
        sentences = [{"raw": text, "tokens": text.split(), "sentid": number} for text in said[: 6 if number == 2 else 5]]
        found.append({"filepath": "val2014", "filename": f"{name}.jpg", "cocoid": number, "split": split, "sentences": sentences})
    return found


@pytest.fixture
def karpathy(world: World, tmp_path: Path) -> Path:
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": images(world), "dataset": "coco"}))
    return path


def test_splits_of_a_file(world: World, karpathy: Path, tmp_path: Path, script: Callable[..., str]):
    """In the order of the file, five sentences each; a second run changes nothing, another file is refused."""
    root = tmp_path / "lxmert"
    said = script(SPLIT, karpathy, "--lxmert-root", root)
    assert {path.name for path in root.iterdir()} == {f"coco_karpathy_{split}.json" for split in ("test", "val", "restval")}
    assert "coco_karpathy_test: 1 sentences after a picture's fifth are left out; 0 pictures have fewer than five" in said
    for split in ("test", "val", "restval"):
        rows = json.loads((root / f"coco_karpathy_{split}.json").read_text())
        mine = [image for image in images(world) if image["split"] == split]
        assert [row["img_id"] + ".jpg" for row in rows] == [image["filename"] for image in mine]
        for row, image in zip(rows, mine, strict=True):
            assert row["sentf"] == {"mscoco": [sentence["raw"].strip() for sentence in image["sentences"][:5]]}
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.iterdir()}
    again = script(SPLIT, karpathy, "--lxmert-root", root)
    assert again.count("skipped: ") == 3 and "wrote" not in again
    karpathy.write_text(json.dumps({"images": images(world)[:-1]}))
    with pytest.raises(UserError, match=r"coco_karpathy_test.json holds other pictures or sentences than .*make it again after: rm "):
        script(SPLIT, karpathy, "--lxmert-root", root)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("dataset_coco.json", [], r"\{images: \[\{filename, split, sentences\}\]\} was expected"),
        ("dataset_coco.json", {"images": [{"filename": "a.jpg"}]}, r"image 0 is not \{filename, split, sentences"),
        ("dataset_coco.json", {"images": [{"filename": "a.jpg", "split": "../x", "sentences": []}]}, "can't stand in the name of a file"),
        ("dataset_coco.json", {"images": [{"filename": "a.jpg", "split": "test", "sentences": [{"raw": 3}]}]}, "must be texts"),
        ("karpathy.json", {"images": []}, "a file named dataset_NAME.json was expected"),
        (None, None, "dataset_coco.json does not exist"),
    ],
)
def test_a_wrong_file_is_one_line(name: str | None, content: object, said: str, tmp_path: Path, script: Callable[..., str]):
    if name:
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=said) as raised:
        script(SPLIT, tmp_path / (name or "dataset_coco.json"), "--lxmert-root", tmp_path / "lxmert")
    assert "\n" not in str(raised.value) and not (tmp_path / "lxmert").exists()


def by_hand(text: np.ndarray, image: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    """R@1 and the mean rank from text to image, and mAP@R from image to text, by sorting."""
    scores = text @ image.T
    ranks = [int((scores[c] > scores[c, owner[c]]).sum()) + 1 for c in range(len(text))]
    precisions = []
    for n in range(len(image)):
        right = (owner == n)[np.argsort(-scores[:, n])]
        places = [place for place in range(1, 6) if right[place - 1]]
        precisions.append(sum(right[:place].sum() / place for place in places) / 5)
    return {"R1": 100 * np.mean(np.array(ranks) == 1), "mean_rank": np.mean(ranks), "mAP_R": 100 * np.mean(precisions)}


def test_protocols_end_to_end(world: World, matcher: Path, karpathy: Path, tmp_path: Path, script: Callable[..., str]):
    roots = ["--lxmert-root", tmp_path / "lxmert", *world.roots[2:]]
    shared = [*roots, "--num-workers", 1, "--precision", "fp32"]
    evaluate = ["vokenization.evaluate_retrieval", "--load", matcher, "--keys-dir", tmp_path / "keys", "--output", tmp_path, *shared]
    with pytest.raises(UserError, match="make it with: python vokenization/split_karpathy.py dataset_coco.json"):
        script(*evaluate, "--protocol", "coco5k")
    script(SPLIT, karpathy, "--lxmert-root", tmp_path / "lxmert")
    with pytest.raises(UserError, match=r"coco_karpathy_test.hdf5 does not exist; .*extract_vision_keys.py"):
        script(*evaluate, "--protocol", "coco5k")
    script("vokenization.create_image_ids", "--image-sets", "coco_karpathy_test", "--ids-root", tmp_path / "ids", *roots)
    keys = ["--image-sets", "coco_karpathy_test", "--ids-root", tmp_path / "ids", "--output", tmp_path / "keys"]
    script("vokenization.extract_vision_keys", "--load", matcher, *keys, *shared, "--cache", world.folder / "cache")

    printed = script(*evaluate, "--protocol", "coco1k")
    assert "coco_karpathy_test, coco1k: 75 captions, 15 images" in printed and "means over 5 folds" in printed
    assert "not to be compared with published figures: coco1k is 5,000 pictures with 5 captions each, these are 15 and 75" in printed
    script(*evaluate, "--protocol", "coco5k")
    plain = script(*evaluate, "--image-sets", "coco_karpathy_test")
    assert "published" not in plain
    folded, whole, alone = (
        json.loads((tmp_path / f"coco_karpathy_test{protocol}.json").read_text()) for protocol in (".coco1k", ".coco5k", "")
    )
    different = ("settings", "seen")
    assert {key: whole[key] for key in whole if key not in different} == {key: alone[key] for key in alone if key not in different}
    assert whole["seen"] == folded["seen"] == {}  # the files of training's sets are not in this folder

    rows = [image for image in images(world) if image["split"] == "test"]
    encoder, gallery = xvoken.load_encoder(matcher), xvoken.read_keys(tmp_path / "keys", ["coco_karpathy_test"])
    assert [key.split("/")[1] for key in gallery.ids] == [image["filename"].removesuffix(".jpg") for image in rows]
    text = encoder.encode_texts([sentence["raw"].strip() for image in rows for sentence in image["sentences"][:5]])
    owner = np.repeat(np.arange(15), 5)
    folds = [by_hand(text[15 * n : 15 * n + 15], gallery.vectors[3 * n : 3 * n + 3], owner[:15]) for n in range(5)]
    for record, expected in ((folded, folds), (whole, [by_hand(text, gallery.vectors, owner)])):
        found = {**record["text_to_image"], "mAP_R": record["image_to_text"]["mAP_R"]}
        for name in ("R1", "mean_rank", "mAP_R"):
            assert found[name] == pytest.approx(np.mean([each[name] for each in expected]), abs=2e-3), name
    assert "skipped" in script(*evaluate, "--protocol", "coco1k")
    # Now they are: the test split has 15 of all 24 pictures, and the matcher was trained on 18, chosen on 6.
    for split in ("train", "valid"):
        shutil.copy(world.folder / f"lxmert/shapes_{split}.json", tmp_path / "lxmert")
    (tmp_path / "coco_karpathy_test.coco1k.json").unlink()
    script(*evaluate, "--protocol", "coco1k")
    seen = json.loads((tmp_path / "coco_karpathy_test.coco1k.json").read_text())["seen"]
    test = {image["filename"].removesuffix(".jpg") for image in rows}
    lists = {f"shapes_{split}": json.loads((tmp_path / f"lxmert/shapes_{split}.json").read_text()) for split in ("train", "valid")}
    assert seen == {name: len(test & {row["img_id"] for row in listed}) for name, listed in lists.items()} and sum(seen.values()) == 15


def test_flickr_has_its_own_source_of_sentences(world: World, matcher: Path, tmp_path: Path, script: Callable[..., str]):
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps({"images": images(world)[:3]}))
    script(SPLIT, tmp_path / "dataset_flickr30k.json", "--lxmert-root", tmp_path)
    (row, _) = json.loads((tmp_path / "flickr30k_karpathy_test.json").read_text())
    assert list(row["sentf"]) == list(PROTOCOLS["flickr"].langs)


def test_too_few_pictures_for_the_folds(world: World, keyed: Path, tmp_path: Path):
    """Before anything is loaded or written; the pictures that have a key are too few, or lie in some of the folds only."""
    rows = json.loads((world.folder / "lxmert/shapes_valid.json").read_text())
    (tmp_path / "shapes_valid.json").write_text(json.dumps([*rows, *({"img_id": f"none{n}", "sentf": {}} for n in range(30))]))
    flags = ["--load", keyed, "--image-sets", "shapes_valid", "--lxmert-root", tmp_path, "--output", tmp_path / "eval"]
    done = run_here("vokenization/evaluate_retrieval.py", *flags, "--protocol", "coco1k")
    assert done.returncode == 2 and "fold 2 of 5 has no caption whose picture has a key" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "eval").exists()


def test_published_figures_are_those_of_the_protocol_alone():
    whole = {"coco5k": 5000, "coco1k": 5000, "flickr": 1000}
    lines = {name: remarks(name, {"images": number, "captions": 5 * number}) for name, number in whole.items()}
    assert lines["coco1k"] == lines["flickr"] == []
    assert [float(line.split("   ")[-2]) for line in lines["coco5k"][1:]] == [30.3, 30.4, 32.1, 56.1, 58.1]
    assert all(one.source for one in PROTOCOLS["coco5k"].published)
    (line,) = remarks("coco5k", {"images": 5000, "captions": 25010})
    assert line.startswith("not to be compared")
    (line,) = remarks("coco5k", {"images": 5000, "captions": 25000, "seen": {"mscoco_nominival": 4000}})
    assert line.endswith("4,000 of its pictures are in mscoco_nominival, on which this matcher was trained or chosen")
