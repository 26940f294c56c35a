"""Ships lines for those who must not wait for them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from pgstats.threads import Hand

if TYPE_CHECKING:
    from pgstats.ship import Wire

MOST = 1000  # posts that wait for the wire, then new ones are dropped


class Courier:
    """Takes lines at once and neither raises nor waits, whatever the receiver does.

    Those that are ``urgent`` are sent right away where that makes nobody wait (by UDP to an address
    that need not be looked up), so that a process which ends the next moment has sent them. All
    others are sent by a thread, as long as there are any, which gives a shipment so many
    ``seconds``, and lets lines gather for as many as ``pause`` between two. What ``more`` says
    then goes out behind them. ``tell`` is told the first fault.
    """

    def __init__(
        self,
        make: Callable[[], Wire],
        tell: Callable[[str], None] | None = None,
        *,
        urgent: bool = False,
        seconds: float = 2.0,
        pause: float = 0.0,
        more: Callable[[], str] = str,
    ) -> None:
        self._make, self._tell, self._urgent, self._more = make, tell, urgent, more
        self._seconds, self._pause = seconds, pause
        self._wire = make()
        self.renew()

    def renew(self) -> None:
        """Begin anew in the child of a fork: its parent's socket, lines and threads are not its."""
        self._wire, before = self._make(), self._wire
        if before is not self._wire:
            before.close()
        self._waiting: deque[str] = deque()
        self._thread: Hand | None = None
        # A signal's handler may post while the thread that it interrupts does.
        self._lock = threading.RLock()
        self._turn = threading.Lock()
        self._hurry = threading.Event()

    def post(self, lines: str) -> None:
        """Have whole lines sent."""
        if self._urgent and not self._thread and self._wire.prompt() and self._turn.acquire(False):
            try:
                self._ship(lines)
            finally:
                self._turn.release()
            return
        with self._lock:
            if len(self._waiting) == MOST:
                self._wire.ship(lines, 0)  # counts them as lost
                self._fault(f"{MOST} shipments wait already")
                return
            self._waiting.append(lines)
            # Not each time, nor without a pause: a signal's handler that posts while `set` is at it
            # would wait for itself.
            if self._pause and len(self._waiting) > MOST // 2 and not self._hurry.is_set():
                self._hurry.set()
            if self._thread is None or not self._thread.alive:
                self._start()

    def flush(self, seconds: float) -> None:
        """Give what waits so much time to be sent; what comes later does not wait either."""
        self._pause = 0.0
        self._hurry.set()
        thread = self._thread
        if thread:
            thread.wait(seconds)

    def _start(self) -> None:
        try:
            self._thread = Hand(self._work)
        except RuntimeError as error:  # no more threads, or Python is about to end
            self._wire.ship("".join(self._waiting), 0)
            self._waiting.clear()
            self._fault(str(error))

    def _work(self) -> None:
        while lines := self._taken():
            self._ship(lines + self._more())
            if self._pause:
                self._hurry.wait(self._pause)

    def _taken(self) -> str:
        """All that waits; if nothing does, this thread is done."""
        with self._lock:
            lines = "".join(self._waiting)
            self._waiting.clear()
            self._hurry.clear()
            if not lines:
                self._thread = None
        return lines

    def _ship(self, lines: str) -> None:
        if fault := self._wire.hand_over([lines], self._seconds):
            self._fault(fault)

    def _fault(self, text: str) -> None:
        """Told once: whoever measures jobs does not want to read of the receiver all day."""
        tell, self._tell = self._tell, None
        if tell:
            tell(text)
