"""What autovacuum sees of each heap of a database, and what it decides: SQL to build upon.

A heap is what holds rows: a table, a materialized view, or the TOAST table of one of them. The
rules are those of relation_needs_vacanalyze in PostgreSQL's autovacuum.c, in its own arithmetic
(single precision), so that ``ratio > 1`` is its decision and not an estimate of it.
"""

from collections.abc import Callable
from typing import NamedTuple


class _Parameter(NamedTuple):
    """One of autovacuum's parameters: a setting, which an option of a heap can override.

    ``option`` is the storage parameter's name where it is not the setting's. A server before
    ``since`` has neither, and does as if it were ``before``.
    """

    name: str
    type: str = "int"
    option: str = ""
    since: int = 0
    before: str = ""

    def setting(self, version: int) -> str:
        """Its setting as a column of its name."""
        value = f"current_setting('{self.name}')" if version >= self.since else self.before
        return f"{value}::{self.type} AS {self.name}"

    def given(self) -> str:
        """Its option as a number, which stands as somebody typed it: off, no, 0, 1e3, 0x32."""
        value = "value::bool::int" if self.type == "bool" else "value::float8"
        return f"max({value}) FILTER (WHERE name = '{self.option or self.name}')"


_PARAMETERS = (
    _Parameter("autovacuum", "bool", "autovacuum_enabled"),
    _Parameter("autovacuum_vacuum_threshold"),
    _Parameter("autovacuum_vacuum_scale_factor", "float4"),
    _Parameter("autovacuum_vacuum_max_threshold", since=180000, before="-1"),
    _Parameter("autovacuum_vacuum_insert_threshold"),
    _Parameter("autovacuum_vacuum_insert_scale_factor", "float4"),
    _Parameter("autovacuum_freeze_max_age"),
    _Parameter("autovacuum_multixact_freeze_max_age"),
)

#: Each parameter's option as an element of the array that holds a heap's.
_OPTION = {parameter.name: f"options[{at}]" for at, parameter in enumerate(_PARAMETERS, 1)}

#: Options are looked into only where there are any, which is seldom.
_OPTIONS = f"""CASE WHEN c.reloptions IS NOT NULL THEN (
           SELECT ARRAY[{", ".join(parameter.given() for parameter in _PARAMETERS)}]
             FROM pg_options_to_table(c.reloptions) AS option(name, value)
         )::float8[] END"""


def _setting(name: str) -> str:
    """A parameter's setting, read once: a join would carry it along with every row."""
    return f"(SELECT {name} FROM setting)"


def _option(name: str) -> str:
    """A parameter as it holds for a heap with options, in single precision as the server has it."""
    return f"coalesce({_OPTION[name]}::float4, {_setting(name)})"


def _part(rows: str, threshold: str) -> str:
    """Rows by their threshold, NULL where that is; more than none are more than a threshold of 0.

    Half a row counts as a threshold below, so that the ratio is a number and above 1 then.
    """
    least = f"CASE WHEN {threshold} < 0.5 THEN 0.5 ELSE {threshold} END"
    return f"{rows}::float4::float8 / {least}"


#: The partitions below each topmost partitioned table. Nothing is looked up where there are none.
_TREE = """tree AS (
    SELECT i.inhrelid AS oid, i.inhparent AS root
      FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
     WHERE p.relkind = 'p' AND NOT p.relispartition
     UNION ALL
    SELECT i.inhrelid, tree.root FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
)"""


#: Tables, then the TOAST of those that have some, with what is its owner's. A TOAST table without
#: any options has those of its table.
_OWNED = """SELECT t.oid, t.oid AS owner, t.relkind, t.relname, t.relname AS owner_name,
                 t.relnamespace AS namespace, t.relispartition, t.relpersistence, t.reloptions,
                 t.reltuples, t.relpages, t.relfrozenxid, t.relminmxid{frozen}
            FROM pg_class t WHERE t.relkind IN ('r', 'm')
           UNION ALL
          SELECT t.oid, o.oid, t.relkind, t.relname, o.relname, o.relnamespace,
                 o.relispartition, t.relpersistence, coalesce(t.reloptions, o.reloptions),
                 t.reltuples, t.relpages, t.relfrozenxid, t.relminmxid{frozen}
            FROM pg_class o JOIN pg_class t ON t.oid = o.reltoastrelid AND t.relkind = 't'
           WHERE o.relkind IN ('r', 'm') AND o.reltoastrelid <> 0"""


def _threshold(of: Callable[[str], str]) -> str:
    base, scale, cap = (
        of(f"autovacuum_vacuum_{name}") for name in ("threshold", "scale_factor", "max_threshold")
    )
    whole = f"{base} + {scale} * reltuples"
    return f"CASE WHEN {cap} >= 0 THEN least({whole}, {cap}) ELSE {whole} END"


def _insert_threshold(of: Callable[[str], str]) -> str:
    base, scale = (of(f"autovacuum_vacuum_insert_{name}") for name in ("threshold", "scale_factor"))
    return f"CASE WHEN {base} >= 0 THEN {base} + {scale} * reltuples * unfrozen END"


def _by_options(expression: Callable[[Callable[[str], str]], str]) -> str:
    """An expression of parameters, whose options are looked at only where there are any."""
    plain, own = expression(_setting), expression(_option)
    return f"CASE WHEN options IS NULL THEN {plain} ELSE {own} END"


