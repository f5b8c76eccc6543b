"""Choose the data for the demo's other direction: phrases for pictures that the matcher never saw.

    python scripts/demo_context.py data/demo

reads   data/demo/lxmert/openmoji_*.json, images/ and photos/
writes  data/demo/context/phrases.txt: the names of all OpenMoji; data/demo/context/images/: the pictures to describe
`context_section` makes a section of the demo's page from the context file that ctx/build_context.py writes for these.
"""

import base64
import html
import io
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from PIL import Image

from ctx.crops import boxes
from scripts.demo_parts import shown
from scripts.demo_photos import folder_of
from xvoken import commands
from xvoken.cli.flags import Parser
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.files.context import SLICES, Context
from xvoken.files.safe import read_json, replacing, write_lines

HELD_OUT = 8  # OpenMoji's pictures, the first ones held out; these are in random order already
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "hubble_deep_field.jpg")
SIDE = 240  # pixels of a picture's longer side on the page
BEST = 5  # phrases shown for the whole picture
COLOURS = ("#e11d48", "#2563eb", "#16a34a", "#d97706", "#9333ea", "#0891b2", "#be185d", "#4d7c0f", "#475569")
STYLE = """
.views{display:grid;grid-template-columns:repeat(3,1fr);gap:.8rem}.views ol{padding:0;margin:.3rem 0;list-style:none;font-size:.82rem}
.views li{overflow-wrap:anywhere}.views svg{background:#fff;border-radius:.4rem;max-width:100%}
@media(max-width:36rem){.views{grid-template-columns:1fr}}
"""


def photos(demo: Path) -> list[Path]:
    """The photos to describe, as far as the demo's data have them."""
    return [path for name in PHOTOS if (path := folder_of(demo) / name).is_file()]


def prepare(demo: Path) -> None:
    """Write phrases and pictures, unless they exist already."""
    phrases, images = demo / "context/phrases.txt", demo / "context/images"
    if phrases.exists():  # written last
        say(f"skipped: {demo / 'context'} holds phrases and pictures already")
        return
    mend = f"run: {commands.demo_data(demo)}"
    sets = {name: read_json(demo / f"lxmert/openmoji_{name}.json", mend) for name in ("train", "valid", "heldout")}
    chosen = [demo / f"images/{row['img_id']}.png" for row in sets["heldout"][:HELD_OUT]] + photos(demo)
    images.mkdir(parents=True, exist_ok=True)
    for path in chosen:
        with replacing(images / path.name) as temporary:
            shutil.copyfile(path, temporary)
    names = {name for rows in sets.values() for row in rows for texts in row["sentf"].values() for name in texts}
    write_lines(phrases, sorted(names))
    print(f"wrote {len(names):,} phrases to {phrases} and {len(chosen)} pictures to {images}")


def context_section(textual: Path, images: Path) -> str:
    """HTML of all pictures of a txt_ctx.hdf5, with their crops drawn in and the phrases found for them; every text is escaped.

    textual: the file; images: the folder it was made from (a picture's id is its file name without ending).
    """
    contexts = {name: Context(textual, name) for name in SLICES}
    paths = {path.stem: path for path in images.iterdir()}
    articles = [
        _article(paths.get(image_id, images / image_id), [contexts[name][i] for name in SLICES])
        for i, image_id in enumerate(contexts["whole"].image_ids)
    ]
    return (
        f"<style>{STYLE}</style><h2>Phrases for every image</h2>"
        "<p>The other way round: pictures that training never saw, and the names that the matcher scores highest for each, for its "
        "five crops and for its nine crops. It has learnt from drawings: real photos are as new to it as can be.</p>" + "".join(articles)
    )


def _article(path: Path, found: list[dict]) -> str:
    picture = shown(path)
    whole, five, nine = found
    all_boxes = boxes(*picture.size)
    picture_id = f"picture-{html.escape(path.stem, quote=True).replace(' ', '-')}"
    panels = [
        _panel(picture, picture_id, [], whole["texts"][:BEST], whole["scores"].tolist()[:BEST]),
        *(
            _panel(picture, picture_id, all_boxes[SLICES[name]], [t[0] for t in item["texts"]], item["scores"][:, 0].tolist())
            for name, item in (("five", five), ("nine", nine))
        ),
    ]
    return f'<article><b>{html.escape(path.stem.replace("_", " "))}</b><div class="views">{"".join(panels)}</div></article>'


def _panel(picture: Image.Image, picture_id: str, crops: list, texts: list[str], scores: list[float]) -> str:
    """HTML of the picture with `crops` drawn in and a phrase for each crop; without crops, phrases of the whole picture."""
    scale = SIDE / max(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    # The page holds the picture once, in its first panel; the other panels refer to it.
    image = f'<image id="{picture_id}" href="{_data_uri(picture, (width, height))}" width="{width}" height="{height}"/>'
    parts = [image if not crops else f'<use href="#{picture_id}"/>']
    items = []
    for number, (text, score) in enumerate(zip(texts, scores, strict=True)):
        colour = COLOURS[number] if crops else "inherit"
        if crops:
            x0, y0, x1, y1 = (round(side * scale, 1) for side in crops[number])
            inset = 1 + number % 3  # so that edges that two crops share stay visible
            parts.append(
                f'<rect x="{x0 + inset}" y="{y0 + inset}" width="{max(0.5, x1 - x0 - 2 * inset):.1f}" '
                f'height="{max(0.5, y1 - y0 - 2 * inset):.1f}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
        items.append(f'<li><span style="color:{colour}">{number + 1}</span> {html.escape(text)} <small>{score:.3f}</small></li>')
    svg = f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="picture">{"".join(parts)}</svg>'
    return f"<div>{svg}<ol>{''.join(items)}</ol></div>"


def _data_uri(picture: Image.Image, size: tuple[int, int]) -> str:
    buffer = io.BytesIO()
    picture.resize((max(1, size[0]), max(1, size[1])), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Choose phrases and pictures for the demo's context.")
    parser.add_argument("demo", type=Path, help="folder that scripts/demo_data.py wrote (the demo's is data/demo)")
    prepare(parser.parse_args(argv).demo)


if __name__ == "__main__":
    run_main(main)
