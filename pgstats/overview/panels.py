"""The panels of every dashboard, from top to bottom: first what to decide by, then why it is so."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from pgstats.overview.series import Series


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: what it shows, what one decides by it, and where lines are drawn.

    A ``number`` is shown as the last value, large, rather than as curves over time. It is bad
    above the first line, or ``below`` it.
    """

    title: str
    decides: str
    series: tuple[Series, ...]
    lines: tuple[float, ...] = ()
    number: bool = False
    below: bool = False

    @property
    def unit(self) -> str:
        """The unit of its axis."""
        return self.series[0].unit


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that answer one question."""

    title: str
    panels: tuple[Panel, ...]


def _each(group: str, *names: str, top: int = 0, how: str = "max") -> tuple[Series, ...]:
    """A curve for every row of those metrics."""
    return tuple(Series(f"{group}.{name}", top=top, how=how) for name in names)


def _lit(group: str) -> tuple[Series, ...]:
    """The rows of a group that counts by kind, but for kinds that there are none of."""
    return (Series(f"{group}.count", lit=True),)


def _by(group: str, *names: str, label: str = "", how: str = "sum") -> tuple[Series, ...]:
    """The rows of those metrics combined, but for one label."""
    by = (label,) if label else ()
    return tuple(Series(f"{group}.{name}", by=by, how=how) for name in names)


_pools = partial(_each, "pgbouncer.pools")
_tables = partial(_each, "postgres.tables", top=5)
_databases = partial(_each, "postgres.database")
_poll = partial(_each, "self.poll")

_HEALTH = Row(
    "Can this be believed?",
    (
        Panel(
            "Up",
            "0: the target did not answer, and Down says why. 1 only counts while the age of the "
            "last success beside it is small: statsd repeats the last value of a dead poller.",
            (*_each("pgbouncer", "up"), *_each("postgres", "up")),
            lines=(1,),
            number=True,
            below=True,
        ),
        Panel(
            "Age of the last success",
            "More than a few intervals: the poller is dead, or the target is. Nothing below is "
            "newer than this.",
            _poll("last_success_timestamp_seconds"),
            lines=(300,),
            number=True,
        ),
        Panel(
            "State of PgBouncer",
            "1 active, 2 paused, 3 suspended, 4 draining, 5 unreachable, 6 login refused; paused "
            "and disabled databases are counted.",
            (
                *_each("pgbouncer.state", "code"),
                *_by("pgbouncer.databases", "paused", "disabled"),
            ),
            number=True,
        ),
        Panel(
            "Roles and rights",
            "in_recovery 1: a standby, which knows no dead rows. rights_ok 0: the role may not see "
            "other sessions, and what follows from them is missing.",
            _each("postgres.server", "in_recovery", "rights_ok"),
            number=True,
        ),
        Panel(
            "Versions",
            "150018 is PostgreSQL 15.18, 11800 PgBouncer 1.18.0.",
            (*_each("postgres.server", "version"), *_each("pgbouncer", "version")),
            number=True,
        ),
        Panel(
            "Down, and why",
            "The reason that the last poll failed for.",
            (*_each("pgbouncer.down", "count"), *_each("postgres.down", "count")),
        ),
        Panel(
            "Age of the statistics",
            "After a crash the counts of rows begin at 0: for an hour, few dead rows mean nothing.",
            (
                *_each("postgres.server", "stats_age_seconds", "uptime_seconds"),
                *_databases("stats_age_seconds"),
            ),
        ),
    ),
)

_CLIENTS = Row(
    "Do clients wait, and for what?",
    (
        Panel(
            "Waiting clients",
            "Above 0 for long: the pool is too small, or its servers are too slow; the next three "
            "tell which.",
            _pools("cl_waiting"),
        ),
        Panel(
            "How long they wait",
            "maxwait is the oldest waiter's time. waiting_for runs while anybody waits at all, "
            "those queued at login too, of whom maxwait knows nothing.",
            _pools("maxwait_seconds", "waiting_for_seconds"),
        ),
        Panel(
            "Queue against server time",
            "wait_ms high and server_ms low: more servers help. Both high: PostgreSQL is slow, and "
            "more servers make it slower.",
            _each("pgbouncer.stats", "wait_ms", "server_ms", "query_ms", "xact_ms"),
        ),
        Panel(
            "Saturation on both sides",
            "The share in use of the pools, of max_client_conn, and of PostgreSQL's connections; "
            "overcommit above 1: PostgreSQL would refuse what the pools may open.",
            (
                *_pools("pool_utilization"),
                *_each("pgbouncer.lists", "client_utilization"),
                *_each("postgres.connections", "utilization"),
                *_each("postgres.overcommit", "ratio"),
            ),
            lines=(1,),
        ),
        Panel(
            "Queries and transactions",
            "Whether the load has changed.",
            _each("pgbouncer.stats", "queries_per_second", "xacts_per_second"),
        ),
        Panel(
            "Traffic",
            "Whether answers have grown.",
            _each("pgbouncer.stats", "received_bytes_per_second", "sent_bytes_per_second"),
        ),
    ),
)

_VACUUM = Row(
    "Are dead rows removed?",
    (
        Panel(
            "Tables that need vacuum most",
            "Above 1 autovacuum is due; above 2 for half an hour it does not come, or comes in "
            "vain. `pgstats why` says which.",
            (*_tables("vacuum_trigger_ratio", top=10), *_databases("worst_vacuum_trigger_ratio")),
            lines=(1, 2),
        ),
        Panel(
            "Dead rows",
            "Which tables hold them, against the sum of the database.",
            (
                *_tables("n_dead_tup"),
                *_databases("n_dead_tup", "n_dead_tup_toast", "n_dead_tup_catalogs"),
            ),
        ),
        Panel(
            "Who holds the horizon",
            "No vacuum removes what the oldest of these may still see. The kind is here; "
            "`pgstats why` names the session, slot or transaction.",
            (
                *_each("postgres.horizon", "age_xids"),
                *_each("postgres.slots", "xmin_age_xids", "catalog_xmin_age_xids"),
                *_each("postgres.prepared", "oldest_age_xids"),
            ),
        ),
        Panel(
            "Causes found",
            "What `pgstats why` would say: the cause, how bad, how often; and tables whose vacuum "
            "removed nothing.",
            (*_lit("postgres.why"), *_databases("tables_vacuumed_in_vain")),
        ),
        Panel(
            "Workers and backlog",
            "All workers busy is healthy while the backlog is small; with a backlog above the "
            "number of workers for half an hour they are too few or too slow.",
            (
                *_each(
                    "postgres.vacuum",
                    *("autovacuum_workers", "autovacuum_max_workers", "wraparound_workers"),
                    "manual_vacuums",
                ),
                *_by(
                    "postgres.database",
                    *("tables_over_trigger", "tables_disabled", "tables_without_stats"),
                    "tables_never_vacuumed",
                ),
            ),
        ),
        Panel(
            "Vacuums of tables",
            "Which tables keep the workers busy: vacuums a second, and analyzes of the database.",
            (
                *_tables("autovacuum_count", "vacuum_count"),
                *_by("postgres.tables", "autoanalyze_count", "analyze_count", label="database"),
            ),
        ),
        Panel(
            "Time spent on vacuum",
            "From PostgreSQL 18 on: 1000 ms a second is one worker for one table, all the time.",
            (
                *_tables("total_autovacuum_time_ms", "total_vacuum_time_ms"),
                *_by(
                    "postgres.tables",
                    *("total_autoanalyze_time_ms", "total_analyze_time_ms"),
                    label="database",
                ),
                *_databases("vacuum_time_ms"),
            ),
        ),
        Panel(
            "Running vacuums",
            "How far the vacuum with most left has come, and how full its memory for dead rows is: "
            "full means another pass over all indexes. From PostgreSQL 18 on the share of the time "
            "that vacuums took.",
            (
                *_each("postgres.vacuum_progress", "scanned_ratio", "dead_tuple_memory_ratio"),
                *_databases("vacuum_duty_ratio"),
            ),
            lines=(1,),
        ),
        Panel(
            "Phases and passes",
            "More than one pass over the indexes: maintenance_work_mem is too small.",
            (
                *_lit("postgres.vacuum_phases"),
                *_each("postgres.vacuum_progress", "vacuums", "max_index_vacuum_count"),
            ),
        ),
        Panel(
            "Wraparound",
            "freeze about 1 is routine, more is not; limit at 1 is the end of all writing.",
            (
                *_each(
                    "postgres.wraparound",
                    *("xid_freeze_ratio", "mxid_freeze_ratio"),
                    *("xid_limit_ratio", "mxid_limit_ratio"),
                ),
                *_databases("worst_freeze_ratio"),
            ),
            lines=(1,),
        ),
        Panel(
            "Who takes long",
            "The oldest transaction, prepared transaction, statement, lock wait and vacuum.",
            (
                *_each(
                    "postgres.activity",
                    *("oldest_transaction_seconds", "oldest_idle_in_transaction_seconds"),
                    "oldest_active_query_seconds",
                ),
                *_each("postgres.prepared", "oldest_age_seconds"),
                *_each("postgres.lock_waits", "longest_wait_seconds"),
                *_each("postgres.vacuum", "oldest_vacuum_seconds"),
                *_each("postgres.horizon", "age_seconds"),
            ),
        ),
        Panel(
            "Locks waited for",
            "exclusive_waiting: whoever comes later waits behind it, readers too.",
            (
                *_each(
                    "postgres.lock_waits",
                    *("waiting", "exclusive_waiting", "waiting_long", "blockers"),
                ),
                *_each("postgres.prepared", "count"),
            ),
        ),
        Panel(
            "WAL kept and not yet replayed",
            "What a slot keeps fills the disk; what is left to it is safe_wal_size.",
            (
                *_each("postgres.slots", "retained_bytes", "safe_wal_size_bytes"),
                *_each("postgres.replication", "max_retained_bytes"),
                *_each("postgres.standbys", "replay_lag_bytes", "sent_lag_bytes"),
            ),
        ),
        Panel(
            "Slots and standbys",
            "wal_status 1 reserved, 2 extended, 3 unreserved, 4 lost; an inactive slot keeps WAL, "
            "and with an xmin dead rows too.",
            (
                *_each("postgres.slots", "wal_status", "active", "invalid"),
                *_each(
                    "postgres.replication",
                    *("slots", "inactive_slots", "invalid_slots", "standbys"),
                ),
                *_each("postgres.standbys", "streaming"),
            ),
        ),
        Panel(
            "Behind, in time",
            "How long standbys are behind, and slots unused (PostgreSQL 17 and later).",
            (
                *_each(
                    "postgres.standbys",
                    *("write_lag_seconds", "flush_lag_seconds", "replay_lag_seconds"),
                ),
                *_each("postgres.slots", "inactive_seconds"),
            ),
        ),
    ),
)

_CAUSES = Row(
    "What are they doing?",
    (
        Panel(
            "Connections of PgBouncer",
            "Clients and servers by what they do; sv_login for long: PostgreSQL lets nobody in.",
            (
                *_by(
                    "pgbouncer.pools",
                    *("cl_active", "sv_active", "sv_idle", "sv_used", "sv_tested", "sv_login"),
                    label="database",
                ),
                *_each("pgbouncer.lists", "used_clients", "used_servers", "login_clients"),
            ),
        ),
        Panel(
            "Limits of PgBouncer",
            "What the numbers beside it are limited by.",
            (
                *_each("pgbouncer.databases", "pool_size", "current_connections"),
                *_each("pgbouncer.databases", "max_connections", "reserve_pool_size"),
                *_each("pgbouncer.config", "max_client_conn", "max_db_connections"),
            ),
        ),
        Panel(
            "Connections of PostgreSQL",
            "Used against usable; what the pools may open together.",
            (
                *_each("postgres.connections", "used", "usable", "free"),
                *_each("postgres.overcommit", "pool_size", "pools"),
                *_databases("numbackends"),
            ),
        ),
        Panel(
            "Sessions by state",
            "idle in transaction holds locks and the horizon, and does nothing.",
            _lit("postgres.sessions"),
        ),
        Panel(
            "What sessions wait for",
            "Lock: see above. IO and LWLock: the machine. Client: the application.",
            _lit("postgres.waits"),
        ),
        Panel(
            "Transactions and trouble",
            "Rollbacks, deadlocks, lost sessions and checksum failures a second.",
            _databases(
                *("xact_commit", "xact_rollback", "deadlocks", "conflicts", "checksum_failures"),
                *("sessions", "sessions_abandoned", "sessions_fatal", "sessions_killed"),
            ),
        ),
        Panel(
            "Rows",
            "Updates and deletes make dead rows; returned far above fetched means scans.",
            _databases(
                *("tup_returned", "tup_fetched", "tup_inserted", "tup_updated", "tup_deleted"),
            ),
        ),
        Panel(
            "Time of sessions and disks",
            "1000 ms a second is one session; blk_* need track_io_timing.",
            (
                *_databases("active_time_ms", "idle_in_transaction_time_ms", "session_time_ms"),
                *_databases("blk_read_time_ms", "blk_write_time_ms"),
                *_each("postgres.checkpoints", "write_time_ms", "sync_time_ms"),
            ),
        ),
        Panel(
            "Blocks and checkpoints",
            "Blocks read against hit; checkpoints requested rather than timed: max_wal_size is "
            "too small.",
            (
                *_databases("blks_hit", "blks_read", "temp_files"),
                *_each("postgres.checkpoints", "num_timed", "num_requested", "buffers_written"),
                *_each("postgres.wal", "wal_records", "wal_fpi", "wal_buffers_full"),
            ),
        ),
        Panel(
            "Bytes written",
            "WAL and temporary files, bytes a second.",
            (*_each("postgres.wal", "wal_bytes"), *_databases("temp_bytes")),
        ),
        Panel(
            "Largest tables",
            "Where vacuum takes longest; measured rather than estimated with `sizes`.",
            (
                *_tables("size_estimate_bytes", "size_bytes"),
                *_by("postgres.tables", "indexes_size_bytes", label="database"),
                *_databases("size_bytes"),
            ),
        ),
    ),
)

_SELF = Row(
    "pgstats itself",
    (
        Panel(
            "Time of a poll",
            "Near the timeout (80 % of the interval): numbers will be missing.",
            _poll("seconds"),
        ),
        Panel(
            "What polls missed",
            "Anything but 0 is worth a `pgstats check`.",
            _poll(
                *("failed_queries", "databases_refused", "unavailable_queries", "unknown_columns"),
                *("counter_resets", "cut_queries"),
            ),
        ),
        Panel(
            "Shipping",
            "Lines a second, and those dropped; receiver_drops are the kernel's.",
            (
                *_each(
                    "self.ship",
                    *("lines", "packets", "errors", "dropped", "receiver_drops"),
                    *("skipped_values", "altered_names", "retired_series"),
                ),
                *_poll("skipped_runs"),
            ),
        ),
    ),
)

ROWS = (_HEALTH, _CLIENTS, _VACUUM, _CAUSES, _SELF)
PANELS = tuple(panel for row in ROWS for panel in row.panels)
