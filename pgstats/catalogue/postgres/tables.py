"""The tables of each database, by how much they need vacuum."""

from __future__ import annotations

from functools import cache

from pgstats.catalogue.postgres.heaps import (
    COUNTED,
    all_but,
    before,
    every,
    heap,
    of,
    of_page,
)
from pgstats.catalogue.postgres.server import forgetful
from pgstats.model import POSTGRES, Metric, Query

#: How much more a table must need vacuum to take the place of one that was shipped the last time.
STAY = 1.25


def _rows(name: str, text: str, *, since: int = 0) -> Metric:
    column = f"sum({name}) FILTER (WHERE own)"
    return Metric(name, text, column=f"s.{name}", sql=column, fold="sum", since=since)


def _age(name: str, text: str) -> Metric:
    return Metric(
        f"{name}_age_seconds",
        f"Time since {text}; of partitions the longest; not sent if it never was",
        unit="seconds",
        column=f"extract(epoch FROM clock_timestamp() - s.{name})::float8",
        sql=f"max(extract(epoch FROM clock_timestamp() - pg_stat_get_{name}_time(oid)))::float8",
    )


def _times(name: str, text: str) -> Metric:
    sql = f"sum(pg_stat_get_{name}(oid))::bigint"
    return Metric(name, text, kind="total", column=f"s.{name}", sql=sql)


def _spent(name: str, text: str) -> Metric:
    return Metric(
        f"{name}_ms",
        f"Time spent on {text}",
        unit="ms",
        kind="total",
        column=f"s.{name}",
        sql=f"sum(pg_stat_get_{name}(oid))",
        since=180000,
    )


TABLES = Query(
    POSTGRES,
    "tables",
    source="pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid",
    labels={"database": "", "schema": "s.schemaname", "table": "s.relname"},
    folds=True,
    per_database=True,
    primary_only=True,
    metrics=(
        _rows("n_live_tup", "Live rows, estimated"),
        _rows("n_dead_tup", "Dead rows, estimated"),
        _rows("n_mod_since_analyze", "Rows modified since the last analyze, estimated"),
        _rows("n_ins_since_vacuum", "Rows inserted since the last vacuum, estimated", since=130000),
        _age("last_vacuum", "the last manual VACUUM (not FULL)"),
        _age("last_autovacuum", "the last autovacuum"),
        _age("last_analyze", "the last manual ANALYZE"),
        _age("last_autoanalyze", "the last autoanalyze"),
        _times("vacuum_count", "Manual vacuums (not FULL)"),
        _times("autovacuum_count", "Autovacuums"),
        _times("analyze_count", "Manual analyzes"),
        _times("autoanalyze_count", "Autoanalyzes"),
        _spent("total_vacuum_time", "manual vacuums"),
        _spent("total_autovacuum_time", "autovacuums"),
        _spent("total_analyze_time", "manual analyzes"),
        _spent("total_autoanalyze_time", "autoanalyzes"),
        Metric(
            "xid_age_xids",
            "Transactions since the oldest unfrozen one of the table",
            unit="xids",
            column="age(c.relfrozenxid)",
            sql="max(xid_age)",
        ),
    ),
)

#: What autovacuum makes of them, which no view shows; see `heaps`.
NEED = Query(
    POSTGRES,
    "tables",
    labels=TABLES.labels,
    folds=True,
    per_database=True,
    primary_only=True,
    metrics=(
        Metric(
            "vacuum_trigger_ratio",
            "Above 1 autovacuum is due, by the server's own rules: the largest of the ratios below "
            "that can trigger it now, of the table, its partitions and their TOAST",
            unit="ratio",
            sql="max(ratio)",
            fold="max",
        ),
        Metric(
            "dead_ratio",
            "Dead rows by the threshold for them",
            unit="ratio",
            sql="max(dead_ratio)",
            fold="max",
        ),
        Metric(
            "insert_ratio",
            "Inserted rows by the threshold for them; not sent where that is off",
            unit="ratio",
            sql="max(insert_ratio)",
            fold="max",
        ),
        Metric(
            "freeze_ratio",
            "Age by the age from which on a vacuum is forced, of xids or multixacts",
            unit="ratio",
            sql="max(freeze_ratio)",
            fold="max",
        ),
        Metric(
            "vacuum_threshold",
            "Dead rows above which autovacuum is due; of partitions the sum",
            sql="sum(threshold) FILTER (WHERE own)",
        ),
        Metric(
            "autovacuum_disabled",
            "How many of the table and its partitions have autovacuum switched off",
            sql="count(*) FILTER (WHERE own AND NOT enabled)",
            fold="sum",
        ),
        Metric(
            "toast_n_dead_tup",
            "Dead rows of its TOAST, estimated; not sent without one",
            sql="sum(n_dead_tup) FILTER (WHERE NOT own)",
            fold="sum",
        ),
        Metric(
            "mxid_age_mxids",
            "Multixacts since the oldest unfrozen one of the table",
            unit="mxids",
            sql="max(mxid_age)",
        ),
        Metric(
            "size_estimate_bytes",
            "Size at the last vacuum or analyze, TOAST included, indexes left out",
            unit="bytes",
            sql="sum(relpages::bigint) * current_setting('block_size')::int",
            fold="sum",
        ),
    ),
)

