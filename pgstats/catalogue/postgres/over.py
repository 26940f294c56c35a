"""The common form of a question about the whole cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pgstats.model import POSTGRES, Metric, Query


def over(
    source: str,
    group: str,
    *metrics: Metric,
    labels: Mapping[str, str] | None = None,
    grouped: bool = False,
    **more: Any,
) -> Query:
    """A query that asks for labels and metrics over a source, just as a person would.

    ``grouped`` says that each row stands for all those of the source with the same labels.
    """
    labels = labels or {}
    source += f"\n GROUP BY {', '.join(labels.values())}" if grouped else ""
    columns = "".join(f'{column} AS "{label}",\n       ' for label, column in labels.items())
    sql = f"SELECT {columns}{{columns}}\n  FROM {source}"
    return Query(POSTGRES, group, metrics, sql, source, labels, **more)


def age(moment: str) -> str:
    """The seconds since a moment of the server's clock, NULL without one."""
    return f"extract(epoch FROM clock_timestamp() - {moment})::float8"
