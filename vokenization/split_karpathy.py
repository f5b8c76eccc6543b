"""Turn a file of the Karpathy split into LXMERT files, one a split, which all stages take as image sets.

    python vokenization/split_karpathy.py dataset_coco.json

reads   dataset_coco.json, dataset_flickr30k.json or another file of that layout: {"images": [{filename, split, sentences: [{raw}]}]}
writes  data/lxmert/{NAME}_karpathy_{SPLIT}.json, NAME as in dataset_{NAME}.json: [{img_id, sentf: {SOURCE: [sentences]}}], in the order
        of the file; SOURCE is mscoco for COCO, NAME for others
Of each picture the first five sentences are kept, as the protocols count them: a few of COCO have six or seven. A file that is there
already is compared with the split, never changed.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from vokenization.protocols import CAPTIONS
from xvoken.cli.flags import Help, Parser, some_path
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.errors import UserError
from xvoken.files.locks import sole_writer
from xvoken.files.safe import quoted, read_json, remove_temporary, write_text

SOURCES = {"coco": "mscoco"}  # sources of sentences that have another name than their data


def read_splits(path: Path, source: str) -> dict[str, list[dict[str, Any]]]:
    """The entries of LXMERT files by split, with all sentences; source: their key. Raises UserError for a file in another layout."""
    content = read_json(path, "it is in caption_datasets.zip of Karpathy's page; docs/data.md says more")
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise UserError(f"{path}: {{images: [{{filename, split, sentences}}]}} was expected, as dataset_coco.json has it")
    found: dict[str, list[dict[str, Any]]] = {}
    for number, image in enumerate(images):
        split, img_id, sentences = _parse(image, f"{path}: image {number}")
        found.setdefault(split, []).append({"img_id": img_id, "sentf": {source: sentences}})
    return found


def _parse(image: Any, where: str) -> tuple[str, str, list[str]]:
    """Split, picture's id (the file name without its ending), and sentences of an entry; blanks and line ends within are single blanks."""
    try:
        split, name, raw = image["split"], image["filename"], [sentence["raw"] for sentence in image["sentences"]]
    except (KeyError, TypeError):
        raise UserError(f"{where} is not {{filename, split, sentences: [{{raw}}]}}") from None
    if not all(isinstance(text, str) for text in (split, name, *raw)):
        raise UserError(f"{where}: filename, split and raw must be texts")
    if not re.fullmatch(r"\w+", split):
        raise UserError(f"{where}: split {split!r} can't stand in the name of a file")
    return split, Path(name).stem, [" ".join(text.split()) for text in raw]


def cut(rows: list[dict[str, Any]], most: int = CAPTIONS) -> tuple[list[dict[str, Any]], int, int]:
    """The entries with at most so many sentences each; how many sentences are left out, and how many pictures have fewer."""
    kept, left, few = [], 0, 0
    for row in rows:
        ((source, sentences),) = row["sentf"].items()
        kept.append({"img_id": row["img_id"], "sentf": {source: sentences[:most]}})
        left, few = left + len(sentences[most:]), few + (len(sentences) < most)
    return kept, left, few


def name_of(path: Path) -> str:
    """coco for dataset_coco.json; raises UserError for a file of another name."""
    named = re.fullmatch(r"dataset_(\w+)\.json", path.name)
    if not named:
        raise UserError(f"{path}: a file named dataset_NAME.json was expected, such as dataset_coco.json; or give --name NAME")
    return named[1]


def write_split(path: Path, rows: list[dict[str, Any]], given: Path) -> bool:
    """Write an LXMERT file; returns False if it is there with the same content, raises UserError for other content."""
    text = json.dumps(rows, ensure_ascii=False, indent=0) + "\n"
    with sole_writer(path, wait=True):
        remove_temporary(path)
        if path.exists():
            if path.read_bytes() == text.encode():
                return False
            raise UserError(f"{path} holds other pictures or sentences than {given}; keep it, or make it again after: rm {quoted(path)}")
        write_text(path, text)
        return True


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Turn a file of the Karpathy split into LXMERT files.", formatter_class=Help)
    parser.add_argument("file", type=some_path, help="dataset_coco.json, dataset_flickr30k.json, or another file of that layout")
    parser.add_argument("--name", help="first word of the image sets (default: NAME of dataset_NAME.json)")
    parser.add_argument("--lxmert-root", type=some_path, default="data/lxmert", help="folder to write to")
    args = parser.parse_args(argv)
    name = args.name or name_of(args.file)
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"--name {name}: names are made of letters, digits, - _ .")
    for split, rows in read_splits(args.file, SOURCES.get(name, name)).items():
        path = args.lxmert_root / f"{name}_karpathy_{split}.json"
        kept, left, few = cut(rows)
        if left or few:
            say(f"{path.stem}: {left:,} sentences after a picture's fifth are left out; {few:,} pictures have fewer than five")
        pictures, sentences = len(kept), sum(len(each) for row in kept for each in row["sentf"].values())
        if write_split(path, kept, args.file):
            print(f"wrote {pictures:,} pictures with {sentences:,} sentences to {path}")
        else:
            say(f"skipped: {path} holds these {pictures:,} pictures already")


if __name__ == "__main__":
    run_main(main)
