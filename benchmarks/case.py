"""The nouns: a case is one entry, its result the costs by who did the job, and its goals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks.lab import Lab
from benchmarks.meter import Cost


class Goal(NamedTuple):
    """What was aimed at: ``measured`` must be at most ``limit``, or with ``least`` at least."""

    text: str
    measured: float
    limit: float
    unit: str = "x"
    least: bool = False

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.measured >= self.limit if self.least else self.measured <= self.limit


class Result(NamedTuple):
    """Medians by who did the job."""

    costs: Mapping[str, Cost] = {}
    goals: tuple[Goal, ...] = ()


class Case(NamedTuple):
    """One comparison. ``quick`` ones are small enough for a run of two minutes."""

    name: str
    title: str
    work: Callable[[Lab], Result]
    quick: bool = True
