"""Command-line flags: a value that makes no sense ends with one line of what is needed, and exit code 2; and their help."""

from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from typing import NoReturn


def at_least(least: int, also: int | None = None) -> Callable[[str], int]:
    """A type for argparse: whole numbers from `least` on; also: one more that is taken, as -1 for all."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or (value < least and value != also):
            raise ArgumentTypeError(f"{text}: a whole number of at least {least} is needed{'' if also is None else f', or {also}'}")
        return value

    return number


at_least_one = at_least(1)


class Help(ArgumentDefaultsHelpFormatter):
    """Help that names defaults: not where there is none, nor where the text names it."""

    def _get_help_string(self, action: Action) -> str | None:
        nothing = any(action.default is value for value in (None, False, SUPPRESS))
        named = action.required or nothing or "(default" in (action.help or "")
        return action.help if named else super()._get_help_string(action)


class Parser(ArgumentParser):
    """A wrong flag is one line, as other mistakes are, without the list of all flags before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help says more\n")
