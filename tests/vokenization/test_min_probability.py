"""Probabilities of retrieved images, and lines that are left without: through the real stages, with a calibration in the snapshot."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import xvoken
from tests.running import run_here
from tests.worlds import World
from xvoken.calibration import CANDIDATES
from xvoken.cli.check import check
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.identity import identify
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files import vokens

SETS = "shapes_train_shapes_valid"
SLOPES = [2000.0, 500.0]  # the lines' scores hardly differ, as the matcher is hardly trained


def calibrate(folder: Path, to: Path, calibration: list[float], level: str = "sentence") -> Path:
    """A copy of a snapshot, with a calibration, and of its keys: those of the same heads."""
    old = snapshots.read(folder)
    model = {**old.config["model"], "calibration": calibration, "level": level}
    snapshots.write(to, "BEST", {**old.config, "model": model}, old.tensors, ["test"])
    shutil.copytree(folder / "tokenizer", to / "tokenizer")
    shutil.copytree(folder / "keys", to / "keys")
    for path in (to / "keys").glob("*.hdf5"):
        with h5py.File(path, "r+") as file:
            file.attrs["snapshot_hash"] = snapshots.read(to).hash
    return to


@pytest.fixture(scope="module")
def calibrated(world: World, keyed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    scores = scores_of(world, keyed)
    bias = -float(np.nanmedian(features(scores) @ SLOPES))
    return calibrate(keyed, tmp_path_factory.mktemp("calibrated") / "matcher", [bias, *SLOPES])


def flags(world: World, load: Path, output: Path, *more: object) -> list[object]:
    where = ["--corpus", world.folder / "corpus/lines.txt", "--tokenizer-name", world.bert, "--output", output]
    return ["--load", load, *where, "--image-sets", "shapes_train,shapes_valid", "--device", "cpu", "--num-workers", 1, *more]


def features(scores: np.ndarray) -> np.ndarray:
    share = 1 / np.exp((scores - scores[:, :1]) / 0.1).sum(1)
    return np.stack([scores[:, 0], np.log(share / (1 - share))], 1)


def scores_of(world: World, load: Path, off: np.ndarray | float = 0.0) -> np.ndarray:
    """Each line's best scores, descending; NaN for an empty line. off: what is taken off each picture's scores."""
    encoder = xvoken.load_encoder(load, towers=("text",), device="cpu")
    keys = xvoken.read_keys(load / "keys", ["shapes_train", "shapes_valid"], encoder=encoder).vectors
    lines = (world.folder / "corpus/lines.txt").read_text().replace("\t", " ").split("\n")[:-1]
    found = -np.sort(-(encoder.encode_texts(lines) @ keys.T - off).astype(np.float64), 1)[:, :CANDIDATES]
    return np.where([[bool(line.strip())] for line in lines], found, np.nan)


def expected(world: World, load: Path, off: np.ndarray | float = 0.0) -> np.ndarray:
    """Probability of each line, NaN for an empty line."""
    bias, *slopes = snapshots.read(load).model.calibration
    return 1 / (1 + np.exp(-(bias + features(scores_of(world, load, off)) @ slopes)))


def test_every_line_has_its_probability(world: World, calibrated: Path, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    assert identify(calibrated).calibration == xvoken.load_encoder(calibrated, towers=(), device="cpu").calibration
    assert identify(calibrated).calibration == snapshots.read(calibrated).model.calibration != []
    assert identify(keyed).calibration is None
    printed = script("vokenization.vokenize_corpus_mp", *flags(world, calibrated, tmp_path / "mine"))
    script("vokenization.vokenize_corpus_mp", *flags(world, keyed, tmp_path / "plain"))
    found, plain = (vokens.read(tmp_path / name, "lines.txt", SETS) for name in ("mine", "plain"))
    assert found.probability is not None and found.probability.dtype == np.float32 and plain.probability is None
    assert np.allclose(found.probability, expected(world, calibrated), atol=2e-3, equal_nan=True) and np.isnan(found.probability).sum() == 6
    assert np.array_equal(found.indices, plain.indices) and np.array_equal(found.vokens, plain.vokens)
    assert np.allclose(found.scores, plain.scores, atol=1e-6, equal_nan=True)
    assert "without a picture" not in printed
    assert check(vokens.hdf5_file(tmp_path / "mine", "lines.txt", SETS)) == "top 5 of 24 images for 21 lines, with probabilities"
    assert "min_probability" not in vokens.read_settings(vokens.hdf5_file(tmp_path / "mine", "lines.txt", SETS))


def test_lines_below_the_least_probability(world: World, calibrated: Path, tmp_path: Path, script: Callable[..., str]):
    sure = expected(world, calibrated)
    values = np.unique(sure[np.isfinite(sure)].round(3))
    least = round(float((values[:-1] + values[1:])[np.diff(values).argmax()]) / 2, 4)  # in the widest gap
    out = [sure < least, sure >= least]
    assert min(side.sum() for side in out) > 2
    script("vokenization.vokenize_corpus_mp", *flags(world, calibrated, tmp_path / "all"))
    asked = flags(world, calibrated, tmp_path / "some", "--min-probability", least)
    printed = script("vokenization.vokenize_corpus_mp", *asked)
    assert f"tower's length), {out[0].sum()} lines left without a picture, to " in printed
    every, some = (vokens.read(tmp_path / name, "lines.txt", SETS) for name in ("all", "some"))
    assert np.array_equal(some.probability, every.probability, equal_nan=True)
    assert np.array_equal(some.indices[out[1]], every.indices[out[1]]) and np.array_equal(some.scores[out[1]], every.scores[out[1]])
    assert (some.indices[~out[1]] == -1).all() and np.isnan(some.scores[~out[1]]).all()
    text, full = ((tmp_path / name / f"lines.txt.{SETS}").read_text().split("\n") for name in ("some", "all"))
    assert text == [line if kept else "" for line, kept in zip(full, [*out[1], False], strict=True)]
    corpus = xvoken.read_corpus(world.folder / "corpus/lines.txt", str(world.bert))
    for line in range(21):
        own = slice(corpus.offsets[line], corpus.offsets[line + 1])
        assert np.array_equal(some.vokens[own], np.full(len(corpus[line]), -100) if out[0][line] else every.vokens[own])
        assert len(some.images(line)) == (5 if out[1][line] else 0)
    path = vokens.hdf5_file(tmp_path / "some", "lines.txt", SETS)
    assert json.loads(path.with_name(f"{path.name}.report.json").read_text())["without_picture"] == out[0].sum()
    assert check(path).endswith(f"for 21 lines, {out[0].sum()} of them left without a picture")
    before = path.stat().st_mtime_ns
    assert "skipped" in script("vokenization.vokenize_corpus_mp", *asked)
    for other, said in ((flags(world, calibrated, tmp_path / "some", "--min-probability", 0.01), "0.01 now"), (asked[:-2], "now")):
        with pytest.raises(UserError, match=f"min_probability: {least} then, .*{said}"):
            script("vokenization.vokenize_corpus_mp", *other)
    assert path.stat().st_mtime_ns == before


def test_two_shares_give_the_bytes_of_one_run(world: World, calibrated: Path, tmp_path: Path, script: Callable[..., str]):
    (tmp_path / "lines.txt").write_text((world.folder / "corpus/lines.txt").read_text() * 100)  # two parts
    script("tokenization.tokenize_dataset", tmp_path, "lines.txt", world.bert)
    for name, shares in {"one": [[]], "two": [["--part", part, "--parts", 2] for part in (1, 2)]}.items():
        for share in shares:
            more = ["--corpus", tmp_path / "lines.txt", "--min-probability", 0.5, *share]
            script("vokenization.vokenize_corpus_mp", *flags(world, calibrated, tmp_path / name, *more))
    for ending in ("", ".hdf5", ".ids"):
        one, two = ((tmp_path / name / f"lines.txt.{SETS}{ending}").read_bytes() for name in ("one", "two"))
        assert one == two, ending
    assert vokens.check(tmp_path / "two", "lines.txt", SETS).endswith("left without a picture")


def test_tokens_on_token_level(world: World, calibrated: Path, tmp_path: Path, script: Callable[..., str]):
    """Every token of a line that is left without, also those that the tower cuts off."""
    load = calibrate(calibrated, tmp_path / "matcher", [0.0, 20.0, 5.0], level="token")
    script("vokenization.vokenize_corpus_mp", *flags(world, load, tmp_path / "all"))
    every = vokens.read(tmp_path / "all", "lines.txt", SETS)
    least = float(np.nanmedian(every.probability))
    script("vokenization.vokenize_corpus_mp", *flags(world, load, tmp_path / "some", "--min-probability", least))
    some = vokens.read(tmp_path / "some", "lines.txt", SETS)
    out, counts = every.probability < least, np.diff(xvoken.read_corpus(world.folder / "corpus/lines.txt", str(world.bert)).offsets)
    assert 0 < out.sum() < 15 and ((every.vokens >= -1) & (every.vokens < 24)).all()
    assert np.array_equal(some.vokens, np.where(np.repeat(out, counts), -100, every.vokens))
    assert np.array_equal(some.indices[:, 0] >= 0, every.probability >= least)


def test_a_small_gallery_and_many_images_for_a_line(world: World, calibrated: Path, tmp_path: Path, script: Callable[..., str]):
    """Fewer pictures than candidates: all of them share; more pictures asked for than candidates: only those share."""
    for name, more in {"few": ["--max-img-num", 4, "--topk", 2], "many": ["--topk", 20]}.items():
        script("vokenization.vokenize_corpus_mp", *flags(world, calibrated, tmp_path / name, *more))
    few, many = vokens.read(tmp_path / "few", "lines.txt", f"{SETS}.4"), vokens.read(tmp_path / "many", "lines.txt", SETS)
    assert few.indices.shape == (21, 2) and many.indices.shape == (21, 20)
    assert np.allclose(many.probability, expected(world, calibrated), atol=2e-3, equal_nan=True)
    assert not np.allclose(few.probability, many.probability, equal_nan=True, atol=0.1)


def test_an_approximate_index_is_measured_once(world: World, calibrated: Path, tmp_path: Path, script: Callable[..., str]):
    """Its recall does not hang on the least probability; all of it searched, it gives the probabilities of exact search."""
    made = np.random.default_rng(0).standard_normal((600, 16), np.float32)
    made, names = made / np.linalg.norm(made, axis=1, keepdims=True), [f"{i}.jpg" for i in range(600)]
    key_files.write(tmp_path / "keys", "made", [made], names, names, [], {}, {"snapshot_hash": snapshots.read(calibrated).hash})
    for name, more in {"a": ["ivf"], "b": ["ivf", "--min-probability", 0.5], "c": ["flat"]}.items():
        where = ["--image-sets", "made", "--keys-dir", tmp_path / "keys", "--index-recall", 1, "--index", *more]
        script("vokenization.vokenize_corpus_mp", *flags(world, calibrated, tmp_path / name, *where))
        if name == "a":  # few queries to tune on: here all cells are searched
            path = tmp_path / "keys/made.ivf.json"
            receipt = json.loads(path.read_text())
            for record in receipt["recall"].values():
                record["effort"] = record["most"]
            path.write_text(json.dumps(receipt))
    assert len(json.loads((tmp_path / "keys/made.ivf.json").read_text())["recall"]) == 1
    near, exact = vokens.read(tmp_path / "b", "lines.txt", "made"), vokens.read(tmp_path / "c", "lines.txt", "made")
    assert np.allclose(near.probability, exact.probability, atol=2e-3, equal_nan=True)


def test_wants_a_calibration_and_a_probability(world: World, keyed: Path, calibrated: Path, tmp_path: Path):
    command = ["vokenization/vokenize_corpus_mp.py", *flags(world, keyed, tmp_path, "--min-probability", 0.5)]
    done = run_here(*command)
    assert done.returncode == 2 and "has no calibration" in done.stderr and len(done.stderr.strip().split("\n")) == 1
    for wrong in ("1.5", "-0.1", "nan", "much"):
        done = run_here("vokenization/vokenize_corpus_mp.py", *flags(world, calibrated, tmp_path, f"--min-probability={wrong}"))
        assert done.returncode == 2 and f"{wrong}: a number" in done.stderr
    assert not list(tmp_path.iterdir())


def test_another_hubness_is_warned_of(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    load = calibrate(keyed, tmp_path / "matcher", [-1.0, 10.0, 1.0])
    told = "probabilities are off: the calibration of matcher holds for --hubness 0, not for 0.5"
    assert told in script("vokenization.vokenize_corpus_mp", *flags(world, load, tmp_path / "a", "--hubness", 0.5))
    assert "are off" not in script("vokenization.vokenize_corpus_mp", *flags(world, load, tmp_path / "b", "--hubness", 0))
    (numbers,) = (load / "keys").glob("*.hubness.npy")
    off, found = np.load(numbers), vokens.read(tmp_path / "a", "lines.txt", SETS)
    assert abs(off.mean()) > 0.01
    sure = expected(world, load, off - off.mean())  # what is taken off on average depends on the bank, and no probability on it
    assert np.allclose(found.probability, sure, atol=1e-4, equal_nan=True)
    assert not np.allclose(sure, expected(world, load, off), atol=0.1, equal_nan=True)


def test_few_images_are_warned_of(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    load, told = calibrate(keyed, tmp_path / "matcher", [-1.0, 10.0, 1.0]), "of 2 images, fewer than 16, the best one stands out"
    command = ["vokenization.vokenize_corpus_mp", *flags(world, load, tmp_path / "few"), "--max-img-num", 2, "--topk", 1]
    assert told in script(*command)
    assert "warning: probabilities are too high" not in script("vokenization.vokenize_corpus_mp", *flags(world, keyed, tmp_path / "none"))


def test_a_hubness_beyond_32_bits_is_refused(world: World, keyed: Path, tmp_path: Path):
    done = run_here("vokenization/vokenize_corpus_mp.py", *flags(world, keyed, tmp_path / "a", "--hubness", 1e39))
    assert done.returncode == 2 and "--hubness 1e+39: too large" in done.stderr
    assert not list((keyed / "keys").glob("*.hubness.*")) and not list(tmp_path.glob("a/*"))


def answered(file: h5py.File) -> int:
    return int(np.flatnonzero(file["indices"][:, 0] >= 0)[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file["probability"].__setitem__(answered(file), np.nan), "does not go with its images"),
        (lambda file: file["probability"].__setitem__(answered(file), 1.5), "does not go with its images"),
        (lambda file: file["probability"].__setitem__(1, 0.99), "probability of line 2 does not go with its images"),
        (lambda file: (file.__delitem__("probability"), file.create_dataset("probability", data=np.zeros(3))), "not one number a line"),
        (lambda file: file.__delitem__("probability"), "has a least probability and no dataset"),
    ],
)
def test_files_that_say_something_else(
    world: World, calibrated: Path, tmp_path: Path, script: Callable[..., str], change: Callable[[h5py.File], object], said: str
):
    script("vokenization.vokenize_corpus_mp", *flags(world, calibrated, tmp_path, "--min-probability", 0.4, "--limit", 7))
    path = vokens.hdf5_file(tmp_path, "lines.txt", SETS)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(UserError, match=said):
        check(path)


def test_calibrations_that_are_none(calibrated: Path, tmp_path: Path):
    load = calibrate(calibrated, tmp_path / "matcher", [1.0, 2.0])
    with pytest.raises(UserError, match=f"{load}: calibration .1.0, 2.0.: three finite numbers were expected"):
        identify(load)
    assert key_files.folder(load).is_dir()
