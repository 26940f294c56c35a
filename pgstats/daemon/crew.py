"""Who does the work: a few daemon threads, started on demand and reused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue

from pgstats.daemon.jobs import Done, Entry
from pgstats.threads import Hand

Report = Callable[[Entry, Done, BaseException | None], None]

Outcome = tuple[Done, BaseException | None]
_NO_MEMORY: Outcome = (Done(ok=False, seconds=0.0, error="out of memory"), None)
_PAUSE = 0.5  # seconds until there may be memory again

_COUNT_EVERY = 1.0  # seconds; a thread may have died at birth

#: Enough for a quarter of 500 targets to hang at once without delaying the others.
MOST_THREADS = 128

#: Bytes. The usual 8 MiB each would be refused under a limit on address space.
_STACK = 1 << 20


class Crew:
    """Runs entries on at most ``most`` threads; ``report`` is called from those threads.

    The threads are daemons: the end of the process waits for none of them, hanging or not.
    An entry is handed over only when its last run has been reported, so that what waits for a
    free thread is never longer than the list of targets.
    """

    def __init__(self, report: Report, most: int = MOST_THREADS) -> None:
        self._report = report
        self._most = most
        self._hands: list[Hand] = []
        self._counted = -inf  # when those that live were, on the monotonic clock
        self._waiting: SimpleQueue[Entry] = SimpleQueue()

    def take(self, entry: Entry) -> None:
        """Has the entry's job run by the next free thread."""
        self._waiting.put(entry)

    def grow(self, at_work: int) -> str:
        """Starts the threads that so many runs at once need; says why it cannot, "" if it can."""
        wanted, now = min(at_work, self._most), time.monotonic()
        if wanted <= len(self._hands) and now - self._counted < _COUNT_EVERY:
            return ""
        self._hands, self._counted = [hand for hand in self._hands if hand.alive], now
        try:
            while len(self._hands) < wanted:
                self._start()
        except RuntimeError as error:
            return f"only {len(self._hands)} worker threads, polls may be late: {error}"
        return ""

    def drop(self) -> list[Entry]:
        """Takes back what no thread has begun."""
        dropped = []
        try:
            while True:
                dropped.append(self._waiting.get_nowait())
        except Empty:
            return dropped

    def _start(self) -> None:
        """Starts one more thread."""
        usual = threading.stack_size(_STACK)
        try:
            self._hands.append(Hand(self._toil))
        finally:
            threading.stack_size(usual)

    def _toil(self) -> None:
        """The life of a thread."""
        while True:
            entry = self._waiting.get()
            outcome: Outcome = _NO_MEMORY
            with suppress(MemoryError):
                outcome = _attempt(entry)
            while not self._reported(entry, outcome):
                time.sleep(_PAUSE)

    def _reported(self, entry: Entry, outcome: Outcome) -> bool:
        """Reports what became of a run, if there is memory for that: else nobody would wait on."""
        try:
            self._report(entry, *outcome)
        except MemoryError:
            return False
        return True


def _attempt(entry: Entry) -> Outcome:
    """Runs the job once and survives whatever it raises."""
    start = time.monotonic()
    try:
        return entry.job.work(entry.record.skipped), None
    except BaseException as error:  # even a SystemExit must not end the thread
        return Done(ok=False, seconds=time.monotonic() - start), error
