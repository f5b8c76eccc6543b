"""How well the phrases retrieved for pictures fit the pictures' own captions, and how well random phrases would.

    python ctx/evaluate_context.py
    python ctx/evaluate_context.py --context outputs/NAME/txt_ctx.hdf5 --image-sets coco_minival

reads   outputs/retrieved_captions/txt_ctx.hdf5 (its texts), outputs/captions_db/caption_db.hdf5 (its phrases), and captions: COCO's under
        datasets/coco_captions/annotations, or data/lxmert/*.json
writes  outputs/retrieved_captions/txt_ctx.eval.json: pictures, captions, left_out {...}, caption_db {...}; views: for whole, five
        (the crops together), nine and all (the three together) `number`, of distinct phrases, and for each of words, phrases and
        captions (ctx/judge.py says what they are) {found, interval, chance, above_chance}, in percent; means over pictures; settings
`interval` holds `found`, and `above_chance` found - chance, in 95 of 100 cases (bootstrap over pictures). `chance` is the mean for as
many different phrases of the database drawn at random. A second run prints the file; if an input has changed, it measures again.
"""

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

import numpy as np
from numpy.typing import NDArray

from ctx import judge
from ctx.captioned import Captioned, read_coco, read_image_sets
from ctx.options import CAPTION_DB, OUTPUTS
from xvoken.cli.flags import Parser, add_roots_flags, names, roots_of, some_path
from xvoken.cli.main import run_main
from xvoken.console import progress, say
from xvoken.errors import UserError
from xvoken.files import context as context_files
from xvoken.files import phrases as caption_db
from xvoken.files.image_sets import listed_sets
from xvoken.files.safe import quoted, read_json, sha256_of_lines, write_json
from xvoken.measures import SAMPLES, SEED
from xvoken.work.product import Product

VIEWS = (*context_files.SLICES, "all")


@dataclass
class Retrieved:
    """What a context file holds.

    rows: of each picture that has captions, its row among the captioned ones and, for each of VIEWS, the distinct phrases' rows in the
    database, int32 (n,); pictures: how many the file has; k: phrases for a view; hash: stands for all texts of the file.
    """

    rows: list[tuple[int, list[NDArray[np.int32]]]]
    pictures: int
    k: int
    hash: str


def read_retrieved(path: Path, db: Path, phrases: dict[str, int], captioned: Captioned) -> Retrieved:
    """Read a context file; phrases: the row of each phrase in the database `db`.

    Raises UserError if a phrase is not in the database, or if none of the pictures has captions.
    """
    found = Retrieved([], 0, 0, "")
    example = ""

    def lines() -> Iterable[str]:
        nonlocal example
        for image_id, texts in progress(context_files.read_texts(path), desc=path.name, unit="img"):
            found.pictures, found.k, example = found.pictures + 1, len(texts["whole"]), example or image_id
            own = captioned.find(image_id)
            try:
                rows = [np.unique(np.array([phrases[text] for text in view], np.int32)) for view in texts.values()]
            except KeyError as missing:
                raise UserError(
                    f"{path}: {missing} of picture {image_id} is no phrase of {db}; give the database it was made from with --caption_db"
                ) from None
            if own is not None:
                found.rows.append((own, [*rows, np.unique(np.concatenate(rows))]))
            yield image_id
            for view in texts.values():
                yield from view

    found.hash = sha256_of_lines(lines())[:16]
    if not found.pictures:
        raise UserError(f"{path}: has no pictures; make it again after: rm {quoted(path)}")
    if not found.rows:
        raise UserError(
            f"{path}: none of its {found.pictures:,} pictures, such as {example}, has captions in {captioned.where}, which has those of "
            f"{captioned.names[0] if captioned.names else 'no picture'}; name the pictures' own with --image-sets or --dataset_root"
        )
    return found


def measure(retrieved: Retrieved, captioned: Captioned, phrases: Iterable[str]) -> dict[str, Any]:
    """The record without its settings; raises UserError if no caption has a content word."""
    words = [judge.content_words(text) for text in phrases]
    database, left_out = judge.Database(words), Counter[str]()
    values, numbers, captions, wordless = [], [], 0, 0
    for own, rows in progress(retrieved.rows, desc="judging", unit="img"):
        cut = [judge.content_words(text) for text in captioned.captions[own]]
        said = [caption for caption in cut if caption]
        captions, wordless = captions + len(said), wordless + len(cut) - len(said)
        if not said:
            left_out["without content words in captions" if cut else "without captions"] += 1
            continue
        drawn = [len(view) for view in rows]
        found = np.array([judge.shares(said, [words[row] for row in view]) for view in rows])
        values.append(np.stack([found, judge.chance(said, database, drawn)]))
        numbers.append(drawn)
    if not values:
        raise UserError(f"{captioned.where}: no caption of the context's pictures has a content word to compare; see ctx/judge.py")
    left_out["without captions"] += retrieved.pictures - len(retrieved.rows)
    return {
        "pictures": len(values), "captions": captions, "k": retrieved.k,
        "left_out": {
            "pictures": {reason: count for reason, count in sorted(left_out.items()) if count},
            "captions without content words": wordless,
            "captioned pictures without context": len(captioned) - len({own for own, _ in retrieved.rows}),
        },
        "caption_db": {"phrases": database.number, "without content words": database.wordless},
        "views": summary(np.array(values), np.array(numbers)),
    }  # fmt: skip


