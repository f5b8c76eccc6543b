"""Ask a gallery: pictures for sentences and pictures, from keys, or straight from a folder, which is encoded as far as it is new."""

import os
import sys
from argparse import ArgumentTypeError, BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from xvoken.interrupts import importing

from xvoken.ask.queries import ALIKE, LONGEST, Part, Query, picture, query, sentence, sentence_or_picture, written
from xvoken.cli.answers import as_json, drawing, print_answer
from xvoken.cli.flags import LOAD, Help, Parser, add_compute_flags, add_hubness_flag, at_least_one, precision_help, share, some_path
from xvoken.console import printable, say
from xvoken.errors import UserError, one_line
from xvoken.files.image_sets import listed_sets, split_name
from xvoken.files.safe import quoted
from xvoken.kinds import MODEL

if TYPE_CHECKING:
    from xvoken.ask.searcher import Searcher

AT_ONCE = 64  # queries that are answered together


def add_gallery_flags(parser: Parser) -> None:
    """Add the flags of `open_gallery`: what is searched, and with which model."""
    parser.add_argument(
        "--images", type=some_path, metavar="FOLDER",
        help="a folder of pictures, with all below it, or tar shards in quotes: 'FOLDER/{00..99}.tar'; what is new in it is encoded, and "
        "remembered in the user's cache folder",
    )  # fmt: skip
    # One word, where other stages take several: a sentence may follow it.
    parser.add_argument("--image-sets", help="image sets whose keys are there, separated by commas, instead of --images")
    parser.add_argument(
        "--load", "--load-dir",
        help=f"{LOAD} (default: with --images {MODEL})",
    )  # fmt: skip
    parser.add_argument("--keys-dir", type=some_path, help="folder of the keys of --image-sets (default: keys/ in the snapshot)")
    parser.add_argument(
        "--phrases", type=some_path, metavar="CAPTION_DB", help="a caption database: a picture that is asked gets its phrases too"
    )
    add_hubness_flag(parser, "the captions of its training that the snapshot carries")
    auto = "bf16 if the device has units for it (default: auto with --images, where somebody waits for the first answer, else fp32)"
    add_compute_flags(parser, precision_help("model", auto), workers=None)
    parser.set_defaults(precision=None)


def open_gallery(args: Namespace) -> "Searcher":
    """What the flags of `add_gallery_flags` name, ready to be asked; raises UserError for flags that do not go together."""
    if args.images and (args.image_sets or args.keys_dir):
        raise UserError("--images goes with neither --image-sets nor --keys-dir: a folder needs no keys")
    if not (args.images or args.image_sets or args.phrases):
        raise UserError("nothing to search in: give a folder of pictures with --images, or --load and --image-sets")
    if not (args.load or args.images):
        raise UserError("--load: the model that made the keys of the image sets is needed")
    if args.images:
        with importing():
            from xvoken.ask.folders import open_folder
        precision = args.precision or "auto"
        return open_folder(args.load or MODEL, args.images, args.device, precision, True, args.hubness, args.phrases, args.tower_engine)
    with importing():
        from xvoken.ask.searcher import open_searcher
    sets = [split_name(name)[0] for name in listed_sets([args.image_sets])] if args.image_sets else []
    return open_searcher(args.load, sets, args.keys_dir, args.device, args.precision or "fp32", args.hubness, args.phrases)


def _alikeness(text: str) -> float:
    try:
        return share(text)
    except ArgumentTypeError as error:
        raise ArgumentTypeError(f"{error}; a sentence comes before --dedupe") from None


def make_parser() -> Parser:
    """The parser of the command."""
    parser = Parser(description="Find pictures for sentences and pictures.", formatter_class=Help, intermixed=True)
    parser.add_argument(
        "queries", nargs="*", metavar="SENTENCE",
        help="what the pictures should show. Without one, and with - too, sentences are read from standard input, one a line; at a "
        "terminal there is a prompt instead, which stays loaded",
    )  # fmt: skip
    parser.add_argument("--image", action="append", metavar="FILE", help="a picture as the query; may be given several times")
    parser.add_argument(
        "--plus", action="append", metavar="X", help="a sentence or a picture's file that is added to every query, or is one; repeatable"
    )
    parser.add_argument("--minus", action="append", metavar="X", help="the same, subtracted")
    add_gallery_flags(parser)
    parser.add_argument("-k", "--topk", type=at_least_one, default=10, help="number of pictures for each query")
    parser.add_argument(
        "--dedupe", type=_alikeness, nargs="?", const=ALIKE, metavar="S",
        help=f"collapse near-duplicates, pictures whose keys have an inner product of at least S (S without a number: {ALIKE})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a JSON object for each query, in a line: query, results")
    parser.add_argument(
        "--pictures", action=BooleanOptionalAction,
        help="draw the pictures in the terminal (default: where it shows real ones, as kitty, WezTerm and iTerm do, and textual-image is "
        "installed)",
    )  # fmt: skip
    return parser


