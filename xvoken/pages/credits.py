"""Whom pictures are from: a CSV file as Open Images has, of which a page keeps the rows of the pictures that it shows."""

import csv
import os
from pathlib import Path
from urllib.parse import urlsplit

from xvoken.errors import UserError, one_line

# What a page says of a picture -> the columns that it may stand in, as Open Images names them; the first one with a value is taken.
COLUMNS = {
    "author": ("Author",), "title": ("Title",), "license": ("License",),
    "source": ("OriginalLandingURL", "OriginalURL"), "profile": ("AuthorProfileURL",),
}  # fmt: skip
LINKS = ("source", "profile")
LONGEST = 500  # letters of one value


def read_credits(path: Path, ids: list[str]) -> dict[str, dict[str, str]]:
    """What the file says of the pictures `ids`, by id; a picture is found by its id with or without folders and ending.

    Only addresses of http and https are kept as links. The file is read row by row: that of Open Images has nine million.
    Raises UserError for a file without a column ImageID, or that is no CSV in UTF-8.
    """
    wanted: dict[str, list[str]] = {}
    for picture in ids:
        base = os.path.basename(picture)
        for name in {picture, base, os.path.splitext(picture)[0], os.path.splitext(base)[0]}:
            wanted.setdefault(name, []).append(picture)
    found: dict[str, dict[str, str]] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if "ImageID" not in (rows.fieldnames or ()):
                raise UserError(f"{path}: no column ImageID in its first line; a CSV file as Open Images has is expected (docs/pages.md)")
            for row in rows:
                if pictures := wanted.get(row["ImageID"] or ""):
                    said = _said(row)
                    found |= {picture: said for picture in pictures if said}
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({one_line(error)}); convert it, or leave --credits out") from None
    return found


def _said(row: dict[str, str]) -> dict[str, str]:
    said = {}
    for what, columns in COLUMNS.items():
        value = next((text.strip() for column in columns if isinstance(text := row.get(column), str) and text.strip()), "")[:LONGEST]
        if value and (what not in LINKS or is_address(value)):
            said[what] = value
    return said


def is_address(text: str) -> bool:
    """Whether a page may link to it: an address of http or https."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and text.isprintable() and " " not in text
    except ValueError:
        return False
