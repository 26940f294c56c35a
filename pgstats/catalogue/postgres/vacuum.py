"""Vacuum at work, the settings that explain it, and how far wraparound is."""

from __future__ import annotations

from pgstats.catalogue.postgres.over import age, over
from pgstats.model import Metric

_WORKERS = "count(*) FILTER (WHERE a.backend_type = 'autovacuum worker')"
# The workers are limited by their slots too, which can only be changed at a start (18).
_MAX_WORKERS = """least(current_setting('autovacuum_max_workers')::int,
             current_setting('autovacuum_worker_slots', true)::int)"""
_AT_WORK = "pg_stat_activity AS a LEFT JOIN pg_stat_progress_vacuum AS v USING (pid)"


def _seen(expression: str) -> str:
    """A number for those who may see all processes: of the others' even the type is unknown."""
    return f"CASE WHEN NOT bool_or(a.backend_start IS NULL)\n            THEN {expression} END"


VACUUM = over(
    _AT_WORK,
    "vacuum",
    Metric(
        "autovacuum_workers",
        "Autovacuum workers at work, those that analyze included",
        column=_seen(_WORKERS),
    ),
    Metric(
        "autovacuum_max_workers",
        "Autovacuum workers allowed: the setting, but no more than autovacuum_worker_slots",
        column=_MAX_WORKERS,
    ),
    Metric(
        "worker_utilization",
        "Share of the autovacuum workers allowed that is at work",
        unit="ratio",
        column=_seen(f"{_WORKERS}::float8 / {_MAX_WORKERS}"),
    ),
    Metric(
        "wraparound_workers",
        "Autovacuum workers that prevent wraparound, which no lock request ends; not sent while a "
        "worker has track_activities off",
        column=_seen(
            """CASE WHEN count(*) FILTER (WHERE a.state = 'disabled'
                                      AND a.backend_type = 'autovacuum worker') = 0
                 THEN count(*) FILTER (WHERE a.backend_type = 'autovacuum worker'
                                         AND right(a.query, 24) = ' (to prevent wraparound)') END"""
        ),
    ),
    Metric(
        "manual_vacuums",
        "Manual VACUUMs at work (not FULL)",
        column=_seen(
            "count(v.pid) FILTER (WHERE a.backend_type <> 'autovacuum worker')",
        ),
    ),
    Metric(
        "oldest_vacuum_seconds",
        "Longest time that a vacuum has been at work on its table; 0 when none is",
        unit="seconds",
        column=_seen(f"coalesce({age('min(a.xact_start) FILTER (WHERE v.pid IS NOT NULL)')}, 0)"),
    ),
)

PHASES = over(
    """(VALUES ('initializing'), ('scanning_heap'), ('vacuuming_indexes'), ('vacuuming_heap'),
               ('cleaning_up_indexes'), ('truncating_heap'), ('performing_final_cleanup'))
       AS known (phase)
  FULL JOIN (SELECT pid, relid IS NULL AS masked, replace(phase, ' ', '_') AS phase
               FROM pg_stat_progress_vacuum) AS v USING (phase)
 WHERE phase IS NOT NULL""",
    "vacuum_phases",
    Metric(
        "count",
        "Vacuums in that phase; not sent where the role may not see all",
        column="CASE WHEN NOT EXISTS (SELECT FROM pg_stat_progress_vacuum WHERE relid IS NULL)"
        "\n            THEN count(pid) END",
    ),
    labels={"phase": "phase"},
    grouped=True,
)


def _sum(name: str, text: str, *, since: int = 0) -> Metric:
    return Metric(name, f"{text}, of all vacuums at work", column=f"sum(v.{name})", since=since)


# Named by database alone: a name for each table would stay behind for ever, as statsd forgets none.
# Where no vacuum is at work there is no row; the numbers of a masked vacuum are NULL.
PROGRESS = over(
    "pg_stat_progress_vacuum AS v",
    "vacuum_progress",
    Metric("vacuums", "Vacuums at work", column="count(*)"),
    _sum("heap_blks_total", "Blocks of the table when its scan began"),
    _sum("heap_blks_scanned", "Blocks scanned, those skipped included"),
    _sum("heap_blks_vacuumed", "Blocks vacuumed"),
    Metric(
        "scanned_ratio",
        "Share of the blocks that is scanned, of the vacuum that has most blocks left",
        unit="ratio",
        column="""(array_agg(v.heap_blks_scanned::float8 / nullif(v.heap_blks_total, 0)
              ORDER BY v.heap_blks_total - v.heap_blks_scanned DESC))[1]""",
    ),
    Metric(
        "max_index_vacuum_count",
        "Passes over the indexes that a vacuum has completed: with more than 1 its memory was too "
        "small",
        column="max(v.index_vacuum_count)",
    ),
    Metric(
        "dead_tuple_memory_ratio",
        "Share of a vacuum's memory for dead rows that is full, of the fullest: by rows before 17, "
        "by bytes since",
        unit="ratio",
        # The columns have other names and other units since 17.
        column="""max(coalesce(
           (to_jsonb(v) ->> 'dead_tuple_bytes')::float8
               / nullif((to_jsonb(v) ->> 'max_dead_tuple_bytes')::float8, 0),
           (to_jsonb(v) ->> 'num_dead_tuples')::float8
               / nullif((to_jsonb(v) ->> 'max_dead_tuples')::float8, 0)))""",
    ),
    _sum("indexes_total", "Indexes to be vacuumed or cleaned up", since=170000),
    _sum("indexes_processed", "Indexes vacuumed or cleaned up in this phase", since=170000),
    Metric(
        "delay_time_ms",
        "Time slept for the cost limit (with track_cost_delay_timing), of all vacuums at work",
        unit="ms",
        column="sum(v.delay_time)",
        since=180000,
    ),
    labels={"database": "v.datname"},
    grouped=True,
)


