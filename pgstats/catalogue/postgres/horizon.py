"""Who keeps dead rows from being removed, as gauges. No SQL: they follow from the views read."""

from __future__ import annotations

from pgstats.model import POSTGRES, Metric, Query

HORIZON = Query(
    POSTGRES,
    "horizon",
    labels={"holder": ""},
    primary_only=True,
    metrics=(
        Metric(
            "age_xids",
            "Transactions since the oldest one that a holder of this kind needs (backend, "
            "prepared, slot_xmin, slot_catalog_xmin, standby; oldest: of all); 0 without any",
            unit="xids",
        ),
        Metric(
            "age_seconds",
            "Time since that holder began, or was first seen where the server does not tell; "
            "0 without any, not sent where the role may not see it",
            unit="seconds",
        ),
    ),
)

WHY = Query(
    POSTGRES,
    "why",
    labels={"cause": "", "severity": ""},
    primary_only=True,
    metrics=(
        Metric(
            "count",
            "How often this cause of dead rows is at work, as far as one look without the tables "
            "tells; `pgstats why` names who and what to do",
        ),
    ),
)

VAIN = Query(
    POSTGRES,
    "database",
    labels={"database": ""},
    primary_only=True,
    metrics=(
        Metric(
            "tables_vacuumed_in_vain",
            "Tables, of those shipped by name, whose last vacuum removed nothing because somebody "
            "held the horizon: a vacuum ended between two polls and the dead rows did not fall; "
            "not sent at the first poll",
        ),
    ),
)
