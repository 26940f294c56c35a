"""What PostgreSQL is asked: one `Query` for each SELECT.

``column`` of a metric is what psql would show over the ``source`` of its query; ``sql`` asks the
same for less. Every name is found in pg_catalog, since the search path of pgstats is empty.
"""

from __future__ import annotations

from pgstats.catalogue.postgres import locks, replication, sessions, vacuum, wal
from pgstats.catalogue.postgres.database import DATABASE
from pgstats.catalogue.postgres.horizon import HORIZON, VAIN, WHY
from pgstats.catalogue.postgres.overcommit import OVERCOMMIT
from pgstats.catalogue.postgres.server import COMPLETE, DISCOVER, SERVER, STATISTICS, VENDORS
from pgstats.catalogue.postgres.sizes import SIZE, SIZES
from pgstats.catalogue.postgres.tables import DUTY, NEED, NEEDS, TABLES, TOTALS

#: Asked once in a cluster, after `SERVER`; each fails alone. ``%(databases)s`` are those polled.
CLUSTER = (
    *(STATISTICS, DATABASE),
    *(*sessions.QUERIES, *locks.QUERIES, *vacuum.QUERIES, *replication.QUERIES, *wal.QUERIES),
)
#: Asked in each database.
EACH = (TABLES, NEED)

#: Worked out from the answers.
COMPUTED = (HORIZON, VAIN, WHY, DUTY, OVERCOMMIT)

QUERIES = (SERVER, *CLUSTER, *EACH, TOTALS, NEEDS, SIZES, SIZE, *COMPUTED)

__all__ = [
    "CLUSTER",
    "COMPLETE",
    "COMPUTED",
    "DATABASE",
    "DISCOVER",
    "DUTY",
    "EACH",
    "HORIZON",
    "QUERIES",
    "SERVER",
    "STATISTICS",
    "TABLES",
    "TOTALS",
    "VAIN",
    "VENDORS",
    "WHY",
]
