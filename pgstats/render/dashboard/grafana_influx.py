"""Grafana over InfluxDB, which Telegraf writes to."""

from __future__ import annotations

from pgstats.overview import Fleet, Series
from pgstats.render.dashboard._grafana import dashboard, named, variable
from pgstats.render.language.influxql import InfluxQL
from pgstats.render.language.promql import metric_name


def render(fleet: Fleet) -> str:
    """The dashboard as JSON, to be imported."""
    language = InfluxQL(fleet)

    def query(series: Series) -> list[dict[str, object]]:
        text = {"query": language.curve(series), "rawQuery": True, "resultFormat": "time_series"}
        return [{**text, "alias": language.alias(series)}]

    return dashboard(fleet, "influxdb", query, _variables(fleet), age_unit="dateTimeFromNow")


def _variables(fleet: Fleet) -> list[dict[str, object]]:
    measurements = f"/^{metric_name(fleet.prefix)}_(pgbouncer|postgres)/"
    texts = {
        label: f'SHOW TAG VALUES FROM {measurements} WITH KEY = "{label}"'
        for label in ("target", "database")
    }
    return [
        variable("target", texts["target"], ".*", f"/{named(fleet)}/"),
        variable("database", texts["database"], ".*"),
    ]
