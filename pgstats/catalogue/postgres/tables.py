"""The tables of each database, by how much they need vacuum."""

from __future__ import annotations

from pgstats.model import POSTGRES, Metric, Query


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
