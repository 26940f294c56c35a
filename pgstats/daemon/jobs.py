"""The nouns of the daemon: what it runs and what a run reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """What one run of a job reports."""

    ok: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Job:
    """One target as the daemon sees it. ``interval`` and ``timeout`` are seconds.

    ``work`` is given the number of runs skipped since the daemon's start and should not raise.
    ``close`` releases what is kept between runs, is never called while ``work`` is at it, and
    must not block. ``timeout`` is what one run means to stay within: the watchdog goes by it.
    """

    name: str
    interval: float
    work: Callable[[int], Done]
    close: Callable[[], None]
    timeout: float = 10.0


@dataclass(slots=True, eq=False)
class Entry:
    """One job and how it fares. Only the main thread changes it."""

    job: Job
    skipped: int = 0
    since: float | None = None  # when the run at work was handed over, on the monotonic clock
    last: Done | None = None
    bug: str = ""
    retired: bool = False  # to be closed as soon as no run is at work

    def stuck(self, now: float) -> bool:
        """Whether its run takes so much longer than it may that it will hardly ever end."""
        patience = 3 * (self.job.interval + self.job.timeout)
        return self.since is not None and now - self.since > patience
