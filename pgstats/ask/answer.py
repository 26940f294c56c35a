"""Makes a Frame of an answer: columns by name and by presence, never by position."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, TypeGuard

from pgstats.errors import AskError
from pgstats.model import OTHER, PGBOUNCER, Frame, Metric, Number, Query, Row
from pgstats.noun import Noun

Columns = Mapping[str, bool]  # name of a column -> whether it is a number
Rows = Sequence[tuple[Any, ...]]
Labels = Sequence[Sequence[object]]  # columns

_WHOLE = {int, type(None)}

# One string for all polls: what is remembered of rows needs no others. Python 3.12 would keep for
# ever what came and went.
_same: Callable[[str], str] = str if sys.version_info[:2] == (3, 12) else sys.intern


def fit(query: Query, columns: Columns, rows: Rows) -> None:
    """Raise `AskError` unless the answer is a table that has what tells its rows apart.

    Rows that are folded by their labels anyway can do without one of these.
    """
    needed = query.pairs or (() if query.budget is not None else query.labels.values())
    missing = [name for name in needed if name not in columns]
    if not columns:
        text = "the answer is no table"
    elif rows and len(rows[0]) != len(columns):
        text = "two columns of the answer have the same name"
    elif missing:
        text = f"the answer has no column {missing[0]}"
    else:
        return
    cure = "is this a PgBouncer? leave the question out with collect = [...]"
    raise AskError(query.title, "other", text, cure)


def frame(
    query: Query,
    version: int,
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
    by_name = turned(columns, rows)
    reading = _reading(query, version, tuple(columns.items()))
    labels = _labels(query, by_name, len(rows), shared)
    found = _read(query, reading, by_name, labels, len(rows), target, shared)
    if query.budget is not None or _ambiguous(found):
        budget = len(rows) if query.budget is None else query.budget
        folded = _folded(found.rows, found.metrics, len(found.labels), budget)
        found = Frame.of(query, found.metrics, folded, target, scope=shared)
    return found._replace(tags=tags or {}), reading.strange


def turned(columns: Iterable[str], rows: Rows) -> dict[str, Sequence[Any]]:
    """The values of each column."""
    names = list(columns)
    return dict(zip(names, zip(*rows, strict=True) if rows else [()] * len(names), strict=True))


def framed(
    queries: Sequence[Query],
    version: int,
    by_name: Mapping[str, Sequence[Any]],
    length: int,
    target: str,
    shared: tuple[str, ...] = (),
    before: Labels = (),
) -> list[Frame]:
    """The frames of columns, each with so many values, one a query: of its metrics alone.

    The queries have the same labels. Columns of labels that are those of ``before``, the last
    answer's, are the same objects again.
    """
    kinds = tuple((name, False) for name in by_name)
    first, *_ = queries
    labels = _labels(first, by_name, length, shared, before)
    return [
        _read(query, _reading(query, version, kinds), by_name, labels, length, target, shared)
        for query in queries
    ]


class _Reading(Noun):
    """How answers to a query are read that have the same columns: they are alike for years.

    ``sources`` has the column of each metric that is there, "" for one that counts rows; ``plain``
    says whether whole numbers are sent as they come; ``strange`` is how many columns nobody
    declared. The order of labels makes no query another one, and so has no part in it.
    """

    metrics: tuple[Metric, ...]
    sources: tuple[str, ...]
    plain: tuple[bool, ...]
    strange: int


@lru_cache(maxsize=1000)
def _reading(query: Query, version: int, kinds: tuple[tuple[str, bool], ...]) -> _Reading:
    columns = dict(kinds)
    strange = _strange(query, columns)
    more = _passed_on(query, [name for name in strange if columns[name]])
    picked = [
        (metric, source)
        for metric in (*query.metrics, *more)
        if metric.right(version) and (source := _source(metric, columns)) is not None
    ]
    metrics = tuple(metric for metric, _ in picked)
    sources = tuple(source for _, source in picked)
    plain = tuple(not (source and (metric.unsigned or metric.plus)) for metric, source in picked)
    return _Reading(metrics, sources, plain, len(strange))


def _read(
    query: Query,
    reading: _Reading,
    by_name: Mapping[str, Sequence[Any]],
    labels: Labels,
    length: int,
    target: str,
    shared: tuple[str, ...],
) -> Frame:
    metrics, sources, plains, _ = reading
    numbers = []
    for metric, source, plain in zip(metrics, sources, plains, strict=True):
        column = by_name[source] if source else [1] * length
        whole = plain and set(map(type, column)) <= _WHOLE  # as most are
        numbers.append(column if whole else _values(metric, by_name, source))
    return Frame(query, metrics, [*labels, *numbers], target, scope=shared)


def _labels(
    query: Query,
    by_name: Mapping[str, Sequence[Any]],
    length: int,
    shared: tuple[str, ...],
    before: Labels = (),
) -> Labels:
    """The labels' columns as text. NULL is "none", or marks the folded rest.

    They are tuples like those of rows: what is computed of the same rows has equal columns.
    """
    null = OTHER if query.folds else "none"
    found: list[Sequence[object]] = [(value,) * length for value in shared]
    for label, column in list(query.labels.items())[len(shared) :]:
        values = by_name.get(column, by_name.get(label, [None] * length))
        if before and values == before[len(found)]:  # to compare is less than to find each
            found.append(before[len(found)])
        elif set(map(type, values)) == {str}:
            found.append(tuple(map(_same, values)))
        else:
            found.append(tuple(null if value is None else _same(str(value)) for value in values))
    return found


_FOLDS: Mapping[str, Callable[[list[Number]], Number | None]] = {
    "sum": sum,
    "max": lambda numbers: max(numbers, default=None),
    "min": lambda numbers: min(numbers, default=None),
    "mean": lambda numbers: round(sum(numbers) / len(numbers), 6) if numbers else None,
}


def _ambiguous(frame: Frame) -> bool:
    """Whether rows have the same labels: some poolers list a database once for each user."""
    if frame.query.family != PGBOUNCER or not frame.labels:
        return False
    return len(set(frame.keys)) < frame.height


def _folded(rows: Sequence[Row], metrics: Sequence[Metric], width: int, budget: int) -> list[Row]:
    """Rows with equal labels as one; all but the ``budget`` largest groups as one more."""
    groups: dict[Row, list[Row]] = {} if width else {(): []}
    for row in rows:
        groups.setdefault(row[:width], []).append(row)
    if len(groups) > budget:
        ranked = sorted(groups, key=lambda labels: (-len(groups[labels]), labels))
        rest = [row for labels in ranked[budget:] for row in groups.pop(labels)]
        groups[(OTHER,) * width] = rest
    return [
        (
            *labels,
            *(
                _FOLDS[_fold(metric)]([n for row in found if _is_number(n := row[at])])
                for at, metric in enumerate(metrics, width)
            ),
        )
        for labels, found in groups.items()
    ]


def _fold(metric: Metric) -> str:
    """How its numbers are combined; ages, limits in time and shares are no matter of adding up."""
    return metric.fold or ("max" if metric.unit in ("seconds", "ratio") else metric.across or "max")


def _is_number(value: object) -> TypeGuard[Number]:
    return value is not None


def _turn(pairs: tuple[str, str], columns: Columns, rows: Rows) -> tuple[Columns, Rows]:
    """Rows of (name, value) as one row whose columns are the names."""
    key, value = (list(columns).index(name) for name in pairs)
    found = {str(row[key]): row[value] for row in rows}
    number = columns[pairs[1]]
    return dict.fromkeys(found, number), [tuple(found.values())]


def _source(metric: Metric, columns: Columns) -> str | None:
    """The column that a metric is in, "" where it counts rows, None when there is none."""
    if metric.column == "*":
        return ""
    names = (metric.name, metric.origin(), *metric.formerly)
    return next((name for name in names if name in columns), None)


def _values(
    metric: Metric, by_name: Mapping[str, Sequence[Any]], source: str
) -> Sequence[Number | None]:
    """The metric's numbers, one per row."""
    values = _numbers(by_name[source], metric.words)
    if metric.unsigned:
        values = [value and value % 2**32 for value in values]
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
    if kinds <= _WHOLE:
        return values
    if kinds <= {int, float, type(None)} and all(map(math.isfinite, filter(None, values))):
        return values
    return [number(value, words or {}) for value in values]


def number(value: object, words: Mapping[str, float]) -> Number | None:
    """A number out of int, float, Decimal, bool, text or NULL; None when it says none."""
    if value is None:
        return None
    if isinstance(value, int):
        return int(value)
    text = str(value).strip()
    if words:
        return words.get(text, words.get("*"))
    for read in (int, float):
        with suppress(ValueError):
            found = read(text)
            return found if math.isfinite(found) else None
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


def _passed_on(query: Query, columns: Iterable[str]) -> list[Metric]:
    """Metrics for unknown columns, but for those that would be called like another one."""
    found = {metric.name: metric for metric in query.metrics}
    known = len(found)
    for column in columns:
        name = re.sub(r"[^a-z0-9_]", "_", column.lower()) or "none"
        text = "A column that this version of pgstats does not know"
        found.setdefault(name, Metric(name, text, column=column))
    return list(found.values())[known:]
