"""Keys, retrieval, evaluation and context files on a GPU against those on the CPU, in fp32 and in bf16."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests import builder
from tests.gpu.conftest import LOW, NEAR, same_rows
from tests.running import run_here
from tests.worlds import World
from xvoken.files import keys as key_files
from xvoken.files import vokens

PRECISIONS = [("fp32", NEAR), ("bf16", LOW)]


@pytest.mark.parametrize(("precision", "near"), PRECISIONS)
def test_keys(both_keyed: dict[tuple[str, str], Path], precision: str, near: float):
    ours, theirs = (key_files.read(both_keyed[place, precision], "shapes_train") for place in ("gpu", "cpu"))
    assert ours.ids == theirs.ids and len(ours.keys) == 18
    np.testing.assert_allclose(ours.keys, theirs.keys, atol=near)


@pytest.mark.parametrize(("precision", "near", "hubness"), [("fp32", NEAR, 0.5), ("bf16", LOW, 0)])
def test_retrieval(world: World, keyed: Path, tmp_path: Path, on_both: Callable, precision: str, near: float, hubness: float):
    corpus = ["--corpus", world.folder / "corpus/lines.txt", "--image-sets", "shapes_train", "--hubness", hubness, "--topk", 3]
    for place in ("cpu", "gpu"):
        (tmp_path / place).mkdir()
    on_both("vokenization/vokenize_corpus_mp.py", precision, lambda place: ["--load", keyed, *corpus, "--output", tmp_path / place])
    found = [vokens.read(tmp_path / place, "lines.txt", "shapes_train") for place in ("gpu", "cpu")]
    assert len(found[0].indices) == 21
    ours, theirs = ((np.asarray(one.scores), np.asarray(one.indices)) for one in found)
    same_rows(ours, theirs, near)


@pytest.mark.parametrize(("precision", "near"), PRECISIONS)
def test_evaluation(world: World, keyed: Path, both_keyed: dict, tmp_path: Path, on_both: Callable, precision: str, near: float):
    """R@1 may move by the pictures whose scores nearly tie: by one caption of 36 in fp32, by a few in bf16."""
    sets = ["--load", keyed, "--image-sets", "shapes_train", *world.roots]

    def flags(place: str) -> list[object]:
        return [*sets, "--keys-dir", both_keyed[place, precision], "--output", tmp_path / place]

    on_both("vokenization/evaluate_retrieval.py", precision, flags)
    ours, theirs = (json.loads((tmp_path / place / "shapes_train.json").read_text()) for place in ("gpu", "cpu"))
    assert ours["captions"] == theirs["captions"] == 36
    moved = 100 / 36 * (1 if near == NEAR else 6)
    for way in ("text_to_image", "image_to_text"):
        for figure in ("R1", "R5", "R10"):
            assert ours[way][figure] == pytest.approx(theirs[way][figure], abs=moved + 1e-3), (way, figure)


@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-3), ("bf16", LOW)])
def test_context(tmp_path: Path, on_both: Callable, precision: str, near: float):
    model = builder.save_clip(tmp_path / "model")
    builder.save_pictures(tmp_path / "pictures")
    (tmp_path / "phrases.txt").write_text("\n".join(builder.phrases(200)) + "\n")
    database = "outputs/captions_db/caption_db.hdf5"
    shared = ["--model", model]
    run = run_here("ctx/encode_captions.py", *shared, "--captions", "phrases.txt", "--device", "cpu", "--num-workers", 1, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    flags = [*shared, "--images", "pictures", "--k", 4, "--caption_db", database]
    on_both("ctx/build_context.py", precision, lambda place: [*flags, "--exp_name", place], cwd=tmp_path)
    ours, theirs = (read_context(tmp_path / "outputs" / place) for place in ("gpu", "cpu"))
    assert list(ours) == list(theirs) and len(ours) > 3
    for name, (features, scores, texts) in ours.items():
        expected = theirs[name]
        scale = float(np.abs(expected[0]).max())
        np.testing.assert_allclose(features, expected[0], atol=near * scale, err_msg=name)
        same_rows((scores, texts), expected[1:], near)


def read_context(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each picture: features (f,), scores and texts (V, k) of all views."""
    found = {}
    with h5py.File(folder / "vis_ctx.hdf5") as vis, h5py.File(folder / "txt_ctx.hdf5") as txt:
        for name in vis:
            views = [txt[name][part] for part in ("whole", "five", "nine") if part in txt[name]]
            scores, texts = (np.concatenate([np.atleast_2d(view[what][:]) for view in views]) for what in ("scores", "texts"))
            found[name] = vis[name][:], scores, texts
    return found


@pytest.mark.parametrize(("precision", "near"), PRECISIONS)
def test_phrases(tmp_path: Path, precision: str, near: float):
    model = builder.save_clip(tmp_path / "model")
    (tmp_path / "phrases.txt").write_text("\n".join(builder.phrases(200)) + "\n")
    for place, device, asked in (("cpu", "cpu", "fp32"), ("gpu", "0", precision)):
        (tmp_path / place).mkdir()
        flags = ["--model", model, "--captions", tmp_path / "phrases.txt", "--device", device, "--num-workers", 1, "--precision", asked]
        done = run_here("ctx/encode_captions.py", *flags, cwd=tmp_path / place)
        assert done.returncode == 0, done.stderr
    database = "outputs/captions_db/caption_db.hdf5"
    with h5py.File(tmp_path / "gpu" / database) as ours, h5py.File(tmp_path / "cpu" / database) as theirs:
        assert list(ours) == list(theirs) and len(ours)
        for group in ours:
            np.testing.assert_allclose(ours[group]["keys"][:], theirs[group]["keys"][:], atol=near)