_OF_USERS = "pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid AND c.relkind <> 'p'"

TOTALS = Query(
    POSTGRES,
    "database",
    # No SQL: the rows of TABLES, those folded included, are summed up.
    source=_OF_USERS,
    labels={"database": ""},
    primary_only=True,
    metrics=(
        *(
            Metric(
                m.name,
                f"{m.help}: sum over the user tables",
                column=f"sum({m.column})",
                since=m.since,
                fold="sum",
            )
            for m in TABLES.metrics
            if m.fold
        ),
        Metric(
            "tables",
            "User tables, partitioned parents left out",
            column="count(*)",
            sql="count(*) FILTER (WHERE own)",
            fold="sum",
        ),
    ),
)

#: What follows from the same rows, and no view shows.
NEEDS = Query(
    POSTGRES,
    "database",
    labels={"database": ""},
    primary_only=True,
    metrics=(
        Metric(
            "tables_over_trigger",
            "User tables (each partition counts) for which autovacuum is due, TOAST included",
            sql="(SELECT count(DISTINCT over)"
            " FROM unnest(array_agg(owner) FILTER (WHERE ratio > 1)) AS over)",
            fold="sum",
        ),
        Metric(
            "tables_disabled",
            "User tables with autovacuum switched off",
            sql="count(*) FILTER (WHERE own AND NOT enabled)",
            fold="sum",
        ),
        Metric(
            "tables_never_vacuumed",
            "User tables that no vacuum has come to, as far as the statistics reach",
            sql="count(*) FILTER (WHERE own AND never AND NOT lost)",
            fold="sum",
        ),
        Metric(
            "tables_without_stats",
            "User tables whose statistics were lost (crash, reset, promotion) and not renewed yet "
            "by vacuum or analyze, or may have been, since nothing was ever counted of them: their "
            "rows are unknown, and missing from the sums",
            sql="count(*) FILTER (WHERE own AND lost)",
            fold="sum",
        ),
        Metric(
            "worst_vacuum_trigger_ratio",
            "The largest vacuum_trigger_ratio of all user tables",
            unit="ratio",
            sql="max(ratio)",
            fold="max",
        ),
        Metric(
            "worst_freeze_ratio",
            "The largest freeze_ratio of all user tables",
            unit="ratio",
            sql="max(freeze_ratio)",
            fold="max",
        ),
        Metric(
            "vacuum_time_ms",
            "Time spent vacuuming user tables and their TOAST, by hand and by autovacuum",
            unit="ms",
            kind="total",
            sql="sum(pg_stat_get_total_vacuum_time(oid) + pg_stat_get_total_autovacuum_time(oid))",
            fold="sum",
            since=180000,
        ),
        Metric(
            "n_dead_tup_toast",
            "Dead rows of the TOAST of all user tables",
            sql="coalesce(sum(n_dead_tup) FILTER (WHERE NOT own), 0)",
            fold="sum",
        ),
        Metric("n_dead_tup_catalogs", "Dead rows of the system catalogs and their TOAST"),
        Metric("tables_folded", "User tables (roots of partitions count as one) in _other"),
    ),
)

#: Worked out from two polls.
DUTY = Query(
    POSTGRES,
    "database",
    labels={"database": ""},
    primary_only=True,
    metrics=(
        Metric(
            "vacuum_duty_ratio",
            "Time that the vacuums spent which ended since the last poll, by the time since then: "
            "above 1 where several work, or a long one has ended; not sent at the first poll",
            unit="ratio",
            since=180000,
        ),
    ),
)

_NEVER = """pg_stat_get_last_autovacuum_time(oid) IS NULL
         AND pg_stat_get_last_vacuum_time(oid) IS NULL"""

