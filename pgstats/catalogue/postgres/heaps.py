"""What autovacuum sees of each heap of a database, and what it decides: SQL to build upon.

A heap is what holds rows: a table, a materialized view, or the TOAST table of one of them. The
rules are those of relation_needs_vacanalyze in PostgreSQL's autovacuum.c, in its own arithmetic
(single precision), so that ``ratio > 1`` is its decision and not an estimate of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pgstats.noun import Noun


class _Parameter(Noun):
    """One of autovacuum's parameters: a setting, which an option of a heap can override.

    ``option`` is the storage parameter's name where it is not the setting's. A server that has
    neither does as if it were ``before``.
    """

    name: str
    type: str = "int"
    option: str = ""
    before: str = ""

    def read(self) -> str:
        """Its setting, as it is read."""
        value = f"current_setting('{self.name}')"
        if self.before:
            value = f"coalesce(current_setting('{self.name}', true), '{self.before}')"
        return f"{value}::{self.type}"

    def given(self) -> str:
        """Its option as a number, which stands as somebody typed it: off, no, 0, 1e3, 0x32.

        Where there is none the setting holds, and of ages the lower one does.
        """
        value = "value::bool::int" if self.type == "bool" else "value::float8"
        option = f"max({value}) FILTER (WHERE name = '{self.option or self.name}')"
        if self.type == "bool":
            return f"coalesce({option}, 1)"
        of = "least" if self.name.endswith("_age") else "coalesce"
        return f"{of}({option}, {_setting(self.name)})"


_PARAMETERS = (
    _Parameter("autovacuum", "bool", "autovacuum_enabled"),
    _Parameter("autovacuum_vacuum_threshold"),
    _Parameter("autovacuum_vacuum_scale_factor", "float4"),
    _Parameter("autovacuum_vacuum_max_threshold", before="-1"),
    _Parameter("autovacuum_vacuum_insert_threshold"),
    _Parameter("autovacuum_vacuum_insert_scale_factor", "float4"),
    _Parameter("autovacuum_freeze_max_age"),
    _Parameter("autovacuum_multixact_freeze_max_age"),
)

_TYPES = {parameter.name: parameter.type for parameter in _PARAMETERS}


def _setting(name: str) -> str:
    """A parameter's setting: each statement would take a tenth more to read it where it is used."""
    return f"%({name})s::{_TYPES[name]}"


#: The settings, as columns named like the parameters that all have who ask for heaps. Databases of
#: a cluster have the same ones; what one of them, or a role, can set for itself is not here.
SETTINGS = {parameter.name: parameter.read() for parameter in _PARAMETERS}
READ = ", ".join(f"{value} AS {name}" for name, value in SETTINGS.items())

#: Each parameter's option as an element of the array that holds a heap's.
_OPTION = {parameter.name: f"options[{at}]" for at, parameter in enumerate(_PARAMETERS, 1)}

#: Options are looked into only where there are any, which is seldom.
_OPTIONS = f"""CASE WHEN c.reloptions IS NOT NULL THEN (
           SELECT ARRAY[{", ".join(parameter.given() for parameter in _PARAMETERS)}]
             FROM pg_options_to_table(c.reloptions) AS option(name, value)
         )::float8[] END"""


def _option(name: str) -> str:
    """A parameter as it holds for a heap with options, in single precision as the server has it."""
    return f"{_OPTION[name]}::float4"


def _part(rows: str, threshold: str) -> str:
    """Rows by their threshold; more than none are more than a threshold of 0.

    Half a row counts as a threshold below, so that the ratio is a number and above 1 then.
    """
    return (
        f"CASE WHEN {rows} > 0 THEN {rows}::float4::float8 / greatest({threshold}, 0.5) ELSE 0 END"
    )


#: The partitions below each topmost partitioned table. Nothing is looked up where there are none.
_TREE = """tree AS (
    SELECT i.inhrelid AS oid, i.inhparent AS root
      FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
     WHERE p.relkind = 'p' AND NOT p.relispartition
     UNION ALL
    SELECT i.inhrelid, tree.root FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid
)"""


