"""Write the demo's page: dialogue lines with their pictures, the training curve, the recall table.

    python scripts/demo_page.py --load snap/xmatching/demo --corpus data/demo/dialogues/train.pkl.txt \
        --image-sets openmoji_heldout,openmoji_train --eval-set openmoji_heldout --output snap/xmatching/demo/page.html

reads   the snapshot's metrics.jsonl, eval/, vokens/ and keys/*.path, the pictures, the corpus
writes  one HTML file with the pictures inside, which needs no other file, no network and no script
"""

import base64
import html
import io
import json
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

import numpy as np

from scripts.demo_context import context_section, shown
from xvoken import commands
from xvoken.cli.flags import Parser
from xvoken.cli.main import run_main
from xvoken.encoders import snapshot as snapshots
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files import vokens
from xvoken.files.corpus import same_text
from xvoken.files.safe import fingerprint, quoted, read_json, sha256_of_file, write_text
from xvoken.work.product import Product

THUMB = 144  # pixels
BEST, ANY = 24, 24  # lines shown: those with the highest scores, and a random sample
PRINTED = 5  # lines printed at the end
PAGE = 1  # version of the page's layout; a page of another version is made again


@dataclass
class Line:
    """One line of the corpus: its number, utterances, and (picture, score), best first."""

    number: int
    utterances: list[str]
    found: list[tuple[Path, float]]


def read_lines(corpus: Path, load: Path, sets: list[str]) -> list[Line]:
    """All lines for which pictures were retrieved; raises UserError if results, corpus and keys do not belong together."""
    where = load / "vokens"
    results = vokens.hdf5_file(where, corpus.name, "_".join(sets))
    retrieve = f"rm {quoted(results)} && {commands.vokenize(load, corpus, ','.join(sets))}"
    made_of = vokens.read_settings(results)
    same_text(corpus, results, made_of.get("corpus"), retrieve)
    same_training(load, results, made_of, retrieve)
    read = vokens.read(where, corpus.name, "_".join(sets))
    indices, scores, ids = read.indices, read.scores, read.ids
    read = [key_files.read(key_files.folder(load), image_set) for image_set in sets]
    paths = [Path(path) for part in read for path in part.paths]
    texts = corpus.read_text(encoding="utf-8").split("\n")
    if ids != [f"{image_set}/{i}" for image_set, part in zip(sets, read, strict=True) for i in part.ids]:
        raise UserError(f"{results}: made with other keys than there are now; make it again: {retrieve}")
    if len(texts) < len(indices):
        raise UserError(f"{corpus}: has {len(texts)} lines, {where} images for {len(indices)}; bring back the corpus of these images")
    lines = []
    for number, (row, score) in enumerate(zip(indices, scores, strict=True)):
        if row[0] >= 0:
            found = [(paths[r], float(s)) for r, s in zip(row, score, strict=True)]
            lines.append(Line(number + 1, texts[number].split("\t"), found))
    return lines


def same_training(load: Path, made: Path, made_of: dict[str, Any], mend: str) -> None:
    """Raise UserError for a file that was made with another training of the snapshot than the present one."""
    then, now = made_of.get("snapshot_hash"), snapshots.read(load).hash
    if then not in (None, now):
        raise UserError(f"{made}: of another training ({then}) than {load} holds now ({now}); make it again with: {mend}")


def choose(lines: list[Line]) -> tuple[list[Line], list[Line]]:
    """The lines with the highest scores, each with another best picture; and a random sample of the others, always the same."""
    best: dict[Path, Line] = {}
    for line in sorted(lines, key=lambda line: -line.found[0][1]):
        best.setdefault(line.found[0][0], line)
    chosen = list(best.values())[:BEST]
    others = [line for line in lines if line not in chosen]
    return chosen, random.Random(0).sample(others, min(ANY, len(others)))


def thumbnail(path: Path) -> str:
    """The picture as a data URI."""
    picture = shown(path)
    picture.thumbnail((THUMB, THUMB))
    buffer = io.BytesIO()
    picture.quantize(64).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def line_html(line: Line) -> str:
    turns = "".join(f"<p>{html.escape(text)}</p>" for text in line.utterances)
    pictures = "".join(
        f'<figure><img src="{thumbnail(path)}" alt="" loading="lazy"><figcaption>{html.escape(path.stem.replace("_", " "))}'
        f"<br><b>{score:.3f}</b></figcaption></figure>"
        for path, score in line.found
    )
    return f'<article><div class="said">{turns}<small>line {line.number}</small></div><div class="found">{pictures}</div></article>'


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


def recall_html(record: dict[str, Any]) -> str:
    rows = []
    for direction in ("text_to_image", "image_to_text"):
        found, chance = record[direction], record["chance"][direction]
        cells = "".join(f"<td>{found[f'R{k}']:.1f} <small>{chance[f'R{k}']:.2f}</small></td>" for k in (1, 5, 10))
        rows.append(f"<tr><th>{direction.replace('_', ' ')}</th>{cells}<td>{found['median_rank']:.1f}</td></tr>")
    head = "<tr><th></th><th>R@1</th><th>R@5</th><th>R@10</th><th>median rank</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882}
