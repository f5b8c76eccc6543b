"""Values of the training's flags, as text and as what they mean."""

import argparse

from xvoken.cli.flags import at_least_nothing, names
from xvoken.errors import UserError
from xvoken.kinds import HEADS, KEY_VIEWS


def heads(text: str) -> str:
    """The value of --head: entries of HEADS, joined with commas."""
    found = names(text)
    for name in found:
        if name not in HEADS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(sorted(HEADS))}")
        if found.count(name) > 1:
            raise argparse.ArgumentTypeError(f"{name} is named twice")
    if sum(HEADS[name].made == "trained" for name in found) > 1:
        raise argparse.ArgumentTypeError("only one of mlp, linear and glu can be trained; join it with cca, and with classes or own")
    return ",".join(found)


def layers(text: str) -> tuple[int, ...]:
    """The value of --lang-layers; raises UserError for anything but numbers from 1 on."""
    try:
        found = tuple(int(layer) for layer in text.split(","))
    except ValueError:
        raise UserError(f"--lang-layers {text}: expected numbers separated by commas, such as 4,3,2,1") from None
    if min(found) < 0:
        raise UserError(
            f"--lang-layers {text}: layers are counted from the last, without a sign: 1 is the last one. Vokenization takes -1, its "
            "default, for the first one: that is 12 of bert and roberta"
        )
    return found


def key_views(text: str) -> int | None:
    """The value of --key-views; None for auto."""
    if text == "auto":
        return None
    if text not in map(str, KEY_VIEWS):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(map(str, KEY_VIEWS))}, auto")
    return int(text)


def number_or_auto(text: str) -> float | None:
    """A finite number of at least 0; None for auto."""
    if text == "auto":
        return None
    try:
        return at_least_nothing(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of at least 0 nor auto") from None


def weights_or_auto(text: str) -> list[float] | None:
    """Numbers of at least 0, joined with commas, not all 0; None for auto."""
    if text == "auto":
        return None
    found = [number_or_auto(part) for part in names(text)]
    weights = [weight for weight in found if weight is not None]
    if len(weights) < len(found) or not any(weights):
        raise argparse.ArgumentTypeError(f"{text!r}: numbers of at least 0 were expected, not all 0, or auto alone")
    return weights
