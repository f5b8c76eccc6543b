"""Turn raw dialogues into the corpus files that the tokenizer reads.

    python tokenization/prepare_reddit.py data/reddit/raw data/reddit

reads   RAW_DIR/{train,valid,test}.{jsonl,json,csv,tsv}: `context` (a list of utterances) and `response`
writes  OUTPUT_DIR/{split}.pkl.txt: one dialogue per line, utterances separated by tabs; for train context and
        response, for valid and test only the context
        OUTPUT_DIR/{split}.pkl.txt.json: the receipt, which names the raw file and the settings it was made with
        OUTPUT_DIR/{split}.skipped.tsv: line number and reason of every row that could not be used
"""

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from tokenization.csv_rows import BadRow, csv_rows
from xvoken.cli.flags import Parser, at_least_one
from xvoken.cli.main import run_main
from xvoken.console import progress, say
from xvoken.errors import UserError
from xvoken.files.safe import quoted, read_json, replacing, sha256_of_file, write_json
from xvoken.work.product import Product

SPLITS = ("train", "valid", "test")
ENDINGS = (".jsonl", ".json", ".csv", ".tsv")
NOT_JSON = (ValueError, RecursionError)  # json also raises these for numbers of thousands of digits and for very deep nesting
CSV_READER = 2  # version of the CSV reader; version 1 lost rows behind an open quote
LARGEST_CELL = 1 << 27  # characters; a long dialogue can exceed the csv module's own limit


def clean(utterance: str) -> str:
    """The utterance with each run of tabs, newlines and blanks replaced by one blank."""
    return " ".join(utterance.split())


def dialogue(row: Any, with_response: bool) -> list[str]:
    """The utterances of one raw row, cleaned, without empty ones; raises BadRow if the row can't be used."""
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, dict) or row.get("context") is None:
        raise BadRow("no context")
    context = row["context"]
    if isinstance(context, str):  # a CSV cell holds the list as JSON, or a single utterance
        try:
            parsed = json.loads(context) if context.lstrip().startswith("[") else [context]
        except NOT_JSON:
            parsed = [context]
        context = parsed
    response = row.get("response") if with_response else ""
    if not isinstance(context, list) or not all(isinstance(part, str) for part in [*context, response]):
        raise BadRow("context is no list of texts" if isinstance(response, str) else "no response")
    utterances = [part for part in map(clean, context) if part]
    if not utterances:
        raise BadRow("empty context")
    if with_response and not clean(response):
        raise BadRow("empty response")
    return [*utterances, clean(response)] if with_response else utterances


def raw_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, row) of a JSON-lines, CSV or TSV file; a row that can't be parsed is a BadRow."""
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:  # -sig: Excel writes a byte order mark
        if path.suffix in (".jsonl", ".json"):
            for number, line in enumerate(file, 1):
                try:
                    yield number, json.loads(line)
                except NOT_JSON:
                    yield number, BadRow("not JSON")
            return
        csv.field_size_limit(LARGEST_CELL)
        rows = csv_rows(file, "\t" if path.suffix == ".tsv" else ",")
        _, columns = next(rows, (0, []))
        if isinstance(columns, BadRow):
            raise UserError(
                f"{path}: its first line is not CSV ({columns.__cause__ or columns}); it must name the columns, context among them"
            )
        if "context" not in columns:
            raise UserError(f"{path}: no column named context in its first line; its columns: {columns}")
        for number, cells in rows:
            yield number, cells if isinstance(cells, BadRow) else dict(zip_longest(columns, cells[: len(columns)]))


def receipt_file(output: Path) -> Path:
    return output.with_name(f"{output.name}.json")


def skipped_file(output: Path) -> Path:
    return output.with_name(output.name.replace(".pkl.txt", ".skipped.tsv"))


