"""The heavyweight locks, which any role may see."""

from __future__ import annotations

from pgstats.catalogue.postgres.over import age, over
from pgstats.model import Metric

_MODES = ", ".join(
    f"('{mode}Lock')"
    for mode in (
        *("AccessShare", "RowShare", "RowExclusive", "ShareUpdateExclusive", "Share"),
        *("ShareRowExclusive", "Exclusive", "AccessExclusive", "SIRead"),
    )
)
# Those of pgstats itself are left out. A prepared transaction has no pid.
LOCKS = over(
    f"""(VALUES {_MODES}) AS known (mode)
  FULL JOIN (SELECT * FROM pg_locks WHERE pid IS DISTINCT FROM pg_backend_pid()) AS l
 USING (mode)""",
    "locks",
    Metric("granted", "Locks held in that mode", column="count(*) FILTER (WHERE granted)"),
    Metric(
        "waiting", "Locks waited for in that mode", column="count(*) FILTER (WHERE NOT granted)"
    ),
    labels={"mode": "mode"},
    grouped=True,
)

#: Whose blockers are looked up: each look-up stops the lock manager for a moment.
_LOOKED_UP = 100

LOCK_WAITS = over(
    "pg_locks AS l WHERE NOT granted",
    "lock_waits",
    Metric(
        "waiting",
        "Sessions that wait for a lock",
        column="count(DISTINCT pid)",
    ),
    Metric(
        "exclusive_waiting",
        "Sessions that wait for an AccessExclusiveLock: whoever comes later waits behind them",
        column="count(DISTINCT pid) FILTER (WHERE mode = 'AccessExclusiveLock')",
    ),
    Metric(
        "waiting_long",
        "Sessions that have waited for a lock for more than 30 seconds",
        column="count(DISTINCT pid)"
        " FILTER (WHERE waitstart < clock_timestamp() - interval '30 seconds')",
        since=140000,
    ),
    Metric(
        "longest_wait_seconds",
        "Longest time that a session has waited for a lock; 0 when none does",
        unit="seconds",
        column=f"coalesce({age('min(waitstart)')}, 0)",
        since=140000,
    ),
    Metric(
        "blockers",
        "Sessions that others wait for and that do not wait themselves; all prepared transactions "
        f"count as one; not sent while more than {_LOOKED_UP} sessions wait",
        column=f"""CASE WHEN count(DISTINCT pid) <= {_LOOKED_UP} THEN (
            SELECT count(DISTINCT blocker)
              FROM unnest(array_agg(DISTINCT l.pid)) AS waiter,
                   unnest(pg_blocking_pids(waiter)) AS blocker
             WHERE blocker <> ALL (array_agg(DISTINCT l.pid))) END""",
    ),
)

QUERIES = (LOCKS, LOCK_WAITS)
