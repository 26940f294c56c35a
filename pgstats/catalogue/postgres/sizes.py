"""Real sizes, which open every file and wait behind exclusive locks: asked for by `sizes` alone."""

from __future__ import annotations

from pgstats.catalogue.postgres.tables import TABLES
from pgstats.model import POSTGRES, Metric, Query

SIZES = Query(
    POSTGRES,
    "tables",
    labels=TABLES.labels,
    default=False,
    per_database=True,
    primary_only=True,
    metrics=(
        Metric(
            "size_bytes",
            "Size of the table, its partitions and their TOAST, indexes left out (with `sizes`)",
            unit="bytes",
            column="pg_table_size(oid)",
        ),
        Metric(
            "indexes_size_bytes",
            "Size of the indexes of the table and its partitions (with `sizes`)",
            unit="bytes",
            column="pg_indexes_size(oid)",
        ),
    ),
)

SIZE = Query(
    POSTGRES,
    "database",
    labels={"database": ""},
    default=False,
    primary_only=True,
    metrics=(
        Metric(
            "size_bytes",
            "Size of the database on disk (with `sizes`)",
            unit="bytes",
            column="pg_database_size(current_database())",
        ),
        Metric(
            "sizes_skipped",
            "Tables left out when sizes were last measured: somebody held an ACCESS EXCLUSIVE lock "
            "on them, or waited for one (with `sizes`)",
        ),
    ),
)

#: The sizes of some heaps by their root, and whether one of them is locked: that is not waited for.
MEASURE = """WITH locked AS MATERIALIZED (
    SELECT relation FROM pg_locks
     WHERE mode = 'AccessExclusiveLock'
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
), heap AS (
    SELECT root, heap, EXISTS (
               SELECT FROM locked WHERE relation = heap
                OR relation IN (SELECT reltoastrelid FROM pg_class WHERE oid = heap)
                OR relation IN (SELECT indexrelid FROM pg_index WHERE indrelid = heap)) AS locked
      FROM unnest(%(roots)s::oid[], %(heaps)s::oid[]) AS wanted (root, heap)
)
SELECT root::bigint, bool_or(locked) AS locked,
       sum(CASE WHEN NOT locked THEN pg_table_size(heap) END)::bigint AS size_bytes,
       sum(CASE WHEN NOT locked THEN pg_indexes_size(heap) END)::bigint AS indexes_size_bytes
  FROM heap GROUP BY root"""
