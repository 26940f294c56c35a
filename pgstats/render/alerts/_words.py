"""What is said of a rule, in every system."""

from __future__ import annotations

from pgstats.overview import Condition, Level, Rule, Series


def span(seconds: float) -> str:
    """90 is 90s, 3600 is 1h: as people and all of the systems write it."""
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size:g}{unit}"
    return f"{seconds:g}s"


def number(value: float, unit: str) -> str:
    """A limit as people read it."""
    if unit == "seconds":
        return span(value)
    if unit == "ratio":
        return f"{100 * value:g} %" if value < 1 else f"{value:g}"
    if unit == "bytes":
        return f"{value / (1 << 20):g} MB"
    return f"{value:.3g} a second" if unit.endswith("per_second") else f"{value:,.12g}"


def when(series: Series, sign: str, limit: float) -> str:
    """A condition in words."""
    text = f"`{series.metric}`"
    if series.age:
        text = f"the age of {text}"
    if series.per:
        text += f" / {' + '.join(f'`{name}`' for name in series.per)}"
    if series.how == "sum":
        text = f"the sum of {text}"
    others = [f"{label} {value}" for label, value in series.where.items() if value[0] != "!"]
    text += f" ({', '.join(others)})" if others else ""
    return f"{text} {'≥' if sign == '>=' else '<'} {number(limit, series.unit)}"


def condition(one: Condition) -> str:
    """A condition in words."""
    return when(one.series, one.sign, one.limit)


def level(rule: Rule, one: Level) -> str:
    """From when on a level is reached, in words."""
    parts = [when(rule.series, rule.sign, one.limit), *map(condition, one.also)]
    return f"{' and '.join(parts)}, for {span(one.seconds)}"


def page(rule: Rule) -> str:
    """Where the runbook has it."""
    return f"docs/runbook/{rule.id}.md"
