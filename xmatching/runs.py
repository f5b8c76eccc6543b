"""Compare the trainings under a folder: one line a run, best recall first.

    bash scripts/runs.bash [FOLDER]

reads   FOLDER/*/metrics.jsonl and BEST.json       writes nothing
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from xvoken import commands
from xvoken.cli.flags import Parser
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.encoders import snapshot as snapshots
from xvoken.errors import UserError
from xvoken.files.safe import read_json
from xvoken.records import rsum

COLUMNS = ("run", "R@1", "R@5", "R@10", "i2t R@1", "images", "epoch", "loss", "head", "pool", "lr", "minutes")


def describe(folder: Path) -> tuple[float, list[str]] | None:
    """Score and table cells of a run; None, and a message, if its files can't be read."""
    try:
        lines = snapshots.metrics_file(folder).read_text(encoding="utf-8").splitlines()
        records: list[dict[str, Any]] = [json.loads(line) for line in lines]
        best = max(records, key=rsum)
        config = read_json(folder / "BEST.json", "train again")
        model, training = snapshots.ModelConfig.read(config["model"]), config["training"]
    except (OSError, ValueError, KeyError, UserError) as error:
        say(f"{folder}: left out ({type(error).__name__})")
        return None
    found = best["text_to_image"]
    cells = [
        folder.name, *(f"{found[key]:.1f}" for key in ("R1", "R5", "R10")), f"{best['image_to_text']['R1']:.1f}", f"{best['images']:,}",
        f"{best['epoch']}/{training['epochs']}", training["loss"], model.head, f"{model.text_pool}/{model.visn_pool}",
        f"{training['lr']:g}", f"{sum(record['seconds'] for record in records) / 60:.1f}",
    ]  # fmt: skip
    return rsum(best), cells


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Compare trainings by the recall of their best epochs.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("snap/xmatching"), help="folder of runs (default: snap/xmatching)")
    folder = parser.parse_args(argv).folder
    runs = [run for path in sorted(folder.glob("*/metrics.jsonl")) if (run := describe(path.parent))]
    if not runs:
        raise UserError(f"{folder}: no trainings in it; make one: {commands.train()}")
    rows = [list(COLUMNS), *(cells for _, cells in sorted(runs, key=lambda run: -run[0]))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        print(
            "  ".join(
                cell.ljust(width) if column == 0 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )
    print("R@k: text to image on the run's validation gallery, in percent; runs on different galleries can't be compared")


if __name__ == "__main__":
    run_main(main)
