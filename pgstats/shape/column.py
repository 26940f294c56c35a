"""Single columns of a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgstats.model import Frame, Number

#: Columns of SHOW POOLS that hold a server which is not free.
_BUSY = ("sv_active", "sv_active_cancel", "sv_being_canceled", "sv_tested", "sv_login")


def column(frame: Frame | None, name: str) -> Sequence[Any]:
    """One metric of a frame, a value per row; empty without it."""
    names = [metric.name for metric in frame.metrics] if frame else []
    return frame.numbers[names.index(name)] if frame and name in names else ()


def at_work(pools: Frame) -> list[Number | None]:
    """How many servers of each pool are not free."""
    columns = [found for name in _BUSY if (found := column(pools, name))]
    if not column(pools, "sv_active"):
        return [None] * pools.height
    return [None if None in counts else sum(counts) for counts in zip(*columns, strict=True)]
