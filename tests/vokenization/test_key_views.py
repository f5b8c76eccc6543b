"""Keys that are the mean over several views of their pictures, through the stage and from Python."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import xvoken
from tests.worlds import World
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.identity import identify
from xvoken.errors import UserError
from xvoken.files import keys

Flags = Callable[..., list[object]]


@pytest.fixture
def flags(world: World, keyed: Path) -> Flags:
    """Flags of the stage for one set, with the cache that its training has made."""

    def given(output: Path, *more: object, load: Path = keyed) -> list[object]:
        where = ["--ids-root", world.folder / "ids", "--cache", world.folder / "cache", *world.roots]
        return ["--load-dir", load, "--image-sets", "shapes_train", "--num-workers", 1, *where, "--output", output, *more]

    return given


def by_hand(encoder: xvoken.Encoder, path: str, number: int) -> Tensor:
    """The mean vector of the first views, cut by Pillow, through tower and head one at a time: (dim,), of length 1"""
    view, whole = encoder.image.tower.view, Image.open(path).convert("RGB")
    pixels, (width, height) = view(whole), whole.size
    side = min(width, height)
    boxes = [(0, 0, width, height), (0, 0, side, side), (width - side, height - side, width, height)]
    squares = [np.asarray(whole.crop(box).resize((view.crop, view.crop), Image.Resampling[view.resample.upper()])) for box in boxes]
    views = [pixels, *(torch.from_numpy(cut.copy()).permute(2, 0, 1) for cut in squares)]
    with torch.inference_mode():
        mean = sum(encoder.image_head(encoder.image.tower(one[None]))[0] for one in views[:number]) / number
        return mean / mean.norm()


def test_keys_are_the_mean_over_views(world: World, keyed: Path, tmp_path: Path, flags: Flags, script: Callable[..., str]):
    encoder = xvoken.load_encoder(keyed, device="cpu")
    for number in (4, 2):
        printed = script("vokenization.extract_vision_keys", *flags(tmp_path / f"{number}", "--key-views", number))
        assert "wrote 18 keys of 16 dimensions" in printed
        found = keys.read(tmp_path / f"{number}", "shapes_train")
        assert found.attributes["key_views"] == keys.read_settings(tmp_path / f"{number}", "shapes_train")["key_views"] == number
        assert keys.check(tmp_path / f"{number}", "shapes_train")
        some = [0, 7, 17]
        expected = np.stack([by_hand(encoder, found.paths[row], number) for row in some])
        np.testing.assert_allclose(found.keys[some], expected, atol=2e-3)
        np.testing.assert_allclose(encoder.encode_images([found.paths[row] for row in some], views=number), expected, atol=1e-5)
    # One view: the file of a run without the flag to the byte, which says nothing of views, as files from before there was a choice.
    script("vokenization.extract_vision_keys", *flags(tmp_path / "1", "--key-views", 1))
    assert (tmp_path / "1/shapes_train.hdf5").read_bytes() == (keyed / "keys/shapes_train.hdf5").read_bytes()
    with h5py.File(tmp_path / "1/shapes_train.hdf5") as file:
        assert "key_views" not in file.attrs and "key_views" not in json.loads(file.attrs["settings"])
    assert "skipped" in script("vokenization.extract_vision_keys", *flags(tmp_path / "1"))
    for output, number, message in (("4", 2, "key_views: 4 then, 2 now"), ("4", 1, "4 then, 1 now"), ("1", 4, "1 then, 4 now")):
        with pytest.raises(UserError, match=message):
            script("vokenization.extract_vision_keys", *flags(tmp_path / output, "--key-views", number))
    with pytest.raises(UserError, match="3.5 views of a picture"):
        encoder.encode_images([], views=3.5)


def test_a_snapshot_names_its_number_of_views(keyed: Path, tmp_path: Path, flags: Flags, script: Callable[..., str]):
    """Taken by keys and encode_images where nothing else is asked for; a snapshot from before there was a choice means one."""
    shutil.copytree(keyed, tmp_path / "snap", ignore=shutil.ignore_patterns("keys", "vokens"))
    file = snapshots.tensors_file(tmp_path / "snap", "BEST")
    tensors, header = snapshots.read_tensors(file)
    del header["model"]["key_views"]
    snapshots.write_tensors(file, tensors, header)
    assert identify(tmp_path / "snap").key_views == snapshots.read(tmp_path / "snap").model.key_views == 1
    header["model"]["key_views"] = 2
    snapshots.write_tensors(file, tensors, header)
    assert identify(tmp_path / "snap").key_views == 2 and identify(tmp_path / "snap", 4).key_views == 4
    script("vokenization.extract_vision_keys", *flags(tmp_path / "own", load=tmp_path / "snap"))
    script("vokenization.extract_vision_keys", *flags(tmp_path / "one", "--key-views", 1, load=tmp_path / "snap"))
    encoder = xvoken.load_encoder(tmp_path / "snap", ["image"], device="cpu")
    own, one = (keys.read(tmp_path / name, "shapes_train") for name in ("own", "one"))
    assert own.attributes["key_views"] == encoder.key_views == 2 and "key_views" not in one.attributes
    assert not np.array_equal(own.keys, one.keys)
    by_default, two, alone = (encoder.encode_images(own.paths[:3], views=number) for number in (None, 2, 1))
    assert np.array_equal(by_default, two) and not np.array_equal(two, alone)
    np.testing.assert_allclose(by_default, own.keys[:3], atol=2e-3)


def test_a_view_whose_head_overflows_is_not_left_out_of_the_mean(keyed: Path):
    """The mean of the others would be another picture's vector."""
    encoder = xvoken.load_encoder(keyed, ["image"], device="cpu")
    features = torch.randn(3, 4, encoder.image_width)
    features[1, 2] = torch.inf
    found = encoder.mean_vectors(features)
    assert found[1].isnan().all() and torch.allclose(found[[0, 2]].norm(dim=1), torch.ones(2))
