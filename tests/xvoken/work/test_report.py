"""What a run says of itself."""

import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.running import killed_behind
from tests.worlds import World
from xvoken.work.parts import Parts
from xvoken.work.product import report_file, write_report


@dataclass
class Some:
    def setup(self, device: str) -> None:
        self.device = device

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        return {"skipped": [[i, "odd" if i % 4 == 1 else "prime"] for i in (start, start + 1) if i % 2]}


def test_report_counts_and_names_what_it_ran_with(tmp_path: Path) -> None:
    with Parts(tmp_path / "out", 10, 2, {}) as parts:
        assert parts.run(Some(), ["cpu"], "some", "n")
        write_report(parts, lines=10)
        (tmp_path / "out").touch()
    report = json.loads(report_file(tmp_path / "out").read_text())
    assert report["lines"] == 10 and report["skipped"] == {"odd": 3, "prime": 2}
    assert len(report["seconds_per_part"]) == 5 and report["seconds"] >= 0
    assert report["peak_memory_mb"]["run"] > 10 and report["versions"]["torch"] == importlib.metadata.version("torch")


@pytest.mark.slow
def test_a_run_killed_behind_its_last_rename_has_its_report(world: World, keyed: Path, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("a red circle\n\na square\n")
    output = tmp_path / "c.txt.tiny-bert.hdf5"
    killed_behind(output.name, ["tokenization/tokenize_dataset.py", tmp_path, "c.txt", world.bert])
    told = json.loads(report_file(output).read_text())
    assert (told["lines"], told["empty"], told["tokens"]) == (3, 1, 5) and output.with_name(f"{output.name}.parts").exists()

    output = tmp_path / "lines.txt.shapes_valid.hdf5"
    corpus = ["--corpus", world.folder / "corpus/lines.txt", "--image-sets", "shapes_valid", "--output", tmp_path, "--num-workers", 1]
    killed_behind(output.name, ["vokenization/vokenize_corpus_mp.py", "--load", keyed, *corpus])
    told = json.loads(report_file(output).read_text())
    assert (told["lines"], told["images"]) == (21, 6) and output.exists()
