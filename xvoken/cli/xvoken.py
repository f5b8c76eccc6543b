"""The command `xvoken`: what needs no clone, as `xvoken COMMAND ...`; each command is a module of this room with `main(argv)`."""

import sys
from functools import partial
from importlib import import_module

import xvoken.interrupts  # noqa: F401

from xvoken import __version__
from xvoken.cli.main import run_main
from xvoken.errors import UserError

COMMANDS = {
    "search": "pictures for a sentence or a picture, from a folder or from keys",
    "page": "a page to look through what was retrieved",
    "serve": "the same search in a browser, on this machine",
    "check": "read what any stage wrote, and say what it holds",
}
LINES = "\n".join(f"  {name:<8}{what}" for name, what in COMMANDS.items())
HELP = f"""usage: xvoken COMMAND ...

{LINES}

xvoken COMMAND --help says more; to begin with: xvoken search --images FOLDER "a dog on the beach"
"""


def command(words: list[str]) -> None:
    """Run the command that the first word names, with the others as its flags; raises UserError if there is none of that name."""
    first, rest = words[0] if words else "--help", words[1:]
    if first in ("-h", "--help"):
        print(HELP, end="")
    elif first == "--version":
        print(f"xvoken {__version__}")
    elif first in COMMANDS:
        sys.argv = [f"xvoken {first}", *rest]  # what the command's own parser calls it
        import_module(f"xvoken.cli.{first}").main(rest)
    else:
        raise UserError(f"xvoken {first}: no such command; there are: {', '.join(COMMANDS)}")


def main() -> None:
    """Run the command on the command line, and end the process as its scripts do."""
    run_main(partial(command, sys.argv[1:]))
