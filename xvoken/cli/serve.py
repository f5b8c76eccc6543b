"""The command that serves a gallery: flags, then the server."""

import argparse
from pathlib import Path

from xvoken.interrupts import importing

from xvoken import commands
from xvoken.cli.flags import Help, Parser, add_compute_flags, add_hubness_flag, at_least, names, precision_help
from xvoken.console import say
from xvoken.errors import UserError


def parse_args(argv: list[str] | None, prog: str | None = None) -> argparse.Namespace:
    """The command's flags."""
    parser = Parser(
        prog=prog, description="A page in the browser, and JSON, to search in pictures by sentences and pictures.", formatter_class=Help
    )
    parser.add_argument("--load", required=True, help="a matcher's snapshot, or a CLIP or SigLIP model by hub id or folder")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--image-sets", type=names, help="image sets with keys, separated by commas; all together are searched")
    where.add_argument("--images", type=Path, metavar="FOLDER", help="a folder of pictures instead; what is new in it is encoded first")
    parser.add_argument("--keys-dir", type=Path, help="folder of the keys (default: keys/ in the snapshot)")
    parser.add_argument("--phrases", type=Path, metavar="FILE", help="a caption database, to see phrases for a picture")
    parser.add_argument("--host", default="127.0.0.1", help="address to answer at; others than this machine's loopback need a token")
    parser.add_argument("--port", type=at_least(0), default=8000, help="0: any free one")
    parser.add_argument(
        "--token", nargs="?", const="", metavar="T",
        help="answer those alone who know it, on a machine that others use too; without T one is made, which is safer, as a command's "
        "flags can be seen by others (default: none on loopback, else one is made)",
    )  # fmt: skip
    parser.add_argument("--rate", type=at_least(1), default=50, help="requests a second that are taken of one client")
    add_hubness_flag(parser, "the captions that the snapshot carries")
    add_compute_flags(parser, precision_help("towers", "bf16 if the device has units for it"), workers=None)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    """Serve until Ctrl-C."""
    args = parse_args(argv, prog)
    if args.token and not (len(args.token) >= 16 and args.token.isascii() and args.token.replace("-", "").replace("_", "").isalnum()):
        raise UserError("--token: at least 16 letters, digits, - and _ are needed; --token alone makes one")
    if args.images and args.keys_dir:
        raise UserError("--keys-dir goes with --image-sets: a folder's keys lie in your cache")
    with importing():
        try:
            from xvoken.serve.server import open_door, serve
        except ModuleNotFoundError as error:
            if error.name not in ("fastapi", "uvicorn"):
                raise
            raise UserError(f"{error.name} is missing; run: {commands.install('serve')}") from None
        from xvoken.ask.searcher import open_searcher
    pictures = ["--images", args.images] if args.images else ["--image-sets", ",".join(args.image_sets)]
    door = open_door(args.host, args.port, args.token, args.rate, commands.serve(args.load, *pictures, "--port", args.port + 1))
    if args.images:
        from xvoken.ask.folders import open_folder

        searcher = open_folder(
            args.load, args.images, args.device, args.precision, show_progress=True, hubness=args.hubness, phrases=args.phrases
        )
    else:
        searcher = open_searcher(args.load, args.image_sets, args.keys_dir, args.device, args.precision, args.hubness, args.phrases)
    try:
        serve(searcher, door, lambda url: say(f"{len(searcher):,} pictures, {searcher.identity.name}: open {url} (Ctrl-C ends it)"))
    except KeyboardInterrupt:
        say("stopped")
        raise SystemExit(130) from None