#: The same of one page alone: of so many tables that are nobody's partitions, by their oids.
#: ``branch`` are all tables of these trees. What LATERAL and OFFSET fence off is looked up by an
#: index, row by row: a join would come to read the whole of a catalog at each page.
_PAGE = """page AS MATERIALIZED (
    SELECT {columns} FROM pg_class
     WHERE oid > %(after)s::oid AND relkind IN ('r', 'm', 'p') AND NOT relispartition
     ORDER BY oid LIMIT %(page)s
), tree AS (
    SELECT i.inhrelid AS oid, page.oid AS root
      FROM page CROSS JOIN LATERAL (
           SELECT inhrelid FROM pg_inherits WHERE inhparent = page.oid OFFSET 0) AS i
     WHERE page.relkind = 'p'
     UNION ALL
    SELECT i.inhrelid, tree.root
      FROM tree CROSS JOIN LATERAL (
           SELECT inhrelid FROM pg_inherits WHERE inhparent = tree.oid OFFSET 0) AS i
), branch AS MATERIALIZED (
    SELECT {columns}, oid AS root FROM page
     UNION ALL
    SELECT leaf.*, tree.root
      FROM tree CROSS JOIN LATERAL (
           SELECT {columns} FROM pg_class WHERE oid = tree.oid OFFSET 0) AS leaf
)"""
_COLUMNS = """oid, relkind, relname, relnamespace, relpersistence, reltuples, relpages,
           relfrozenxid, relminmxid{frozen}, relispartition, reloptions, reltoastrelid"""

_HEAP = """t.oid, t.relkind, t.relname, t.relpersistence, t.reltuples, t.relpages,
                 t.relfrozenxid, t.relminmxid{frozen}"""

#: What there is to know of a table, and of TOAST: much is its owner's. Without any options it has
#: those of its table.
_TABLE = f"""SELECT {_HEAP}, t.oid AS owner, t.relname AS owner_name, t.relnamespace AS namespace,
                 t.relispartition, t.reloptions"""
_TOAST = f"""SELECT {_HEAP}, o.oid, o.relname, o.relnamespace,
                 o.relispartition, coalesce(t.reloptions, o.reloptions)"""

#: Where it makes no difference whose a TOAST table is, that is not looked up but read off its name,
#: pg_toast_16385.
_CALM = f"""SELECT {_HEAP},
                 CASE WHEN t.relkind <> 't' THEN t.oid
                      WHEN ltrim(substr(t.relname::text, 10), '0123456789') = ''
                      THEN nullif(substr(t.relname::text, 10), '')::oid END AS owner,
                 t.relname AS owner_name, t.relnamespace AS namespace, t.relispartition,
                 t.reloptions, NULL::oid AS root
            FROM pg_class t
           WHERE (t.relkind IN ('r', 'm') OR t.relkind = 't'
                  AND t.oid NOT IN (SELECT unnest(toast) FROM heirs))"""

_CATALOG = " OR ".join(
    f"c.namespace = (SELECT {name} FROM here)" for name in ("pg_catalog", "information_schema")
)
#: Whether rows are counted in this session.
COUNTED = "(SELECT track_counts FROM here)"

#: TOAST whose table gives it options, or a place among the catalogs.
_HEIRS = """heirs AS MATERIALIZED (
    SELECT array_agg(oid) AS owners, array_agg(reltoastrelid) AS toast
      FROM pg_class
     WHERE reltoastrelid <> 0 AND (reloptions IS NOT NULL OR relnamespace IN (
           SELECT oid FROM pg_namespace WHERE nspname IN ('pg_catalog', 'information_schema')))
)"""


#: From a table ``o`` to its TOAST.
_TO_TOAST = "JOIN pg_class t ON t.oid = o.reltoastrelid AND t.relkind = 't'"


def every() -> str:
    """All heaps."""
    return f"""SELECT every.*, tree.root FROM (
          {_TABLE}
            FROM pg_class t WHERE t.relkind IN ('r', 'm')
           UNION ALL
          {_TOAST}
            FROM pg_class o {_TO_TOAST} WHERE o.relkind IN ('r', 'm') AND o.reltoastrelid <> 0
         ) AS every LEFT JOIN tree ON tree.oid = CASE WHEN relispartition THEN owner END"""


