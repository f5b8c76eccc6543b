"""The command that writes the page of a voken file: vokenization/page.py, and `xvoken page`."""

import argparse
import json
from dataclasses import dataclass, field
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

from xvoken.interrupts import importing

from xvoken import commands
from xvoken.cli.flags import Help, Parser, at_least, some_path
from xvoken.console import log
from xvoken.errors import UserError
from xvoken.files import image_ids, vokens
from xvoken.files import keys as key_files
from xvoken.files.corpus import same_text
from xvoken.files.image_sets import listed_sets, sets_of, split_name
from xvoken.files.rows import read_rows, warn_of_left_lines
from xvoken.files.safe import quoted, read_json, sha256_of_file
from xvoken.pages.document import data_folder, made
from xvoken.pages.places import picture_paths
from xvoken.pictures.sources import Member

LIKELY = ("*", "data/*", "data/*/*")  # below the current folder: where the text of a voken file is looked for


@dataclass
class Given:
    """A voken file, and what belongs to it.

    name: its text file, {corpus}.{IMAGE_SETS}; corpus: the text, None to look for it; keys: the folder of the keys, whose .path files
    say where the pictures are; moved: where the pictures of image sets are now, by name.
    """

    name: Path
    keys: Path
    corpus: Path | None = None
    moved: dict[str, Path] = field(default_factory=dict)

    @property
    def hdf5(self) -> Path:
        """The file that is read."""
        return self.name.with_name(f"{self.name.name}.hdf5")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the images were retrieved with."""
        return vokens.read_settings(self.hdf5)

    @cached_property
    def ids(self) -> list[str]:
        """{IMAGE_SET}/{image id} of each row of the index; raises UserError if they are not those that were searched."""
        ids = vokens.read_ids(self.name.parent, *self.name.name.rsplit(".", 1))
        if self.settings.get("images", len(ids)) != len(ids):
            raise UserError(
                f"{self.name}.ids: not the {self.settings['images']} images that were searched; make both again: {self.again()}"
            )
        return ids

    @property
    def sets(self) -> list[str]:
        """The image sets, in the order of the rows."""
        return sets_of(self.ids)

    def again(self) -> str:
        """The command that makes the voken file again."""
        command = commands.vokenize(self.keys.parent, self.corpus or "CORPUS", ",".join(self.sets))
        return f"rm {quoted(self.hdf5)} && {command}"

    def text(self) -> Path:
        """The corpus, held against what the file was made of; raises UserError if it is missing, or another one."""
        then = self.settings.get("corpus")
        if self.corpus:
            if not self.corpus.is_file():
                raise UserError(f"{self.corpus} {'is not a file' if self.corpus.exists() else 'does not exist'}; give the text as --corpus")
            same_text(self.corpus, self.hdf5, then, self.again())
            if then is None:
                log.warning(f"{self.hdf5} does not say which text it was made of; it must be {self.corpus}")
            return self._warned_of(self.corpus)
        corpus = corpus_in(self.name.name, self.sets, len(self.ids))
        for path in [
            self.name.with_name(corpus),
            Path(corpus),
            *(path for where in LIKELY for path in sorted(Path().glob(f"{where}/{corpus}"))),
        ]:
            if path.is_file() and then in (sha256_of_file(path), *_tokens_of(path)):
                return self._warned_of(path)
        raise UserError(
            f"{self.hdf5}: the text that it was made of is not where it is looked for; say where it is: --corpus FOLDER/{corpus}"
        )

    def _warned_of(self, text: Path) -> Path:
        warn_of_left_lines(text, self.hdf5, self.settings.get("corpus"), read_rows(self.hdf5, vokens.MAKE))
        return text

    def paths(self) -> list[Path | Member]:
        """The file of each row's picture; raises UserError if the keys are not those that were searched."""
        return picture_paths(self.ids, self.keys, self.moved, self.again())


def corpus_in(name: str, sets: list[str], images: int) -> str:
    """The corpus that a voken file's name begins with: {corpus}.{IMAGE_SETS}, or with .{images} behind it (--max-img-num).

    sets: those that have a row; with --max-img-num the name may have others too.
    """
    named = f".{'_'.join(sorted(sets))}"
    if not name.endswith(named) and name.endswith(f".{images}"):
        name = name.removesuffix(f".{images}")
    return name.removesuffix(named) if name.endswith(named) else name.rpartition(".")[0] or name


def _tokens_of(text: Path) -> list[str]:
    """Hashes of the tokens files of a text, one of which stands for it where they do not name it."""
    return [sha256_of_file(path) for path in sorted(text.parent.glob("*.hdf5")) if path.name.startswith(f"{text.name}.")]


