"""Who does the work: a few daemon threads, started on demand and reused."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from queue import Empty, SimpleQueue

from pgstats.daemon.jobs import Done, Entry
from pgstats.threads import Hand

Report = Callable[[Entry, Done, BaseException | None], None]

_Desk = SimpleQueue[Entry | None]

Outcome = tuple[Done, BaseException | None]
_NO_MEMORY: Outcome = (Done(ok=False, seconds=0.0, error="out of memory"), None)
_PAUSE = 0.5  # seconds until there may be memory again

#: So many are started as soon as there is work for them; more where an entry has waited so long.
FEW_THREADS = 8
PATIENCE = 0.1  # seconds

_COUNT_EVERY = 1.0  # seconds; a thread may have died at birth

#: Enough for a quarter of 500 targets to hang at once without delaying the others.
MOST_THREADS = 128

#: Bytes. The usual 8 MiB each would be refused under a limit on address space.
_STACK = 1 << 20


class Crew:
    """Runs entries on at most ``most`` threads; ``report`` is called from those threads.

    A few threads get through more than many, which only wait for each other: another one is started
    where an entry has waited for a moment, since those there are hang. The one that was free last
    comes first, and one that has nothing to do for so many ``idle`` seconds leaves, unless it is
    the last. They are daemons: the end of the process waits for none of them, hanging or not.
    An entry is handed over only when its last run has been reported, so that what waits for a
    free thread is never longer than the list of targets.
    """

    def __init__(self, report: Report, most: int = MOST_THREADS, idle: float = 30.0) -> None:
        self._report = report
        self._most = most
        self._patience = idle
        self._lock = threading.Lock()
        self._hands: dict[_Desk, Hand] = {}  # by where each is given its work
        self._idle: list[_Desk] = []
        self._waiting: deque[tuple[float, Entry]] = deque()  # since when
        self._counted = self._again = -inf  # when who lives was, and when the next may be started
        self._fault = ""

    def take(self, entry: Entry) -> None:
        """Has the entry's job run by a free thread, or the next that is."""
        with self._lock:
            if self._idle:
                self._idle[-1].put(entry)  # first: that may fail, for want of memory
                self._idle.pop()
            else:
                self._waiting.append((time.monotonic(), entry))

    def grow(self) -> str:
        """Starts the threads that are missing; says why it cannot, "" if it can."""
        now = time.monotonic()
        if now - self._counted >= _COUNT_EVERY:
            self._counted = now
            self._count()
        if now < self._again:
            return self._fault
        self._fault = ""
        while self._left(now) <= 0:
            try:
                self._start()
            except (RuntimeError, MemoryError) as error:
                self._again = now + _COUNT_EVERY
                self._fault = f"only {len(self._hands)} worker threads, polls may be late: {error}"
        return self._fault

    def left(self) -> float:
        """Seconds until a thread may be missing: infinity where nothing waits for one."""
        return max(0.0, self._left(time.monotonic()))

    def drop(self) -> list[Entry]:
        """Takes back what no thread has begun."""
        with self._lock:
            dropped = [entry for _, entry in self._waiting]
            self._waiting.clear()
        return dropped

    def _left(self, now: float) -> float:
        with self._lock:
            if not self._waiting or len(self._hands) >= self._most:
                return inf
            moment = PATIENCE if len(self._hands) >= FEW_THREADS else 0.0
            return max(self._waiting[0][0] + moment, self._again) - now

    def _count(self) -> None:
        """Forgets threads that are no more, and takes back what one was given that never began."""
        with self._lock:
            for desk in [desk for desk, hand in self._hands.items() if not hand.alive]:
                del self._hands[desk]
                if desk in self._idle:
                    self._idle.remove(desk)
                with suppress(Empty):
                    if entry := desk.get_nowait():
                        self._waiting.appendleft((time.monotonic(), entry))
                    desk.put(None)  # should it begin after all

    def _start(self) -> None:
        """Starts one more thread, for the entry that has waited longest."""
        usual = threading.stack_size(_STACK)
        try:
            with self._lock:
                if self._waiting:
                    desk = _Desk()
                    desk.put(self._waiting[0][1])
                    hand = Hand(partial(self._toil, desk))
                    self._waiting.popleft()
                    self._hands[desk] = hand
        finally:
            threading.stack_size(usual)

    def _toil(self, desk: _Desk) -> None:
        """The life of a thread."""
        entry = desk.get()
        while entry:
            outcome: Outcome = _NO_MEMORY
            with suppress(MemoryError):
                outcome = _attempt(entry)
            while not self._reported(entry, outcome):
                time.sleep(_PAUSE)
            entry = self._next(desk)

    def _next(self, desk: _Desk) -> Entry | None:
        """What the thread of that desk is to do next; None for nothing any more."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()[1]
            self._idle.append(desk)
        while True:
            with suppress(Empty):
                return desk.get(timeout=self._patience)
            with self._lock:
                if self._idle[-1:] != [desk] and desk in self._idle:
                    self._idle.remove(desk)
                    self._hands.pop(desk, None)
                    return None

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
