"""Serve a gallery: a page in the browser to search in it, and the same as JSON."""

import os
import sys
from argparse import Namespace

from xvoken.interrupts import importing

from xvoken import commands
from xvoken.cli.flags import Help, Parser, at_least, at_least_one
from xvoken.cli.search import add_gallery_flags, open_gallery
from xvoken.console import say
from xvoken.errors import UserError

TOKEN = 16  # letters of a token at least
# oneDNN keeps what it made for each number and length of sentences: with bf16, a thousand shapes take 900 MB within minutes, and making
# one again costs no time that could be measured.
SHAPES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"


def parse_args(argv: list[str] | None) -> Namespace:
    """The command's flags; raises UserError for a token that could be guessed, or can't stand in an address."""
    description = "A page in the browser to search in pictures by sentences and pictures, and the same as JSON."
    parser = Parser(description=description, formatter_class=Help)
    add_gallery_flags(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to answer at; others than this machine's loopback need a token")
    parser.add_argument("--port", type=at_least(0), default=8000, help="0: any free one")
    parser.add_argument(
        "--token", nargs="?", const="", metavar="T",
        help="answer those alone who know it, on a machine that others use too; without T one is made, which is safer, as others may "
        "see a command's flags (default: none on loopback, else one is made)",
    )  # fmt: skip
    parser.add_argument("--rate", type=at_least_one, default=50, help="requests a second that are taken of one client")
    args = parser.parse_args(argv)
    if args.token and not (len(args.token) >= TOKEN and args.token.isascii() and args.token.replace("-", "").replace("_", "").isalnum()):
        raise UserError(f"--token: at least {TOKEN} letters, digits, - and _ are needed; --token alone makes one")
    return args


def main(argv: list[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    args = parse_args(argv)
    os.environ.setdefault(*SHAPES)  # read when torch computes for the first time
    with importing():
        try:
            from xvoken.serve.server import open_door, serve
        except ModuleNotFoundError as error:
            if error.name not in ("fastapi", "uvicorn"):
                raise
            raise UserError(f"{error.name} is missing; run: {commands.install('serve')}") from None
    words = sys.argv[1:] if argv is None else argv
    door = open_door(args.host, args.port, args.token, args.rate, commands.serve(*words, "--port", args.port + 1))
    with door.listening:
        searcher = open_gallery(args)
        try:
            serve(searcher, door, lambda url: say(f"{len(searcher):,} pictures, {searcher.identity.name}: open {url} (Ctrl-C ends it)"))
        except KeyboardInterrupt:
            say("stopped")
            raise SystemExit(130) from None
