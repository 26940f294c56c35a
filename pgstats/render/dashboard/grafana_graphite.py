"""Grafana over Graphite."""

from __future__ import annotations

from pgstats.overview import Fleet
from pgstats.render.dashboard._grafana import dashboard, named, variable
from pgstats.render.language.graphite import Graphite


def render(fleet: Fleet) -> str:
    """The dashboard as JSON, to be imported."""
    language = Graphite(fleet, _CHOSEN if fleet.plain else _TAGS)
    return dashboard(
        fleet,
        "graphite",
        lambda series: [{"target": text, "textEditor": True} for text in language.curves(series)],
        _variables(fleet),
    )


_CHOSEN = {"target": "$target", "database": "$database"}
_TAGS = {"target": "${target:regex}", "database": "${database:regex}"}


def _variables(fleet: Fleet) -> list[dict[str, object]]:
    regex = f"/{named(fleet)}/"
    top = ".".join(filter(None, (fleet.under, fleet.prefix)))
    if not fleet.plain:
        return [
            variable("target", f"tag_values(target, name=~^{top}.*)", ".*", regex),
            variable("database", f"tag_values(database, name=~^{top}.*)", ".*"),
        ]
    return [
        variable("target", f"{top}.{{pgbouncer,postgres}}.*", "*", regex),
        variable("database", f"{top}.{{pgbouncer,postgres}}.$target.{{stats,database}}.*", "*"),
    ]
