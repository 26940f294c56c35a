"""What PostgreSQL is asked: one `Query` for each SELECT.

``column`` of a metric is what psql would show over the ``source`` of its query; ``sql`` asks the
same for less. Every name is found in pg_catalog, since the search path of pgstats is empty.
"""

from __future__ import annotations

from pgstats.catalogue.postgres.database import DATABASE
from pgstats.catalogue.postgres.server import DISCOVER, SERVER, VENDORS
from pgstats.catalogue.postgres.tables import TABLES, TOTALS

#: Asked once in a cluster, after `SERVER`; each fails alone. ``%(databases)s`` are those polled.
CLUSTER = (DATABASE,)
#: Asked in each database.
EACH = (TABLES,)

QUERIES = (SERVER, *CLUSTER, *EACH, TOTALS)

__all__ = [
    "CLUSTER",
    "DATABASE",
    "DISCOVER",
    "EACH",
    "QUERIES",
    "SERVER",
    "TABLES",
    "TOTALS",
    "VENDORS",
]
