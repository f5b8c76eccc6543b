"""Commands given to their scripts' own parsers, which run nothing."""

import importlib
from unittest.mock import patch

from tests.running import ROOT
from xvoken.cli.flags import Parser


class Parsed(Exception):
    """A script's parser has taken its flags."""


def takes(script: str, flags: list[str]) -> bool:
    """Whether a script takes these flags; what is wrong with them is on stderr otherwise."""
    assert (ROOT / script).is_file(), script
    if script.endswith(".bash"):
        return True
    parse = Parser.parse_args

    def only_parse(parser: Parser, *arguments: object) -> None:
        parse(parser, *arguments)
        raise Parsed

    with patch.object(Parser, "parse_args", only_parse):
        try:
            importlib.import_module(script.removesuffix(".py").replace("/", ".")).main(flags)
        except Parsed:
            return True
        except SystemExit:
            return False
    return False
