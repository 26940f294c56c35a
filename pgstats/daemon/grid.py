"""When each job runs: the one door to `schedule`.

`schedule` counts the next run from the end of the last one, on the naive local clock: runs drift,
and a clock step or the end of summer time silences it for as long as the clock went back. So a
`Beat` answers "is it due" and "when next" from the monotonic clock and from its start alone;
no time zone and no step of the wall clock can reach it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from heapq import heappush, heapreplace
from math import inf

import schedule

#: Second 0 of the monotonic clock in the form `schedule` sorts by: a naive datetime.
_ZERO = datetime(1970, 1, 1)


class Beat(schedule.Job):
    """A job that is due at start, start + interval, start + 2 x interval, ... and never between."""

    def __init__(
        self,
        scheduler: schedule.Scheduler,
        clock: Callable[[], float],
        interval: float,
        start: float,
    ) -> None:
        super().__init__(interval, scheduler)  # type: ignore[arg-type]  # fractions work as well
        self.clock = clock
        self.start = start
        self.aim(0)

    def aim(self, beat: int) -> None:
        """Sets the run to be done next: the one that many intervals after the start."""
        self.beat = beat
        self.due = self.start + beat * self.interval
        self.next_run = _ZERO + timedelta(seconds=self.due)

    def run(self) -> None:
        """Runs once, however many beats have passed meanwhile, and aims at the next one ahead."""
        super().run()  # type: ignore[no-untyped-call]
        passed = int((self.clock() - self.start) // self.interval)
        self.aim(max(self.beat, passed) + 1)  # rounding may make the present beat a future one


class Grid:
    """All beats. Times are seconds of the monotonic clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._scheduler = schedule.Scheduler()
        self._beats: dict[str, Beat] = {}
        # When each is due and its place in the list, the next one first: there may be hundreds.
        self._queue: list[tuple[float, int, Beat]] = []

    def add(self, name: str, interval: float, start: float, action: Callable[[], None]) -> None:
        """Calls ``action``, which must be quick and never raise, on every beat."""
        beat = Beat(self._scheduler, self._clock, interval, start)
        beat.seconds.do(action)
        beat.aim(0)  # do() has aimed by the wall clock
        heappush(self._queue, (beat.due, len(self._beats), beat))
        self._beats[name] = beat

    def run_pending(self) -> None:
        """Runs what is due; the scheduler itself would have each of hundreds look at a clock."""
        now = self._clock()
        while self._queue and self._queue[0][0] <= now:
            _, place, beat = self._queue[0]
            beat.run()
            heapreplace(self._queue, (beat.due, place, beat))

    def due(self) -> float:
        """When the next run of any job is due; infinity without jobs."""
        return self._queue[0][0] if self._queue else inf

    def due_of(self, name: str) -> float:
        """When the next run of that job is due."""
        return self._beats[name].due

    def next_of(self, name: str, interval: float) -> float | None:
        """When that job is due, provided it has that interval."""
        beat = self._beats.get(name)
        return beat.due if beat and beat.interval == interval else None
