"""--hubness of ctx/ against numpy: what is taken off phrases' scores, in which bank, and what second runs do."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from ctx import hubness
from ctx.coco import Source, read_pictures
from ctx.crops import views
from tests import builder
from tests.running import run_here, run_script
from tests.worlds import World
from xvoken.cli.check import check
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.encoder import Encoder, load_encoder
from xvoken.encoders.identity import identify
from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec
from xvoken.files import context as context_files
from xvoken.files import phrases as caption_db
from xvoken.machine import Compute
from xvoken.work.parts import parts_folder

K = 3
NAMES = [f"{i:02}" for i in range(20)]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP-like model, 20 pictures and a broken one, phrases, and their context with 0.5 of their hubness taken off."""
    folder = tmp_path_factory.mktemp("hubness")
    builder.save_clip(folder / "model")
    builder.save_pictures(folder / "pictures", {name: (40 + 9 * (i % 7), 40 + 13 * (i % 5)) for i, name in enumerate(NAMES)})
    (folder / "pictures/07_broken.png").write_bytes(b"no picture")
    (folder / "phrases.txt").write_text("\n".join(builder.phrases(60)), encoding="utf-8")
    run_script("encode_captions", folder, "--model", "model", "--captions", "phrases.txt")
    said = build(folder, "half", "--hubness", 0.5)
    assert "encoding 21 pictures first" in said and "measuring the hubness of 58 phrases in 20 pictures" in said
    return folder


def build(folder: Path, name: str, *more: object, code: int = 0, script: str = "build_context") -> str:
    """What the script says on stderr."""
    flags = ["--model", "model", "--images", "pictures", "--k", K, "--exp_name", name, "--device", "cpu", "--num_workers", 1]
    done = run_here(f"ctx/{script}.py", *flags, *more, cwd=folder)
    assert done.returncode == code, done.stderr
    return done.stderr


def picture(folder: Path, name: str) -> Image.Image:
    return Image.open(folder / f"pictures/{name}.png").convert("RGB")


def less(vectors: np.ndarray, bank: np.ndarray, alpha: float) -> np.ndarray:
    return alpha * np.sort(vectors.astype(np.float64) @ bank.astype(np.float64).T, axis=1)[:, -16:].mean(1)


def database(folder: Path) -> tuple[np.ndarray, list[str]]:
    with h5py.File(folder / "outputs/captions_db/caption_db.hdf5") as file:
        return file["0/keys"][:], file["0/captions"].asstr()[:].tolist()


def require_best(folder: Path, name: str, encoder: Encoder, off: np.ndarray) -> None:
    """Scores are the best corrected ones of each view, of the phrases that are named; off: what is taken off each phrase."""
    keys, texts = database(folder)
    with h5py.File(folder / f"outputs/{name}/txt_ctx.hdf5") as file:
        for image in list(file)[::4]:
            scores = encoder.encode_images(views(picture(folder, image))) @ keys.T - off
            found = np.concatenate([file[f"{image}/{part}/scores"][:].reshape(-1, K) for part in ("whole", "five", "nine")])
            said = np.concatenate([file[f"{image}/{part}/texts"].asstr()[:].reshape(-1, K) for part in ("whole", "five", "nine")])
            np.testing.assert_allclose(found, -np.sort(-scores, 1)[:, :K], atol=1e-5)
            rows = np.array([[texts.index(text) for text in line] for line in said.tolist()])
            np.testing.assert_allclose(np.take_along_axis(scores, rows, 1), found, atol=1e-5)


def numbers_of(folder: Path, name: str) -> Path:
    (path,) = (folder / f"outputs/{name}").glob("txt_ctx.*.hubness.npy")
    return path


def settings_of(folder: Path, name: str, file: str = "txt_ctx") -> dict:
    return context_files.read_settings(folder / f"outputs/{name}/{file}.hdf5")