body{font:16px/1.45 system-ui,sans-serif;max-width:60rem;margin:auto;padding:1rem}
h1{margin:.5rem 0 0}h2{margin:2.2rem 0 .6rem}small{color:#888}
article{border:1px solid var(--line);border-radius:.7rem;padding:.8rem;margin:.8rem 0}
.said p{margin:.15rem 0;
padding:.35rem .7rem;border-radius:.8rem;background:var(--soft);width:fit-content;max-width:46rem;overflow-wrap:anywhere}
.said p:nth-child(even){margin-left:1.6rem}
.found{display:grid;grid-template-columns:repeat(5,1fr);gap:.5rem;margin-top:.6rem}
figure{margin:0;text-align:center;font-size:.8rem;line-height:1.25;overflow-wrap:anywhere}
img{width:100%;max-width:9rem;background:#fff;border-radius:.5rem}
table{border-collapse:collapse}td,th{border-bottom:1px solid var(--line);padding:.35rem .7rem;text-align:right}
th:first-child{text-align:left}
svg{width:100%;max-width:40rem;height:auto}
@media(max-width:36rem){.found{grid-template-columns:repeat(3,1fr)}td,th{padding:.3rem .35rem;font-size:.85rem}}
"""


def page(
    best: list[Line], sample: list[Line], records: list[dict[str, Any]], record: dict[str, Any], eval_set: str, count: int,
    context: str = "", made_of: str = "",
) -> str:  # fmt: skip
    """The whole page; every text from a file is escaped.

    context: HTML of the section about the other direction; made_of: fingerprint of the input files, which tells a second run
    whether anything has changed.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    name = html.escape(eval_set)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="made-of" content="{made_of}">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>xvoken: images for every line</title><style>{STYLE}</style></head><body>
<h1>Images for every line</h1>
<p>For each of {count:,} dialogue lines, the five pictures that the matcher scores highest, best first; the score is the inner
product of two vectors of length 1 (1 at most).</p>
<h2>How well the matcher finds pictures it never saw</h2>
<p>{record["captions"]:,} captions and {record["images"]:,} pictures of <i>{name}</i>: share of captions whose picture is among the first
1, 5, 10, and the other way round, in percent; small: by chance.</p>
{recall_html(record)}
<h2>Training</h2>{curve_svg(records)}
<h2>Lines with the highest scores</h2>{"".join(map(line_html, best))}
<h2>Lines taken at random</h2>{"".join(map(line_html, sample))}
{context}
<p><small>Pictures: OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0. Dialogues: ChatterBot corpus, BSD 3-Clause.</small></p>
</body></html>
"""


def read_made_of(path: Path) -> dict[str, Any]:
    """The fingerprint in a page's head, as settings of a Product; {} for other files."""
    with open(path, encoding="utf-8", errors="replace") as file:
        found = re.search(r'<meta name="made-of" content="([0-9a-f]+)">', file.read(1000))
    return {"made_of": found[1]} if found else {}


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Write the demo's page: lines with their pictures, training curve, recall.")
    parser.add_argument("--load", required=True, type=Path, help="the matcher's snapshot")
    parser.add_argument("--corpus", required=True, type=Path, help="the dialogues, one per line, utterances separated by tabs")
    parser.add_argument("--image-sets", required=True, help="image sets that were retrieved from, separated by commas")
    parser.add_argument("--eval-set", required=True, help="image set whose recall is shown")
    parser.add_argument("--context", type=Path, help="txt_ctx.hdf5 of ctx/build_context.py, to show phrases for pictures too")
    parser.add_argument("--context-images", type=Path, help="folder of the pictures that --context was made from")
    parser.add_argument("--output", required=True, type=Path, help="the HTML file to write")
    args = parser.parse_args(argv)
    sets, evaluated = sorted(args.image_sets.split(",")), args.load / "eval" / f"{args.eval_set}.json"
    shown_files = [args.corpus, snapshots.metrics_file(args.load), evaluated, *([args.context] if args.context else [])]
    shown_files += [file(args.load / "vokens", args.corpus.name, "_".join(sets)) for file in (vokens.hdf5_file, vokens.ids_file)]
    shown_files += [key_files.keys_file(key_files.folder(args.load), image_set) for image_set in sets]
    made_of = fingerprint({"page": PAGE, "files": [sha256_of_file(path) if path.is_file() else None for path in shown_files]})
    product = Product(args.output, {"made_of": made_of}, lambda: read_made_of(args.output), "what these files say", replaced=True)
    if product.finished():
        return
    lines = read_lines(args.corpus, args.load, sets)
    best, sample = choose(lines)
    records = [json.loads(line) for line in snapshots.metrics_file(args.load).read_text(encoding="utf-8").splitlines()]
    record = read_json(evaluated, "run vokenization/evaluate_retrieval.py first")
    evaluate = f"{commands.evaluate(args.load, args.eval_set)} (and the flags it had)"
    same_training(args.load, evaluated, record, evaluate)
    context = context_section(args.context, args.context_images) if args.context else ""
    with product.alone() as todo:
        if todo:
            write_text(args.output, page(best, sample, records, record, args.eval_set, len(lines), context, made_of))
    for line in best[:PRINTED]:
        print(" | ".join(line.utterances))
        print("    " + ", ".join(f"{path.stem} {score:.2f}" for path, score in line.found))
    print(f"wrote the page to {args.output}: open {args.output.resolve().as_uri()}")


if __name__ == "__main__":
    run_main(main)
