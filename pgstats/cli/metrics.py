"""`pgstats metrics`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pgstats.cli.main import OK
from pgstats.cli.options import option

if TYPE_CHECKING:
    from pgstats.model import Metric, Query


@click.command("metrics")
@option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@option("--dialect", default="plain", show_default=True, help="Spell the names for this one.")
@option("--prefix", default="pgstats", show_default=True, help="First part of every name.")
@click.argument("pattern", default="*")
def command(*, as_json: bool, dialect: str, prefix: str, pattern: str) -> int:
    """Lists everything that can be shipped: name, unit, kind, labels, source, versions.

    PATTERN chooses by glob over FAMILY.GROUP.METRIC, for instance 'pgbouncer.pools.*'.
    """
    from fnmatch import fnmatchcase  # noqa: PLC0415

    from pgstats.spell import DIALECTS  # noqa: PLC0415

    if dialect not in DIALECTS:
        raise click.BadParameter(f"one of {', '.join(DIALECTS)}", param_hint="--dialect")
    found = [m for m in entries(dialect, prefix) if fnmatchcase(m["name"], pattern)]
    if not found:
        raise click.UsageError(f"no metric matches {pattern}; try '*{pattern.strip('*')}*'")
    if as_json:
        import json  # noqa: PLC0415

        click.echo(json.dumps(found, indent=1))
        return OK
    for entry in found:
        click.echo(_text(entry))
    return OK


def entries(dialect: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Each metric of the catalogue as plain data."""
    from pgstats.catalogue import QUERIES  # noqa: PLC0415
    from pgstats.spell import DIALECTS, shape  # noqa: PLC0415

    for query in QUERIES:
        for metric in query.metrics:
            yield {
                "name": ".".join(filter(None, (query.family, query.group, metric.name))),
                "line": shape(query, metric, DIALECTS[dialect], prefix),
                "unit": metric.unit or None,
                "kind": metric.kind,
                "labels": list(query.labels),
                "source": _source(query, metric),
                "since": _version(query.family, max(metric.since, query.since)),
                "until": _version(query.family, metric.until),
                "help": metric.help,
            }


def _source(query: Query, metric: Metric) -> str | None:
    """Where a number comes from, in the servers' own words; None where `help` says how."""
    if metric.of:
        whole = " - ".join(metric.of)
        return f"growth of {whole}" + f" per {metric.per}" * bool(metric.per)
    if not query.source:
        return metric.column or None
    text = f"{' + '.join((metric.origin(), *metric.plus))} of {query.source}"
    return " ".join(text.split())


def _version(family: str, number: int) -> str | None:
    """11800 of PgBouncer is 1.18, 130000 of PostgreSQL is 13."""
    if not number:
        return None
    if family == "postgres":
        return str(number // 10000)
    major, minor, patch = number // 10000, number // 100 % 100, number % 100
    return f"{major}.{minor}.{patch}" if patch else f"{major}.{minor}"


def _text(entry: dict[str, Any]) -> str:
    facts = [entry["kind"], entry["unit"] or "count"]
    if entry["since"]:
        facts.append(f"since {entry['since']}")
    if entry["until"]:
        facts.append(f"until {entry['until']}")
    if entry["source"]:
        facts.append(entry["source"])
    return f"{entry['line']}\n    {entry['help']}. [{'; '.join(facts)}]"
