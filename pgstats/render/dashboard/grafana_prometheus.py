"""Grafana over Prometheus, which scrapes statsd_exporter."""

from __future__ import annotations

from pgstats.overview import Fleet, Series
from pgstats.render.dashboard._grafana import dashboard, named, variable
from pgstats.render.language.promql import PromQL, metric_name


def render(fleet: Fleet) -> str:
    """The dashboard as JSON, to be imported."""
    language = PromQL(fleet, {"target": "$target", "database": "$database"})

    def query(series: Series) -> list[dict[str, object]]:
        legend = " ".join([*(f"{{{{{key}}}}}" for key in series.keys), series.title])
        return [{"expr": language.curve(series), "legendFormat": legend, "range": True}]

    return dashboard(fleet, "prometheus", query, _variables(fleet))


def _variables(fleet: Fleet) -> list[dict[str, object]]:
    name = metric_name(fleet.prefix)
    up = f'{{__name__=~"{name}_(pgbouncer|postgres)_up"}}'
    bases = f'{{__name__=~"{name}_(pgbouncer_databases_paused|postgres_database_numbackends)"}}'
    return [
        variable("target", f"label_values({up}, target)", ".*", f"/{named(fleet)}/"),
        variable("database", f"label_values({bases}, database)", ".*"),
    ]
