"""The sections of the demo's page: hand-picked lines with their pictures, in which every text from a file is escaped."""

import html
from dataclasses import dataclass
from typing import Any

from scripts.demo_lines import Line, choose
from scripts.demo_photos import credits_text
from xvoken.pages.document import embedded, figure, section
from xvoken.pages.good import how_to_read, recall_html, training_html

SIDE = 200  # pixels of a picture's longest side
PAIRS = 4  # dialogue lines shown with photos
HEADINGS = {
    "untrained": "Without any training", "trained": "Trained on drawings", "again": "The photos again, after training on drawings",
    "context": "Phrases for every image",
}  # fmt: skip


def line_html(line: Line, top: int | None = None) -> str:
    """A line with the pictures found for it; top: only so many of them."""
    turns = "".join(f'<p dir="auto">{html.escape(text)}</p>' for text in line.utterances)
    pictures = "".join(
        figure(embedded(path, SIDE), name := path.stem.replace("_", " "), f"{html.escape(name)}<br>{score:.3f}")
        for path, score in line.found[:top]
    )
    numbered = f'<p class="number">line {line.number}</p>'
    return f'<article>{numbered}<div class="text">{turns}</div><div class="pictures">{pictures}</div></article>'


def pairs_html(lines: list[Line]) -> str:
    """Lines side by side, two in a row, each with the three best pictures."""
    return f'<div class="pairs">{"".join(line_html(line, 3) for line in lines)}</div>'


@dataclass
class Trained:
    """What is told of the trained matcher: an image set that it never saw, with recalls by matcher, and its lines.

    epochs: the records of its training; choice: what was chosen for it, None for one without heads in closed form; taken: the epoch of
    the snapshot.
    """

    eval_set: str
    recalls: dict[str, dict[str, Any]]
    epochs: list[dict[str, Any]]
    choice: dict[str, Any] | None
    taken: int | None
    lines: list[Line]


def untrained_section(sentences: list[Line], dialogues: list[Line], more: str = "") -> str:
    """Sentences and dialogue lines with photos, by the matcher that was not trained; more: HTML of links to all lines."""
    told = f"""<p>Nothing was trained here. To the matcher of <i>--recipe zeroshot</i> a picture is what an image classifier takes it for,
in the words of its 1,000 class names, and a sentence encoder compares these with the line. Here are photos; the sentences are ours, one
about each photo, and none was left out for what was found for it. For each the three photos with the highest scores, best first; the
score is the inner product of two vectors of length 1 (1 at most).</p>
{more}{pairs_html(sentences)}
<h3>Dialogue lines with the highest scores</h3>
<p>The dialogues are seldom about what these photos show: lines for which the matcher is surest, each with another photo.</p>
{pairs_html(choose(dialogues, PAIRS, 0)[0])}"""
    return section("untrained", HEADINGS["untrained"], told)


def trained_section(found: Trained, best: list[Line], sample: list[Line], more: str = "") -> str:
    """Recalls, the training curve, and dialogue lines with drawings, by the trained matcher; more: HTML of links to all lines."""
    recalls = {f"{found.eval_set}, {made}": record for made, record in found.recalls.items()}
    told = f"""<p>The matcher of <i>--recipe best</i> has learnt from OpenMoji's drawings and their names. For each of {len(found.lines):,}
dialogue lines it finds the five pictures with the highest scores.</p>
{more}<h3>How well it finds pictures it never saw</h3>
{how_to_read(next(iter(recalls.values())))}
{recall_html(recalls)}
<h3>Training</h3>{training_html(found.epochs, found.choice, found.taken)}
<h3>Lines with the highest scores</h3>{"".join(map(line_html, best))}
<h3>Lines taken at random</h3>{"".join(map(line_html, sample))}"""
    return section("trained", HEADINGS["trained"], told)


def photos_section(sentences: list[Line], more: str = "") -> str:
    """The sentences about the photos once more, by the trained matcher; more: HTML of links to all lines."""
    told = f"""<p>The same sentences and photos, by the trained matcher. Its training showed it no photo: train on what it is to be good
at.</p>
{more}{pairs_html(sentences)}"""
    return section("again", HEADINGS["again"], told)


def footer(photos: bool) -> str:
    """Whom the demo's data are from, as HTML; photos: whether there are photos to give credit for."""
    ours = f"Photos: shipped with scikit-image ({html.escape(credits_text())}). The sentences about them: ours." if photos else ""
    drawings = "Drawings: OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0. Dialogues: ChatterBot corpus, BSD 3-Clause."
    return f"<p>{drawings}\n{ours}</p>"
