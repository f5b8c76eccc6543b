"""What the stages write at small size, held against files under expected/: texts, whole numbers, names and settings.

A change that is meant changes the pin in the same commit, and says why (PINS=write python -m pytest tests/pins).

Floats, dates, seconds, versions and absolute paths are not pinned, processors and libraries differ in them; `python -m tests.pins.against
REV` compares floats between two revisions on one machine.
"""

import difflib
import json
import os
import textwrap
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.pins import world
from tests.pins.called import CALLED
from tests.pins.chain import start
from tests.pins.written import STAGES

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = Path(__file__).resolve().parent / "expected"
MEANT = "a change that is meant changes the pin in the same commit, and says why (PINS=write python -m pytest tests/pins)"
WIDE = 120  # characters of a list or object that is written in one line
APART = 5e-5  # scores of neighbours in a ranking that is pinned; processors differ by less than a tenth of it


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world before any stage has run."""
    folder = tmp_path_factory.mktemp("pins")
    world.build(folder)
    return folder


@pytest.fixture(scope="module")
def done(inputs: Path) -> Path:
    """The world behind all stages."""
    start(ROOT, inputs)
    return inputs


def pretty(value: Any, indent: int = 0, before: int = 0) -> str:
    """JSON in which what is short stands in one line; before: characters that stand before it in its line."""
    short = json.dumps(value, ensure_ascii=False)
    if indent + before + len(short) <= WIDE or not isinstance(value, dict | list) or not value:
        return short
    if isinstance(value, dict):
        named = [(json.dumps(name, ensure_ascii=False) + ": ", part) for name, part in value.items()]
        ends, rows = "{}", [name + pretty(part, indent + 1, len(name)) for name, part in named]
    elif all(isinstance(part, int) for part in value):
        ends, rows = "[]", textwrap.wrap(short[1:-1], WIDE - indent)
        rows = [row.removesuffix(",") for row in rows]
    else:
        ends, rows = "[]", [pretty(part, indent + 1) for part in value]
    return ends[0] + "\n" + ",\n".join(" " * (indent + 1) + row for row in rows) + "\n" + " " * indent + ends[1]


def hold(name: str, value: Any, folder: Path) -> None:
    """Compare with the pin, or write it; the world's own path does not count."""
    found = pretty(value) + "\n"
    for path in (folder.resolve(), folder):
        found = found.replace(str(path), "WORLD")
    path = EXPECTED / f"{name}.json"
    if os.environ.get("PINS") == "write":
        EXPECTED.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
        return
    pinned = path.read_text(encoding="utf-8") if path.exists() else ""
    if found != pinned:
        rows = difflib.unified_diff(
            pinned.splitlines(), found.splitlines(), f"pinned in {path.relative_to(ROOT)}", "written now", "", "", 2, ""
        )
        pytest.fail("\n".join([f"{name}: not as pinned; {MEANT}", *rows]), pytrace=False)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_written(stage: str, done: Path) -> None:
    hold(stage, STAGES[stage](done), done)


@pytest.mark.parametrize("name", CALLED)
def test_called(name: str, inputs: Path) -> None:
    hold(name, CALLED[name](inputs), inputs)


def test_no_pin_is_left_over() -> None:
    assert {path.stem for path in EXPECTED.iterdir()} == {*STAGES, *CALLED}


def test_pinned_rankings_are_clear(done: Path) -> None:
    """Neighbours in a ranking are further apart than processors differ, so that its order is a fact of the world."""
    paths = [*done.glob("snap/**/vokens/lines.txt.few*.hdf5"), *done.glob("outputs/*/txt_ctx.hdf5")]
    assert len(paths) == 6
    for path in paths:
        scores: list[np.ndarray] = []
        with h5py.File(path) as file:
            file.visititems(lambda name, found, scores=scores: scores.append(found[:]) if name.endswith("scores") else None)
        assert scores
        assert min(np.nanmin(-np.diff(part, axis=-1)) for part in scores) > APART, path
