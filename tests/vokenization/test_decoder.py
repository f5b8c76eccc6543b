"""Keys of pictures that torchcodec decodes, through the stage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.worlds import World
from xvoken.errors import UserError
from xvoken.files import keys


def test_keys_of_both_decoders(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, path in enumerate(sorted((world.folder / "images").glob("*.png"))[:6]):
        size = (300 + 10 * number, 280)  # larger than the tower's view, as photos are
        Image.open(path).convert("RGB").resize(size).save(pictures / f"{number}.jpg", quality=90)
    shutil.copy(path, pictures / "x.png")
    (pictures / "broken.jpg").write_bytes((pictures / "0.jpg").read_bytes()[:2000])
    ids = ["--ids-root", tmp_path / "ids"]
    script("vokenization.create_image_ids", "--image-sets", f"mine={pictures}", *ids)
    flags = ["--load-dir", keyed, *ids, "--cache", tmp_path / "cache", "--image-sets", "mine", "--num-workers", 2]
    for decoder in ("pillow", "torchcodec"):
        printed = script("vokenization.extract_vision_keys", *flags, "--output", tmp_path / decoder, "--decoder", decoder)
        assert "wrote 7 keys" in printed and "1 left out" in printed
    plain, fast = (keys.read(tmp_path / decoder, "mine") for decoder in ("pillow", "torchcodec"))
    assert plain.ids == fast.ids
    agreement = (np.asarray(plain.keys) * np.asarray(fast.keys)).sum(1)
    assert agreement.min() > 0.999
    assert not np.array_equal(plain.keys, fast.keys)  # the flag is heard
    assert agreement[plain.ids.index("x.png")] == pytest.approx(1, abs=1e-6)
    assert "skipped" in script("vokenization.extract_vision_keys", *flags, "--output", tmp_path / "torchcodec", "--decoder", "torchcodec")
    with pytest.raises(UserError, match='decoder: "torchcodec" then, "pillow" now'):
        script("vokenization.extract_vision_keys", *flags, "--output", tmp_path / "torchcodec")
    with pytest.raises(UserError, match='precision: "fp32" then, "bf16" now'):
        script("vokenization.extract_vision_keys", *flags, "--output", tmp_path / "pillow", "--precision", "bf16")


def test_keys_of_earlier_versions_are_taken_as_they_are(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    """Their settings say nothing of precision and decoder."""
    where = tmp_path / "keys"
    shutil.copytree(keyed / "keys", where)
    with h5py.File(where / "shapes_train.hdf5", "r+") as file:
        then = keys.read_settings(keyed / "keys", "shapes_train")
        old = {name: value for name, value in then.items() if name not in ("data", "precision", "decoder")}
        assert len(old) == len(then) - 3
        file.attrs["settings"] = json.dumps(old)
    flags = ["--load-dir", keyed, "--image-sets", "shapes_train", "--ids-root", world.folder / "ids", *world.roots]
    assert "skipped" in script("vokenization.extract_vision_keys", *flags, "--output", where, "--precision", "bf16")
