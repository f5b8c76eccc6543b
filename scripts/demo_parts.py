"""The demo's page and its building blocks: pieces of HTML, in which every text from a file is escaped."""

import base64
import html
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scripts.demo_lines import Line, choose
from scripts.demo_photos import credits_text
from xvoken.errors import UserError
from xvoken.pictures.decode import BrokenPicture, load_picture
from xvoken.pictures.sources import find

THUMB = 144  # pixels
PAIRS = 4  # dialogue lines shown with photos
STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882}
body{font:16px/1.45 system-ui,sans-serif;max-width:60rem;margin:auto;padding:1rem}
h1{margin:.5rem 0 0}h2{margin:2.2rem 0 .6rem}h3{margin:1.6rem 0 .5rem}small{color:#888}
article{border:1px solid var(--line);border-radius:.7rem;padding:.8rem;margin:.8rem 0}
.said p{margin:.15rem 0;
padding:.35rem .7rem;border-radius:.8rem;background:var(--soft);width:fit-content;max-width:46rem;overflow-wrap:anywhere}
.said p:nth-child(even){margin-left:1.6rem}
.found{display:grid;grid-template-columns:repeat(5,1fr);gap:.5rem;margin-top:.6rem}
figure{margin:0;text-align:center;font-size:.8rem;line-height:1.25;overflow-wrap:anywhere}
img{width:100%;max-width:9rem;background:#fff;border-radius:.5rem}
table{border-collapse:collapse}td,th{border-bottom:1px solid var(--line);padding:.35rem .7rem;text-align:right}
th:first-child{text-align:left}
.pairs{display:grid;grid-template-columns:1fr 1fr;gap:.8rem}.pairs article{margin:0}.pairs .found{grid-template-columns:repeat(3,1fr)}
.pairs img{aspect-ratio:4/3;object-fit:cover}
svg{width:100%;max-width:40rem;height:auto}
@media(max-width:36rem){.pairs{grid-template-columns:1fr}.found{grid-template-columns:repeat(3,1fr)}}
@media(max-width:36rem){td,th{padding:.3rem .35rem;font-size:.85rem}}
"""


def shown(path: Path) -> Image.Image:
    """The picture that a page shows; raises UserError if it is gone or broken."""
    try:
        return load_picture(find(path))
    except BrokenPicture as error:
        raise UserError(f"{path}: {error}; the page shows this picture: bring it back") from None


def thumbnail(path: Path) -> str:
    """The picture as a data URI: as a PNG of few colours, which is small for drawings, or as a JPEG, which is small for photos."""
    picture = shown(path)
    picture.thumbnail((THUMB, THUMB))
    drawing, photo = io.BytesIO(), io.BytesIO()
    picture.quantize(64).save(drawing, "PNG", optimize=True)
    picture.save(photo, "JPEG", quality=80, optimize=True)
    kind, data = min(("png", drawing.getvalue()), ("jpeg", photo.getvalue()), key=lambda encoded: len(encoded[1]))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def line_html(line: Line, top: int | None = None) -> str:
    """A line with the pictures found for it; top: only so many of them."""
    turns = "".join(f"<p>{html.escape(text)}</p>" for text in line.utterances)
    pictures = "".join(
        f'<figure><img src="{thumbnail(path)}" alt="" loading="lazy"><figcaption>{html.escape(path.stem.replace("_", " "))}'
        f"<br><b>{score:.3f}</b></figcaption></figure>"
        for path, score in line.found[:top]
    )
    return f'<article><div class="said">{turns}<small>line {line.number}</small></div><div class="found">{pictures}</div></article>'


def pairs_html(lines: list[Line]) -> str:
    """Lines side by side, two in a row, each with the three best pictures."""
    return f'<div class="pairs">{"".join(line_html(line, 3) for line in lines)}</div>'


def training_html(records: list[dict[str, Any]], choice: dict[str, Any] | None) -> str:
    """How the matcher came about: what was solved in closed form and chosen for it, and the curves of what was trained."""
    trained = [record for record in records if record["loss"] is not None]
    told = ""
    if choice:
        heads = " and ".join(f"{html.escape(name)} (weight {weight:g})" for name, weight in choice["weights"].items())
        told = f"""<p>Solved in closed form, in seconds: {heads}; {choice["directions"]} directions, ridge {choice["ridge"]:g}, power
{choice["power"]:g}, {choice["hubness"]:g} of the hubness taken off the scores. All of it was chosen on pictures held out of the training
ones{", and so were the epochs of training from there" if trained else "; training from there found no more, so there was none"}.</p>"""
    return told + (curve_svg(trained) if trained else "")


def curve_svg(records: list[dict[str, Any]]) -> str:
    """Loss, and recall at 5 on the validation gallery, over the epochs; each on its own scale."""
    width, height = 640, 220
    series = [
        ("loss", "#c2410c", [r["loss"] for r in records]),
        ("R@5 text to image, %", "#1d4ed8", [r["text_to_image"]["R5"] for r in records]),
    ]
    parts = [f'<svg viewBox="0 0 {width} {height + 40}" role="img" aria-label="Training curve">']
    parts += [f'<line x1="0" x2="{width}" y1="{height}" y2="{height}" stroke="#999"/>']
    for place, (name, colour, values) in enumerate(series):
        top = max(values) or 1
        xs = np.linspace(4, width - 4, len(values))
        points = " ".join(f"{x:.1f},{height - value / top * (height - 12):.1f}" for x, value in zip(xs, values, strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        label = f"{name}: {values[0]:.3g} to {values[-1]:.3g}"
        parts.append(f'<text x="{4 + place * width / 2}" y="{height + 20}" fill="{colour}" font-size="15">{html.escape(label)}</text>')
    parts.append(f'<text x="{width - 4}" y="{height + 38}" text-anchor="end" font-size="13" fill="#777">epoch {len(records)}</text></svg>')
    return "".join(parts)


def recall_html(records: dict[str, dict[str, Any]]) -> str:
    """A table of recalls on one image set, with chance; records: how the matcher was made -> its record."""
    rows = []
    for made, record in records.items():
        for direction in ("text_to_image", "image_to_text"):
            found, chance = record[direction], record["chance"][direction]
            cells = "".join(f"<td>{found[f'R{k}']:.1f} <small>{chance[f'R{k}']:.2f}</small></td>" for k in (1, 5, 10))
            name = f"{html.escape(made)}, {direction.replace('_', ' ')}"
            rows.append(f"<tr><th>{name}</th>{cells}<td>{found['median_rank']:.1f}</td></tr>")
    head = "<tr><th></th><th>R@1</th><th>R@5</th><th>R@10</th><th>median rank</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


@dataclass
class Trained:
    """What is told of the trained matcher: an image set that it never saw, with recalls by matcher, and its lines.

    epochs: the records of its training; choice: what was chosen for it, None for one without heads in closed form.
    """

    eval_set: str
    recalls: dict[str, dict[str, Any]]
    epochs: list[dict[str, Any]]
    choice: dict[str, Any] | None
    lines: list[Line]


def untrained_section(sentences: list[Line], dialogues: list[Line]) -> str:
    """Sentences and dialogue lines with photos, by the matcher that was not trained."""
    return f"""<h2>Without any training</h2>
<p>Nothing was trained here. To the matcher of <i>--recipe zeroshot</i> a picture is what an image classifier takes it for, in the words of
its 1,000 class names, and a sentence encoder compares these with the line. Here are photos; the sentences are ours, one about each
photo, and none was left out for what was found for it. For each the three photos with the highest scores, best first; the score is the
inner product of two vectors of length 1 (1 at most).</p>
{pairs_html(sentences)}
<h3>Dialogue lines with the highest scores</h3>
<p>The dialogues are seldom about what these photos show: lines for which the matcher is surest, each with another photo.</p>
{pairs_html(choose(dialogues, PAIRS, 0)[0])}"""


def trained_section(found: Trained, best: list[Line], sample: list[Line]) -> str:
    """Recalls, the training curve, and dialogue lines with drawings, by the trained matcher."""
    record = next(iter(found.recalls.values()))
    return f"""<h2>Trained on drawings</h2>
<p>The matcher of <i>--recipe best</i> has learnt from OpenMoji's drawings and their names. For each of {len(found.lines):,} dialogue
lines it finds the five pictures with the highest scores.</p>
<h3>How well it finds pictures it never saw</h3>
<p>{record["captions"]:,} captions and {record["images"]:,} pictures of <i>{html.escape(found.eval_set)}</i>: share of captions whose
picture is among the first 1, 5, 10, and the other way round, in percent; small: by chance.</p>
{recall_html(found.recalls)}
<h3>Training</h3>{training_html(found.epochs, found.choice)}
<h3>Lines with the highest scores</h3>{"".join(map(line_html, best))}
<h3>Lines taken at random</h3>{"".join(map(line_html, sample))}"""


def photos_section(sentences: list[Line]) -> str:
    """The sentences about the photos once more, by the trained matcher."""
    return f"""<h2>The photos again, after training on drawings</h2>
<p>The same sentences and photos, by the trained matcher. Its training showed it no photo: train on what it is to be good at.</p>
{pairs_html(sentences)}"""


def page(sections: list[str], made_of: str = "", photos: bool = False) -> str:
    """The whole page; every text from a file is escaped.

    sections: HTML, from top to bottom; made_of: fingerprint of the input files, which tells a second run whether anything has changed;
    photos: whether there are photos to give credit for.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    ours = f"Photos: shipped with scikit-image ({html.escape(credits_text())}). The sentences about them: ours." if photos else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="made-of" content="{made_of}">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>xvoken: images for every line</title><style>{STYLE}</style></head><body>
<h1>Images for every line</h1>
{"".join(sections)}
<p><small>Drawings: OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0. Dialogues: ChatterBot corpus, BSD 3-Clause.
{ours}</small></p>
</body></html>
"""
