"""How much of the time vacuums were at work in each database of a PostgreSQL (18 and later)."""

from __future__ import annotations

from typing import Any

from pgstats.catalogue.postgres import DUTY
from pgstats.catalogue.postgres.tables import NEEDS
from pgstats.model import POSTGRES, Frame, Poll
from pgstats.shape.column import column

Memory = dict[str, Any]


def duty(poll: Poll, memory: Memory, now: float) -> list[Frame]:
    """The time that vacuums took between two polls, by the time between them.

    ``memory`` holds when each database was seen and what it had spent, and is brought up to date. A
    total that fell, for a table was dropped, says nothing this time.
    """
    if poll.target.family != POSTGRES:
        return []
    seen = memory.setdefault("vacuumed", {})
    found = []
    for frame in poll.frames:
        spent = column(frame, "vacuum_time_ms") if frame.query is NEEDS else []
        if spent and spent[0] is not None:
            (database,) = frame.scope
            share = _share(seen.get(database), now, spent[0])
            seen[database] = [now, spent[0]]
            found.append(
                Frame.of(DUTY, DUTY.metrics, [(database, share)], frame.target, frame.tags)
            )
    return found


def _share(last: list[float] | None, now: float, spent: float) -> float | None:
    if last is None or now <= last[0] or spent < last[1]:
        return None
    return round((spent - last[1]) / 1000 / (now - last[0]), 6)
