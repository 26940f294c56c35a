"""What PostgreSQL is asked: one `Query` for each SELECT.

``column`` of a metric is what psql would show over the ``source`` of its query; ``sql`` asks the
same for less. Every name is found in pg_catalog, since the search path of pgstats is empty.
"""

from __future__ import annotations

from pgstats.model import POSTGRES, Metric, Query

#: The databases there are. Their names are bytes, since nobody says in which encoding. The start of
#: the server is its identity: any role may read it, and it is another one after a failover to a
#: standby too, whose counters differ while its system identifier does not. A connection limit of
#: -2 marks what an interrupted DROP DATABASE left behind; 0 lets nobody in.
DISCOVER = """SELECT textsend(datname::text) AS datname, datname = current_database() AS here,
       extract(epoch FROM pg_postmaster_start_time())::text AS started,
       has_database_privilege(oid, 'CONNECT') AS open
  FROM pg_database
 WHERE datallowconn AND NOT datistemplate AND datconnlimit NOT IN (-2, 0)
 ORDER BY datname"""

SERVER = Query(
    POSTGRES,
    "server",
    sql="SELECT {columns}",
    source="(VALUES (1)) AS server",
    metrics=(
        Metric(
            "version",
            "Version of the server as a number, 150018 for 15.18",
            column="current_setting('server_version_num')::int",
        ),
        Metric("in_recovery", "1 on a standby", column="pg_is_in_recovery()::int"),
        Metric(
            "uptime_seconds",
            "Time since the server was started",
            unit="seconds",
            column="extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8",
        ),
        Metric(
            "max_connections",
            "Connections allowed, those reserved for superusers included",
            column="current_setting('max_connections')::int",
        ),
    ),
)


def _counter(column: str, text: str, *, since: int = 0) -> Metric:
    return Metric(column, text, kind="total", column=f"s.{column}", since=since)


def _milliseconds(column: str, text: str, *, since: int = 0) -> Metric:
    name = f"{column}_ms"
    return Metric(name, text, unit="ms", kind="total", column=f"s.{column}", since=since)


DATABASE = Query(
    POSTGRES,
    "database",
    sql="""SELECT d.datname AS database,
       {columns}
  FROM pg_database d JOIN pg_stat_database s ON s.datid = d.oid
 WHERE d.datname = ANY(%(databases)s)""",
    source="pg_database d JOIN pg_stat_database s ON s.datid = d.oid",
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
        _counter("temp_bytes", "Bytes written to temporary files"),
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
            "Time since these counters were reset; not sent if they never were",
            unit="seconds",
            column="extract(epoch FROM clock_timestamp() - s.stats_reset)::float8",
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


def _age(name: str, text: str) -> Metric:
    return Metric(
        f"{name}_age_seconds",
        f"Time since {text}; not sent if it never was",
        unit="seconds",
        column=f"extract(epoch FROM clock_timestamp() - s.{name})::float8",
        sql=f"extract(epoch FROM clock_timestamp() - pg_stat_get_{name}_time(c.oid))::float8",
    )


def _times(name: str, text: str) -> Metric:
    return Metric(name, text, kind="total", column=f"s.{name}", sql=f"pg_stat_get_{name}(c.oid)")


def _rows(name: str, text: str, function: str, *, since: int = 0) -> Metric:
    return Metric(name, text, column=f"s.{name}", sql=f"{function}(c.oid)", fold="sum", since=since)


TABLES = Query(
    POSTGRES,
    "tables",
    # One pass over pg_class with the statistics functions: the view would join and group pg_index
    # as well. Only what ranks or is summed is computed for every table, the rest for those chosen.
    sql="""WITH setting AS MATERIALIZED (
    SELECT current_setting('autovacuum_vacuum_threshold')::float8 AS base,
           current_setting('autovacuum_vacuum_scale_factor')::float8 AS scale
), counted AS MATERIALIZED (
    SELECT c.oid, c.relpersistence = 't'
           OR n.nspname || '.' || c.relname ~ ANY(%(exclude_tables)s) AS apart,
           CASE WHEN c.reloptions IS NULL THEN base + scale * greatest(c.reltuples, 0)
                ELSE (SELECT coalesce(max(o.option_value::float8)
                                 FILTER (WHERE o.option_name = 'autovacuum_vacuum_threshold'), base)
                           + coalesce(max(o.option_value::float8)
                                 FILTER (WHERE o.option_name = 'autovacuum_vacuum_scale_factor'),
                                      scale) * greatest(c.reltuples, 0)
                        FROM pg_options_to_table(c.reloptions) o
                       WHERE o.option_name IN ('autovacuum_vacuum_threshold',
                                               'autovacuum_vacuum_scale_factor'))
           END AS threshold,
       {each}
      FROM setting, pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'm')
       AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast'
), chosen AS MATERIALIZED (
    SELECT * FROM counted WHERE NOT apart
     ORDER BY n_dead_tup / greatest(threshold, 1) DESC, n_dead_tup DESC, oid LIMIT %(tables)s
)
SELECT n.nspname::text AS schema, c.relname::text AS "table", 1 AS tables,
       {rest}
  FROM chosen JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
UNION ALL
SELECT NULL, NULL, count(*),
       {folded}
  FROM counted WHERE NOT EXISTS (SELECT FROM chosen WHERE chosen.oid = counted.oid)""",
    source="pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid",
    labels={"database": "", "schema": "s.schemaname", "table": "s.relname"},
    ignored=("tables",),
    per_database=True,
    primary_only=True,
    metrics=(
        _rows("n_live_tup", "Live rows, estimated", "pg_stat_get_live_tuples"),
        _rows("n_dead_tup", "Dead rows, estimated", "pg_stat_get_dead_tuples"),
        _rows(
            "n_mod_since_analyze",
            "Rows modified since the last analyze, estimated",
            "pg_stat_get_mod_since_analyze",
        ),
        _rows(
            "n_ins_since_vacuum",
            "Rows inserted since the last vacuum, estimated",
            "pg_stat_get_ins_since_vacuum",
            since=130000,
        ),
        _age("last_vacuum", "the last manual VACUUM (not FULL)"),
        _age("last_autovacuum", "the last autovacuum"),
        _age("last_analyze", "the last manual ANALYZE"),
        _age("last_autoanalyze", "the last autoanalyze"),
        _times("vacuum_count", "Manual vacuums (not FULL)"),
        _times("autovacuum_count", "Autovacuums"),
        _times("analyze_count", "Manual analyzes"),
        _times("autoanalyze_count", "Autoanalyzes"),
        Metric(
            "xid_age_xids",
            "Transactions since the oldest unfrozen one of the table",
            unit="xids",
            column="age(c.relfrozenxid)",
        ),
    ),
)

TOTALS = Query(
    POSTGRES,
    "database",
    # No SQL: the rows of TABLES, those folded included, are summed up.
    source="pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid AND c.relkind <> 'p'",
    labels={"database": ""},
    primary_only=True,
    metrics=(
        *(
            Metric(
                m.name,
                f"{m.help}: sum over the user tables",
                column=f"sum({m.column})",
                since=m.since,
            )
            for m in TABLES.metrics
            if m.fold
        ),
        Metric("tables", "User tables, partitioned parents left out", column="count(*)"),
    ),
)

QUERIES = (SERVER, DATABASE, TABLES, TOTALS)

#: Databases of the vendors of managed servers, which let nobody in.
VENDORS = ("rdsadmin", "cloudsqladmin", "azure_maintenance", "azure_sys")
