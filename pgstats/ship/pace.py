"""When the next packet may go, and when a receiver that failed is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable

BURST = 20  # packets that may go out at once: a fifth of what a default receive buffer holds
STEP = 0.01  # seconds: the packets of so much time are waited for together
LONGEST_STEP = 10  # packets: a receiver has them read before the next ones come
FIRST_REST, LONGEST_REST = 0.25, 10.0  # seconds: the longest costs a poll or two of the usual 10 s


class Pace:
    """A token bucket: `BURST` packets at once, then ``rate`` a second; 0 is no limit.

    Each wait costs a wake-up, so several are waited for together.
    """

    def __init__(
        self,
        rate: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._step = max(1, min(LONGEST_STEP, int(STEP * rate)))
        self._clock = clock
        self._sleep = sleep
        self._tokens = float(BURST)
        self._at = clock()

    def take(self, seconds: float, most: int = 1) -> int:
        """Wait until packets may go, ``most`` or a few; says how many.

        What takes longer than that is not waited for: fewer may go, or none.
        """
        if not self._rate:
            return most
        self._refill()
        wanted = int(min(most, self._step, self._tokens + seconds * self._rate))
        if wanted < 1:
            return 0
        if self._tokens < wanted:
            self._sleep((wanted - self._tokens) / self._rate)
            self._refill()
        taken = max(wanted, min(most, int(self._tokens)))
        self._tokens -= taken
        return taken

    def give_back(self, packets: int) -> None:
        """Note that so many have not gone after all."""
        self._tokens += packets

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(BURST, self._tokens + (now - self._at) * self._rate)
        self._at = now


def _chance() -> float:
    import random  # noqa: PLC0415 - hardly ever needed

    return random.random()  # noqa: S311


class Rest:
    """Leaves a receiver that failed in peace: twice as long each time, and up to half less.

    So many pollers do not come back at the same moment, and a receiver that swallows connections
    or reads nothing costs its wait once in a while instead of once a shipment.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = _chance,
    ) -> None:
        self._clock, self._chance = clock, chance
        self._span = FIRST_REST
        self._until = 0.0
        self._fault: OSError | None = None

    def begin(self, fault: OSError) -> None:
        """Note a failure: nothing is to be tried for a while."""
        self._fault = fault
        self._until = self._clock() + self._span * (1 + self._chance()) / 2
        self._span = min(LONGEST_REST, 2 * self._span)

    def end(self) -> None:
        """Note a success."""
        self._span, self._fault = FIRST_REST, None

    def fault(self) -> OSError | None:
        """The failure to rest from, None when it may be tried again."""
        return self._fault if self._clock() < self._until else None