#: Since the statistics of a table were lost, its rows are unknown. Only CREATE INDEX, VACUUM FULL
#: and CLUSTER count rows besides a vacuum or analyze, and exactly. Where none has come yet the rows
#: inserted tell: none of a table that rows were deleted of, or, after a loss, of any, which is then
#: empty or forgotten.
#:
#: Those inserted since the last vacuum are among them, and told already: mostly that is enough.
_LOST = f"""NOT (n_ins_since_vacuum > 0 AND n_ins_since_vacuum >= reltuples)
         AND CASE WHEN reltuples > 0 THEN pg_stat_get_tuples_inserted(oid)::float4 < reltuples
             ELSE ((SELECT forgetful FROM memory) OR pg_stat_get_tuples_updated(oid) > 0
                   OR pg_stat_get_tuples_deleted(oid) > 0)
                  AND pg_stat_get_tuples_inserted(oid) = 0 END
         AND {_NEVER}
         AND pg_stat_get_last_autoanalyze_time(oid) IS NULL
         AND pg_stat_get_last_analyze_time(oid) IS NULL"""

_EXCLUDED = """persistent = 't' OR (
               owner_schema || '.' || owner_name ~ ANY(%(exclude_tables)s)
               AND NOT owner_schema || '.' || owner_name ~ ANY(%(keep_tables)s))"""

_NEED = "greatest(ratio, dead_ratio, 0)"
_NEED_OF_MEMBERS = f"""{_NEED}
           * CASE WHEN root = ANY(%(members)s) THEN {STAY} ELSE 1 END"""
_DEAD = "CASE WHEN own THEN coalesce(n_dead_tup, 0) ELSE 0 END"

#: The roots that need vacuum most. Of those that are no partitions twice as many heaps hold enough,
#: since such a root has no heaps but itself and its TOAST: so only partitions are grouped.
_CHOSEN = f"""chosen AS MATERIALIZED (
    SELECT root FROM (
        (SELECT root, {_NEED_OF_MEMBERS} AS need, {_DEAD} AS dead
           FROM {{roots}} WHERE NOT apart AND root = owner
          ORDER BY need DESC, dead DESC, root LIMIT 2 * %(tables)s)
         UNION ALL
        SELECT root, max({_NEED_OF_MEMBERS}), sum({_DEAD}) FROM {{leaves}}
         WHERE NOT apart AND root <> owner GROUP BY root
    ) AS candidate
     GROUP BY root ORDER BY max(need) DESC, sum(dead) DESC, root LIMIT %(tables)s
)"""
#: Of a root: its tables, and those that have more dead rows than their thresholds.
_OIDS = "array_agg(oid::bigint) FILTER (WHERE own)"
_OVER = "array_agg(DISTINCT owner::bigint) FILTER (WHERE dead_ratio > 1)"
_FIRST = f"max({_NEED}) FILTER (WHERE NOT apart)"  # what the neediest would be chosen by
_MEMBERS = "chosen AS MATERIALIZED (SELECT unnest(%(members)s::oid[]) AS root)"

#: The tables that the chosen roots consist of.
_CONSISTING = """(SELECT root AS oid, root FROM chosen
         UNION ALL SELECT tree.oid, root FROM tree JOIN chosen USING (root))"""


#: Up to so many tables of a database the server remembers all heaps of one scan, and chooses among
#: them. With more it would need temporary files for that, and to plan it all at once takes memory
#: that a kept backend keeps: they are chosen, asked for and summed up by three statements.
FEW = 5000

#: Whether a database has more; nothing is counted beyond that.
MANY = f"""SELECT count(*) > {FEW} FROM (
    SELECT FROM pg_class WHERE relkind IN ('r', 'm') LIMIT {FEW} + 1) AS tables"""


@cache
def select(version: int, *, globs: bool, complete: bool = True) -> str:
    """The SQL of all four queries for few tables: a row for each one chosen, and one for the rest.

    Its parameters are the settings of autovacuum, ``tables``, how many are chosen, and ``members``,
    the oids of those chosen before. With ``globs`` there are regular expressions as well,
    ``exclude_tables`` and ``keep_tables``. Unless the statistics are known to be ``complete``, a
    table of which nothing is counted may have been forgotten.
    """
    counted = _counted(version, every(), globs=globs)
    chosen = _CHOSEN.format(roots="counted", leaves="counted")
    others = "NOT EXISTS (SELECT FROM chosen WHERE chosen.root = counted.root)"
    return f"""{_with(version, complete=complete)}, counted AS {counted}, {chosen}
{_shown(version, "counted JOIN chosen USING (root)")}
UNION ALL
{_row(version, f"counted WHERE {others}")}"""


