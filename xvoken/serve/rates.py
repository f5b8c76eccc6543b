"""How many requests a client may make, and all of them together."""

import time
from collections import OrderedDict
from collections.abc import Callable

CLIENTS = 4096  # addresses that are remembered
BURST = 5.0  # seconds' worth of requests that may come at once
ALL = 20  # times as many requests as one client's are taken of all together


class Rates:
    """A bucket of requests for each client and one for all: it fills by `rate` a second, each request takes one.

    rate: requests a second of one client; clock: seconds, for tests.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic):
        self.rate, self.clock = rate, clock
        self._full: OrderedDict[str, float] = OrderedDict()  # when each client's bucket will be full; the longest unused one first

    def wait(self, client: str) -> float:
        """Seconds until this client's next request is taken: 0 if it is now, and then it is counted."""
        now, waits = self.clock(), []
        for who, rate in ((client, self.rate), ("", self.rate * ALL)):
            waits.append(max(now, self._full.get(who, now)) + 1 / rate - (now + BURST))
        if max(waits) > 0:
            return max(waits)
        for who, rate in ((client, self.rate), ("", self.rate * ALL)):
            self._full[who] = max(now, self._full.pop(who, now)) + 1 / rate
        while len(self._full) > CLIENTS:
            self._full.popitem(last=False)
        return 0.0
