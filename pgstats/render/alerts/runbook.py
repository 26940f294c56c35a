"""The runbook: what each alert means, and what to do."""

from __future__ import annotations

from pgstats.overview import RULES, Fleet, Rule
from pgstats.render.alerts._words import condition, level


def render(fleet: Fleet) -> str:  # noqa: ARG001 - the same for all
    """All pages, one after the other."""
    return "\n".join(map(page, RULES))


def page(rule: Rule) -> str:
    """One page."""
    levels = [f"- {severity}: {level(rule, one)}." for severity, one in rule.levels().items()]
    mutes = [f"- {condition(one)}." for one in rule.muted]
    parts = [
        f"# {rule.title}",
        f"`{rule.id}`: {rule.reason}",
        "## When",
        "\n".join(levels),
        f"Only where {condition(rule.size)}.",
        *(["Not while:", "\n".join(mutes)] if mutes else []),
        "## What to do",
        f"```sh\n{rule.ask}\n```",
        rule.cure,
    ]
    return "\n\n".join(parts) + "\n"
