"""Gives back memory that Python and the C library would keep for days.

Python counts how many objects there are more than at its last look for garbage, and a poll leaves
none. So it never looks: what others leave behind in circles (an old configuration does) stays, and
so does what it holds ready for new objects, which keeps whole blocks of memory from being free. The
C library gives back what is free at the end of its heap, but not what is in between.
"""

from __future__ import annotations

import ctypes
import gc
import time
from contextlib import suppress

EVERY = 60.0  # seconds
AFTER = 1000  # runs: hundreds of targets, or short intervals, do not wait that long
_SHARE = 0.001  # of the time, at most: there may be millions of objects
_M_ARENA_MAX = -8  # as glibc's malloc.h has it


def one_heap() -> None:
    """Have the threads to come take their memory from the same heap.

    Else glibc gives most of them one of their own, and each keeps what its largest answers took:
    for thousands of polls the process grows, until every thread has had every answer.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _trim() -> None:
    """Give back what the heap has free."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


class Tidy:
    """Has Python look now and then, on whatever clock."""

    def __init__(self, now: float) -> None:
        self._rest(now, 0.0)

    def _rest(self, now: float, cost: float) -> None:
        """Take the time off that a look has earned."""
        self._runs = 0
        self._may = now + cost / _SHARE
        self._must = max(now + EVERY, self._may)

    def ran(self) -> None:
        """Count a run."""
        self._runs += 1

    def look(self, now: float) -> None:
        """Do so if it is time again."""
        if now >= self._must or (now >= self._may and self._runs >= AFTER):
            start = time.thread_time()
            gc.collect()
            _trim()
            self._rest(now, time.thread_time() - start)
