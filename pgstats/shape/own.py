"""What pgstats itself says of a target and of its poll."""

from __future__ import annotations

from collections.abc import Mapping

from pgstats.catalogue.own import DOWN, JOB, POLL, SHIP, UP
from pgstats.model import REASONS, Frame, Poll, Target


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
    metrics = tuple(metric for metric in up.metrics if metric.name in numbers)
    return [
        poll.target.frame(up, metrics, [tuple(numbers[metric.name] for metric in metrics)]),
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
    metrics = tuple(metric for metric in POLL.metrics if metric.name in numbers)
    return Frame.of(POLL, metrics, [(poll.target.title, *(numbers[m.name] for m in metrics))])


def shipping(numbers: Mapping[str, float]) -> Frame:
    """What became of the lines so far, as far as that is known."""
    metrics = tuple(metric for metric in SHIP.metrics if metric.name in numbers)
    return Frame.of(SHIP, metrics, [tuple(numbers[metric.name] for metric in metrics)])


def job(target: Target, numbers: Mapping[str, float]) -> Frame:
    """What became of a run of the daemon's job for a target."""
    metrics = tuple(metric for metric in JOB.metrics if metric.name in numbers)
    return Frame.of(JOB, metrics, [(target.title, *(numbers[metric.name] for metric in metrics))])
