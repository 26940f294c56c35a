"""The results as tables of Markdown, for the terminal and for RESULTS.md."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from benchmarks.case import Case, Goal, Result
from benchmarks.meter import Cost

_HEAD = "| who | client CPU ms | server CPU ms | wall ms | peak MiB | gauges | us a gauge |"
_RULE = "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"


def section(case: Case, result: Result) -> str:
    """One case: the medians, then its goals."""
    lines = [f"### {case.title} (`{case.name}`)", ""]
    if result.costs:
        lines += [_HEAD, _RULE, *(_row(who, cost) for who, cost in result.costs.items()), ""]
    lines += [f"- {_said(goal)}" for goal in result.goals]
    return "\n".join(lines) + "\n"


def _row(who: str, cost: Cost) -> str:
    each = f"{1000 * cost.client / cost.gauges:.2f}" if cost.gauges and cost.client else ""
    numbers = (
        f"{number:.{digits}f}" if number else ""
        for number, digits in zip(cost, (1, 1, 1, 1, 0), strict=True)
    )
    return f"| {who} | {' | '.join(numbers)} | {each} |"


def _said(goal: Goal) -> str:
    bound = "at least" if goal.least else "at most"
    verdict = "met" if goal.met else "**missed**"
    bound = f"{bound} {goal.limit:g} {goal.unit}".strip()
    return f"{goal.text}: {_number(goal.measured)} {goal.unit} ({bound}): {verdict}"


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def summary(results: Mapping[Case, Result]) -> str:
    """All goals in one table."""
    lines = ["| goal | measured | limit | |", "| --- | ---: | ---: | --- |"]
    for result in results.values():
        for goal in result.goals:
            verdict = "met" if goal.met else "**missed**"
            limit = f"{'>=' if goal.least else '<='} {goal.limit:g} {goal.unit}"
            lines.append(
                f"| {goal.text} | {_number(goal.measured)} {goal.unit} | {limit} | {verdict} |"
            )
    return "\n".join(lines) + "\n"


def heading(servers: Iterable[Sequence[str | Path]]) -> str:
    """When, where, and with which versions."""
    packages = ", ".join(
        f"{name} {metadata.version(name)}"
        for name in ("psycopg2-binary", "click", "statsd", "schedule")
    )
    told = [_first_line(argv) for argv in servers]
    return "\n".join(
        [
            f"- {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores ({_processor()}),"
            f" {platform.system()} {platform.release()}",
            f"- Python {platform.python_version()}, {packages}",
            f"- {'; '.join(told)}",
        ]
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((one.partition(": ")[2] for one in lines if one.startswith("model name")), "?")


def _first_line(argv: Sequence[str | Path]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().splitlines()[0]
