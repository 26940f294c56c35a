"""The nouns of the daemon: what it runs and what a run reports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True, slots=True)
class Done:
    """What one run of a job reports; ``error`` is a line for people, "" if all is well.

    ``rests_until`` is when its target is asked again at the earliest, on the monotonic clock.
    """

    ok: bool
    seconds: float
    error: str = ""
    rests_until: float = 0.0


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


@dataclass(slots=True)
class Record:
    """What is remembered of a name, whatever job has it. Times are those of the monotonic clock."""

    skipped: int = 0
    succeeded: float | None = None
    failed: float | None = None
    error: str = ""  # of the last run that failed


@dataclass(frozen=True, slots=True)
class Standing:
    """How one job fares, for people. Times are seconds from now, None for what never was.

    ``ok`` is None until its first run ends; ``running_seconds`` is how long one is at work.
    """

    name: str
    ok: bool | None
    stuck: bool
    seconds: float | None
    last_success_age_seconds: float | None
    last_error: str
    last_error_age_seconds: float | None
    running_seconds: float | None
    next_poll_in_seconds: float
    interval_seconds: float
    skipped_runs: int


@dataclass(slots=True, eq=False)
class Entry:
    """One job and how it fares. Only the main thread changes it."""

    job: Job
    record: Record
    since: float | None = None  # when the run at work was handed over, on the monotonic clock
    last: Done | None = None
    bug: str = ""
    retired: bool = False  # to be closed as soon as no run is at work

    def note(self, done: Done, now: float) -> None:
        """Keeps what a run has reported."""
        self.last = done
        if done.ok:
            self.record.succeeded = now
        else:
            self.record.failed, self.record.error = now, done.error

    def standing(self, now: float, due: float) -> Standing:
        """How it fares now, its next run being due then."""
        last, record = self.last, self.record
        return Standing(
            name=self.job.name,
            ok=last.ok if last else None,
            stuck=self.stuck(now),
            seconds=last.seconds if last else None,
            last_success_age_seconds=_between(record.succeeded, now),
            last_error=record.error,
            last_error_age_seconds=_between(record.failed, now),
            running_seconds=_between(self.since, now),
            next_poll_in_seconds=round(max(0.0, self._next(due) - now), 3),
            interval_seconds=self.job.interval,
            skipped_runs=record.skipped,
        )

    def stuck(self, now: float) -> bool:
        """Whether its run takes so much longer than it may that it will hardly ever end."""
        patience = 3 * (self.job.interval + self.job.timeout)
        return self.since is not None and now - self.since > patience

    def _next(self, due: float) -> float:
        """The run that asks the target again, one of those every interval from ``due`` on."""
        left = self.last.rests_until - due if self.last else 0.0
        return due + max(0, ceil(left / self.job.interval)) * self.job.interval


def _between(then: float | None, now: float) -> float | None:
    return None if then is None else round(now - then, 3)
