"""The record of recalls that metrics.jsonl and eval/*.json share, for people and for the choice of an epoch."""

from typing import Any

TOP = (1, 5, 10)


def table(record: dict[str, Any]) -> str:
    """The record as a small table; of a record of evaluate_retrieval.py with all that is measured once."""
    more = "interval" in record  # a training's records, and those of earlier versions, have none
    rows = [f"{record['captions']:,} captions, {record['images']:,} images {'R@1':>8} {'R@5':>7} {'R@10':>7} {'median rank':>12}"]
    margin = len(rows[0]) - 38
    rows[0] += f" {'mean rank':>10} {'mAP@R':>7}" * more
    for direction in ("text_to_image", "image_to_text"):
        found = record[direction]
        name = direction.replace("_", " ")
        further = f" {found['mean_rank']:10.1f} {found['mAP_R']:7.2f}" if more else ""
        rows.append(f"{name:<{margin}}{_recalls(found)} {found['median_rank']:12.1f}{further}")
        if more:
            for which, bound in enumerate((f"  {record['interval']['level']}% from", "      to")):
                rows.append(f"{bound:<{margin}}{_recalls(_bound(record, direction, which))}")
        rows.append(f"{'  chance':<{margin}}{_recalls(record['chance'][direction])}")
    return "\n".join(rows + ([_sum_line(record)] if more else []))


def _recalls(found: dict[str, float]) -> str:
    return "".join(f"{found[f'R{k}']:8.2f}" for k in TOP)


def _bound(record: dict[str, Any], direction: str, which: int) -> dict[str, float]:
    return {name: bounds[which] for name, bounds in record["interval"][direction].items()}


def _sum_line(record: dict[str, Any]) -> str:
    """The sum of the recalls with its interval, and how the figures came about."""
    bounds = record["interval"]
    means = f"; means over {record['folds']} folds" if "folds" in record else ""
    how = f"{bounds['level']}% of {bounds['samples']:,} resamples of the pictures: {bounds['rsum'][0]:.2f} to {bounds['rsum'][1]:.2f}"
    return f"rsum {record['rsum']:.2f} ({how}){means}"


def sureness(record: dict[str, Any]) -> list[str]:
    """What a record says of the probability that the best picture is right, in lines; none where the model had no calibration."""
    if (found := record.get("probability")) is None:
        return []
    precision = ", ".join(f"{value:.1f} of {share}%" for share, value in found["precision"].items())
    lines = [f"best picture right, percent of the surest captions: {precision}; calibration error {found['calibration_error']:.1f}"]
    if other := found.get("other_lines"):
        said = f"calibration error of both, as many of each, {other['calibration_error']:.1f}"
        lines.append(f"captions told from {other['lines']:,} other lines: AUC {other['auc']:.3f}; {said}")
    return lines


def rsum(record: dict[str, Any]) -> float:
    """Sum of the six recalls, the usual single figure to choose an epoch by."""
    found = [record["text_to_image"], record["image_to_text"]]
    return sum(recalls[name] for recalls in found for name in recalls if name.startswith("R"))
