"""Choose the data for the demo's other direction: phrases for pictures that the matcher never saw.

    python scripts/demo_context.py data/demo

reads   data/demo/lxmert/openmoji_*.json, images/ and photos/
writes  data/demo/context/phrases.txt: the names of all OpenMoji; data/demo/context/images/: the pictures to describe
`context_section` makes a section of the demo's page from the context file that ctx/build_context.py writes for these.
"""

import html
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

import numpy as np
from numpy.typing import NDArray

from ctx.crops import boxes
from scripts.demo_parts import HEADINGS
from scripts.demo_photos import folder_of
from xvoken import commands
from xvoken.cli.flags import Parser
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.files.context import SLICES, read_best
from xvoken.files.safe import read_json, replacing, write_lines
from xvoken.pages.document import embedded, section

HELD_OUT = 8  # OpenMoji's pictures, the first ones held out; these are in random order already
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "hubble_deep_field.jpg")
SIDE = 240  # pixels of a picture's longest side on the page
BEST = 5  # phrases shown for the whole picture
WHOLE = 1000  # sides of a picture for which boxes are computed, to be drawn as shares of any picture's sides


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


def context_section(textual: Path, images: Path, more: str = "") -> str:
    """HTML of all pictures of a txt_ctx.hdf5, with five crops drawn in and the phrases found for them; every text is escaped.

    textual: the file; images: the folder it was made from (a picture's id is its file name without ending); more: HTML of links.
    """
    paths = {path.stem: path for path in images.iterdir()}
    articles = [
        _article(image_id, paths.get(image_id, images / image_id), texts, scores) for image_id, texts, scores in read_best(textual, BEST)
    ]
    told = (
        "<p>The other way round: pictures that training never saw, and the names that the matcher scores highest for each, and for its "
        "five crops. It has learnt from drawings: real photos are as new to it as can be.</p>"
    )
    return section("context", HEADINGS["context"], told + more + "".join(articles))


def _article(image_id: str, path: Path, texts: list[list[str]], scores: NDArray[np.float32]) -> str:
    five = range(SLICES["five"].start, SLICES["five"].stop)
    frame = "".join(_crop(number, boxes(WHOLE, WHOLE)[crop]) for number, crop in enumerate(five, 1))
    name = html.escape(image_id.replace("_", " "))
    picture = f'<div class="frame"><img src="{embedded(path, SIDE)}" alt="{name}" loading="lazy">{frame}</div>'
    whole = _phrases("The whole", texts[0], scores[0].tolist())
    crops = _phrases("Its crops", [texts[crop][0] for crop in five], [scores[crop, 0] for crop in five])
    return f'<article><h3>{name}</h3><div class="described panel">{picture}{whole}{crops}</div></article>'


def _crop(number: int, box: Sequence[int]) -> str:
    """A crop drawn into its picture: a number in a frame; box: of a picture of WHOLE by WHOLE pixels."""
    left, top, right, bottom = (100 * side / WHOLE for side in box)
    place = f"left:{left:g}%;top:{top:g}%;width:{right - left:g}%;height:{bottom - top:g}%"
    return f'<span class="crop" aria-hidden="true" style="{place}"><b>{number}</b></span>'


def _phrases(heading: str, texts: list[str], scores: list[float]) -> str:
    items = [
        f'<li><span class="phrase" dir="auto">{html.escape(text)}</span> <small>{score:.3f}</small></li>'
        for text, score in zip(texts, scores, strict=True)
    ]
    return f"<div><h4>{heading}</h4><ol>{''.join(items)}</ol></div>"


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Choose phrases and pictures for the demo's context.")
    parser.add_argument("demo", type=Path, help="folder that scripts/demo_data.py wrote (the demo's is data/demo)")
    prepare(parser.parse_args(argv).demo)


if __name__ == "__main__":
    run_main(main)