def _limit(name: str) -> str:
    return f"least({_OPTION[name]}, {_setting(name)})"


def heaps(version: int, where: str = "true") -> str:
    """Common table expressions for ``WITH RECURSIVE``, of which the last one is ``heap``.

    One row for each heap that meets ``where``, a condition on ``c.oid`` and ``c.owner``. No
    relation is locked. The columns of ``heap``:

    ====================== ====================================================================
    oid, relkind           of the heap: r table, m materialized view, t TOAST
    owner                  oid of the table that a TOAST table belongs to; else its own
    root                   oid of the topmost partitioned table above the owner; else the owner
    schema, name           of the heap itself: of TOAST ``pg_toast``, ``pg_toast_16385``
    namespace              oid of the owner's schema
    owner_schema           of the owner
    owner_name             of the owner
    persistent             relpersistence: p permanent, u unlogged, t temporary
    n_live_tup             rows, estimated
    n_dead_tup             rows, estimated
    n_ins_since_vacuum     rows, estimated
    n_mod_since_analyze    rows, estimated
    reltuples              rows at the last vacuum or analyze; 0 where there was none
    relpages               pages at the last vacuum or analyze
    relallfrozen           of them all-frozen; 0 before 18
    enabled                whether its options let autovacuum come. A TOAST table has options of
                           its own or, with none at all, those of its table
    threshold              more dead rows than this trigger a vacuum
    insert_threshold       more inserted rows than this trigger one; NULL for never
    xid_age, mxid_age      xids, mxids since the oldest unfrozen one; NULL where there is none
    xid_limit, mxid_limit  the ages above which a vacuum is forced. The server lowers the second
                           while members of multixacts fill up, which it does not tell
    dead_ratio             n_dead_tup by threshold
    insert_ratio           n_ins_since_vacuum by insert_threshold; NULL for never
    freeze_ratio           the larger one of both ages by their limits
    ratio                  the largest of those that can trigger a vacuum now: freeze_ratio alone
                           where autovacuum is off, for the heap or for all, or nothing is counted.
                           NULL for a temporary table, which is never vacuumed for its session
    ====================== ====================================================================

    A heap that has no statistics is skipped by autovacuum unless forced: its counts, and so the
    ratios of them, are 0.
    """
    settings = ", ".join(parameter.setting(version) for parameter in _PARAMETERS)
    return f"""setting AS MATERIALIZED (
  SELECT {settings}, current_setting('track_counts')::bool AS track_counts
), {_TREE}, heap AS NOT MATERIALIZED (
  {_judged(version, where)}
)"""


def _judged(version: int, where: str) -> str:
    frozen = "least(c.relallfrozen, c.relpages)" if version >= 180000 else "0"
    unfrozen = f"CASE WHEN c.relpages > 0 THEN 1 - {frozen}::float4 / c.relpages::float4 ELSE 1 END"
    active = f"enabled AND {_setting('autovacuum')} AND {_setting('track_counts')}"
    # OFFSET 0 keeps what a level has computed: the next one would compute it wherever it is named.
    return f"""SELECT *, CASE WHEN persistent <> 't' THEN greatest(freeze_ratio,
           CASE WHEN {active} THEN greatest(dead_ratio, insert_ratio) END) END AS ratio
    FROM (
  SELECT *, {_part("n_dead_tup", "threshold")} AS dead_ratio,
         {_part("n_ins_since_vacuum", "insert_threshold")} AS insert_ratio,
         greatest(xid_age / xid_limit, mxid_age / mxid_limit) AS freeze_ratio
    FROM (
  SELECT *, options IS NULL OR coalesce({_OPTION["autovacuum"]} <> 0, true) AS enabled,
         {_by_options(_threshold)}::float8 AS threshold,
         {_by_options(_insert_threshold)}::float8 AS insert_threshold,
         {_limit("autovacuum_freeze_max_age")} AS xid_limit,
         {_limit("autovacuum_multixact_freeze_max_age")} AS mxid_limit
    FROM (
  SELECT c.oid, c.relkind, c.owner, coalesce(tree.root, c.owner) AS root,
         CASE WHEN c.relkind = 't' THEN 'pg_toast' ELSE n.nspname END AS schema, c.relname AS name,
         c.namespace, n.nspname AS owner_schema, c.owner_name, c.relpersistence AS persistent,
         pg_stat_get_live_tuples(c.oid) AS n_live_tup,
         pg_stat_get_dead_tuples(c.oid) AS n_dead_tup,
         pg_stat_get_ins_since_vacuum(c.oid) AS n_ins_since_vacuum,
         pg_stat_get_mod_since_analyze(c.oid) AS n_mod_since_analyze,
         greatest(c.reltuples, 0) AS reltuples, c.relpages, {frozen} AS relallfrozen,
         {unfrozen if version >= 180000 else "1"}::float4 AS unfrozen,
         nullif(age(c.relfrozenxid), 2147483647) AS xid_age,
         nullif(mxid_age(c.relminmxid), 2147483647) AS mxid_age,
         {_OPTIONS} AS options
    FROM ({_OWNED.format(frozen=", t.relallfrozen" * (version >= 180000))}) AS c
         LEFT JOIN tree ON tree.oid = CASE WHEN c.relispartition THEN c.owner END
         LEFT JOIN pg_namespace n ON n.oid = c.namespace
   WHERE {where}
  OFFSET 0) AS seen
  OFFSET 0) AS judged
  OFFSET 0) AS measured"""
