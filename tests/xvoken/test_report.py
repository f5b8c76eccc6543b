"""What a run says of itself."""

import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvoken.report import report_file, write_report
from xvoken.work import Parts


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
