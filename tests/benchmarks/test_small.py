"""Every benchmark runs: each with --small, in this process. What it measures then says nothing; that it ends with its record does."""

import importlib
import json
from pathlib import Path

import pytest

from tests.running import ROOT

# What the others share, no benchmarks themselves.
SHARED = ("__init__", "matching_data", "measure", "peer_work", "peer_world", "precision_recall", "real_texts", "worlds")
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem not in SHARED)
SLOW = ("peers",)  # four processes that import torch, one after the other; see test_peers.py


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in SLOW])
def test_small(name: str, capfd: pytest.CaptureFixture[str]):
    recorded = (ROOT / "benchmarks/search_recipe.jsonl").read_bytes()
    importlib.import_module(f"benchmarks.{name}").main(["--small"])
    last = capfd.readouterr().out.splitlines()[-1]
    if name == "search_recipe":  # which writes its record to a file
        assert last.startswith("best of 4 recipes")
    else:
        assert json.loads(last)["stage"]
    assert (ROOT / "benchmarks/search_recipe.jsonl").read_bytes() == recorded


def test_make_bench_runs_them_all():
    line = next(line for line in Path(ROOT / "Makefile").read_text().splitlines() if line.startswith("\tfor b in "))
    named = set(line.split(";")[0].split()[3:]) | {"ctx"}
    assert named | {"quality", "few_captions", "adapting", "peers", "real_keys", "search_recipe"} == set(BENCHMARKS)
