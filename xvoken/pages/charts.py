"""Charts as figures with inline SVG: axes with numbers, the values themselves, and the same in words for those who don't see them."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 440, 230  # units of the drawing, which scales with the page; narrow, so that letters stay large on a telephone
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 16, 40  # margins of a curve
ROW, LABEL, VALUES = 30, 50, 116  # of bars: height of a row, room for names and for values


@dataclass(frozen=True)
class Bar:
    """One bar of `bars`; low, high: the ends of its interval, chance: what a random order would give; None where not known."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None

    @property
    def reach(self) -> float:
        """Where its drawing ends."""
        return self.value if self.high is None else self.high


def curve(title: str, unit: str, points: Sequence[tuple[int, float]], taken: int | None = None) -> str:
    """A figure of values over epochs; points: (epoch, value), at least one; taken: the epoch that was taken, which is marked."""
    epochs, values = [epoch for epoch, _ in points], [value for _, value in points]
    ticks = _ticks(max(values))
    low, high, first, last = 0.0, ticks[-1], epochs[0], max(epochs[-1], epochs[0] + 1)

    def x(epoch: float) -> float:
        return LEFT + (epoch - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [_line(LEFT, y(tick), WIDTH - RIGHT, y(tick)) + _text(LEFT - 7, y(tick) + 4, f"{tick:g}", "label", "end") for tick in ticks]
    parts += [_text(x(epoch), HEIGHT - BOTTOM + 18, str(epoch), "label", "middle") for epoch in _whole(first, epochs[-1])]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "epoch", "label", "middle"))
    parts.append(f'<polyline class="one" points="{" ".join(f"{x(e):.1f},{y(v):.1f}" for e, v in points)}"/>')
    told = f"{title}, {unit}: {values[0]:.3g} at epoch {epochs[0]}, {values[-1]:.3g} at epoch {epochs[-1]}"
    for epoch, value in points:
        if epoch == taken:
            parts += _mark(x(epoch), y(value), f"taken: epoch {epoch}, {value:.3g}")
            told += f"; epoch {epoch} was taken, {value:.3g}"
    caption = f"<b>{html.escape(title)}</b>, {html.escape(unit)}: {values[0]:.3g} to {values[-1]:.3g}"
    return _figure(WIDTH, HEIGHT, told, parts, caption)


def _mark(x: float, y: float, text: str) -> list[str]:
    """A dot on a curve, a line to the axis through it, and a text at the end of that line which is farther from the dot."""
    anchor, shift = ("end", -9) if x > WIDTH * 0.6 else ("start", 9)
    return [
        f'<line class="taken" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>',
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5"/>',
        _text(x + shift, TOP + 18 if y > HEIGHT / 2 else HEIGHT - BOTTOM - 10, text, "said", anchor),
    ]


def bars(title: str, unit: str, rows: Sequence[Bar], highest: float) -> str:
    """A figure of a bar for each row, with its value, the interval as a whisker, and chance as a tick.

    highest: what the scale has to reach, the same for charts that are to be compared.
    """
    ticks = _ticks(highest)
    height = TOP + ROW * len(rows) + BOTTOM // 2 + 8

    def x(value: float) -> float:
        return LABEL + value / ticks[-1] * (WIDTH - LABEL - VALUES)

    bottom = TOP + ROW * len(rows) + 4
    parts = [_line(x(tick), TOP, x(tick), bottom - 2) + _text(x(tick), bottom + 16, f"{tick:g}", "label", "middle") for tick in ticks]
    for number, row in enumerate(rows):
        top = TOP + ROW * number
        middle = top + ROW / 2
        parts.append(_text(LABEL - 8, middle + 4, row.name, "", "end"))
        parts.append(f'<rect class="bar" x="{LABEL}" y="{top + 6}" width="{max(1.0, x(row.value) - LABEL):.1f}" height="{ROW - 12}"/>')
        told = f"{row.value:.1f}"
        if row.low is not None and row.high is not None:
            ends = "".join(f"M{x(end):.1f} {middle - 4}v8" for end in (row.low, row.high))
            parts.append(f'<path class="whisker" d="M{x(row.low):.1f} {middle}H{x(row.high):.1f}{ends}"/>')
            told += f" ({row.low:.0f} to {row.high:.0f})"
        if row.chance is not None:
            parts.append(f'<path class="taken" d="M{x(row.chance):.1f} {top + 2}v{ROW - 4}"/>')
        parts.append(_text(WIDTH - VALUES + 8, middle + 4, told, "", "start"))
    said = "; ".join(f"{row.name} {row.value:.1f}" + (f", by chance {row.chance:.1f}" if row.chance is not None else "") for row in rows)
    return _figure(WIDTH, height, f"{title}, {unit}: {said}", parts, f"<b>{html.escape(title)}</b>, {html.escape(unit)}")


def _ticks(highest: float) -> list[float]:
    """Round numbers from 0 to at least `highest`, three to six of them."""
    highest = highest if highest > 0 and math.isfinite(highest) else 1.0
    step = 10.0 ** math.floor(math.log10(highest))
    step *= next(part for part in (0.2, 0.5, 1, 2) if highest / (step * part) <= 5)
    return [round(step * number, 10) for number in range(math.ceil(round(highest / step, 9)) + 1)]


def _whole(first: int, last: int) -> list[int]:
    """At most eight epochs, evenly spread."""
    step = max(1, math.ceil((last - first + 1) / 8))
    return list(range(first, last + 1, step))


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="axis" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _figure(width: int, height: int, told: str, parts: Sequence[str], caption: str) -> str:
    drawn = "".join(parts)
    svg = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(told)}">{drawn}</svg>'
    return f'<figure class="chart"><figcaption>{caption}</figcaption>{svg}</figure>'
