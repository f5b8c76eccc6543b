"""What an evaluation says of the probability that a best picture is right, against all scores at once; and the command."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.running import run_here
from tests.vokenization.test_min_probability import calibrate
from tests.worlds import World
from vokenization.fitting import fitting
from xvoken.calibration import COVERAGES, Calibration, auc
from xvoken.recall import Less

CALIBRATION = Calibration(-1.0, 3.0, 0.8)


def unit(number: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(number, 8))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def by_hand(scores: np.ndarray) -> np.ndarray:
    """Probability from all scores (Q, N)."""
    top = -np.sort(-scores.astype(np.float64), 1)[:, :16]
    share = 1 / np.exp((top - top[:, :1]) / 0.1).sum(1)
    return 1 / (1 + np.exp(-(-1 + 3 * top[:, 0] + 0.8 * np.log(share / (1 - share)))))


def test_figures_against_all_scores():
    text, image, owner, others = unit(60, 0), unit(30, 1), np.arange(60) // 2, unit(45, 2)
    text += 0.4 * image[owner]
    sure, right = by_hand(text @ image.T), (text @ image.T).argmax(1) == owner
    found = fitting(CALIBRATION, text, image, owner, others=others)
    for share in COVERAGES:
        many = round(60 * share / 100)
        assert found["precision"][str(share)] == pytest.approx(100 * right[np.argsort(-sure)][:many].mean(), abs=1e-3)
    order = np.argsort(-sure).reshape(10, 6)
    assert found["calibration_error"] == pytest.approx(100 * np.abs((sure - right)[order].mean(1)).mean(), abs=1e-2)
    strange = by_hand(others @ image.T)
    assert found["other_lines"]["lines"] == 45 and found["other_lines"]["auc"] == pytest.approx(auc(sure, strange), abs=1e-4)
    some = np.arange(45) * 60 // 45  # as many captions as other lines
    both, hit = np.concatenate([sure[some], strange]), np.concatenate([right[some], np.zeros(45)])
    order = np.argsort(-both).reshape(10, 9)
    assert found["other_lines"]["calibration_error"] == pytest.approx(100 * np.abs((both - hit)[order].mean(1)).mean(), abs=1e-2)
    assert "other_lines" not in fitting(CALIBRATION, text, image, owner)


def test_corrected_scores_and_folds():
    """Hubness is taken off, but for its mean over the gallery. Captions see the pictures of their fold, other lines those of each."""
    text, image, owner, others = unit(60, 0), unit(30, 1), np.arange(60) // 2, unit(10, 2)
    off = np.random.default_rng(3).random(30).astype(np.float32) / 2
    less, fold = Less(torch.zeros(60), torch.from_numpy(off)), np.arange(30) % 2
    scores, strange, sure, right = text @ image.T - off, [], np.empty(60), np.empty(60)
    for number in (0, 1):
        pictures, captions = np.flatnonzero(fold == number), np.flatnonzero(fold[owner] == number)
        lift = off[pictures].mean()
        sure[captions] = by_hand(scores[captions][:, pictures] + lift)
        right[captions] = pictures[scores[captions][:, pictures].argmax(1)] == owner[captions]
        strange.append(by_hand((others @ image.T - off)[:, pictures] + lift))
    found = fitting(CALIBRATION, text, image, owner, fold=fold, less=less, others=others)
    assert found["precision"]["50"] == pytest.approx(100 * right[np.argsort(-sure)][:30].mean(), abs=1e-3)
    assert found["other_lines"]["lines"] == 20  # the ten, in each fold
    assert found["other_lines"]["auc"] == pytest.approx(auc(sure, np.concatenate(strange)), abs=1e-4)


def test_equal_pictures_are_right_by_half():
    image = np.repeat(np.eye(8, dtype=np.float32)[:2], 2, 0)
    found = fitting(CALIBRATION, image, image, np.arange(4))
    assert found["precision"] == dict.fromkeys(map(str, COVERAGES), 50)


def test_the_command_says_and_keeps_it(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    load = calibrate(keyed, tmp_path / "matcher", CALIBRATION.to_list())
    (tmp_path / "dialogue.txt").write_text("how are you?\n\nfine\tthanks\n")
    flags = ["--load", load, "--image-sets", "shapes_valid", *world.roots, "--device", "cpu", "--num-workers", 1]
    printed = script("vokenization.evaluate_retrieval", *flags)
    record = json.loads((load / "eval/shapes_valid.json").read_text())
    assert set(record["probability"]) == {"precision", "calibration_error"}
    assert record["probability"]["precision"]["100"] == pytest.approx(record["text_to_image"]["R1"], abs=1e-3)
    said = f"best picture right, percent of the surest captions: {record['probability']['precision']['100']:.1f} of 100%, "
    assert said in printed and f"; calibration error {record['probability']['calibration_error']:.1f}" in printed
    assert "other lines" not in printed and "are off" not in printed
    again = script("vokenization.evaluate_retrieval", *flags)
    assert said in again and "wrote" not in again
    asked = [*flags, "--other-lines", tmp_path / "dialogue.txt"]
    printed = script("vokenization.evaluate_retrieval", *asked)
    told = json.loads((load / "eval/shapes_valid.json").read_text())["probability"]
    assert {**told, "other_lines": None} == {**record["probability"], "other_lines": None}
    assert f"captions told from 2 other lines: AUC {told['other_lines']['auc']:.3f}; " in printed
    assert "wrote" not in script("vokenization.evaluate_retrieval", *asked)
    (tmp_path / "dialogue.txt").write_text("something else\n")
    assert "captions told from 1 other lines" in script("vokenization.evaluate_retrieval", *asked)


def test_scores_less_hubness(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    load = calibrate(keyed, tmp_path / "matcher", CALIBRATION.to_list())
    flags = ["--load", load, "--image-sets", "shapes_valid", *world.roots, "--device", "cpu", "--num-workers", 1, "--precision", "fp32"]
    printed = script("vokenization.evaluate_retrieval", *flags, "--hubness", 0.5, "--bank-set", "shapes_train")
    assert "probabilities are off: the calibration of matcher holds for --hubness 0, not for 0.5" in printed
    record = json.loads((load / "eval/shapes_valid.json").read_text())
    assert record["probability"]["precision"]["100"] == pytest.approx(record["text_to_image"]["R1"], abs=1e-3)


def test_other_lines_need_a_calibration_and_a_file(world: World, keyed: Path, tmp_path: Path):
    flags = ["--image-sets", "shapes_valid", *world.roots, "--device", "cpu", "--output", tmp_path / "eval"]
    load = calibrate(keyed, tmp_path / "matcher", CALIBRATION.to_list())
    for loaded, said in ((keyed, "--other-lines: matcher has no calibration"), (load, "none.txt does not exist; a text file of lines")):
        done = run_here("vokenization/evaluate_retrieval.py", "--load", loaded, "--other-lines", tmp_path / "none.txt", *flags)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    plain = shutil.copytree(keyed, tmp_path / "plain")
    done = run_here("vokenization/evaluate_retrieval.py", "--load", plain, *flags)
    assert done.returncode == 0 and "calibration" not in done.stdout
    assert "probability" not in json.loads((tmp_path / "eval/shapes_valid.json").read_text())
