"""What scripts/find.bash works on: names that change whenever pictures, text or model change, so that nothing old is taken for new.

    python scripts/find_inputs.py --model MODEL --images FOLDER --texts FILE_OR_SENTENCE

writes  OUTPUT/texts/{NAME}-{HASH}.txt, a copy of the text
prints  assignments for bash: MODEL, IMAGES, OUTPUT, DEVICE, PRECISION, TOPK, TITLE, PAGE, SET, TEXT, TOKENIZER
"""

import re
import shutil
import sys
from pathlib import Path
from shlex import quote

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import xvoken.interrupts  # noqa: F401

from xvoken.cli.flags import LOAD, Help, Parser, add_compute_flags, at_least_one, precision_help, some_path
from xvoken.cli.main import run_main
from xvoken.encoders.identity import identify
from xvoken.errors import UserError
from xvoken.files.safe import fingerprint, replacing, sha256_of_file, write_text
from xvoken.kinds import MODEL
from xvoken.pictures.sources import expand, folder_ids, is_shards
from xvoken.towers.open_names import OpenName, is_open_clip

SENTENCE = "sentence"  # name of a text that was given as words


def picture_stamps(source: Path) -> list[tuple[str, int, int, int]]:
    """Name, size in bytes and times of change of all pictures of a folder, or of its tar shards; raises UserError for none."""
    if not is_shards(source) and not source.is_dir():
        raise UserError(f"--images {source}: no such folder of pictures; check the name")
    paths = [Path(tar) for tar in expand(source)] if is_shards(source) else [source / name for name in folder_ids(source)[0]]
    stats = [path.stat() for path in paths]
    return [(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in zip(paths, stats, strict=True)]


def tidy(name: str) -> str:
    """A name that may stand in an image set's name."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._-")[:40] or "pictures"


def from_root(path: Path) -> Path:
    """The path as the stages take it, which run in the project's root: relative if it lies below."""
    there = path.absolute()
    return there.relative_to(ROOT) if there.is_relative_to(ROOT) else there


def source_of(images: Path, output: Path) -> Path:
    """The pictures as the stages take them. Raises UserError for an output among the pictures, whose thumbnails would be
    taken for pictures next time.
    """
    found = images.absolute() if is_shards(images) else images.resolve()
    if not is_shards(images) and output.resolve().is_relative_to(found):
        raise UserError(f"--output {output}: lies in the folder of the pictures, {images}; name a folder outside of it as --output")
    return found


def copy_text(texts: str, folder: Path) -> str:
    """Copy a text file, or write a sentence, to the folder; returns its name there. Raises UserError if it is neither."""
    file = Path(texts)
    if len(texts) < 256 and file.is_dir():
        raise UserError(f"--texts {texts}: a folder; give a text file with a sentence a line, or a sentence")
    if len(texts) < 256 and file.is_file():
        name = f"{tidy(file.stem)}-{sha256_of_file(file)[:8]}.txt"
        if not (folder / name).exists():
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / name) as temporary:
                shutil.copyfile(file, temporary)
        return name
    if not texts.strip() or (len(texts.split()) == 1 and (file.suffix or "/" in texts)):
        raise UserError(f"--texts {texts!r}: no such file; give a text file with a sentence a line, or a sentence")
    sentence = " ".join(texts.split())
    name = f"{SENTENCE}-{fingerprint({'text': sentence})[:8]}.txt"
    if not (folder / name).exists():
        write_text(folder / name, f"{sentence}\n")
    return name


def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="find.bash", description="Find pictures for sentences.", formatter_class=Help)
    parser.add_argument("--model", "--load", default=MODEL, help=LOAD)
    parser.add_argument("--images", required=True, type=some_path, help="folder of pictures, or tar shards in quotes")
    parser.add_argument("--texts", required=True, help="text file with a sentence a line, or a sentence")
    parser.add_argument("--topk", type=at_least_one, default=5, help="pictures a sentence")
    parser.add_argument("--output", type=some_path, default=Path("outputs/find"), help="folder of all that is written")
    add_compute_flags(parser, precision_help("model", "bf16 if the device has units for it"), workers=None)
    parser.set_defaults(precision="auto")
    args = parser.parse_args(argv)
    stamps, images = picture_stamps(args.images), source_of(args.images, args.output)
    text = copy_text(args.texts, args.output / "texts")
    there = Path(args.model).exists()
    model = from_root(Path(args.model)) if there else OpenName.read(args.model).absolute if is_open_clip(args.model) else args.model
    identity = identify(Path(args.model).absolute() if there else model)
    made_of = {"pictures": stamps, "model": identity.hash, "key_views": identity.key_views, "precision": args.precision}
    found = {
        "MODEL": model, "IMAGES": images, "OUTPUT": from_root(args.output),
        "DEVICE": args.device, "PRECISION": args.precision, "TOPK": args.topk,
        "TITLE": " ".join(args.texts.split()) if text.startswith(f"{SENTENCE}-") else Path(args.texts).name,
        "PAGE": f"{Path(text).stem}.html", "SET": f"{tidy(args.images.stem)}-{fingerprint(made_of)[:8]}",
        "TEXT": text, "TOKENIZER": identity.tokenizer_name,
    }  # fmt: skip
    print("\n".join(f"{name}={quote(str(value))}" for name, value in found.items()))


if __name__ == "__main__":
    run_main(main)
