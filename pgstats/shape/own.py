"""What pgstats itself says of a target and of its poll."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from pgstats.catalogue.own import DOWN, JOB, POLL, SHIP, UP
from pgstats.model import REASONS, Frame, Metric, Poll, Query, Row, Target


def frames(poll: Poll, skipped_runs: int = 0, day: float = 0.0) -> list[Frame]:
    """All frames of a poll: the answers, whether the target is up, and how the poll went.

    ``up`` and every reason for being down are always there, since statsd repeats a gauge that
    nobody sets back. ``day`` is the Unix time of the poll, 0 where nobody knows it.
    """
    return [*poll.frames, *_health(poll), _account(poll, skipped_runs, day)]


def _health(poll: Poll) -> list[Frame]:
    family = poll.target.family
    up, down = UP[family], DOWN[family]
    reason = poll.down.reason if poll.down else ""
    numbers = {"up": int(poll.up), **({"version": poll.version} if poll.version else {})}
    return [
        poll.target.frame(up, *_known(up, numbers)),
        poll.target.frame(down, down.metrics, [(r, int(r == reason)) for r in REASONS]),
    ]


def _account(poll: Poll, skipped_runs: int, day: float) -> Frame:
    numbers = {
        "seconds": round(poll.seconds, 6),
        "ok": int(poll.ok),
        "failed_queries": len(poll.problems()),
        "skipped_runs": skipped_runs,
        # Not said of a poll that failed: the last value stays, which is what it means.
        **({"last_success_timestamp_seconds": int(day)} if poll.up and day else {}),
        **(poll.counts if poll.up else {}),
    }
    return Frame.of(POLL, *_known(POLL, numbers, poll.target.title))


def shipping(numbers: Mapping[str, float]) -> Frame:
    """What became of the lines so far, as far as that is known."""
    return Frame.of(SHIP, *_known(SHIP, numbers))


def job(target: Target, numbers: Mapping[str, float]) -> Frame:
    """What became of a run of the daemon's job for a target."""
    return Frame.of(JOB, *_known(JOB, numbers, target.title))


def _known(
    query: Query, numbers: Mapping[str, float], *labels: str
) -> tuple[tuple[Metric, ...], list[Row]]:
    """Those metrics of a query of which a number is known, and the row of these."""
    metrics = _named(query, tuple(numbers))
    return metrics, [(*labels, *(numbers[metric.name] for metric in metrics))]


@lru_cache(maxsize=100)
def _named(query: Query, names: tuple[str, ...]) -> tuple[Metric, ...]:
    """The metrics of those names: the same ones at every poll, as spelling them is remembered."""
    return tuple(metric for metric in query.metrics if metric.name in names)
