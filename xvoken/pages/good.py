"""How good a trained matcher is, as HTML: what was chosen, its curves, and the recalls that were measured."""

import html
import math
from typing import Any

from xvoken.pages.charts import Bar, bars, curve
from xvoken.records import TOP

DIRECTIONS = {"text_to_image": "text to image", "image_to_text": "image to text"}


def training_html(records: list[dict[str, Any]], choice: dict[str, Any] | None, taken: int | None) -> str:
    """How the matcher came about: what was solved in closed form and chosen for it, and the curves of what was trained.

    records: those of metrics.jsonl; choice: of BEST.json, None for a matcher without heads in closed form; taken: the epoch in BEST.
    """
    trained = [record for record in records if record["loss"] is not None and math.isfinite(record["loss"])]
    told = ""
    if choice:
        heads = " and ".join(f"{html.escape(name)} (weight {weight:g})" for name, weight in choice["weights"].items())
        told = f"""<p>Solved in closed form, in seconds: {heads}; {choice["directions"]} directions, ridge {choice["ridge"]:g}, power
{choice["power"]:g}, {choice["hubness"]:g} of the hubness taken off the scores. All of it was chosen on pictures held out of the training
ones{", and so were the epochs of training from there" if trained else "; training from there found no more, so there was none"}.</p>"""
    if not trained:
        return told
    charts = [curve("Loss", "of training", [(record["epoch"], record["loss"]) for record in trained], taken)]
    for direction, name in DIRECTIONS.items():
        points = [(record["epoch"], record[direction]["R5"]) for record in records]
        charts.append(curve(f"R@5, {name}", "percent of the validation gallery", points, taken))
    return f'{told}<div class="charts">{"".join(charts)}</div>'


def recall_html(records: dict[str, dict[str, Any]]) -> str:
    """Charts of recalls, one for each record and direction; records: what each was measured on, or by -> the record."""
    charts: dict[tuple[str, str], list[Bar]] = {}
    for name, record in records.items():
        for direction, words in DIRECTIONS.items():
            found, chance = record[direction], record["chance"][direction]
            interval = record.get("interval", {}).get(direction, {})
            rows = [Bar(f"R@{k}", found[f"R{k}"], *interval.get(f"R{k}", (None, None)), chance=chance[f"R{k}"]) for k in TOP]
            charts[f"{name}, {words}", f"percent; median rank {found['median_rank']:g}"] = rows
    highest = max((row.reach for rows in charts.values() for row in rows), default=1.0)
    return f'<div class="charts">{"".join(bars(*named, rows, highest) for named, rows in charts.items())}</div>'


def how_to_read(record: dict[str, Any]) -> str:
    """A paragraph on what recalls are, with the numbers of a record."""
    level = f" Whiskers: {record['interval']['level']}% of resamples of the pictures lie in them." if "interval" in record else ""
    return (
        f"<p>R@5 is the share of {record['captions']:,} captions whose picture is among the first 5 of {record['images']:,}, and the other "
        f"way round.{level} Dashed: by chance.</p>"
    )


def good_html(records: list[dict[str, Any]], choice: dict[str, Any] | None, taken: int | None, recalls: dict[str, dict[str, Any]]) -> str:
    """All of it, as a page's section below its heading; "" if nothing is known."""
    parts = []
    if recalls:
        parts.append(f"<h3>Recall</h3>{how_to_read(next(iter(recalls.values())))}{recall_html(recalls)}")
    if records and (told := training_html(records, choice, taken)):
        parts.append(f"<h3>Training</h3>{told}")
    return "".join(parts)