def of_page() -> str:
    """The heaps of the tables of a page."""
    return f"""{_TABLE}, t.root
            FROM branch t WHERE t.relkind IN ('r', 'm')
           UNION ALL
          {_TOAST}, o.root
            FROM branch o CROSS JOIN LATERAL (
                 SELECT * FROM pg_class WHERE oid = o.reltoastrelid AND relkind = 't' OFFSET 0) AS t
           WHERE o.relkind IN ('r', 'm') AND o.reltoastrelid <> 0"""


def of(tables: str) -> str:
    """The heaps of the tables of a relation that has their oids and roots."""
    return f"""{_TABLE}, tables.root
            FROM {tables} AS tables JOIN pg_class t ON t.oid = tables.oid
           WHERE t.relkind IN ('r', 'm')
           UNION ALL
          {_TOAST}, tables.root
            FROM {tables} AS tables JOIN pg_class o ON o.oid = tables.oid {_TO_TOAST}
           WHERE o.relkind IN ('r', 'm')"""


def all_but(oids: str = "") -> str:
    """All heaps but those with certain oids, to be summed up: what their roots are is not known."""
    but = f" AND t.oid NOT IN ({oids})" * bool(oids)
    return f"""{_CALM}{but}
           UNION ALL
          {_TOAST}, NULL::oid
            FROM (SELECT unnest(owners) AS oid FROM heirs) AS heir
                 JOIN pg_class o ON o.oid = heir.oid {_TO_TOAST}
           WHERE o.relkind IN ('r', 'm'){but}"""


#: Those that are asked for, with their roots. A join could come to look all of them up one by one.
_ASKED = """(
    SELECT oid, max(root) AS root FROM (
        SELECT unnest({owners}::oid[]) AS oid, NULL::oid AS root, true AS asked
         UNION ALL
        SELECT oid, root, false FROM tree
    ) AS either GROUP BY oid HAVING bool_or(asked)
)"""


_Of = Callable[[str], str]  # the SQL of a parameter


def _threshold(version: int, of: _Of) -> str:
    base, scale, cap = (
        of(f"autovacuum_vacuum_{name}") for name in ("threshold", "scale_factor", "max_threshold")
    )
    whole = f"{base} + {scale} * reltuples"
    capped = f"CASE WHEN {cap} >= 0 THEN least({whole}, {cap}) ELSE {whole} END"
    return f"({capped if version >= 180000 else whole})::float8"


def _insert_threshold(version: int, of: _Of, *, ratio: bool = False) -> str:
    """The threshold, or what there is by it; NULL for never."""
    base, scale = (of(f"autovacuum_vacuum_insert_{name}") for name in ("threshold", "scale_factor"))
    unfrozen = " * unfrozen" * (version >= 180000)
    threshold = f"({base} + {scale} * reltuples{unfrozen})::float8"
    value = _part("n_ins_since_vacuum", threshold) if ratio else threshold
    return f"CASE WHEN {base} >= 0 THEN {value} END"


def _freeze_ratio(of: _Of) -> str:
    return f"greatest(xid_age / {_xid_limit(of)}, mxid_age / {_mxid_limit(of)})"


def _xid_limit(of: _Of) -> str:
    return _limit("autovacuum_freeze_max_age", of)


def _mxid_limit(of: _Of) -> str:
    return _limit("autovacuum_multixact_freeze_max_age", of)


def _limit(name: str, of: _Of) -> str:
    return _OPTION[name] if of is _option else f"{_setting(name)}::float8"


def _by_options(expression: Callable[[_Of], str]) -> str:
    """An expression of parameters, whose options are looked at only where there are any."""
    plain, own = expression(_setting), expression(_option)
    return f"CASE WHEN options IS NULL THEN {plain} ELSE {own} END"


def _ratios(version: int) -> dict[str, str]:
    inserts = partial(_insert_threshold, version, ratio=True)
    return {
        "dead_ratio": _part("n_dead_tup", _by_options(partial(_threshold, version))),
        "insert_ratio": _by_options(inserts),
        "freeze_ratio": _by_options(_freeze_ratio),
    }


