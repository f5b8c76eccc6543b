"""A JSON report of a run, beside what it wrote: what was done, skipped and needed."""

import importlib.metadata
import platform
import resource
from collections import Counter
from pathlib import Path
from typing import Any

from xvoken.files.safe import write_json
from xvoken.work.parts import Parts

PACKAGES = ("torch", "transformers", "tokenizers", "faiss-gpu", "faiss-cpu", "numpy", "h5py", "Pillow")


def report_file(output: Path) -> Path:
    return output.with_name(f"{output.name}.report.json")


def write_report(parts: Parts, **counts: Any) -> None:
    """Write OUTPUT.report.json; to be called before the file is written that means done: behind that, a kill would leave none.

    counts: what the stage itself counted (lines, tokens, images). Seconds are those of each part, in order, over all
    runs that it took; peak memory is in MB, of this process and of the largest of its workers in this run.
    """
    summaries = list(parts.summaries())
    reasons = Counter(row[1] for summary in summaries for row in summary.get("skipped", []))
    own, workers = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    write_json(
        report_file(parts.output),
        {
            **counts,
            "skipped": dict(reasons),
            "seconds": round(sum(summary["seconds"] for summary in summaries), 3),
            "seconds_per_part": [summary["seconds"] for summary in summaries],
            "peak_memory_mb": {"run": round(own), "largest_worker": round(workers)},
            "versions": {"python": platform.python_version(), **_versions()},
        },
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
