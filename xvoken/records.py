"""The record of recalls that metrics.jsonl and eval/*.json share, for people and for the choice of an epoch."""

from typing import Any

TOP = (1, 5, 10)


def table(record: dict[str, Any]) -> str:
    """The record as a small table."""
    rows = [f"{record['captions']:,} captions, {record['images']:,} images {'R@1':>8} {'R@5':>7} {'R@10':>7} {'median rank':>12}"]
    margin = len(rows[0]) - 38
    for direction in ("text_to_image", "image_to_text"):
        found, by_chance = record[direction], record["chance"][direction]
        name = direction.replace("_", " ")
        numbers = "".join(f"{found[f'R{k}']:8.2f}" for k in TOP)
        rows.append(f"{name:<{margin}}{numbers} {found['median_rank']:12.1f}")
        rows.append(f"{'  chance':<{margin}}" + "".join(f"{by_chance[f'R{k}']:8.2f}" for k in TOP))
    return "\n".join(rows)


def rsum(record: dict[str, Any]) -> float:
    """Sum of the six recalls, the usual single figure to choose an epoch by."""
    found = [record["text_to_image"], record["image_to_text"]]
    return sum(recalls[name] for recalls in found for name in recalls if name.startswith("R"))
