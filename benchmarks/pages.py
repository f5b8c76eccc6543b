"""The page of a million lines: seconds to write it, its bytes, and what a browser takes to open, scroll and search it.

    python benchmarks/pages.py

The lines are made up: words drawn by Zipf's law, and of 5,000 pictures five a line, some far more often than others. Chromium on this
machine opens the page from disk; each time is that of a person: from the key press to what was asked for on the screen.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from PIL import Image

from benchmarks.measure import machine, make_parser
from tests.browser import chromium
from xvoken.files import vokens
from xvoken.pages.vokens import VokenPage, data_folder

K, WORDS = 5, 30_000


def make(folder: Path, lines: int, gallery: int) -> VokenPage:
    """Made-up text, pictures and voken file."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    vocabulary = np.array(["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(WORDS)])
    text = folder / "lines.txt"
    with open(text, "w") as file:
        for start in range(0, lines, 1 << 14):
            for count in rng.integers(4, 14, min(1 << 14, lines - start)):
                file.write(" ".join(vocabulary[np.minimum(rng.zipf(1.3, count), WORDS) - 1]) + "\n")
    paths = [folder / f"pictures/{row:06}.png" for row in range(gallery)]
    paths[0].parent.mkdir()
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((320, 240)).save(path, compress_level=1)

    def parts():
        for start in range(0, lines, 1 << 16):
            count = min(1 << 16, lines - start)
            rows = (gallery * rng.random((count, 1)) ** 3).astype(np.int32) + np.arange(K, dtype=np.int32) * (gallery // K)
            scores = -np.sort(-rng.random((count, K), np.float32))
            yield {"indices": rows % gallery, "scores": scores, "counts": np.ones(count, np.int64)}

    name = folder / "lines.txt.pictures"
    vokens.write(name, parts(), lines, lines, K, [path.name for path in paths], {}, {})
    named = {"title": "lines.txt", "text": str(text), "model": "", "sets": "pictures", "scores": "made up"}
    return VokenPage(name.with_name(f"{name.name}.hdf5"), [f"pictures/{path.stem}" for path in paths], paths, text, named)


def browse(output: Path, lines: int) -> dict[str, float]:
    """Seconds of what a person does with the page."""
    found: dict[str, float] = {}
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        wanted = "document.getElementById('count').textContent"

        def wait(until: str) -> None:  # not by wait_for_function, which the page's policy forbids
            end = time.perf_counter() + 60
            while not page.evaluate(until):
                assert time.perf_counter() < end, until
                time.sleep(0.005)

        def timed(what: str, do, until: str) -> None:
            started = time.perf_counter()
            do()
            wait(until)
            found[what] = round(time.perf_counter() - started, 3)

        def row(number: int) -> str:
            # The line's own text and pictures are there.
            return f"!!document.querySelector('article[aria-label=\"line {number:,}\"] img')"

        def counted(word: str) -> str:
            return f"location.hash.includes('{word}') && /^[\\d,]+ lines? of [\\d,]+$/.test({wanted})"

        timed("open", lambda: page.goto(output.as_uri()), row(1))
        timed("search, nothing loaded", lambda: page.fill("#query", "tion"), counted("tion"))
        timed("search again", lambda: page.fill("#query", "shred"), counted("shred"))
        page.fill("#query", "")
        wait(f"!/of|searched/.test({wanted})")
        timed("to the end", lambda: page.locator("#list").press("Control+End"), row(lines))
        timed("to the middle", lambda: (page.fill("#goto", str(lines // 2)), page.press("#goto", "Enter")), row(lines // 2))
        page.keyboard.press("Control+Home")
        wait(row(1))
        timed(
            "sort by score",
            lambda: page.select_option("#sort", "high"),
            "document.querySelector('article[aria-posinset=\"1\"] .tile')?.ariaLabel.endsWith('score 1.000')",
        )
        timed(
            "lines of the most used picture",
            lambda: page.goto(f"{output.as_uri()}#picture=0"),
            "!document.getElementById('unfilter').hidden",
        )
        page.reload()
        page.wait_for_timeout(5000)
        found["memory_mb"] = round(page.evaluate("performance.memory.usedJSHeapSize") / 1e6)
    return found


def main(argv: list[str] | None = None) -> None:
    args = make_parser("Write the page of a million made-up lines, and use it in Chromium.").parse_args(argv)
    lines, gallery = (2_000, 50) if args.small else (1_000_000, 5_000)
    with tempfile.TemporaryDirectory() as temporary:
        page = make(Path(temporary), lines, gallery)
        output = Path(temporary) / "lines.page.html"
        started = time.perf_counter()
        page.write(output)
        written = time.perf_counter() - started
        files = [file for file in data_folder(output).rglob("*") if file.is_file()]
        record = {
            "stage": "page", "items": lines, "machine": machine(), "write": round(written, 1),
            "data_mb": round(sum(file.stat().st_size for file in files if file.suffix == ".js") / 1e6), "files": len(files),
        }  # fmt: skip
        if not args.small:
            record |= browse(output, lines)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