def _setting(name: str, text: str, *, unit: str = "", since: int = 0, value: str = "") -> Metric:
    return Metric(
        f"{name}_{unit}" if unit else name,
        text,
        unit=unit,
        column=value or _value(name),
        since=since,
    )


def _value(name: str, cast: str = "setting::float8") -> str:
    return f"max({cast}) FILTER (WHERE name = '{name}')"


def _or(name: str, fallback: str) -> str:
    """A setting where -1 means that another one holds."""
    return f"coalesce(nullif({_value(name)}, -1), {_value(fallback)})"


_ON_OFF = "(setting = 'on')::int"

SETTINGS = over(
    "pg_settings",
    "settings",
    _setting("autovacuum", "1 while autovacuum is on", value=_value("autovacuum", _ON_OFF)),
    _setting(
        "track_counts",
        "1 while rows are counted, without which autovacuum sees nothing",
        value=_value("track_counts", _ON_OFF),
    ),
    _setting(
        "autovacuum_naptime", "Time between two runs of autovacuum in a database", unit="seconds"
    ),
    _setting(
        "autovacuum_vacuum_cost_limit",
        "Cost at which autovacuum sleeps: its own setting or vacuum_cost_limit",
        value=_or("autovacuum_vacuum_cost_limit", "vacuum_cost_limit"),
    ),
    _setting(
        "autovacuum_vacuum_cost_delay",
        "Time that autovacuum sleeps at its cost limit: its own setting or vacuum_cost_delay",
        unit="ms",
        value=_or("autovacuum_vacuum_cost_delay", "vacuum_cost_delay"),
    ),
    _setting(
        "autovacuum_work_mem",
        "Memory of an autovacuum worker: its own setting or maintenance_work_mem",
        unit="bytes",
        value=f"1024 * {_or('autovacuum_work_mem', 'maintenance_work_mem')}",
    ),
    _setting(
        "autovacuum_freeze_max_age",
        "Age at which a vacuum is forced",
        unit="xids",
    ),
    _setting(
        "autovacuum_multixact_freeze_max_age",
        "Age in multixacts at which a vacuum is forced",
        unit="mxids",
    ),
    _setting(
        "vacuum_failsafe_age",
        "Age at which a vacuum skips its delays and the indexes",
        unit="xids",
        since=140000,
    ),
)


def _share(name: str, text: str, age_of: str, limit: str) -> Metric:
    return Metric(name, text, unit="ratio", column=f"max({age_of})::float8 / {limit}")


_XIDS, _MXIDS = "age(datfrozenxid)", "mxid_age(datminmxid)"
_2_31 = "2147483648"

# All databases count, also those that let nobody in.
WRAPAROUND = over(
    "pg_database",
    "wraparound",
    Metric(
        "xid_age_xids",
        "Transactions since the oldest unfrozen one of all databases",
        unit="xids",
        column=f"max({_XIDS})",
    ),
    Metric(
        "mxid_age_mxids",
        "Multixacts since the oldest unfrozen one of all databases",
        unit="mxids",
        column=f"max({_MXIDS})",
    ),
    _share(
        "xid_freeze_ratio",
        "Share that xid_age_xids is of autovacuum_freeze_max_age: about 1 is routine, more is not",
        _XIDS,
        "current_setting('autovacuum_freeze_max_age')::int",
    ),
    _share(
        "mxid_freeze_ratio",
        "Share that mxid_age_mxids is of autovacuum_multixact_freeze_max_age, which the server "
        "lowers when multixacts have many members",
        _MXIDS,
        "current_setting('autovacuum_multixact_freeze_max_age')::int",
    ),
    _share("xid_limit_ratio", "Share of the 2^31 transactions that is used up", _XIDS, _2_31),
    _share("mxid_limit_ratio", "Share of the 2^31 multixacts that is used up", _MXIDS, _2_31),
)

QUERIES = (VACUUM, PHASES, PROGRESS, SETTINGS, WRAPAROUND)
