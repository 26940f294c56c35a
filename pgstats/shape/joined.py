"""Joins the frames of a group into one table, the rows that hurt most above all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pgstats.catalogue.hurts import HURTS
from pgstats.model import SELF, Frame, Metric, Number, Row, Table

_LEAST = float("-inf")  # what is unknown stands below all that is known


def joined(group: str, named: Iterable[tuple[str, Frame]]) -> Table:
    """The table of a group from frames, each with the name of its target.

    Several questions may fill a group; rows with the same labels are one.
    """
    labels: tuple[str, ...] = ()
    metrics: dict[str, Metric] = {}
    found: dict[Row, dict[str, Number | None]] = {}
    for target, frame in named:
        own = frame.query.family == SELF  # these name the target themselves
        labels = ("target", *frame.query.labels)[own:]
        width = len(frame.query.labels)
        metrics |= {metric.name: metric for metric in frame.metrics if metric.name not in metrics}
        for row in frame.rows:
            key = (target, *map(str, row[:width]))[own:]
            values = zip(frame.metrics, row[width:], strict=True)
            found.setdefault(key, {}).update({m.name: v for m, v in values if v is not None})
    first = HURTS.get(group, ())
    order = sorted(metrics.values(), key=lambda m: (*first, m.name).index(m.name))
    rows = [(*key, *(values.get(m.name) for m in order)) for key, values in found.items()]
    by = [at for at, metric in enumerate(order, len(labels)) if metric.name in first]
    return Table(group, labels, tuple(order), sorted(rows, key=lambda row: _rank(row, by)))


def _rank(row: Row, by: Sequence[int]) -> Row:
    """The largest first; what is equal keeps the order of the names."""
    return (*(-(_LEAST if row[at] is None else row[at]) for at in by), *row)


def known(table: Table) -> Table:
    """The same table without the metrics that no row knows."""
    start = len(table.labels)
    there = [
        at
        for at, _ in enumerate(table.metrics, start)
        if any(row[at] is not None for row in table.rows)
    ]
    return _only(table, there)


def worst(table: Table) -> Table:
    """The same table with those metrics alone that hurt."""
    first = HURTS.get(table.group, ())
    start = len(table.labels)
    return _only(table, [at for at, m in enumerate(table.metrics, start) if m.name in first])


def _only(table: Table, there: Sequence[int]) -> Table:
    """The same table with the columns at those places, and its labels."""
    width = len(table.labels)
    metrics = tuple(table.metrics[at - width] for at in there)
    rows = [(*row[:width], *(row[at] for at in there)) for row in table.rows]
    return Table(table.group, table.labels, metrics, rows)


def values(table: Table) -> Mapping[tuple[Row, str], Number]:
    """Every number that is known, by the labels of its row and its metric."""
    width = len(table.labels)
    return {
        (row[:width], metric.name): value
        for row in table.rows
        for metric, value in zip(table.metrics, row[width:], strict=True)
        if value is not None
    }
