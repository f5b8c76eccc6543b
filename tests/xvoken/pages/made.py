"""Small pages for the tests: made-up lines and pictures, with all that a stranger's files may hold."""

from pathlib import Path

import numpy as np
from PIL import Image

from xvoken.files import context as context_files
from xvoken.files import vokens
from xvoken.files.phrases import CaptionDB
from xvoken.pages.context import ContextPage
from xvoken.pages.vokens import VokenPage

EVIL = "</script><img src=x onerror=alert(1)>"
LINES = [
    "a red circle", "", f"markup {EVIL}", "שלום לעולם", "three cats 🐈‍⬛ and a dog 🐕", "do you like squares?\tyes , black ones",
    "U+2028:\u2028, quotes \" ' ` and \\", "left alone", *(f"line about number {i}" for i in range(9, 200)), "the last line",
]  # fmt: skip
NAMES = ["red circle.png", "a<b>&\"'$x.png", "gone.png", "زرقاء.png", "plain.png", "never found.png"]
K = 3
CREDITS = """ImageID,Author,Title,License,OriginalLandingURL,AuthorProfileURL
red circle,Ada <b>L</b>,Circle,https://creativecommons.org/licenses/by/2.0/,https://example.org/1,javascript:alert(1)
never found,Nobody,,,,
"""


def found(lines: int = len(LINES), pictures: int = len(NAMES)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (L, k), scores (L, k) and probabilities (L,): line 1 is empty, line 7 was left without a picture, the last is never found."""
    rng, used = np.random.default_rng(0), max(1, pictures - 1)
    rows = np.stack([rng.permutation(used)[:K] for _ in range(lines)]).astype(np.int32)
    scores = -np.sort(-rng.random(rows.shape, np.float32))
    rows[0], scores[0] = range(rows.shape[1]), [0.999, 0.5, 0.25][: rows.shape[1]]
    sure = rng.random(lines, np.float32)
    for line in {1, 7} & set(range(lines)):
        rows[line], scores[line] = -1, np.nan
    sure[1:2] = np.nan
    return rows, scores, sure


def voken_page(
    folder: Path, good: str = "", texts: list[str] = LINES, names: list[str] = NAMES, lines_of: list[int] | None = None
) -> VokenPage:
    """A voken file with its text and pictures in a folder, and the page of it; lines_of: each row a sentence of these lines."""
    folder.mkdir(parents=True, exist_ok=True)
    text, name = folder / "lines.txt", folder / "vokens" / "lines.txt.album"
    text.write_text("\n".join(texts) + "\n", encoding="utf-8")
    (folder / "photos").mkdir()
    for number, file in enumerate(names):
        if file != "gone.png":
            Image.new("RGB", (90 + number, 60), (40 * number, 90, 160)).save(folder / "photos" / file)
    number = len(lines_of or texts)
    rows, scores, sure = found(number, len(names))
    part = {"indices": rows, "scores": scores, "counts": np.ones(number, np.int64), "probability": sure}
    settings = {"images": len(names)}
    if lines_of:
        part, settings = {**part, "line": np.array(lines_of)}, {**settings, "sentences": "of a hash"}
    vokens.write(name, [part], number, number, rows.shape[1], names, settings, {"snapshot": "small"})
    ids = [f"album/{Path(file).stem}" for file in names]
    vokens.write_ids(name.with_name(f"{name.name}.ids"), ids)
    (folder / "credits.csv").write_text(CREDITS)
    named = {"title": f"lines {EVIL}", "text": str(text), "model": "small", "sets": "album", "scores": "made up"}
    paths = [folder / "photos" / file for file in names]
    return VokenPage(name.with_name(f"{name.name}.hdf5"), ids, paths, text, named, 64, [folder / "credits.csv"], good)


def context_page(folder: Path, pictures: int = 4) -> ContextPage:
    """A context file with its pictures in a folder, and the page of it; the picture of the last id is gone."""
    folder.mkdir(parents=True, exist_ok=True)
    phrases = ["red dog", f"blue {EVIL}", "tab\tand\nline", "כלב", "big tree", "small cat 🐈"]
    vectors = np.eye(len(phrases), dtype=np.float32)
    rng = np.random.default_rng(1)
    scores = -np.sort(-rng.random((15, 4), np.float32))
    ids = [str(number) for number in range(1, pictures)] + ["a picture, gone"]
    rows = [(i, np.stack([rng.permutation(len(phrases))[:4] for _ in range(15)]).astype(np.int32), scores) for i in ids]
    db = CaptionDB(vectors, vectors, np.array(phrases, object), "db")
    context_files.write_textual(folder / "txt_ctx.hdf5", rows, db, [], {"model": "small"})
    paths: dict = {i: folder / f"{i}.png" for i in ids[:-1]}
    for path in paths.values():
        Image.new("RGB", (80, 60), "teal").save(path)
    named = {"title": "phrases", "text": "txt_ctx.hdf5", "model": "small", "sets": str(folder), "scores": "made up"}
    boxes = [(0, 0, 1, 1), *((0.1 * i, 0.1, 0.1 * i + 0.4, 0.5) for i in range(5)), *((0.05 * i, 0.2, 0.4, 0.7) for i in range(9))]
    return ContextPage(folder / "txt_ctx.hdf5", paths, boxes, named, 3, 64)
