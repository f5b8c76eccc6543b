"""How answers are shown: as lines of text, as JSON, and with the pictures themselves in a terminal that can show them."""

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from xvoken.console import printable, say

if TYPE_CHECKING:
    from xvoken.ask.searcher import Answer, Hit

Phrases = list[tuple[str, float]]
HEIGHT = 9  # lines that a thumbnail takes
PIXELS = 256  # that a thumbnail's shorter side is decoded at, at least


def as_json(asked: str, hits: "Sequence[Hit]", probability: float | None, phrases: Phrases | None, collapsed: bool = False) -> str:
    """One JSON object in a line: query, results with rank, score, id, path and, if they are collapsed, copies; probability; phrases."""
    fields = ("rank", "score", "id", "path", *(["copies"] if collapsed else []))
    found: dict[str, Any] = {"query": asked, "results": [{name: getattr(hit, name) for name in fields} for hit in hits]}
    if probability is not None:
        found["probability"] = probability
    if phrases is not None:
        found["phrases"] = [{"rank": rank, "score": score, "phrase": text} for rank, (text, score) in enumerate(phrases, 1)]
    return json.dumps(found)  # in ASCII, so that nothing in a name can steer a terminal


def print_answer(answer: "Answer", phrases: Phrases | None, named: bool, draw: Callable[[str], None] | None) -> None:
    """Print an answer as text, a picture a line; named: below the query; draw: draws the picture of a path."""
    sure = "" if answer.probability is None else f"the first one is right with probability {answer.probability:.2f}"
    if named or sure:
        print(": ".join(filter(None, [printable(answer.query) if named else "", sure])))
    for hit in answer.hits:
        alike = f"  ({hit.copies} alike)" if hit.copies > 1 else ""
        print(f"{hit.rank:>4}  {hit.score:7.4f}  {printable(hit.path)}{alike}")
        if draw:
            draw(hit.path)
    for rank, (text, score) in enumerate(phrases or [], 1):
        print(f"{rank:>4}  {score:7.4f}  {printable(text)}")
    sys.stdout.flush()


def drawing(wanted: bool | None) -> Callable[[str], None] | None:
    """What draws the picture of a path in this terminal, None for nothing; wanted: None for where the terminal shows real pictures."""
    if wanted is False:
        return None
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        if wanted:
            say("--pictures: left out, as this is no terminal")
        return None
    try:
        from textual_image import renderable
    except ImportError:
        if wanted:
            say("--pictures: left out; it needs a package, to be had with: pip install textual-image")
        return None
    logging.getLogger("textual_image").setLevel(logging.ERROR)
    blocks = renderable.Image in (renderable.HalfcellImage, renderable.UnicodeImage)
    return None if blocks and wanted is None else _draw


def _draw(path: str) -> None:
    from pathlib import Path

    from rich.console import Console
    from textual_image.renderable import Image

    from xvoken.pictures.decode import BrokenPicture, load_picture
    from xvoken.pictures.sources import find

    try:
        picture = load_picture(find(Path(path)), PIXELS)
    except BrokenPicture as error:  # gone, or another one, since its key was made
        print(f"      ({error})")
        return
    picture.thumbnail((4 * PIXELS, 2 * PIXELS))
    Console().print(Image(picture, width="auto", height=HEIGHT))
