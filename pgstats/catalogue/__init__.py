"""Everything that can be asked and shipped, as data."""

from __future__ import annotations

from pgstats.catalogue import own, pgbouncer, postgres
from pgstats.model import Query

QUERIES: tuple[Query, ...] = (
    *pgbouncer.QUERIES,
    *pgbouncer.COMPUTED,
    *postgres.QUERIES,
    *own.QUERIES,
)

#: What `collect` of a PgBouncer may name, and what it names when nobody says.
COLLECT = tuple(query.group for query in pgbouncer.QUERIES)
COLLECTED = tuple(query.group for query in pgbouncer.QUERIES if query.default)
