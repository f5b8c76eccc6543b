"""Types of command-line flags: a value that makes no sense ends with the flag's name, what is needed, and exit code 2."""

from argparse import ArgumentTypeError
from collections.abc import Callable


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