@cache
def choice(version: int, *, globs: bool, complete: bool = True) -> str:
    """Of many tables: the roots to choose, each a row. The parameters are the same."""
    roots, leaves = (_counted(version, heaps, globs=globs) for heaps in (every(), of("tree")))
    chosen = _CHOSEN.format(roots=f"{roots} AS counted", leaves=f"{leaves} AS counted")
    return f"""{_with(version, complete=complete)}, {chosen}
SELECT root::bigint FROM chosen"""


@cache
def named(version: int, *, globs: bool, complete: bool = True) -> str:
    """Of many tables: a row for each root of ``members``.

    ``heaps`` are its own, those of partitions and of TOAST included; ``need`` is what it would be
    chosen by, unless it is to be folded.
    """
    counted = _counted(version, of(_CONSISTING), globs=globs)
    more = f", {_FIRST} AS need, array_agg(oid::bigint) AS heaps"
    return f"""{_with(version, complete=complete)}, {_MEMBERS}
{_shown(version, f"{counted} AS counted JOIN chosen USING (root)", more)}"""


@cache
def rest(version: int, *, globs: bool, complete: bool = True, named: bool = True) -> str:
    """Of many tables: a row of all whose heaps are not among ``heaps``, or of all there are.

    ``need`` is what the first of them would be chosen by.
    """
    but = "SELECT unnest(%(heaps)s::oid[])" * named
    need = f", {_FIRST} AS need" * named
    counted = _counted(version, all_but(but), globs=globs)
    return f"""{_with(version, complete=complete)}
{_row(version, f"{counted} AS counted", need)}"""


#: Tables in a page: all of one is in memory at once, but each is planned anew (5 ms).
PAGE = 3000


@cache
def paged(version: int, *, globs: bool, heaps: bool = False, complete: bool = True) -> str:
    """The SQL of the same four queries, all tables shown: a page of them, and what is folded there.

    A page is up to ``page`` trees of tables whose root's oid is higher than ``after``: each tree
    is of one page, whatever is created or dropped in between. The last row is of what is folded;
    its ``page`` has what is true of the whole page: ``next`` is after which oid more may come. The
    oids of each table's heaps are told if ``heaps`` are wanted.
    """
    each, detail, more = _metrics(version)
    oids = f", {_OIDS} AS oids" * heaps
    return f"""WITH RECURSIVE {before(version, paged=True)},
{_memory(version, complete=complete)},
counted AS MATERIALIZED {_counted(version, of_page(), globs=globs)}
SELECT n.nspname::text AS schema, c.relname::text AS "table",
       root::bigint AS root{", oids" * heaps}, over, NULL::json AS page,
       {", ".join(m.name for m in (*each, *detail))}
  FROM (SELECT root, {_OVER} AS over{oids},
       {_listed([*each, *detail])}
          FROM counted WHERE NOT apart AND root IS NOT NULL GROUP BY root) AS shown
       JOIN page c ON c.oid = root JOIN pg_namespace n ON n.oid = c.relnamespace
UNION ALL
SELECT NULL, NULL, NULL{", NULL" * heaps}, NULL, (SELECT to_json(page) FROM (
           SELECT (SELECT max(oid)::bigint FROM page HAVING count(*) = %(page)s) AS next,
                  count(*) FILTER (WHERE own AND apart) AS tables_folded,
                  sum(catalog_dead)::bigint AS n_dead_tup_catalogs,
                  {", ".join(map(_rest, more))}
             FROM counted) AS page),
       {", ".join(map(_rest, each))}, {", ".join("NULL" for _ in detail)}
  FROM counted WHERE apart OR root IS NULL"""


def _metrics(version: int) -> tuple[list[Metric], list[Metric], list[Metric]]:
    """Those of each table that are summed up, those that are not; and what are sums alone."""
    each = [m for query in (TABLES, NEED) for m in query.on(version)]
    names = {m.name for m in each if m.fold}
    totals = [m for query in (TOTALS, NEEDS) for m in query.on(version)]
    return (
        [m for m in each if m.fold],
        [m for m in each if not m.fold],
        [m for m in totals if m.sql and m.name not in names],
    )