def given_of(args: argparse.Namespace) -> Given:
    """The voken file that the flags of `add_given_flags` name: by --vokens, or by the words that retrieval was given."""
    sets = [split_name(part) for part in listed_sets([args.image_sets])] if args.image_sets else []
    moved = {name: folder for name, folder in sets if folder}
    if args.vokens:
        name = args.vokens.with_suffix("") if args.vokens.suffix in (".hdf5", ".ids") else args.vokens
        if not name.with_name(f"{name.name}.hdf5").exists():
            there = ", ".join(sorted(path.stem for path in name.parent.glob("*.hdf5"))) or "none"
            raise UserError(f"--vokens {name}: {name}.hdf5 does not exist (there are: {there}); make it with: {commands.vokenize()}")
        beside = name.parent.parent if len(name.parts) > 2 else name.absolute().parent.parent
        keys = args.keys_dir or key_files.folder(_home(args.load) if args.load else beside)
        return Given(name, keys, args.corpus, moved)
    if not (args.load and args.corpus):
        raise UserError("give a voken file as --vokens, or what retrieval was given: --load and --corpus (and --image-sets)")
    home = _home(args.load)
    names = "_".join(sorted(name for name, _ in sets) or ["open_images"])
    name = vokens.text_file(args.vokens_dir or vokens.folder(home), args.corpus.name, names)
    if not vokens.hdf5_file(name.parent, args.corpus.name, names).exists():
        there = ", ".join(sorted(path.stem for path in name.parent.glob("*.hdf5"))) or "none"
        if fewer := [path for path in sorted(name.parent.glob(f"{escape(name.name)}.*.hdf5")) if path.stem.rpartition(".")[2].isdigit()]:
            raise UserError(f"{name}.hdf5 does not exist, of so many images only (--max-img-num) there is --vokens {quoted(fewer[0])}")
        mend = commands.vokenize(args.load, args.corpus, args.image_sets or "")
        raise UserError(f"{name}.hdf5 does not exist; make it with: {mend} (there are: {there})")
    return Given(name, args.keys_dir or key_files.folder(home), args.corpus, moved)


def _home(load: str) -> Path:
    """The folder that keys and vokens of a model lie in."""
    from xvoken.encoders.identity import identify

    return identify(load).home


def add_given_flags(parser: Parser) -> None:
    """Add the flags that name a voken file and where its pictures are, see `given_of`."""
    parser.add_argument(
        "--vokens", type=some_path, metavar="FILE",
        help="the voken file: snap/xmatching/NAME/vokens/CORPUS.IMAGE_SET, or its .hdf5; or say --load, --corpus and --image-sets",
    )  # fmt: skip
    parser.add_argument("--load", help="the snapshot or model that the pictures were retrieved with")
    parser.add_argument("--corpus", type=some_path, help="the text, a line each (default, with --vokens: looked for by its hash)")
    parser.add_argument(
        "--image-sets",
        help="with --load: the image sets that were searched, separated by commas (default: open_images); NAME=FOLDER or "
        "'NAME=FOLDER/*.tar' where the pictures have moved",
    )
    parser.add_argument("--vokens-dir", type=some_path, help="with --load: folder of the voken files (default: vokens/ in the snapshot)")
    parser.add_argument("--keys-dir", type=some_path, help="folder of the keys (default: keys/ beside vokens/)")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description="Write a page of all lines of a corpus with the pictures that were found for them.", formatter_class=Help)
    add_given_flags(parser)
    parser.add_argument("--title", help="what the page is called (default: the name of the text's file)")
    parser.add_argument("--output", type=some_path, help="the HTML file to write (default: the voken file's name and .page.html)")
    parser.add_argument(
        "--credits", type=some_path, nargs="+", default=[], metavar="CSV",
        help="whom the pictures are from (docs/pages.md) (default: {IMAGE_SET}.credits.csv beside the keys or the ids, if there is one)",
    )  # fmt: skip
    parser.add_argument("--side", type=at_least(32), default=320, help="pixels of the longest side of a thumbnail")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Write the page that the flags ask for, unless it is there."""
    args = _parse(argv)
    given = given_of(args)
    output = args.output or given.name.with_name(f"{given.name.name}.page.html")
    data_folder(output)
    text, paths = given.text(), given.paths()
    with importing():
        from xvoken.pages.vokens import VokenPage
    for path in args.credits:
        if not path.is_file():
            raise UserError(f"--credits {path}: no such file")
    credits = args.credits or [
        path for name in given.sets for where in (given.keys, image_ids.ROOT) if (path := where / f"{name}.credits.csv").is_file()
    ]
    attributes = vokens.read_attributes(given.hdf5)
    named = {
        "title": args.title or text.name, "text": str(text.absolute()), "model": attributes.get("snapshot", ""),
        "precision": str(given.settings.get("precision", "")), "sets": ", ".join(given.sets),
        "scores": attributes.get("scores", "inner products"),
    }  # fmt: skip
    good = _good(given.keys.parent, given.settings.get("snapshot_hash"))
    page = VokenPage(given.hdf5, given.ids, paths, text, named, args.side, credits, good)
    print(made(page, output))


def _good(home: Path, made_by: object) -> str:
    """How good the matcher is that made the voken file, as HTML; "" for a model that was not trained here.

    made_by: its hash; what a folder holds of another training is left out.
    """
    from xvoken.encoders import snapshot as snapshots
    from xvoken.encoders.identity import identify
    from xvoken.pages.good import good_html

    recalls = {}
    for path in sorted((home / "eval").glob("*.json")):
        record = read_json(path, f"remove it, then: {commands.evaluate(home, path.stem)}")
        if isinstance(record, dict) and "text_to_image" in record and record.get("snapshot_hash") == made_by:
            recalls[path.stem] = record
    best, metrics = snapshots.tensors_file(home, "BEST"), snapshots.metrics_file(home)
    if not (best.is_file() and metrics.is_file() and identify(home).hash == made_by):
        return good_html([], None, None, recalls)
    header = snapshots.read_header(best)
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return good_html(records, header.get("choice"), header.get("epoch"), recalls)
