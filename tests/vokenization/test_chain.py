"""From a corpus and pictures to images for every line: files, values, second runs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests.running import run_here
from tests.worlds import World
from vokenization.evaluate_retrieval import read_record
from xvoken.encoders.encoder import load_encoder
from xvoken.files import image_ids, keys, vokens
from xvoken.pictures.decode import load_picture
from xvoken.records import table

SETS = "shapes_train_shapes_valid"


def vokenize_flags(world: World, keyed: Path, output: Path, *more: object) -> list[object]:
    corpus = world.folder / "corpus/lines.txt"
    sets = ["--image-sets", "shapes_valid,shapes_train"]
    return ["--load", keyed, "--corpus", corpus, *sets, "--output", output, "--precision", "fp32", "--num-workers", 1, *more]


@pytest.mark.slow
def test_keys_against_one_picture_at_a_time(world: World, keyed: Path):
    read = keys.read(keys.folder(keyed), "shapes_train")
    encoder = load_encoder(str(keyed), ["image"], "cpu")
    assert read.ids == [row["img_id"] for row in json.loads((world.folder / "lxmert/shapes_train.json").read_text())]
    assert read.keys.dtype == np.float32
    for row, (img_id, path) in enumerate(zip(read.ids, read.paths, strict=True)):
        assert path == str(world.folder / f"images/{img_id}.png")
        with torch.inference_mode():
            expected = encoder.image_head(encoder.image.tower(encoder.image.tower.view(load_picture(Path(path)))[None]))[0]
        assert np.abs(read.keys[row] - expected.numpy()).max() < 1e-3  # the cache holds 16 bits
    with h5py.File(keys.keys_file(keys.folder(keyed), "shapes_train")) as file:
        assert [i.decode() for i in file["ids"][:]] == read.ids
        assert file.attrs["snapshot"] == "matcher"
        assert file.attrs["snapshot_hash"] == encoder.hash
    assert "18 keys of 16 dimensions by matcher" in keys.check(keys.folder(keyed), "shapes_train")


def test_images_of_every_line_against_one_line_at_a_time(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    printed = script("vokenization.vokenize_corpus_mp", *vokenize_flags(world, keyed, tmp_path))
    assert "21 lines (6 empty, 3 cut to the tower's length)" in printed
    encoder = load_encoder(str(keyed), ["text"], "cpu")
    gallery = [keys.read(keys.folder(keyed), name) for name in ("shapes_train", "shapes_valid")]
    matrix = np.concatenate([part.keys for part in gallery])
    names = [Path(path).name for part in gallery for path in part.paths]
    lines = (world.folder / "corpus/lines.txt").read_text().split("\n")[:-1]
    text = (tmp_path / f"lines.txt.{SETS}").read_text().split("\n")
    ids = (tmp_path / f"lines.txt.{SETS}.ids").read_text().splitlines()
    assert ids == [f"shapes_train/{i}" for i in gallery[0].ids] + [f"shapes_valid/{i}" for i in gallery[1].ids]
    with h5py.File(tmp_path / f"lines.txt.{SETS}.hdf5") as file:
        indices, scores, tokens = file["indices"][:], file["scores"][:], file["vokens"][:]
    assert (indices.dtype, scores.dtype, tokens.dtype) == (np.int32, np.float32, np.int32)
    assert len(text) == len(lines) + 1
    token = 0
    for number, line in enumerate(lines):
        own = encoder.tokenizer(line, add_special_tokens=False)["input_ids"]
        if not own:
            assert (indices[number] == -1).all()
            assert np.isnan(scores[number]).all()
            assert text[number] == ""
            continue
        batch = encoder.tokenizer(line, return_tensors="pt", truncation=True, max_length=40)
        with torch.inference_mode():
            query = encoder.text_head(encoder.text.tower(batch["input_ids"], batch["attention_mask"]))[0].numpy()
        expected = matrix @ query
        assert np.allclose(scores[number], np.sort(expected)[::-1][:5], atol=1e-5)
        assert np.allclose(expected[indices[number]], scores[number], atol=1e-5)
        assert text[number] == "\t".join(names[r] for r in indices[number])
        best = indices[number, 0]
        assert tokens[token : token + len(own)].tolist() == [best] + [-best - 1] * (len(own) - 1)
        token += len(own)
    assert token == len(tokens)
    assert "top 5 of 24 images for 21 lines" in vokens.check(tmp_path, "lines.txt", SETS)


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    """Also where hubness is taken off: what that is, one of them has found out for all."""
    corpus = tmp_path / "lines.txt"
    words = (world.folder / "corpus/lines.txt").read_text()
    corpus.write_text(words * 210)  # 4,410 lines, three parts
    script("tokenization.tokenize_dataset", tmp_path, "lines.txt", world.bert)
    shutil.copytree(keyed / "keys", tmp_path / "keys")
    more = ["--corpus", corpus, "--keys-dir", tmp_path / "keys", "--hubness", 0.5]
    for workers in (1, 2):
        flags = vokenize_flags(world, keyed, tmp_path / str(workers), "--num-workers", workers, *more)
        done = run_here("vokenization/vokenize_corpus_mp.py", *flags)
        assert done.returncode == 0, done.stderr
    for ending in ("", ".hdf5", ".ids"):
        one, two = ((tmp_path / str(n) / f"lines.txt.{SETS}{ending}").read_bytes() for n in (1, 2))
        assert one == two, ending


@pytest.mark.parametrize("backend", ["faiss", "torch"])
def test_backends_and_precisions_agree(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str], backend: str):
    script("vokenization.vokenize_corpus_mp", *vokenize_flags(world, keyed, tmp_path / "auto"))
    script("vokenization.vokenize_corpus_mp", *vokenize_flags(world, keyed, tmp_path / backend, "--backend", backend))
    one, two = (vokens.read(tmp_path / name, "lines.txt", SETS) for name in ("auto", backend))
    assert np.array_equal(one.indices, two.indices)
    assert np.allclose(one.scores, two.scores, atol=1e-6, equal_nan=True)


def test_second_runs(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    flags = vokenize_flags(world, keyed, tmp_path)
    script("vokenization.vokenize_corpus_mp", *flags)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert "skipped" in script("vokenization.vokenize_corpus_mp", *flags, "--batch-size", 7)
    with pytest.raises(Exception, match="topk: 5 then, 3 now"):
        script("vokenization.vokenize_corpus_mp", *flags, "--topk", 3)
    ids = ["--ids-root", world.folder / "ids", *world.roots]
    assert "skipped" in script("vokenization.create_image_ids", "--image-sets", "shapes_train", *ids)
    shared = ["--cache", world.folder / "cache", "--num-workers", 1, "--precision", "fp32"]
    extract = ["vokenization.extract_vision_keys", "--load-dir", keyed, "--image-sets", "shapes_train", *ids, *shared]
    assert "skipped" in script(*extract)
    with pytest.raises(Exception, match="pictures: 18 then, 3 now"):
        script(*extract, "--limit", 3)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_evaluation_agrees_with_the_training(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    flags = ["--load", keyed, "--image-sets", "shapes_valid", *world.roots, "--precision", "fp32"]
    printed = script("vokenization.evaluate_retrieval", *flags, "--output", tmp_path, "--num-workers", 1)
    record = json.loads((tmp_path / "shapes_valid.json").read_text())
    best = json.loads((keyed / "BEST.json").read_text())["validation"]
    shared = {key: {name: record[key][name] for name in best[key]} if isinstance(best[key], dict) else record[key] for key in best}
    assert shared == best
    assert "text to image" in printed


def evaluated_before(record: dict) -> dict:
    """A record as it was before mean ranks, mAP@R and intervals."""
    new = ("mean_rank", "mAP_R", "samples", "seed")
    sides = ("text_to_image", "image_to_text", "settings")
    kept = {key: value for key, value in record.items() if key not in ("rsum", "interval")}
    return kept | {side: {key: value for key, value in record[side].items() if key not in new} for side in sides}


def test_a_second_evaluation(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    """It tells what the file holds; of files of earlier versions, which do not say of what, and of others it measures again."""
    flags = ["--load", keyed, "--image-sets", "shapes_valid", *world.roots, "--num-workers", 1]
    evaluate = ["vokenization.evaluate_retrieval", *flags, "--output", tmp_path]
    path = tmp_path / "shapes_valid.json"
    first, again = script(*evaluate, "--precision", "fp32"), f"skipped: {path} holds this recall already"
    written = path.read_bytes()
    assert f"wrote {path}" in first and again not in first
    second = script(*evaluate, "--precision", "fp32")
    assert again in second and first.split("\nwrote")[0].splitlines() == second.splitlines()[:10]
    assert "wrote" not in second and path.read_bytes() == written
    assert f"wrote {path}" in script(*evaluate, "--precision", "bf16")
    assert f"wrote {path}" in script(*evaluate, "--precision", "fp32") and path.read_bytes() == written
    record = json.loads(written)
    assert list(record["settings"]) == ["snapshot_hash", "keys", "captions", "precision", "samples", "seed"]
    # A record of an earlier version, in which less was measured, is read, and measured again.
    old = evaluated_before(record)
    assert len(table(old).splitlines()) == 5
    for other in (json.dumps({key: value for key, value in record.items() if key != "settings"}), json.dumps(old), "no JSON", "[]"):
        path.write_text(other)
        assert f"wrote {path}" in script(*evaluate, "--precision", "fp32") and path.read_bytes() == written
    # The captions are others now.
    (tmp_path / "lxmert").mkdir()
    rows = json.loads((world.folder / "lxmert/shapes_valid.json").read_text())
    rows[0]["sentf"]["mscoco"][0] += " once"
    (tmp_path / "lxmert/shapes_valid.json").write_text(json.dumps(rows))
    assert f"wrote {path}" in script(*evaluate, "--precision", "fp32", "--lxmert-root", tmp_path / "lxmert")


def test_evaluation_computes_as_keys_and_retrieval_do(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str], monkeypatch):
    """In fp32 where nothing is said, also on a machine whose bf16 is fast."""
    monkeypatch.setattr("xvoken.machine.cpu_has_bf16", lambda: True)
    flags = ["--load", keyed, "--image-sets", "shapes_valid", *world.roots, "--device", "cpu", "--num-workers", 1]
    script("vokenization.evaluate_retrieval", *flags, "--output", tmp_path)
    assert read_record(tmp_path / "shapes_valid.json")["settings"]["precision"] == "fp32"


def test_folder_of_pictures_with_broken_ones(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    pictures = tmp_path / "pictures"
    (pictures / "sub").mkdir(parents=True)
    for number, path in enumerate(sorted((world.folder / "images").glob("*_circle.png"))[:6]):
        shutil.copy(path, pictures / ("sub" if number % 2 else ".") / path.name)
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (pictures / "empty.jpg").touch()
    (pictures / "notes.txt").write_text("no picture")
    ids = ["--ids-root", tmp_path / "ids"]
    printed = script("vokenization.create_image_ids", "--image-sets", f"mine={pictures}", *ids)
    assert "1 other files" in printed
    order = image_ids.read(tmp_path / "ids", "mine")
    assert order == sorted(order)
    assert len(order) == 8
    flags = ["--load-dir", keyed, *ids, "--cache", tmp_path / "cache", "--num-workers", 1, "--output", tmp_path / "keys"]
    printed = script("vokenization.extract_vision_keys", "--image-sets", "mine", *flags)
    assert "wrote 6 keys" in printed
    assert "2 left out" in printed
    read = keys.read(tmp_path / "keys", "mine")
    assert read.ids == [i for i in order if i not in ("broken.jpg", "empty.jpg")]
    listed = [line.split("\t") for line in (tmp_path / "keys/mine.skipped.tsv").read_text().splitlines()]
    assert [(row[0], row[2].split(":")[0]) for row in listed] == [("broken.jpg", "not a picture"), ("empty.jpg", "empty file")]
    (pictures / "another.png").write_bytes((pictures / read.ids[0]).read_bytes())
    with pytest.raises(Exception, match="fixes 8 pictures, there are 9 now, first difference at line 1"):
        script("vokenization.create_image_ids", "--image-sets", f"mine={pictures}", *ids)
    assert image_ids.read(tmp_path / "ids", "mine") == order


def test_sample_of_a_folder_is_fixed(world: World, tmp_path: Path, script: Callable[..., str]):
    for root in ("a", "b"):
        flags = ["--num-images", 7, "--ids-root", tmp_path / root]
        script("vokenization.create_image_ids", "--image-sets", f"all={world.folder / 'images'}", *flags)
    order = image_ids.read(tmp_path / "a", "all")
    assert order == image_ids.read(tmp_path / "b", "all") == sorted(order)
    assert len(set(order)) == 7


def test_vokens_of_lines():
    best, counts = np.array([4, -1, 0, 2], np.int32), np.array([3, 0, 1, 2])
    assert vokens.line_vokens(best, counts).tolist() == [4, -5, -5, 0, 2, -3]
    best, counts = np.array([4, -1, 99, -1], np.int32), np.array([2, 3, 2, 0])
    assert vokens.line_vokens(best, counts).tolist() == [4, -5, -100, -100, -100, 99, -100]  # a line's first token tells


def test_coco_pictures_lie_in_their_split(tmp_path: Path):
    from xvoken.files.image_sets import Roots

    roots = Roots(tmp_path, tmp_path / "coco", tmp_path / "vg")
    assert roots.picture("COCO_val2014_000000000785", "coco_minival") == tmp_path / "coco/val2014/COCO_val2014_000000000785.jpg"
    assert roots.picture("2331999", "vg_nococo") == tmp_path / "vg/2331999.jpg"
