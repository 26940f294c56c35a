"""A table for other programs: as JSON, a line of JSON for each row, or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pgstats.catalogue import QUERIES
from pgstats.cli.viewing import group_of
from pgstats.model import Table

Write = Callable[[Table, str], str]


def _rows(table: Table, at: str) -> Iterator[dict[str, Any]]:
    names = ["time", *table.labels, *(metric.name for metric in table.metrics)]
    return (dict(zip(names, (at, *row), strict=True)) for row in table.rows)


def _json(table: Table, at: str) -> str:
    rows = [{key: value for key, value in row.items() if key != "time"} for row in _rows(table, at)]
    return json.dumps({"group": table.group, "time": at, "rows": rows}) + "\n"


def _ndjson(table: Table, at: str) -> str:
    return "".join(json.dumps(row) + "\n" for row in _rows(table, at))


def _csv() -> Write:
    """The same columns in every answer: all that the catalogue has for the group."""
    fields: list[str] = []

    def write(table: Table, at: str) -> str:
        out = io.StringIO()
        if not fields:
            known = [m.name for q in QUERIES if group_of(q) == table.group for m in q.metrics]
            metrics = [metric.name for metric in table.metrics]
            fields.extend(dict.fromkeys(["time", *table.labels, *known, *metrics]))
            csv.writer(out, lineterminator="\n").writerow(fields)
        rows = csv.DictWriter(out, fields, extrasaction="ignore", lineterminator="\n")
        rows.writerows(_rows(table, at))
        return out.getvalue()

    return write


#: Each makes what writes table after table, with the time of day of each.
FORMATS: Mapping[str, Callable[[], Write]] = {
    "json": lambda: _json,
    "ndjson": lambda: _ndjson,
    "csv": _csv,
}