def test_values_of_clip(work: Path):
    """The bank: the pictures themselves, whole, but for the broken one."""
    encoder = load_encoder(work / "model", device="cpu")
    bank = encoder.encode_images([picture(work, name) for name in NAMES])
    off, path = less(database(work)[0], bank, 0.5), numbers_of(work, "half")
    np.testing.assert_allclose(np.load(path), off, atol=1e-6)
    require_best(work, "half", encoder, off)
    assert "hubness of 58 keys, alpha 0.5, in a bank of 21 pictures" in check(path)
    output = work / "outputs/half/txt_ctx.hdf5"
    assert settings_of(work, "half").items() >= {"hubness": 0.5, "bank": path.name.split(".")[1]}.items()
    with h5py.File(output) as file:
        assert "less 0.5 times each phrase's mean with its 16 nearest of the bank" in file.attrs["scores"]
    assert "20 pictures, top 3" in check(output)
    assert not {"hubness", "bank"} & settings_of(work, "half", "vis_ctx").keys()


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(work: Path, monkeypatch: pytest.MonkeyPatch):
    """Of the numbers; what the others do with them is ContextJob's work, as without them (tests/ctx/test_runs.py)."""
    monkeypatch.setattr(hubness, "CHUNK", 8)
    identity, (keys, _) = identify(work / "model"), database(work)
    db = caption_db.read(work / "outputs/captions_db/caption_db.hdf5", "model", identity.name, identity.hash, identity.dim)
    bank = hubness.PictureBank.of(0.5, str(work / "model"), identity, read_pictures(Source(images=work / "pictures")), "fp32", db)
    path = bank.numbers_file(work / "two/txt_ctx.hdf5")
    hubness.prepare(bank, keys, path, Compute(("cpu", "cpu"), "fp32", 16))
    assert path.name == numbers_of(work, "half").name and path.read_bytes() == numbers_of(work, "half").read_bytes()


def test_shares_give_the_bytes_of_one_run(work: Path):
    said = [build(work, "shares", "--hubness", 0.5, "--part", share, "--parts", 2) for share in (1, 2)]
    assert ["measuring" in text for text in said] == [True, False]  # the first one did, for both
    for name in ("vis_ctx", "txt_ctx"):
        assert (work / f"outputs/shares/{name}.hdf5").read_bytes() == (work / f"outputs/half/{name}.hdf5").read_bytes()


def test_second_runs(work: Path):
    files = {path: path.stat().st_mtime_ns for path in (work / "outputs/half").iterdir()}
    assert build(work, "half", "--hubness", 0.5).count("skipped") == 2
    assert "bank: " in (said := build(work, "half", "--hubness", 0.75, code=2)) and "hubness: 0.5 then, 0.75 now" in said
    for plain in ([], ["--hubness", 0]):
        assert "hubness: 0.5 then, null now" in build(work, "half", *plain, code=2)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    build(work, "plain")
    assert not {"hubness", "bank"} & settings_of(work, "plain").keys()  # as in files from before there was a correction
    with h5py.File(work / "outputs/plain/txt_ctx.hdf5") as file:
        assert "scores" not in file.attrs
    assert not list((work / "outputs/plain").glob("*hubness*"))
    assert build(work, "plain", "--hubness", 0).count("skipped") == 2
    assert "hubness: null then, 0.5 now" in build(work, "plain", "--hubness", 0.5, code=2)
    for wrong in ("-1", "nan", "x"):
        assert "--hubness" in build(work, "plain", "--hubness", wrong, code=2)


def test_numbers_that_are_there_are_taken_and_damaged_ones_refused(work: Path):
    """A run that was killed behind them goes on with them; retrieve_captions.py writes what build_context.py writes."""
    build(work, "again", "--hubness", 0.5, script="retrieve_captions")
    path, output = numbers_of(work, "again"), work / "outputs/again/txt_ctx.hdf5"
    whole, first = output.read_bytes(), path.stat().st_mtime_ns
    assert whole == (work / "outputs/half/txt_ctx.hdf5").read_bytes()
    output.unlink()
    parts_folder(path).mkdir()  # as a kill behind the numbers leaves it
    (parts_folder(path) / "plan.json").touch()
    assert "measuring" not in build(work, "again", "--hubness", 0.5, script="retrieve_captions")
    assert output.read_bytes() == whole and path.stat().st_mtime_ns == first
    assert not parts_folder(path).exists()
    output.unlink()
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    said = build(work, "again", "--hubness", 0.5, code=2, script="retrieve_captions")
    mend = re.search("not the file that .*json describes; remove it, .*: rm (.*)", said)
    (work / mend[1].strip()).unlink()
    assert "measuring" in build(work, "again", "--hubness", 0.5, script="retrieve_captions") and output.read_bytes() == whole


