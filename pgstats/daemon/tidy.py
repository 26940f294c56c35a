"""Gives back memory that Python would keep for days.

It counts how many objects there are more than at its last look for garbage, and a poll leaves none.
So it never looks: what others leave behind in circles (an old configuration does) stays, and so
does what it holds ready for new objects, which keeps whole blocks of memory from being free.
"""

from __future__ import annotations

import gc
import time

EVERY = 60.0  # seconds
_SHARE = 0.001  # of the time, at most: there may be millions of objects


class Tidy:
    """Has Python look now and then."""

    def __init__(self, now: float) -> None:
        self._due = now + EVERY

    def look(self, now: float) -> None:
        """Do so if it is time again, on whatever clock."""
        if now < self._due:
            return
        start = time.thread_time()
        gc.collect()
        self._due = now + max(EVERY, (time.thread_time() - start) / _SHARE)
