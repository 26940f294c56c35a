"""Rules of Grafana's own alerting, over Graphite, as a provisioning file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from pgstats.overview import RULES, Fleet, Level, Rule
from pgstats.render.alerts._words import level as words
from pgstats.render.alerts._words import page, span
from pgstats.render.language.graphite import Graphite
from pgstats.render.yaml import yaml

_HEAD = """\
# Made by `pgstats alerts grafana-graphite`: to be put into provisioning/alerting/ of Grafana.
# Each query is the distance from the limit: below 0 is bad, and nothing is where the rule is mute.
# The data source must have the uid graphite; else replace it here.
"""
_MATH = "__expr__"
#: Seconds that are looked back: the last value in them counts.
_BACK = 600


def render(fleet: Fleet) -> str:
    """The file."""
    language = Graphite(fleet, {"target": _targets(fleet)})
    rules = [
        _rule(fleet, language, rule, severity, level)
        for rule in RULES
        for severity, level in rule.levels().items()
    ]
    group = {"orgId": 1, "name": fleet.prefix, "folder": "pgstats", "interval": "1m"}
    return _HEAD + yaml({"apiVersion": 1, "groups": [{**group, "rules": rules}]})


def _targets(fleet: Fleet) -> str:
    return "*" if fleet.plain else ".*"


def _rule(
    fleet: Fleet, language: Graphite, rule: Rule, severity: str, level: Level
) -> dict[str, object]:
    identity = f"{fleet.prefix}/{rule.id}/{severity}"
    reduced = {
        "type": "reduce",
        "refId": "B",
        "expression": "A",
        "reducer": "last",
        "settings": {"mode": "dropNN"},
    }
    return {
        "uid": f"pgstats-{hashlib.sha256(identity.encode()).hexdigest()[:16]}",
        "title": f"{rule.id} {severity}",
        "condition": "C",
        "data": [
            _query("A", "graphite", {"target": language.firing(rule, level), "refId": "A"}),
            _query("B", _MATH, reduced),
            _query("C", _MATH, {"type": "math", "refId": "C", "expression": "$B < 0"}),
        ],
        # Only silence itself is alarming when there is nothing.
        "noDataState": "Alerting" if rule.series.age else "OK",
        "execErrState": "Error",
        "for": span(level.seconds),
        "labels": {"severity": severity},
        "annotations": {
            "summary": rule.title,
            "description": f"{words(rule, level)}. {rule.reason}",
            "runbook": f"{rule.ask} ({page(rule)}): {rule.cure}",
        },
    }


def _query(reference: str, source: str, model: Mapping[str, object]) -> dict[str, object]:
    back = {"from": _BACK if source != _MATH else 0, "to": 0}
    datasource = {"datasourceUid": source, "relativeTimeRange": back}
    return {"refId": reference, **datasource, "model": model}
