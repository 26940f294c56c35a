"""How long a dead target is left alone."""

from __future__ import annotations

import random
from collections.abc import Callable

#: Polls that may fail in a row before the target is left alone: a restart takes no longer.
AT_ONCE = 3
#: Seconds it is left alone at most; who comes back is not missed for longer.
LONGEST = 60.0


class Rest:
    """Doubles with every poll that finds the target dead, and ends with one that does not.

    The length is drawn, so that many pollers, or many targets behind one host, do not all come
    back at the same moment. Times are seconds of the monotonic clock.
    """

    def __init__(
        self, interval: float, draw: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._interval = interval
        self._draw = draw
        self._failures = 0
        self.until = 0.0

    def note(self, *, up: bool, now: float) -> None:
        """Take what a poll has found."""
        self._failures = 0 if up else self._failures + 1
        self.until = now + self._length() if self._failures >= AT_ONCE else 0.0

    def _length(self) -> float:
        doublings = min(self._failures - AT_ONCE, 30)
        longest = min(LONGEST, self._interval * 2 ** (doublings + 1))
        return self._draw(longest / 2, longest)
