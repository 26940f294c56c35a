"""The dashboard of Datadog: what its API takes, and its page imports."""

from __future__ import annotations

import json
from typing import Any

from pgstats.overview import ROWS, Fleet, Panel
from pgstats.render.language.datadog import Datadog


def render(fleet: Fleet) -> str:
    """The dashboard as JSON."""
    language = Datadog(fleet, ("target", "database"))
    document = {
        "title": f"{fleet.prefix}: PgBouncer and PostgreSQL",
        "description": "Made by pgstats. Top: what to decide by. Bottom: why it is so.",
        "layout_type": "ordered",
        "template_variables": [
            {"name": "target", "prefix": "target", "available_values": list(fleet.targets)},
            {"name": "database", "prefix": "database", "available_values": []},
        ],
        "widgets": [
            {
                "definition": {
                    "type": "group",
                    "title": row.title,
                    "layout_type": "ordered",
                    "widgets": [{"definition": _widget(panel, language)} for panel in row.panels],
                }
            }
            for row in ROWS
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def _widget(panel: Panel, language: Datadog) -> dict[str, Any]:
    if panel.number:
        return {
            "type": "toplist",
            "title": panel.title,
            "requests": [_request(panel, language, "scalar")],
        }
    return {
        "type": "timeseries",
        "title": panel.title,
        "show_legend": True,
        "requests": [{**_request(panel, language, "timeseries"), "display_type": "line"}],
        "markers": [
            {"value": f"y = {line:g}", "display_type": "error dashed"} for line in panel.lines
        ],
    }


def _request(panel: Panel, language: Datadog, response: str) -> dict[str, Any]:
    names = [f"query{n}" for n, _ in enumerate(panel.series, 1)]
    last = {"aggregator": "last"} if response == "scalar" else {}
    return {
        "response_format": response,
        "queries": [
            {"data_source": "metrics", "name": name, "query": language.curve(series), **last}
            for name, series in zip(names, panel.series, strict=True)
        ],
        "formulas": [
            {"formula": name, "alias": series.title}
            for name, series in zip(names, panel.series, strict=True)
        ],
    }
