"""The phrases to retrieve from: Visual Genome's attributes and relations, or the lines of a text file.

ANN_DIR/attributes.json       [{attributes: [{synsets: ["dog.n.01"], attributes: ["brown"]}]}]   -> "brown dog"
ANN_DIR/relationships.json    [{relationships: [{predicate, subject: {synsets}, object: {synsets}}]}] -> "dog on sofa"

Both files have hundreds of MB and are read as streams: only one image's entry and the unique phrases are in memory.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from xvoken.console import progress, say
from xvoken.errors import UserError, one_line

SYNSET = re.compile(r"(.+)\.[a-z]\.\d+")
DOWNLOAD = "download and unzip it again: https://homes.cs.washington.edu/~ranjay/visualgenome/api.html"


def read_visual_genome(ann_dir: Path, limit: int | None = None) -> list[str]:
    """Unique phrases of both files, sorted, at most the first `limit`; raises UserError if a file is missing, or there are none."""
    phrases: set[str] = set()
    for path, entries, parse in (
        (ann_dir / "attributes.json", "attributes", attribute_phrases),
        (ann_dir / "relationships.json", "relationships", relation_phrases),
    ):
        for number, entry in enumerate(progress(_stream(path, f"item.{entries}.item"), desc=path.name, unit="entries")):
            try:
                phrases.update(parse(entry))
            except (KeyError, TypeError, AttributeError):
                raise UserError(f"{path}: entry {number} of {entries} is not in Visual Genome's layout; {DOWNLOAD}") from None
    if not phrases:
        raise UserError(f"{ann_dir}: no phrases in attributes.json and relationships.json; {DOWNLOAD}")
    return sorted(phrases)[:limit]


def attribute_phrases(entry: dict[str, Any]) -> Iterator[str]:
    """ "attribute object" for each attribute and each synset of one object."""
    names = [synset_name(s) for s in entry.get("synsets") or []]
    attributes = [clean(a) for a in entry.get("attributes") or []]
    return (f"{a} {n}" for a, n in itertools.product(attributes, names) if a and n)


def relation_phrases(entry: dict[str, Any]) -> Iterator[str]:
    """ "subject predicate object" for each pair of synsets of one relation."""
    subjects = [synset_name(s) for s in entry["subject"].get("synsets") or []]
    objects = [synset_name(s) for s in entry["object"].get("synsets") or []]
    predicate = clean(entry["predicate"])
    return (f"{s} {predicate} {o}" for s, o in itertools.product(subjects, objects) if s and predicate and o)


@lru_cache(1 << 16)  # the same words come again and again
def clean(text: str) -> str:
    """The text in lower case, trimmed, without control characters and lone surrogates."""
    return "".join(c for c in text.lower() if c.isprintable() or unicodedata.category(c) not in ("Cc", "Cs")).strip()


@lru_cache(1 << 16)
def synset_name(synset: str) -> str:
    """The word of a WordNet synset: "dog.n.01" gives "dog"."""
    name = clean(synset)
    match = SYNSET.fullmatch(name)
    return match[1] if match else name


def read_lines(path: Path, limit: int | None = None) -> list[str]:
    """The lines of a text file, trimmed, in order, at most the first `limit`; empty and repeated lines are left out and counted."""
    try:
        with open(path, "rb") as file:
            lines = [_decode(line, path, number) for number, line in enumerate(file, 1)]
    except OSError as error:
        raise UserError(f"--captions {path}: {error.strerror}; expected a text file with one phrase per line") from None
    phrases = list(dict.fromkeys(line for line in lines if line))
    if not phrases:
        raise UserError(f"--captions {path}: no captions in it; expected one phrase per line")
    if len(phrases) < len(lines):
        say(f"{path}: {len(lines) - len(phrases)} of {len(lines)} lines left out (empty or repeated)")
    return phrases[:limit]


def _decode(line: bytes, path: Path, number: int) -> str:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise UserError(f"--captions {path}: line {number} is not UTF-8; convert it, for example: iconv -f LATIN1 -t UTF-8") from None
    return "".join(c for c in text.replace("\t", " ") if unicodedata.category(c) != "Cc").strip()


def _stream(path: Path, prefix: str) -> Iterator[Any]:
    import ijson  # only Visual Genome's files need it

    try:
        with open(path, "rb") as file:
            yield from ijson.items(file, prefix, use_float=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {DOWNLOAD}; or give phrases of your own with --captions FILE") from None
    except (ijson.JSONError, UnicodeDecodeError) as error:
        what = "ends in the middle" if re.search("premature|incomplete", str(error), re.IGNORECASE) else "is not valid JSON"
        raise UserError(f"{path}: {what} ({one_line(error)[:80]}); {DOWNLOAD}") from None
