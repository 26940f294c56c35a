"""Draws the overview for receivers: dashboards, mappings of names, alert rules.

Each kind is one module with a function `render`; it is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgstats.overview import Fleet

#: Every kind of each thing that can be printed, and what it is for.
KINDS = {
    "dashboard": {
        "grafana-graphite": "Grafana over Graphite",
        "grafana-prometheus": "Grafana over Prometheus and statsd_exporter",
        "grafana-influx": "Grafana over InfluxDB (InfluxQL) and Telegraf",
        "graphite": "graphite-web's own dashboard",
        "datadog": "Datadog",
        "netdata": "an application file for netdata's statsd.d",
    },
    "mapping": {
        "statsd-exporter": "configuration of statsd_exporter",
        "telegraf": "section [[inputs.statsd]] of Telegraf",
        "datadog-agent": "mapper profile for datadog.yaml",
        "graphite-schemas": "entries of storage-schemas.conf",
        "graphite-aggregation": "entries of storage-aggregation.conf",
    },
    "alerts": {
        "prometheus": "rule file of Prometheus, over statsd_exporter",
        "grafana-graphite": "provisioning file of Grafana's alerting, over Graphite",
        "datadog": "monitors of Datadog, a list for its API",
        "runbook": "what each alert means and what to do, in Markdown",
    },
}


def render(thing: str, kind: str, fleet: Fleet) -> str:
    """The text of one kind, for what is configured."""
    module = importlib.import_module(f"{__name__}.{thing}.{kind.replace('-', '_')}")
    text: str = module.render(fleet)
    return text