def _more(args: Namespace) -> list[Part]:
    """The parts that every query has."""
    return [sentence_or_picture(text, weight) for texts, weight in ((args.plus, 1.0), (args.minus, -1.0)) for text in texts or []]


def _lines_as_they_come() -> Iterator[list[str]]:
    """The lines on standard input, as many at once as there are: a program that sends one and waits gets its answer."""
    rest = b""
    while data := os.read(sys.stdin.fileno(), 1 << 16):
        *whole, rest = (rest + data).split(b"\n")
        if len(rest) > 4 * LONGEST:
            raise UserError(f"standard input: a line of more than {LONGEST:,} characters")
        yield [_decoded(line) for line in whole]
    yield [_decoded(rest)] if rest else []


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise UserError(f"standard input: a line is not UTF-8: {line[:60]!r}") from None


def _is_blank(line: str) -> bool:
    return not line.strip()


def _answer_input(answer: Callable[[list[Query]], None], more: list[Part], as_objects: bool) -> None:
    """Answer the lines on standard input; as_objects: an empty line has an object too, so that line i of the output answers line i."""
    for lines in _lines_as_they_come():
        for blank, same in groupby(lines, _is_blank):
            run = list(same)
            if blank and as_objects:
                print("\n".join([as_json("", [], None, None)] * len(run)), flush=True)
            for start in range(0, 0 if blank else len(run), AT_ONCE):
                answer([query([sentence(line), *more]) for line in run[start : start + AT_ONCE]])


def _converse(answer: Callable[[list[Query]], None], more: list[Part]) -> None:
    """Answer what is typed until Ctrl-D; a mistake costs a line, not what is loaded."""
    with suppress(ImportError):  # Windows
        import readline  # noqa: F401  # gives input() its history
    say("a sentence, or a picture's file; + and - between blanks add and subtract: a dog + beach.jpg - people; Ctrl-D ends")
    while True:
        try:
            if line := input("> ").strip():
                answer([query([*written(line).parts, *more])])
        except KeyboardInterrupt:
            print()  # behind the prompt
            raise SystemExit(130) from None  # nothing is unfinished
        except EOFError:
            print()
            return
        except (UserError, UnicodeDecodeError) as error:
            say(f"error: {printable(one_line(error))}")


def _answer(searcher: "Searcher", args: Namespace, draw: Callable[[str], None] | None, named: bool, queries: list[Query]) -> None:
    """Answer queries together and print that; raises UserError for a sentence where there are phrases alone."""
    with_picture = [any(not part.is_text for part in asked.parts) for asked in queries]
    if not len(searcher) and not all(with_picture):
        raise UserError("phrases are found for pictures: give one with --image, or say with --images or --image-sets where to search")
    vectors = searcher.vectors(queries)
    for row, found in enumerate(searcher.answers(queries, vectors, args.topk, args.dedupe)):
        phrases = searcher.phrases(vectors[row : row + 1], args.topk)[0] if args.phrases and with_picture[row] else None
        if args.json:
            print(as_json(found.query, found.hits, found.probability, phrases, args.dedupe is not None), flush=True)
        else:
            print_answer(found, phrases, named, draw)


def main(argv: list[str] | None = None) -> None:
    """Answer the queries on the command line, on standard input, or at a prompt."""
    args = make_parser().parse_args(argv)
    more, from_input = _more(args), "-" in args.queries
    alone = [sentence(text) for text in args.queries if text != "-"] + [picture(Path(file)) for file in args.image or []]
    queries = [query([part, *more]) for part in alone]
    if more and not (queries or from_input):
        queries = [query(more)]
    if not (args.images or args.image_sets) and (folder := next((text for text in args.queries if os.path.isdir(text)), None)):
        raise UserError(f"{folder} is a folder: give it as --images {quoted(folder)}")
    searcher = open_gallery(args)
    draw = None if args.json else drawing(args.pictures)
    answer = partial(_answer, searcher, args, draw, len(queries) != 1 or from_input)
    for start in range(0, len(queries), AT_ONCE):
        answer(queries[start : start + AT_ONCE])
    if queries and not from_input:
        return
    searcher.encoder("text")
    if sys.stdin.isatty() and sys.stdout.isatty() and not from_input:
        _converse(partial(_answer, searcher, args, draw, False), more)
        return
    _answer_input(answer, more, args.json)