def summary(values: NDArray[np.float64], numbers: NDArray[np.int64]) -> dict[str, Any]:
    """Means and intervals, in percent, by view and share.

    values: (P, 2, V, 3) shares of P pictures, found and by chance, for V views; numbers: (P, V) distinct phrases.
    """
    means = 100 * values.mean(0)
    over = judge.intervals(100 * np.stack([values[:, 0], values[:, 0] - values[:, 1]], 1), SAMPLES, SEED)  # (2, 2, V, 3)
    return {
        view: {
            "number": round(float(numbers[:, v].mean()), 1),
            **{
                share: {
                    "found": _rounded(means[0, v, s]), "interval": [_rounded(end) for end in over[:, 0, v, s]],
                    "chance": _rounded(means[1, v, s]), "above_chance": [_rounded(end) for end in over[:, 1, v, s]],
                }
                for s, share in enumerate(judge.SHARES)
            },
        }
        for v, view in enumerate(VIEWS)
    }  # fmt: skip


def _rounded(percent: float) -> float:
    return round(float(percent), 3) + 0.0  # no -0.0


def read_record(path: Path) -> dict[str, Any]:
    """A record as `main` writes it; raises UserError for any other file, so that none is overwritten."""
    mend = f"give another file with --output, or: rm {quoted(path)}"
    record = read_json(path, mend)
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict) or "views" not in record:
        raise UserError(f"{path} is not a record of evaluate_context.py; {mend}")
    return record


def table(record: dict[str, Any]) -> str:
    """The record as a small table."""
    db = record["caption_db"]["phrases"]
    rows = [
        f"{record['pictures']:,} pictures, {record['captions']:,} captions, top {record['k']} of {db:,} phrases; percent [95% interval]",
        f"{'':8}{'phrases':>9}" + "".join(f"{name:>24}" for name in ("words recalled", "phrases that fit", "captions fitted")),
    ]
    for view, found in record["views"].items():
        cells = [found[share] for share in judge.SHARES]
        shown = (f"{cell['found']:.2f} [{cell['interval'][0]:.2f}, {cell['interval'][1]:.2f}]" for cell in cells)
        rows.append(f"{view:8}{found['number']:9.1f}" + "".join(f"{text:>24}" for text in shown))
        rows.append(f"{'  chance':17}" + "".join(f"{cell['chance']:>24.2f}" for cell in cells))
    return "\n".join(rows)


def left_out(record: dict[str, Any]) -> str:
    """One line about what was not judged; empty if all was."""
    counts = {f"pictures {reason}": count for reason, count in record["left_out"]["pictures"].items()}
    counts |= {what: count for what, count in record["left_out"].items() if what != "pictures" and count}
    return f"left out: {', '.join(f'{what}: {count:,}' for what, count in counts.items())}" if counts else ""


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="How well the phrases retrieved for pictures fit the pictures' own captions.")
    add = parser.add_argument
    add(
        "--context", type=some_path, default=OUTPUTS / "retrieved_captions/txt_ctx.hdf5",
        help="file of retrieved phrases that build_context.py or retrieve_captions.py wrote (default: %(default)s)",
    )  # fmt: skip
    add("--caption_db", "--caption-db", type=some_path, default=CAPTION_DB, help="database they were retrieved from (default: %(default)s)")
    add(
        "--dataset_root", "--dataset-root", type=some_path, default=Path("datasets/coco_captions"),
        help="COCO's folder, with annotations/, whose captions are taken (default: %(default)s)",
    )  # fmt: skip
    add("--image-sets", "--image_sets", nargs="+", help="image sets that have captions, separated by commas, instead of COCO's")
    add("--langs", type=names, default="mscoco", help="their sources of sentences (keys of sentf), with commas (default: %(default)s)")
    add_roots_flags(parser)
    add("--output", type=some_path, help="JSON file to write (default: beside the context file, txt_ctx.eval.json)")
    args = parser.parse_args(argv)
    path = args.output or args.context.with_suffix(".eval.json")
    if path.suffix != ".json":
        raise UserError(f"--output {path}: the name of a JSON file is needed, such as {path}.json")
    context_files.open_file(args.context).close()  # before anything large is read
    texts = list(dict.fromkeys(caption_db.read_captions(args.caption_db)))
    if args.image_sets:
        captioned = read_image_sets(listed_sets(args.image_sets), args.langs, roots_of(args))
    else:
        captioned = read_coco(args.dataset_root)
    retrieved = read_retrieved(args.context, args.caption_db, {text: row for row, text in enumerate(texts)}, captioned)
    settings = {
        "context": retrieved.hash, "caption_db": sha256_of_lines(texts)[:16], "captions": captioned.hash(),
        "resamples": SAMPLES, "seed": SEED,
    }  # fmt: skip
    # Replaced without asking where the inputs have changed: measuring again takes no time.
    product, written = Product(path, settings, lambda: read_record(path)["settings"], "this judgement", replaced=True), ""
    if not product.finished():
        with product.alone() as todo:
            if todo:
                write_json(path, {**measure(retrieved, captioned, texts), "settings": settings})
                written = f"\nwrote {path}"
    record = read_record(path)
    if line := left_out(record):
        say(line)
    print(f"{args.context}: {table(record)}{written}")


if __name__ == "__main__":
    run_main(main)
