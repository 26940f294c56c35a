"""What pg_stat_database counts."""

from __future__ import annotations

from pgstats.catalogue.postgres.server import COUNTING
from pgstats.model import POSTGRES, Metric, Query


def _counter(column: str, text: str, *, unit: str = "", since: int = 0) -> Metric:
    return Metric(column, text, unit=unit, kind="total", column=f"s.{column}", since=since)


def _milliseconds(column: str, text: str, *, since: int = 0) -> Metric:
    name = f"{column}_ms"
    return Metric(name, text, unit="ms", kind="total", column=f"s.{column}", since=since)


DATABASE = Query(
    POSTGRES,
    "database",
    sql=f"""SELECT d.datname AS database,
       {{columns}}
  FROM {COUNTING},
       pg_database d JOIN pg_stat_database s ON s.datid = d.oid
 WHERE d.datname = ANY(%(databases)s)""",
    source=f"{COUNTING}, pg_database d JOIN pg_stat_database s ON s.datid = d.oid",
    labels={"database": "d.datname"},
    metrics=(
        Metric("numbackends", "Sessions connected", column="s.numbackends"),
        _counter("xact_commit", "Transactions committed"),
        _counter("xact_rollback", "Transactions rolled back"),
        _counter("blks_read", "Blocks read from disk or the kernel's cache"),
        _counter("blks_hit", "Blocks found in shared buffers"),
        _counter("tup_returned", "Rows read by scans"),
        _counter("tup_fetched", "Rows fetched by index scans"),
        _counter("tup_inserted", "Rows inserted"),
        _counter("tup_updated", "Rows updated"),
        _counter("tup_deleted", "Rows deleted"),
        _counter("conflicts", "Queries cancelled by recovery, on a standby"),
        _counter("temp_files", "Temporary files created"),
        _counter("temp_bytes", "Bytes written to temporary files", unit="bytes"),
        _counter("deadlocks", "Deadlocks found"),
        _counter("checksum_failures", "Checksum failures; not sent while checksums are off"),
        _milliseconds("blk_read_time", "Time spent reading blocks (with track_io_timing)"),
        _milliseconds("blk_write_time", "Time spent writing blocks (with track_io_timing)"),
        _milliseconds("session_time", "Time sessions were connected", since=140000),
        _milliseconds("active_time", "Time sessions spent in statements", since=140000),
        _milliseconds(
            "idle_in_transaction_time", "Time sessions were idle in a transaction", since=140000
        ),
        _counter("sessions", "Sessions started", since=140000),
        _counter("sessions_abandoned", "Sessions lost by their client", since=140000),
        _counter("sessions_fatal", "Sessions ended by a fatal error", since=140000),
        _counter("sessions_killed", "Sessions terminated by an operator", since=140000),
        _counter("parallel_workers_to_launch", "Parallel workers planned", since=180000),
        _counter("parallel_workers_launched", "Parallel workers launched", since=180000),
        Metric(
            "stats_age_seconds",
            "Time since the statistics of the database were reset (before 15: or begun), or lost"
            " with all others (see server.stats_age_seconds); not sent without server.rights_ok",
            unit="seconds",
            # A loss is no reset: it leaves no stamp here.
            column="extract(epoch FROM clock_timestamp()"
            " - CASE WHEN since IS NOT NULL THEN greatest(s.stats_reset, since) END)::float8",
        ),
        Metric(
            "xid_age_xids",
            "Transactions since the oldest unfrozen one of the database",
            unit="xids",
            column="age(d.datfrozenxid)",
        ),
        Metric(
            "mxid_age_mxids",
            "Multixacts since the oldest unfrozen one of the database",
            unit="mxids",
            column="mxid_age(d.datminmxid)",
        ),
    ),
)
