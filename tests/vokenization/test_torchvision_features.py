"""Raw features of a torchvision backbone, as Vokenization's extract_vision_keys.py makes them for its --voken_feat_dir."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models, transforms

from tests.running import run_here
from tests.worlds import World
from xvoken.cli.check import check
from xvoken.errors import UserError
from xvoken.files import keys
from xvoken.files.keys import read_keys


def extract(world: World, output: Path, *more: object):
    flags = ["--image-sets", "shapes_train", "--output-dir", output, "--ids-root", world.folder / "ids", *world.roots, "--num-workers", 1]
    return run_here("vokenization/extract_vision_keys.py", *flags, *more)


def by_one(world: World, batch: int, paths: list[str]) -> np.ndarray:
    """The features by torchvision's own transforms, of one picture at a time, with the sides that Vokenization takes for a batch size."""
    model = models.resnet18(weights=None)
    from safetensors.torch import load_file

    model.load_state_dict(load_file(world.resnet))
    model.fc = torch.nn.Identity()
    rows = []
    for path in paths:
        picture = Image.open(path).convert("RGB")
        scale = min(400 / min(picture.size), 600 / max(picture.size))
        whole = transforms.Resize((int(picture.size[1] * scale), int(picture.size[0] * scale)))
        cut = [whole] if batch == 1 else [transforms.Resize(256), transforms.CenterCrop(224)]
        normal = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        with torch.inference_mode():
            rows.append(model.eval()(transforms.Compose([*cut, transforms.ToTensor(), normal])(picture)[None])[0].numpy())
    return np.stack(rows)


@pytest.fixture(scope="module")
def features(world: World, keyed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By batch size, the folder of what was extracted."""
    folders = {}
    for batch in (1, 5):
        folders[batch] = tmp_path_factory.mktemp(f"by{batch}")
        done = extract(world, folders[batch], "--torchvision-model", "resnet18", "--visn-weights", world.resnet, "--batch-size", batch)
        assert done.returncode == 0 and "wrote 18 raw features by resnet18" in done.stdout, done.stderr
    return folders


@pytest.mark.parametrize(("batch", "most"), [(1, 1e-5), (5, 2e-2)])
def test_raw_features(world: World, features: dict[int, Path], batch: int, most: float):
    """As the original's loader reads them: the rows of `keys` go with the lines of .ids."""
    path = features[batch] / "shapes_train.hdf5"
    with h5py.File(path) as file:
        rows = file["keys"][:]
        assert file["keys"].dtype == np.float32 and file.attrs["raw"] == "resnet18"
    paths = (features[batch] / "shapes_train.path").read_text().splitlines()
    assert [Path(one).stem for one in paths] == (features[batch] / "shapes_train.ids").read_text().splitlines()
    expected = by_one(world, batch, paths)
    assert (np.linalg.norm(rows - expected, axis=1) / np.linalg.norm(expected, axis=1)).max() < most
    assert abs(np.linalg.norm(rows, axis=1) - 1).min() > 0.1
    assert "18 raw features of 512 dimensions by resnet18" in check(path)


def test_raw_features_are_not_searched(features: dict[int, Path], keyed: Path, tmp_path: Path):
    with pytest.raises(UserError, match="raw features of resnet18, not of length 1"):
        read_keys(features[1], ["shapes_train"])
    done = run_here("vokenization/export_embeddings.py", "--load", keyed, "--image-sets", "shapes_train", "--keys-dir", features[1])
    assert done.returncode == 2 and "raw features" in done.stderr
    with h5py.File(features[1] / "shapes_train.hdf5") as ours, h5py.File(tmp_path / "shapes_train.hdf5", "w") as theirs:
        theirs["keys"] = ours["keys"][:]  # the original's file names nothing
    for ending in ("ids", "path"):
        (tmp_path / f"shapes_train.{ending}").write_text((features[1] / f"shapes_train.{ending}").read_text())
    with pytest.raises(UserError, match="row 0 has length .* not 1 as keys have"):
        keys.read(tmp_path, "shapes_train")


def test_a_second_run(world: World, features: dict[int, Path]):
    flags = ["--torchvision-model", "resnet18", "--visn-weights", world.resnet]
    assert "skipped" in extract(world, features[5], *flags).stderr
    other = extract(world, features[5], *flags, "--batch-size", 1)
    assert other.returncode == 2 and "sides: [256, 224] then, [400, 600] now" in other.stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "neither is given, give one of them"),
        (["--torchvision-model", "resnet18", "--load-dir", "snap"], "both are given"),
        (["--load-dir", "snap", "--visn-weights", "w.pth"], "--visn-weights goes with --torchvision-model"),
        (["--torchvision-model", "resnet18", "--visn-weights", "w.pth"], "--visn-weights w.pth: no such file"),
        (["--torchvision-model", "resnet18", "--key-views", 2], "raw features are of one view"),
        (["--torchvision-model", "resnet1"], "--torchvision-model resnet1: not a torchvision classifier"),
    ],
)
def test_flags_that_do_not_go_together(world: World, keyed: Path, tmp_path: Path, flags: list[object], said: str):
    done = extract(world, tmp_path, *flags)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
