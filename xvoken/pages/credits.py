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

    The row that names it most fully counts, and none that several pictures would share: whose it is, it does not say. Only addresses of
    http and https are kept as links. The file is read row by row: that of Open Images has nine million.
    Raises UserError for a file without a column ImageID, or that is no CSV in UTF-8.
    """
    wanted: dict[str, list[tuple[int, str]]] = {}
    for picture in dict.fromkeys(ids):
        names = [picture, os.path.splitext(picture)[0], os.path.basename(picture), os.path.splitext(os.path.basename(picture))[0]]
        for place, name in enumerate(dict.fromkeys(names)):
            wanted.setdefault(name, []).append((place, picture))
    found: dict[str, tuple[int, dict[str, str]]] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if "ImageID" not in (rows.fieldnames or ()):
                raise UserError(f"{path}: no column ImageID in its first line; a CSV file as Open Images has is expected (docs/pages.md)")
            for row in rows:
                pictures = wanted.get(row["ImageID"] or "", [])
                fully = [(place, picture) for place, picture in pictures if place == 0] or pictures
                if len(fully) == 1 and (said := _said(row)):
                    ((place, picture),) = fully
                    if place <= found.get(picture, (place,))[0]:
                        found[picture] = place, said
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({one_line(error)}); convert it, or leave --credits out") from None
    return {picture: said for picture, (_, said) in found.items()}


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
