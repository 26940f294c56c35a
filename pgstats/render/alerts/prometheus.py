"""Rules of Prometheus, over what statsd_exporter exposes with our mapping, or from tags."""

from __future__ import annotations

from pgstats.overview import RULES, Fleet, Level, Rule
from pgstats.render.alerts._words import level as words
from pgstats.render.alerts._words import page, span
from pgstats.render.language.promql import PromQL
from pgstats.render.yaml import yaml

_HEAD = "# Made by `pgstats alerts prometheus`: a file for rule_files of prometheus.yml.\n"


def render(fleet: Fleet) -> str:
    """The file."""
    language = PromQL(fleet)
    rules = [
        _rule(language, rule, severity, level)
        for rule in RULES
        for severity, level in rule.levels().items()
    ]
    return _HEAD + yaml({"groups": [{"name": fleet.prefix, "rules": rules}]})


def name(rule: Rule) -> str:
    """vacuum-behind is PgstatsVacuumBehind."""
    return "Pgstats" + "".join(word.capitalize() for word in rule.id.split("-"))


def _rule(language: PromQL, rule: Rule, severity: str, level: Level) -> dict[str, object]:
    where = "".join(f" {{{{ $labels.{key} }}}}" for key in rule.series.keys)
    return {
        "alert": name(rule),
        "expr": language.firing(rule, level),
        "for": span(level.seconds),
        "labels": {"severity": severity},
        "annotations": {
            "summary": f"{rule.title}:{where} ({{{{ $value | humanize }}}})",
            "description": f"{words(rule, level)}. {rule.reason}",
            "runbook": f"{rule.ask} ({page(rule)}): {rule.cure}",
        },
    }
