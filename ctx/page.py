"""Write a page of a txt_ctx.hdf5: pictures with their crops drawn in, and the phrases found for each.

    python ctx/page.py                                                           # of COCO's pictures
    python ctx/page.py --context outputs/NAME/txt_ctx.hdf5 --images photos       # of a folder's

reads   txt_ctx.hdf5 and the pictures, named as for retrieve_captions.py
writes  txt_ctx.page.html and the folder txt_ctx.page/ beside the file; docs/pages.md
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401
from xvoken.interrupts import importing

from ctx.options import OUTPUTS, add_source_flags, source_of
from xvoken.cli.flags import Parser, at_least, at_least_one, some_path
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.files.context import open_file

if TYPE_CHECKING:
    from ctx.coco import Source

WHOLE = 1000  # sides of a picture for which the boxes are computed: they are shares of any picture's sides
FILE = OUTPUTS / "retrieved_captions/txt_ctx.hdf5"


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Write a page of pictures with their crops drawn in, and the phrases found for each.")
    parser.add_argument("--context", type=some_path, default=FILE, help="the file with the phrases (default: %(default)s)")
    parser.add_argument("--title", help="what the page is called (default: the name of the pictures' folder)")
    parser.add_argument("--output", type=some_path, help="the HTML file to write (default: beside the file, txt_ctx.page.html)")
    parser.add_argument("--k", type=at_least_one, default=5, help="phrases of each view; all can be searched (default: 5)")
    parser.add_argument("--side", type=at_least(32), default=320, help="pixels of the longest side of a thumbnail (default: 320)")
    add_source_flags(parser)
    args = parser.parse_args(argv)
    with open_file(args.context) as file:
        attributes, settings = file.attributes(), file.settings()
    with importing():
        from ctx.coco import read_pictures
        from ctx.crops import boxes
        from xvoken.files.image_ids import hash_of_pictures
        from xvoken.pages.context import ContextPage
        from xvoken.pages.document import data_folder, made
    output = args.output or args.context.with_suffix(".page.html")
    data_folder(output)
    given = read_pictures(source := source_of(args), settings.get("pictures"))
    if settings.get("data", now := hash_of_pictures(given.ids, given.paths)[:16]) != now:
        say(f"warning: the pictures given are not all as they were when {args.context} was made")
    named = {
        "title": args.title or _name(source), "text": str(args.context.absolute()),
        "model": attributes.get("model", ""), "precision": str(settings.get("precision", "")), "sets": str(source),
        "scores": attributes.get("scores", "inner products of normalized vectors"),
    }  # fmt: skip
    shares = [[side / WHOLE for side in box] for box in boxes(WHOLE, WHOLE)]
    page = ContextPage(args.context, dict(zip(given.ids, given.paths, strict=True)), shares, named, args.k, args.side)
    print(made(page, output))


def _name(source: "Source") -> str:
    """What the pictures are called: their image sets, or the last folder of where they are."""
    if source.image_sets:
        return ", ".join(source.image_sets)
    where = (source.images or source.dataset_root).absolute()
    return where.parent.name if "*" in where.name else where.name


if __name__ == "__main__":
    run_main(main)
