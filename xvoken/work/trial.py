"""In which batches, and with how many threads a batch, this machine computes a tower fastest: tried once, then remembered."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from xvoken.files.known import known, remember
from xvoken.machine import Pace, processor

SECONDS = 1.0  # for the batches of one number of threads
WORSE = 0.9  # batches of which larger ones are not tried: they do less than this share of the best
BETTER = 1.03  # a larger batch is taken only where it does so many times as much


class Tried(Protocol):
    """A frozen tower, see xvoken.encoders.frozen: SIZES of batches that are tried, and how long batches of one size take."""

    SIZES: Sequence[int]
    precision: str

    @property
    def pace(self) -> Pace:
        """How it is computed."""
        ...

    @property
    def tower(self) -> Any:
        """The tower itself."""
        ...

    def seconds(self, batch_size: int, pace: Pace) -> float:
        """Of one batch of made-up items in each lane, all at once."""
        ...


@dataclass(frozen=True)
class Best:
    """batch_size: items in a batch; threads: that one batch is computed with."""

    batch_size: int
    threads: int


def fastest(tower: Tried, share: int) -> Best:
    """The best batches for a tower that has `share` cores; takes a few seconds where it is not remembered for this machine."""
    pace, shape = tower.pace, tower.tower
    parameters = sum(tensor.numel() for tensor in shape.parameters())
    what = f"{type(shape).__name__} of {parameters} parameters, {shape.width} wide"
    key = {"of": "trial", "processor": processor(), "cores": share, "engine": pace.engine, "precision": tower.precision, "tower": what}
    facts = known(key)
    if facts is None:
        # OpenVINO has laid out its threads when it compiled the tower.
        numbers = {1, share} if pace.engine == "torch" else {1}
        found = max((_best_size(tower, replace(pace, threads=n, lanes=share // n)) for n in sorted(numbers)), key=lambda one: one[0])
        facts = {"batch_size": found[1], "threads": found[2]}
        remember(key, [Path(__file__)], facts)
    return Best(facts["batch_size"], facts["threads"])


def _best_size(tower: Tried, pace: Pace) -> tuple[float, int, int]:
    """Items a second, batch size and threads."""
    best, size, began = 0.0, 1, time.monotonic()
    for tried in tower.SIZES:
        tower.seconds(tried, pace)  # what is done once for each shape
        rate = tried * pace.lanes / tower.seconds(tried, pace)
        if rate > best * BETTER:
            best, size = rate, tried
        if rate < best * WORSE or time.monotonic() - began > SECONDS:
            break
    return best, size, pace.threads or 1
