"""Who holds the removal horizon in one sample, and who only looks as if.

VACUUM removes a row only when no snapshot can still see it. What counts is the older of a session's
``backend_xid`` and ``backend_xmin``: the commonest culprit, idle in transaction after a write, has
no ``backend_xmin`` at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from pgstats.evidence import (
    BACKEND,
    PREPARED,
    SLOT_CATALOG_XMIN,
    SLOT_XMIN,
    STANDBY,
    Holder,
    Innocent,
    Record,
    Sample,
)

_COMMENTS = r"(?s)\A(\s+|--[^\n]*\n|/\*.*?\*/)+"
_LAZY_VACUUM = r"(?i)(autovacuum:\s+)?VACUUM\b(?!\s+FULL\b)(?!\s*\([^)]*\bFULL\b)"
#: What the server calls those who apply a subscription's changes: up to 15, then from 16 on.
APPLY_WORKERS = ("logical replication worker", "logical replication apply worker")


def holders(sample: Sample) -> list[Holder]:
    """Everybody who holds the horizon of a database or of all, the oldest first."""
    found = [*_sessions(sample), *_prepared(sample), *_slots(sample)]
    return sorted(found, key=lambda holder: -holder.xid_age)


def innocents(sample: Sample) -> list[Innocent]:
    """Those who show an xmin and hold nothing, with the reason."""
    vacuums = _vacuums(sample)
    lazy = "a lazy VACUUM never holds the horizon"
    found = [
        Innocent(f"pid {row['pid']}", lazy)
        for row in sample.rows("activity")
        if _oldest(row) and _is_lazy_vacuum(row, vacuums)
    ]
    found += [
        Innocent(f"pid {row['pid']}", "old_snapshot_threshold has taken its snapshot away")
        for row in sample.rows("activity")
        if _is_too_old(row, sample)
    ]
    gone = "a slot that is lost holds nothing, whatever xmin it still shows"
    found += [
        Innocent(f"slot {row['slot_name']}", gone) for row in sample.rows("slots") if _is_lost(row)
    ]
    return found


def _oldest(row: Record) -> tuple[int, int] | None:
    """The older of a session's own transaction and its snapshot, and its age."""
    pairs = [
        (int(row[name]), int(row[f"{name}_age"]))
        for name in ("backend_xid", "backend_xmin")
        if row.get(name) is not None
    ]
    return max(pairs, key=lambda pair: pair[1], default=None)


def _vacuums(sample: Sample) -> set[int]:
    return {row["pid"] for row in sample.rows("vacuuming")}


def is_lazy_vacuum(row: Record) -> bool:
    """Whether a session's text is a VACUUM that is not FULL."""
    return bool(re.match(_LAZY_VACUUM, re.sub(_COMMENTS, "", row.get("query") or "")))


def _is_lazy_vacuum(row: Record, vacuums: set[int]) -> bool:
    """Whether a session vacuums, or waits to: then it is in no progress view yet."""
    waits = row.get("wait_event_type") == "Lock"
    return row["pid"] in vacuums or (waits and is_lazy_vacuum(row))


def _is_too_old(row: Record, sample: Sample) -> bool:
    """Whether a snapshot holds no more, up to 16, though it is still to be seen.

    It stopped to hold within two minutes of the limit, which the server rounds up.
    """
    minutes = float(sample.setting("old_snapshot_threshold") or -1)
    began = row.get("xact_start")
    if minutes < 0 or began is None or row.get("backend_xid") is not None:
        return False
    return row.get("backend_xmin") is not None and sample.at - float(began) > 60 * (minutes + 2)


def _sessions(sample: Sample) -> Iterator[Holder]:
    vacuums = _vacuums(sample)
    building = {row["pid"] for row in sample.rows("building")}
    pids = {row["pid"] for row in sample.rows("activity")}
    for row in sample.rows("activity"):
        oldest = _oldest(row)
        led = row.get("leader_pid") in pids  # a parallel worker: its leader holds the same
        if oldest is None or led or _is_lazy_vacuum(row, vacuums) or _is_too_old(row, sample):
            continue
        standby = row.get("datid") is None
        yield Holder(
            cause=f"horizon.{_session_cause(row, building)}",
            kind=STANDBY if standby else BACKEND,
            key=session_key(row),
            row=row,
            xid=oldest[0],
            xid_age=oldest[1],
            database=row.get("datname") or "",
            since=_began(row),
        )


def session_key(row: Record) -> str:
    """A session in one transaction: short ones of the same session may inherit the same xid."""
    return f"pid {row['pid']} {row.get('xact_start') or row.get('backend_start') or ''}".strip()


def _session_cause(row: Record, building: set[int]) -> str:
    kind, state = row.get("backend_type"), row.get("state")
    if row.get("datid") is None:
        return "standby_feedback"
    if kind == "walsender":
        return "walsender_snapshot"
    if kind in APPLY_WORKERS:
        return "logical_apply"
    if kind == "autovacuum worker" or row["pid"] in building:
        return "maintenance"
    if state is None or state == "disabled":
        return "unknown_state"
    return "idle_in_xact" if state.startswith("idle") else "active_query"


def _began(row: Record) -> float | None:
    """When a session's transaction began. A walsender's has no start, but a change of state."""
    if row.get("xact_start") is None and row.get("backend_type") != "walsender":
        return None
    began = row.get("xact_start") or row.get("state_change")
    return None if began is None else float(began)


def _prepared(sample: Sample) -> Iterator[Holder]:
    for row in sample.rows("prepared"):
        yield Holder(
            cause="horizon.prepared_xact",
            kind=PREPARED,
            key=f"gid {row['gid']}",
            row=row,
            xid=int(row["transaction"]),
            xid_age=int(row["transaction_age"]),
            database=row["database"],
            since=row.get("prepared"),
        )


def _is_lost(row: Record) -> bool:
    """Whether a slot has been given up by the server; its xmin stays to be seen."""
    return row.get("wal_status") == "lost" or bool(row.get("invalidation_reason"))


def _slots(sample: Sample) -> Iterator[Holder]:
    for row in sample.rows("slots"):
        if _is_lost(row):
            continue
        since = row.get("inactive_since")
        key = f"slot {row['slot_name']}"
        if row.get("xmin") is not None:
            cause = "standby_feedback" if row["active"] else "slot_physical"
            xid, age = int(row["xmin"]), int(row["xmin_age"])
            yield Holder(f"horizon.{cause}", SLOT_XMIN, key, row, xid, age, since=since)
        if row.get("catalog_xmin") is not None:
            xid, age = int(row["catalog_xmin"]), int(row["catalog_xmin_age"])
            kind = SLOT_CATALOG_XMIN
            yield Holder(
                "horizon.slot_catalog", kind, key, row, xid, age, catalogs=True, since=since
            )


def owners(sample: Sample) -> dict[int, tuple[str, str]]:
    """By transaction id: who runs it, as the key of a holder, and in which database."""
    found = {}
    for row in sample.rows("activity"):
        if row.get("backend_xid") is not None:
            found[int(row["backend_xid"])] = session_key(row), row.get("datname") or ""
    for row in sample.rows("prepared"):
        found[int(row["transaction"])] = f"gid {row['gid']}", row["database"]
    return found


def first_seen(
    found: Iterable[Holder], before: Mapping[str, float], now: float
) -> dict[str, float]:
    """When each hold was first seen, by `label`: as before where it is still the same."""
    return {label(holder): before.get(label(holder), now) for holder in found}


def label(holder: Holder) -> str:
    """A hold as one word for what is remembered of it."""
    return f"{holder.kind} {holder.key} {holder.xid}"