def test_the_list_decides_the_bank_not_the_limit(work: Path, monkeypatch: pytest.MonkeyPatch):
    build(work, "few", "--hubness", 0.5, "--limit", 3)
    assert numbers_of(work, "few").name == numbers_of(work, "half").name
    with h5py.File(work / "outputs/few/txt_ctx.hdf5") as few, h5py.File(work / "outputs/half/txt_ctx.hdf5") as half:
        assert len(few) == 3
        for name in few:
            np.testing.assert_allclose(few[f"{name}/nine/scores"][:], half[f"{name}/nine/scores"][:], atol=1e-6)
    monkeypatch.setattr(hubness, "PICTURES", 4)  # of 21: rows 0, 5, 10, 15
    assert "in 4 pictures" in build(work, "four", "--hubness", 0.5, "--limit", 3)
    bank = load_encoder(work / "model", device="cpu").encode_images([picture(work, NAMES[row]) for row in (0, 5, 9, 14)])
    np.testing.assert_allclose(np.load(numbers_of(work, "four")), less(database(work)[0], bank, 0.5), atol=1e-6)


def test_without_a_usable_picture(work: Path):
    (work / "broken").mkdir()
    (work / "broken/a.png").write_bytes(b"")
    said = build(work, "broken", "--hubness", 0.5, "--images", "broken", code=2)
    assert "none of the 1 pictures in which hubness is measured can be used, for example broken/a.png" in said


def test_a_snapshot_with_a_bank_of_its_own(world: World, work: Path, tmp_path: Path):
    """Its hubness is the default, and its bank is taken; one without a bank measures in the pictures."""
    for name in ("pictures", "phrases.txt"):
        (tmp_path / name).symlink_to(work / name)
    builder.save_torchvision(tmp_path / "image.pth", "shufflenet_v2_x0_5")
    specs = TextTowerSpec(str(world.bert), (1,)), ImageTowerSpec("shufflenet_v2_x0_5", str(tmp_path / "image.pth"))
    builder.save_snapshot(tmp_path / "model", *specs, hidden=32, dim=16, max_len=30)
    tensors, config = snapshots.read_tensors(tmp_path / "model/BEST.safetensors")
    numbers = torch.Generator().manual_seed(0)
    bank = snapshots.Bank(*(torch.nn.functional.normalize(torch.randn(n, 16, generator=numbers)).half() for n in (9, 30)))
    config["model"]["hubness"] = 0.75
    for name, more in (("without", {}), ("own", bank.tensors)):
        snapshots.write_tensors(tmp_path / "model/BEST.safetensors", {**tensors, **more}, config)
        run_script("encode_captions", tmp_path, "--model", "model", "--captions", "phrases.txt", "--exp_name", name)
        flags = ["--caption_db", f"outputs/{name}/caption_db.hdf5"]
        said = build(tmp_path, name, *flags, "--limit", 2)
        assert ("encoding 21 pictures first" in said) == (name == "without")
        assert settings_of(tmp_path, name)["hubness"] == 0.75
    assert "measuring the hubness of 58 phrases in 30 pictures" in said
    (tmp_path / "outputs/captions_db").symlink_to(tmp_path / "outputs/own")
    encoder, path = load_encoder(tmp_path / "model", device="cpu"), numbers_of(tmp_path, "own")
    off = less(database(tmp_path)[0], bank.image.numpy(), 0.75)
    np.testing.assert_allclose(np.load(path), off, atol=1e-6)
    require_best(tmp_path, "own", encoder, off)
    assert "in a bank of the snapshot's pictures" in check(path)
    assert "sha256" in json.loads(path.with_suffix(".json").read_text())
    build(tmp_path, "plain", *flags, "--limit", 2, "--hubness", 0)
    require_best(tmp_path, "plain", encoder, np.zeros(58))
