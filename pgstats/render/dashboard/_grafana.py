"""Grafana's dashboard model, whatever the panels' queries are written in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pgstats.overview import ROWS, Fleet, Panel, Row, Series

_COLUMNS = 24

#: Grafana's names for the catalogue's units.
_UNITS = {
    "": "short",
    "bytes": "bytes",
    "ratio": "percentunit",
    "seconds": "s",
    "ms": "ms",
    "us": "µs",
    "xids": "short",
    "mxids": "short",
    "per_second": "cps",
    "bytes_per_second": "Bps",
    "count_per_second": "cps",
    "ms_per_second": "ms",
}

Query = Callable[[Series], Iterable[Mapping[str, Any]]]


def dashboard(
    fleet: Fleet,
    source: str,
    query: Query,
    variables: Sequence[Mapping[str, Any]],
    *,
    age_unit: str = "s",
) -> str:
    """The dashboard as JSON. ``source`` is the type of the data source, ``query`` makes targets."""
    uid = {"type": source, "uid": "${datasource}"}
    chosen = {"type": "datasource", "name": "datasource", "query": source}
    panels = [
        {"id": n, **_shown(one, uid, query, age_unit), "gridPos": place}
        for n, (one, place) in enumerate(_laid_out(), 1)
    ]
    document = {
        "title": f"{fleet.prefix}: PgBouncer and PostgreSQL",
        "tags": ["pgstats"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "graphTooltip": 1,
        "templating": {"list": [chosen, *({**one, "datasource": uid} for one in variables)]},
        "panels": panels,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _laid_out() -> Iterator[tuple[Row | Panel, dict[str, int]]]:
    """Rows and their panels, each with its place: beside each other while they fit."""
    top = 0
    for row in ROWS:
        yield row, _place(top, 0, _COLUMNS, 1)
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            width, tall = (4, 5) if panel.number else (8, 9)
            if left + width > _COLUMNS or (left and tall != height):
                top, left = top + height, 0
            yield panel, _place(top, left, width, tall)
            left, height = left + width, tall
        top += height


def _shown(one: Row | Panel, uid: object, query: Query, age_unit: str) -> dict[str, Any]:
    """A row's heading, or a panel with its queries."""
    if isinstance(one, Row):
        return {"type": "row", "title": one.title, "collapsed": False, "panels": []}
    targets = [target for series in one.series for target in query(series)]
    return {
        **_drawn(one, age_unit),
        "title": one.title,
        "description": one.decides,
        "datasource": uid,
        "targets": [
            {"refId": _reference(n), "datasource": uid, **target}
            for n, target in enumerate(targets)
        ],
    }


def variable(name: str, query: Any, every: str, regex: str = "") -> dict[str, Any]:
    """A template variable whose values are asked for; at first all of them."""
    return {
        "type": "query",
        "name": name,
        "label": name,
        "query": query,
        "regex": regex,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": every,
        "current": {"selected": True, "text": "All", "value": "$__all"},
    }


def named(fleet: Fleet) -> str:
    """A regular expression for the configured targets, and the processes behind their ports."""
    return f"^({'|'.join(fleet.targets)})(-[0-9]+)?$"


def _place(top: int, left: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _reference(number: int) -> str:
    """A, B, ... Z, A1, B1, ..."""
    again, letter = divmod(number, 26)
    return f"{chr(ord('A') + letter)}{again or ''}"


def _drawn(panel: Panel, age_unit: str) -> dict[str, Any]:
    """How it looks. An age that Grafana makes of a time has no line: there it is no number."""
    unit = age_unit if panel.series[0].age else _UNITS[panel.unit]
    lines = () if unit not in _UNITS.values() else panel.lines
    field = {"unit": unit, "thresholds": {"mode": "absolute", "steps": _steps(panel, lines)}}
    if panel.number:
        how = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        options = {
            "reduceOptions": how,
            "textMode": "value_and_name",
            "colorMode": "value" if lines else "none",
            "graphMode": "none",
            "justifyMode": "auto",
            "orientation": "auto",
        }
        return {"type": "stat", "fieldConfig": _fields(field), "options": options}
    custom = {"fillOpacity": 10, "thresholdsStyle": {"mode": "line" if lines else "off"}}
    options = {
        "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return {
        "type": "timeseries",
        "fieldConfig": _fields({**field, "min": 0, "custom": custom}),
        "options": options,
    }


def _fields(defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {"defaults": defaults, "overrides": []}


def _steps(panel: Panel, lines: Sequence[float]) -> list[dict[str, Any]]:
    colors = ("red", "green") if panel.below else ("green", "orange", "red")
    if len(lines) == 1 and not panel.below:
        colors = ("green", "red")
    return [
        {"color": color, "value": value}
        for color, value in zip(colors, (None, *lines), strict=False)
    ]
