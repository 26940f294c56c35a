"""What may keep WAL or hold the horizon from outside: slots, standbys, prepared transactions."""

from __future__ import annotations

from pgstats.catalogue.postgres.over import age, over
from pgstats.model import Metric

#: As far as WAL is known here; a standby writes none itself.
_HERE = """(
    SELECT CASE WHEN pg_is_in_recovery()
                THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
                ELSE pg_current_wal_lsn() END AS lsn
) AS here"""
_INVALID = "coalesce(s.wal_status = 'lost', false)"
# Since 16 a slot can also conflict with recovery, since 17 there are further reasons.
_UNUSABLE = f"""({_INVALID} OR coalesce(to_jsonb(s) ->> 'conflicting' = 'true', false)
           OR to_jsonb(s) ->> 'invalidation_reason' IS NOT NULL)"""
_RETAINED = f"""CASE WHEN {_UNUSABLE} OR s.restart_lsn >= here.lsn THEN 0
            ELSE coalesce(pg_wal_lsn_diff(here.lsn, s.restart_lsn), 0)::bigint END"""
#: A label that no two temporary slots differ in: their names hold a process's number.
_TEMPORARY = "_temporary"

SLOTS = over(
    f"pg_replication_slots AS s CROSS JOIN {_HERE}",
    "slots",
    Metric(
        "retained_bytes",
        "WAL that the slot keeps",
        unit="bytes",
        column=_RETAINED,
        fold="max",
    ),
    Metric("active", "1 while the slot is in use", column="s.active::int", fold="max"),
    Metric(
        "wal_status",
        "1 reserved, 2 extended, 3 unreserved, 4 lost, 0 unknown to pgstats; not sent before it "
        "keeps WAL",
        column="s.wal_status",
        words={"reserved": 1, "extended": 2, "unreserved": 3, "lost": 4, "*": 0},
        fold="max",
    ),
    Metric(
        "safe_wal_size_bytes",
        "WAL that may be written before the slot can be lost, negative when that is overdue; not "
        "sent without max_slot_wal_keep_size",
        unit="bytes",
        column="CASE WHEN s.wal_status = 'lost' THEN 0 ELSE s.safe_wal_size END",
        fold="min",
    ),
    Metric(
        "inactive_seconds",
        "Time since the slot was last in use; 0 while it is",
        unit="seconds",
        column=f"CASE WHEN s.active THEN 0 ELSE {age('s.inactive_since')} END",
        fold="max",
        since=170000,
    ),
    Metric(
        "xmin_age_xids",
        "Transactions since the oldest one whose rows the slot keeps; 0 when it keeps none",
        unit="xids",
        column="coalesce(age(s.xmin), 0)",
        fold="max",
    ),
    Metric(
        "catalog_xmin_age_xids",
        "Transactions since the oldest one whose catalog rows the slot keeps; 0 when it keeps none",
        unit="xids",
        column="coalesce(age(s.catalog_xmin), 0)",
        fold="max",
    ),
    Metric(
        "invalid",
        "1 when the slot is of no more use: lost, invalidated or in conflict with recovery",
        column=f"{_UNUSABLE}::int",
        fold="max",
    ),
    labels={"slot": f"CASE WHEN s.temporary THEN '{_TEMPORARY}' ELSE s.slot_name END"},
    budget=50,
)

REPLICATION = over(
    f"{_HERE} LEFT JOIN pg_replication_slots AS s ON true",
    "replication",
    Metric("slots", "Replication slots", column="count(s.slot_name)"),
    Metric(
        "inactive_slots",
        "Replication slots that nobody uses",
        column="count(*) FILTER (WHERE NOT s.active)",
    ),
    Metric(
        "invalid_slots",
        "Replication slots of no more use",
        column=f"count(s.slot_name) FILTER (WHERE {_UNUSABLE})",
    ),
    Metric(
        "max_retained_bytes",
        "WAL that is kept for slots: the most of all",
        unit="bytes",
        column=f"coalesce(max({_RETAINED}) FILTER (WHERE s.slot_name IS NOT NULL), 0)",
    ),
    Metric(
        "max_slot_wal_keep_size_bytes",
        "WAL that slots may keep; not sent without a limit",
        unit="bytes",
        column="nullif(pg_size_bytes(current_setting('max_slot_wal_keep_size')), -1)",
    ),
    Metric(
        "standbys",
        "Connections that WAL is sent to, backups included",
        column="(SELECT count(*) FROM pg_stat_replication)",
    ),
)


def _behind(name: str, text: str) -> Metric:
    return Metric(
        f"{name}_lag_bytes",
        f"WAL that is not yet {text}",
        unit="bytes",
        column=f"""CASE WHEN r.{name}_lsn >= here.lsn THEN 0
            ELSE pg_wal_lsn_diff(here.lsn, r.{name}_lsn)::bigint END""",
        fold="max",
    )


def _late(name: str, text: str) -> Metric:
    """The server forgets the time soon after the last WAL; who is up to date is not late."""
    return Metric(
        f"{name}_lag_seconds",
        f"Time until WAL was {text} there; 0 when all is",
        unit="seconds",
        column=f"""CASE WHEN r.{name}_lsn >= here.lsn THEN 0
            ELSE extract(epoch FROM r.{name}_lag)::float8 END""",
        fold="max",
    )


STANDBYS = over(
    f"pg_stat_replication AS r CROSS JOIN {_HERE}",
    "standbys",
    Metric("count", "Connections that WAL is sent to by that name", column="1", fold="sum"),
    Metric(
        "streaming",
        "1 while it is streamed, not caught up with, backed up or stopped",
        column="(r.state = 'streaming')::int",
        fold="min",
    ),
    _behind("sent", "sent"),
    _behind("replay", "replayed; not sent for what replays none"),
    _late("write", "written"),
    _late("flush", "flushed"),
    _late("replay", "replayed"),
    labels={
        "application_name": "coalesce(nullif(r.application_name, ''), 'none')",
        "client": "coalesce(host(r.client_addr), 'local')",
    },
    budget=20,
)

# A standby knows of them, but shows none.
PREPARED = over(
    "pg_prepared_xacts",
    "prepared",
    Metric("count", "Prepared transactions", column="count(*)"),
    Metric(
        "oldest_age_seconds",
        "Time since the oldest one was prepared; 0 without any",
        unit="seconds",
        column=f"coalesce({age('min(prepared)')}, 0)",
    ),
    Metric(
        "oldest_age_xids",
        "Transactions since the oldest one; 0 without any",
        unit="xids",
        column="coalesce(max(age(transaction)), 0)",
    ),
    Metric(
        "max_prepared_transactions",
        "Prepared transactions allowed",
        column="current_setting('max_prepared_transactions')::int",
    ),
    primary_only=True,
)

QUERIES = (SLOTS, REPLICATION, STANDBYS, PREPARED)
