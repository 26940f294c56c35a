"""Makes a Frame of an answer: columns by name and by presence, never by position."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pgstats.model import OTHER, Frame, Metric, Number, Query

Columns = Mapping[str, bool]  # name of a column -> whether it is a number
Rows = Sequence[tuple[Any, ...]]


def frame(
    query: Query,
    columns: Columns,
    rows: Rows,
    *,
    target: str,
    shared: tuple[str, ...] = (),
    tags: Mapping[str, str] | None = None,
) -> tuple[Frame, int]:
    """The frame of an answer, and how many of its columns nobody declared.

    ``shared`` are the values of the labels that all rows have in common. Unknown numeric columns
    go out under their own name: a newer server must not lose what it says.
    """
    if query.pairs:
        columns, rows = _turn(query.pairs, columns, rows)
    by_name = dict(
        zip(columns, zip(*rows, strict=True) if rows else [()] * len(columns), strict=True)
    )
    strange = _strange(query, columns)
    metrics = (*query.metrics, *(_passed_on(name) for name in strange if columns[name]))
    picked = [(m, values) for m in metrics if (values := _values(m, by_name)) is not None]
    null = OTHER if query.folds() else "none"
    labels: list[Iterable[object]] = [[value] * len(rows) for value in shared]
    for label, column in list(query.labels.items())[len(shared) :]:
        values = by_name[column if column in by_name else label]
        labels.append([null if value is None else str(value) for value in values])
    answered = list(zip(*labels, *(values for _, values in picked), strict=True))
    found = Frame(query, tuple(metric for metric, _ in picked), answered, target, tags or {})
    return found, len(strange)


def _turn(pairs: tuple[str, str], columns: Columns, rows: Rows) -> tuple[Columns, Rows]:
    """Rows of (name, value) as one row whose columns are the names."""
    key, value = (list(columns).index(name) for name in pairs)
    found = {str(row[key]): row[value] for row in rows}
    number = columns[pairs[1]]
    return dict.fromkeys(found, number), [tuple(found.values())]


def _values(metric: Metric, by_name: Mapping[str, Sequence[Any]]) -> Sequence[Number | None] | None:
    """The metric's numbers, one per row, or None when the answer has no such column."""
    names = (metric.name, metric.origin(), *metric.formerly)
    name = next((name for name in names if name in by_name), None)
    if name is None:
        return None
    values = _numbers(by_name[name], metric.words)
    for column, factor in metric.plus.items():
        more = _numbers(by_name.get(column, ()))
        values = (
            [_join(a, b, factor) for a, b in zip(values, more, strict=True)] if more else values
        )
    return values


def _join(value: Number | None, more: Number | None, factor: float) -> Number | None:
    return None if value is None or more is None else round(value + more * factor, 6)


def _numbers(
    values: Sequence[Any], words: Mapping[str, float] | None = None
) -> Sequence[Number | None]:
    """The column as numbers; C passes over it once when nothing has to be read from text."""
    kinds = set(map(type, values))
    if kinds <= {int, float, type(None)}:
        return values
    return [number(value, words or {}) for value in values]


def number(value: object, words: Mapping[str, float]) -> Number | None:
    """A number out of int, float, Decimal, bool, text or NULL; None when it says none."""
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, int):
        return int(value)
    text = str(value).strip()
    if text in words:
        return words[text]
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None


def _strange(query: Query, columns: Columns) -> list[str]:
    """Columns that are neither a label, nor a metric, nor left out on purpose."""
    known = {*query.labels, *query.labels.values()}
    for metric in query.metrics:
        known |= {metric.name, metric.origin(), *metric.formerly, *metric.plus}
    return [
        name
        for name in columns
        if name not in known and not any(fnmatchcase(name, glob) for glob in query.ignored)
    ]


def _passed_on(column: str) -> Metric:
    name = re.sub(r"[^a-z0-9_]", "_", column.lower()) or "none"
    return Metric(name, "A column that this version of pgstats does not know", column=column)