@dataclass
class Dialogues(Product):
    """The corpus file made from one raw file. The receipt is written before the file, and may be missing: see `finished`."""

    raw: Path = field(kw_only=True)

    @classmethod
    def read(cls, raw: Path, output: Path, with_response: bool, limit: int | None) -> "Dialogues":
        settings = {
            "limit": limit, "with_response": with_response, "raw": raw.name, "bytes": raw.stat().st_size, "sha256": sha256_of_file(raw),
        }  # fmt: skip
        if raw.suffix in (".csv", ".tsv"):
            settings["reader"] = CSV_READER
        product = cls(output, settings, holds=f"the dialogues of {raw}", extras=(skipped_file(output), receipt_file(output)), raw=raw)
        # A file made by an older reader is not refused: the receipt passes for this reader's, and `finished` warns.
        product.read = lambda: product.receipt() | {"reader": settings.get("reader")}
        return product

    def receipt(self) -> dict[str, Any]:
        path = receipt_file(self.path)
        return read_json(path, f"make both again after: rm {self.path} {path}")

    def finished(self) -> bool:
        """As of Product; a file without a receipt (of an earlier version, or made by hand) counts if it is newer than the raw file."""
        if self.path.exists() and not receipt_file(self.path).exists():
            if newer := self.path.stat().st_mtime >= self.raw.stat().st_mtime:
                say(f"skipped: {self.path} is newer than {self.raw}; to make it again: rm {self.path}")
            return newer
        if not super().finished():
            return False
        if self.settings.get("reader") != self.receipt().get("reader"):
            say(
                f"warning: {self.path} was made by a version that lost the rows behind a quote that is never closed; if "
                f"{self.raw.name} may have such a quote, make it again after: rm {quoted(self.path)}"
            )
        return True


def prepare(raw: Path, output: Path, with_response: bool, limit: int | None) -> None:
    """Make the corpus file of a raw file, unless it exists already; rows that can't be used are listed beside it."""
    product = Dialogues.read(raw, output, with_response, limit)
    with product.alone() as todo:
        if not todo:
            return
        written, reasons = write(raw, output, with_response, limit, product.settings)
    listed = f"; skipped {dict(reasons)}, listed in {skipped_file(output)}" if reasons else ""
    print(f"wrote {written:,} dialogues to {output}{listed}")


def write(raw: Path, output: Path, with_response: bool, limit: int | None, settings: dict[str, Any]) -> tuple[int, Counter[str]]:
    """Write the corpus file, the list of skipped rows and the receipt; returns the number of dialogues, and of skipped rows by reason."""
    reasons: Counter[str] = Counter()
    written = 0
    with (
        replacing(output) as temporary, replacing(skipped_file(output)) as skipped_temporary,
        open(temporary, "w", encoding="utf-8", newline="\n") as out,
        open(skipped_temporary, "w", encoding="utf-8", newline="\n") as skipped,
    ):  # fmt: skip
        for number, row in progress(raw_rows(raw), desc=raw.name, unit="rows"):
            try:
                line = "\t".join(dialogue(row, with_response))
                line.encode()
            except BadRow as error:
                reason = str(error)
            except UnicodeEncodeError:
                reason = "not UTF-8"
            else:
                out.write(line + "\n")
                written += 1
                if written == limit:
                    break
                continue
            reasons[reason] += 1
            skipped.write(f"{number}\t{reason}\n")
        if not written:
            raise UserError(f"{raw}: no usable dialogue ({dict(reasons) or 'empty file'}); expected context, a list of texts, and response")
        write_json(receipt_file(output), settings)
    return written, reasons


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Turn raw dialogues into {split}.pkl.txt, one dialogue per line.")
    parser.add_argument("raw_dir", help="folder with train, valid or test as .jsonl, .json (one object per line), .csv or .tsv")
    parser.add_argument("output_dir", help="folder to write {split}.pkl.txt to")
    parser.add_argument(
        "--limit", type=at_least_one, metavar="N", help="use only the first N usable dialogues of each split (default: all)"
    )
    args = parser.parse_args(argv)
    raw_dir, output_dir = Path(args.raw_dir), Path(args.output_dir)
    files = {split: [raw_dir / f"{split}{ending}" for ending in ENDINGS] for split in SPLITS}
    found = {split: next((path for path in paths if path.is_file()), None) for split, paths in files.items()}
    if not any(found.values()):
        raise UserError(f"{raw_dir}: none of {', '.join(SPLITS)} with ending {', '.join(ENDINGS)} in it")
    for split, raw in found.items():
        if raw:
            prepare(raw, output_dir / f"{split}.pkl.txt", split == "train", args.limit)


if __name__ == "__main__":
    run_main(main)