def _memory(version: int, *, complete: bool) -> str:
    return f"""memory AS MATERIALIZED (
    SELECT {forgetful(version) if complete else "true"} AS forgetful
)"""


def _counted(version: int, source: str, *, globs: bool) -> str:
    """The heaps of a source, user tables' with a ``root``, and what is known of them.

    ``apart`` are in `_other` whatever comes. What the catalogs have stands in ``catalog_dead``
    alone.
    """
    more = f""",
         {_NEVER} AS never, {_LOST} AS lost,
         NOT catalog AND {COUNTED} AS counts,
         CASE WHEN NOT catalog THEN relkind <> 't' END AS own,
         {_EXCLUDED if globs else "persistent = 't'"} AS apart"""
    known = "counts AND NOT lost"
    counts = ("n_live_tup", "n_dead_tup", "n_mod_since_analyze", "n_ins_since_vacuum")
    return f"""(
    SELECT lost, never, apart, enabled, threshold, xid_age, mxid_age, own, owner,
           CASE WHEN NOT catalog THEN oid END AS oid,
           CASE WHEN NOT catalog THEN CASE WHEN apart THEN owner ELSE root END END AS root,
           relispartition AND NOT apart AS leaf,
           CASE WHEN NOT catalog THEN relpages END AS relpages,
           {_where(known, *counts, "dead_ratio", "insert_ratio")},
           CASE WHEN NOT catalog THEN freeze_ratio END AS freeze_ratio,
           CASE WHEN {known} THEN ratio WHEN NOT catalog THEN freeze_ratio END AS ratio,
           CASE WHEN catalog AND NOT lost AND {COUNTED}
                THEN n_dead_tup END AS catalog_dead
      FROM ({heap(version, source, more)}) AS heap
    OFFSET 0
)"""


def _where(condition: str, *columns: str) -> str:
    return ", ".join(f"CASE WHEN {condition} THEN {name} END AS {name}" for name in columns)


#: Each table that is no partition is a root, and of partitions there is one above.
_FOLDED = """count(*) FILTER (WHERE own AND NOT leaf) + (
           SELECT count(*) FROM (
               SELECT FROM unnest(array_agg(oid) FILTER (WHERE own AND leaf)) AS leaf(oid)
                      JOIN tree USING (oid) GROUP BY tree.root) AS roots)"""


def _with(version: int, *, complete: bool) -> str:
    """What every statement begins with."""
    return f"WITH RECURSIVE {before(version)}, {_memory(version, complete=complete)}"


def _shown(version: int, heaps: str, more: str = "") -> str:
    """A row for each root of some heaps, with ``more`` columns."""
    each, detail, sums = _metrics(version)
    metrics = [*each, *sums, *detail]
    return f"""SELECT n.nspname::text AS schema, c.relname::text AS "table", shown.*,
       0 AS tables_folded, NULL::bigint AS n_dead_tup_catalogs
  FROM (SELECT root::bigint, {_OIDS} AS oids, {_OVER} AS over,
       {_listed(metrics)}{more}
          FROM {heaps} GROUP BY root) AS shown
       JOIN pg_class c ON c.oid = root JOIN pg_namespace n ON n.oid = c.relnamespace"""


def _row(version: int, heaps: str, more: str = "") -> str:
    """A row of all of some heaps, with the same columns and ``more``."""
    each, detail, sums = _metrics(version)
    listed = [*map(_rest, [*each, *sums]), *(f"NULL AS {m.name}" for m in detail)]
    return f"""SELECT NULL AS schema, NULL AS "table",
       NULL AS root, NULL AS oids, NULL AS over,
       {", ".join(listed)}{more},
       {_FOLDED} AS tables_folded, sum(catalog_dead)::bigint AS n_dead_tup_catalogs
  FROM {heaps}"""


def _listed(metrics: list[Metric]) -> str:
    return ",\n       ".join(f"({m.sql}){_whole(m)} AS {m.name}" for m in metrics)


def _whole(metric: Metric) -> str:
    """Sums of bigint are numeric, which is slow to read."""
    return "::bigint" if metric.fold == "sum" or metric.unit == "xids" else ""


def _rest(metric: Metric) -> str:
    """A metric of all that are folded: over no table a sum is 0, over unknown ones unknown."""
    if metric.fold == "max":
        return f"{metric.sql} AS {metric.name}"
    return f"(CASE WHEN count(own) = 0 THEN 0 ELSE {metric.sql} END)::bigint AS {metric.name}"
