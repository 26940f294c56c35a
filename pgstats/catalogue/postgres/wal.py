"""Checkpoints and WAL, as far as they explain what vacuum costs."""

from __future__ import annotations

from pgstats.catalogue.postgres.over import age, over
from pgstats.model import Metric, Query

#: The view of checkpoints since 17, and the one that held them before.
_CHECKPOINTER = 170000


def _checkpoints(view: str, columns: dict[str, str], *, since: int = 0, until: int = 0) -> Query:
    """The same numbers, whatever the view calls them."""

    def total(name: str, text: str, unit: str = "", since: int = since) -> Metric:
        called = f"{name}_{unit}" if unit else name
        column = columns.get(name, name)
        return Metric(called, text, unit, "total", column, since=since, until=until)

    return over(
        view,
        "checkpoints",
        total("num_timed", "Checkpoints begun because it was time"),
        total("num_requested", "Checkpoints begun because of much WAL or by request"),
        *([total("num_done", "Checkpoints completed", since=180000)] if since else []),
        total("write_time", "Time spent writing in checkpoints", "ms"),
        total("sync_time", "Time spent syncing in checkpoints", "ms"),
        total("buffers_written", "Buffers written in checkpoints"),
        Metric(
            "stats_age_seconds",
            "Time since these counters were reset, which a crash does too",
            unit="seconds",
            column=age("stats_reset"),
            since=since,
            until=until,
        ),
    )


CHECKPOINTS = _checkpoints("pg_stat_checkpointer", {}, since=_CHECKPOINTER)
CHECKPOINTS_BEFORE = _checkpoints(
    "pg_stat_bgwriter",
    {
        "num_timed": "checkpoints_timed",
        "num_requested": "checkpoints_req",
        "write_time": "checkpoint_write_time",
        "sync_time": "checkpoint_sync_time",
        "buffers_written": "buffers_checkpoint",
    },
    until=_CHECKPOINTER,
)


def _wal(name: str, text: str, unit: str = "") -> Metric:
    return Metric(name, text, unit, "total", name, since=140000)


WAL = over(
    "pg_stat_wal",
    "wal",
    _wal("wal_records", "WAL records written"),
    _wal("wal_fpi", "Full page images written to WAL"),
    _wal("wal_bytes", "WAL written", "bytes"),
    _wal("wal_buffers_full", "Times that WAL was written because its buffers were full"),
    primary_only=True,
)

QUERIES = (CHECKPOINTS, CHECKPOINTS_BEFORE, WAL)
