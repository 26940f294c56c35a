"""What the polled PgBouncers may ask of a cluster, against what it has."""

from __future__ import annotations

from pgstats.model import POSTGRES, Metric, Query

OVERCOMMIT = Query(
    POSTGRES,
    "overcommit",
    metrics=(
        Metric(
            "pools",
            "Pools of the polled PgBouncers that lead to this cluster; like the others not sent "
            "while a PgBouncer that led here does not answer, nor before all were asked",
        ),
        Metric(
            "pool_size",
            "Connections that these pools may open together: pool_size and reserve_pool_size of "
            "each, no more than max_connections for a database; not sent where that has no limit "
            "or not all processes of a PgBouncer are known",
        ),
        Metric(
            "ratio",
            "Share that pool_size is of the usable connections: above 1 clients can be refused",
            unit="ratio",
        ),
    ),
)