def heaps(version: int, owners: str = "") -> str:
    """Common table expressions for ``WITH RECURSIVE``, of which the last one is ``heap``.

    One row for each heap, or each of those tables alone whose oids are in the array ``owners``. No
    relation is locked. The columns of ``heap``:

    ====================== ====================================================================
    oid, relkind           of the heap: r table, m materialized view, t TOAST
    owner                  oid of the table that a TOAST table belongs to; else its own
    root                   oid of the topmost partitioned table above the owner; else the owner
    schema, name           of the heap itself: of TOAST ``pg_toast``, ``pg_toast_16385``
    namespace              oid of the owner's schema
    catalog                whether that is one of the system catalogs
    relispartition         of the owner
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
    source = of(_ASKED.format(owners=owners)) if owners else every()
    return f"""{before(version)}, heap AS NOT MATERIALIZED (
  {heap(version, source)}
)"""


def before(version: int, *, paged: bool = False) -> str:
    """What `heap` needs before it: the session, and which tables are partitions of which."""
    columns = _COLUMNS.format(frozen=", relallfrozen" * (version >= 180000))
    return f"""here AS MATERIALIZED (
  SELECT current_setting('track_counts')::bool AS track_counts,
         to_regnamespace('pg_catalog')::oid AS pg_catalog,
         coalesce(to_regnamespace('information_schema')::oid, 0) AS information_schema
), {_PAGE.format(columns=columns) if paged else f"{_TREE}, {_HEIRS}"}"""


def heap(version: int, source: str, more: str = "") -> str:
    """The heaps of `heaps` from a source, with ``more`` columns that are made of the others."""
    frozen = "least(c.relallfrozen, c.relpages)" if version >= 180000 else "0"
    unfrozen = f"CASE WHEN c.relpages > 0 THEN 1 - {frozen}::float4 / c.relpages::float4 ELSE 1 END"
    source = source.format(frozen=", t.relallfrozen" * (version >= 180000))
    active = f"enabled AND {_setting('autovacuum')} AND {COUNTED}"
    # OFFSET 0 keeps what a level has computed: the next one would compute it wherever it is named.
    # What nobody asks for is not computed at any level.
    return f"""SELECT *, CASE WHEN persistent <> 't' THEN greatest(freeze_ratio,
           CASE WHEN {active} THEN greatest(dead_ratio, insert_ratio) END) END AS ratio
    FROM (
  SELECT *, options IS NULL OR {_OPTION["autovacuum"]} <> 0 AS enabled,
         {_by_options(partial(_threshold, version))} AS threshold,
         {_by_options(partial(_insert_threshold, version))} AS insert_threshold,
         {_by_options(_xid_limit)} AS xid_limit, {_by_options(_mxid_limit)} AS mxid_limit,
         {", ".join(f"{ratio} AS {name}" for name, ratio in _ratios(version).items())}{more}
    FROM (
  SELECT c.oid, c.relkind, c.owner, coalesce(c.root, c.owner) AS root,
         c.relispartition, c.namespace, {_CATALOG} AS catalog,
         CASE WHEN c.relkind = 't' THEN 'pg_toast' ELSE n.nspname END AS schema, c.relname AS name,
         n.nspname AS owner_schema, c.owner_name, c.relpersistence AS persistent,
         pg_stat_get_live_tuples(c.oid) AS n_live_tup,
         pg_stat_get_dead_tuples(c.oid) AS n_dead_tup,
         pg_stat_get_ins_since_vacuum(c.oid) AS n_ins_since_vacuum,
         pg_stat_get_mod_since_analyze(c.oid) AS n_mod_since_analyze,
         greatest(c.reltuples, 0) AS reltuples, c.relpages, {frozen} AS relallfrozen,
         {unfrozen if version >= 180000 else "1"}::float4 AS unfrozen,
         nullif(age(c.relfrozenxid), 2147483647) AS xid_age,
         nullif(mxid_age(c.relminmxid), 2147483647) AS mxid_age,
         {_OPTIONS} AS options
    FROM ({source}) AS c
         LEFT JOIN pg_namespace n ON n.oid = c.namespace
  OFFSET 0) AS seen
  OFFSET 0) AS judged"""
