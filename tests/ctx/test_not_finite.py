"""Pictures and phrases for which a model's output overflows: real models, one weight of a last layer large enough."""

import shutil

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ctx import crops
from tests import builder
from tests.running import run_script
from xvoken.cache.images import NOT_FINITE
from xvoken.encoders.encoder import load_encoder
from xvoken.files import context as context_files
from xvoken.pictures.decode import load_picture

SIZES = {f"{number:02}": (40 + 3 * number, 70 - 2 * number) for number in range(9)}
DATABASE = "outputs/captions_db/caption_db.hdf5"
LARGEST = torch.finfo(torch.float32).max


def spoil(model, side, projection, norm, column, limit):
    """Make features beyond `limit` in a column infinite; the others there are huge, and the projection does not see them."""
    tensors = load_file(model / "model.safetensors")
    tensors[f"{side}_model.{norm}.weight"][column] = LARGEST / limit
    tensors[f"{projection}.weight"][:, column] = 0
    save_file(tensors, model / "model.safetensors", {"format": "pt"})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    work = tmp_path_factory.mktemp("overflow")
    builder.save_clip(work / "sound")
    builder.save_pictures(work / "pictures", SIZES)
    (work / "pictures/broken.png").write_bytes(b"no picture")
    (work / "phrases.txt").write_text("\n".join(builder.phrases(30)) + "\n", encoding="utf-8")
    return work


def views_of_pictures(work):
    """Absolute features of each view of each picture (P, 15, width), by the sound model."""
    tower = load_encoder(str(work / "sound"), ["image"], "cpu").image.tower
    pictures = [load_picture(work / f"pictures/{name}.png") for name in SIZES]
    with torch.inference_mode():
        return np.stack([tower(torch.stack([tower.view(view) for view in crops.views(picture)])).abs().numpy() for picture in pictures])


def column_and_limit(values):
    """A column of (n, width), not the first, and a limit above 1 that about half of the rows are beyond there."""
    ordered = np.sort(values, axis=0)
    limits = ordered[len(ordered) // 2 - 1 : len(ordered) // 2 + 1].mean(0)
    column = 1 + int(limits[1:].argmax())
    assert limits[column] > 1
    return column, float(limits[column])


@pytest.mark.parametrize(("where", "batch"), [("whole", 15), ("crop", 4), ("crop", 64)])
def test_pictures_are_left_out_of_both_files(world, tmp_path, where, batch):
    """Those with a view beyond the limit; of a file that is made of the whole pictures alone, those whose whole is."""
    features = views_of_pictures(world)
    column, limit = column_and_limit(features[:, 0] if where == "whole" else features.max(1))
    beyond = dict(zip(SIZES, features[:, :, column] > limit, strict=True))
    views = slice(0, 1) if where == "whole" else slice(None)
    out = {name for name, found in beyond.items() if found[views].any()}
    assert 0 < len(out) < len(SIZES)
    assert where == "whole" or any(not beyond[name][0] for name in out)
    shutil.copytree(world / "sound", tmp_path / "model")
    spoil(tmp_path / "model", "vision", "visual_projection", "post_layernorm", column, limit)
    flags = ["--model", "model", "--images", world / "pictures", "--batch_size", batch, "--exp_name", "made", "--num_workers", 1]
    if where == "whole":
        said, kinds = run_script("encode_images", tmp_path, *flags), ["vis"]
    else:
        run_script("encode_captions", tmp_path, "--model", "model", "--captions", world / "phrases.txt")
        said, kinds = run_script("build_context", tmp_path, *flags, "--k", 3, "--caption_db", DATABASE), ["vis", "txt"]
    assert f"wrote the context of {len(SIZES) - len(out)} pictures" in said and f"{len(out) + 1} left out, listed in" in said
    check(tmp_path / "outputs/made", kinds, out)


def check(folder, kinds, out):
    for kind in kinds:
        path = folder / f"{kind}_ctx.hdf5"
        with h5py.File(path) as file:
            assert set(file) == set(SIZES) - out
        listed = [line.split("\t") for line in context_files.skipped_file(path).read_text().splitlines()]
        assert {row[0]: row[2] for row in listed if row[0] != "broken"} == dict.fromkeys(out, NOT_FINITE)
        assert [row[0] for row in listed] == sorted([*out, "broken"])
        (context_files.check_visual if kind == "vis" else context_files.check_textual)(path)


@pytest.mark.parametrize("weight", [1e25, LARGEST])
def test_keys_that_overflow_in_the_head(world, tmp_path, weight):
    """Features that are finite, of keys that are zero, since their length is infinite, or NaN."""
    run_script("encode_captions", tmp_path, "--model", world / "sound", "--captions", world / "phrases.txt")
    shutil.copytree(world / "sound", tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    tensors["visual_projection.weight"].fill_(weight)
    save_file(tensors, tmp_path / "model/model.safetensors", {"format": "pt"})
    with h5py.File(tmp_path / DATABASE, "a") as file:
        file.attrs["model_hash"] = load_encoder(str(tmp_path / "model"), [], "cpu").hash
    said = run_script("retrieve_captions", tmp_path, "--model", "model", "--images", world / "pictures", "--k", 3, "--limit", 2, code=2)
    assert "none of the 2 pictures can be used" in said and NOT_FINITE in said


def test_phrases_stop_with_one_line(world, tmp_path):
    phrases = builder.phrases(30)
    encoder = load_encoder(str(world / "sound"), ["text"], "cpu")
    with torch.inference_mode():
        ids = [torch.tensor([encoder.tokenizer(phrase)["input_ids"][:40]]) for phrase in phrases]
        features = np.concatenate([encoder.text.tower(row, torch.ones_like(row)).abs().numpy() for row in ids])
    column, limit = column_and_limit(features)
    bad = features[:, column] > limit
    shutil.copytree(world / "sound", tmp_path / "model")
    spoil(tmp_path / "model", "text", "text_projection", "final_layer_norm", column, limit)
    said = run_script("encode_captions", tmp_path, "--model", "model", "--captions", world / "phrases.txt", code=2)
    assert f'phrase "{phrases[bad.argmax()]}": the model\'s output for it and of {bad.sum() - 1} more is not finite' in said
    assert "after: rm -r outputs/captions_db/caption_db.hdf5.parts" in said
    assert not (tmp_path / DATABASE).exists()
    shutil.rmtree(tmp_path / "outputs/captions_db/caption_db.hdf5.parts")
    (tmp_path / "good.txt").write_text("\n".join(phrase for phrase, is_bad in zip(phrases, bad, strict=True) if not is_bad) + "\n")
    assert f"wrote {(~bad).sum()} phrases" in run_script("encode_captions", tmp_path, "--model", "model", "--captions", "good.txt")


def test_a_database_of_keys_that_are_not_finite_is_refused(world, tmp_path):
    """As it was written before phrases were looked at."""
    run_script("encode_captions", tmp_path, "--model", world / "sound", "--captions", world / "phrases.txt")
    with h5py.File(tmp_path / DATABASE, "a") as file:
        file["0/keys"][3] = np.nan
    flags = ["--model", world / "sound", "--images", world / "pictures", "--k", 3, "--num_workers", 1]
    said = run_script("retrieve_captions", tmp_path, *flags, code=2)
    assert f"the key of {builder.phrases(30)[3]!r} is not finite" in said and "remove it, then make it with" in said
