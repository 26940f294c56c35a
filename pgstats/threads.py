"""Starts threads without waiting for them.

`threading.Thread.start` waits until the thread has begun: for ever, if it dies at birth because
there is no memory. Whoever holds a lock meanwhile stops everybody else.
"""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable

#: Seconds after which a thread that has not begun never will.
BIRTH = 5.0


class Hand:
    """A thread that does some work. Raises RuntimeError where none can be had."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._born = False
        self._over = threading.Event()
        self.since = time.monotonic()
        _thread.start_new_thread(self._run, ())

    @property
    def alive(self) -> bool:
        """Whether it is at work, or may still begin."""
        age = time.monotonic() - self.since
        return not self._over.is_set() and (self._born or age < BIRTH)

    def wait(self, seconds: float) -> bool:
        """Whether it is done, after so many seconds at most."""
        return self._over.wait(max(0.0, seconds))

    def _run(self) -> None:
        self._born = True
        try:
            self._work()
        finally:
            del self._work  # whose owner often holds this: nothing is left for the collector
            self._over.set()
