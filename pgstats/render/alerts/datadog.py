"""Monitors of Datadog, as its API takes them, one a rule and level."""

from __future__ import annotations

import json
from typing import Any

from pgstats.overview import RULES, Fleet, Level, Rule
from pgstats.render.alerts._words import level as words
from pgstats.render.alerts._words import page, span
from pgstats.render.language.datadog import Datadog

_PRIORITY = {"critical": 2, "warning": 4}


def render(fleet: Fleet) -> str:
    """A JSON list: each entry is the body of one POST to /api/v1/monitor."""
    language = Datadog(fleet)
    monitors = [
        _monitor(language, rule, severity, level)
        for rule in RULES
        for severity, level in rule.levels().items()
    ]
    return json.dumps(monitors, indent=1, ensure_ascii=False) + "\n"


def _monitor(language: Datadog, rule: Rule, severity: str, level: Level) -> dict[str, Any]:
    names = " ".join(f"{{{{{key}.name}}}}" for key in rule.series.keys)
    silence = {"notify_no_data": True, "no_data_timeframe": 10} if rule.series.age else {}
    return {
        "name": f"{rule.title}: {names}".removesuffix(": "),
        "type": "query alert",
        "query": _query(language, rule, level),
        "message": f"{words(rule, level)}. {rule.reason}\n\n"
        f"`{rule.ask}` ({page(rule)}): {rule.cure}",
        "tags": ["pgstats", f"severity:{severity}"],
        "priority": _PRIORITY[severity],
        "options": {
            "thresholds": {"critical": 0 if rule.series.age else level.limit},
            "require_full_window": False,
            **silence,
        },
    }


def _query(language: Datadog, rule: Rule, level: Level) -> str:
    """The least of the time must be over the limit, or the greatest below it.

    An age is not asked for: what is not sent is not there, and that is what the monitor tells.
    """
    if rule.series.age:
        return f"max(last_{span(level.seconds)}):{language.curve(rule.series)} < 0"
    how, sign = ("min", ">=") if rule.sign == ">=" else ("max", "<")
    return (
        f"{how}(last_{span(level.seconds)}):{language.firing(rule, level)} {sign} {level.limit:g}"
    )
