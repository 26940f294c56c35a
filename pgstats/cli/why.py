"""`pgstats why`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from pgstats.cli.main import FAILED, OK, UNAVAILABLE
from pgstats.cli.options import SECONDS, configured, log_of, option, with_state, with_targets
from pgstats.errors import AskError, ConfigError, UnknownName
from pgstats.log import ERROR, Log

if TYPE_CHECKING:
    from pgstats.ask import Witness
    from pgstats.config import Config
    from pgstats.evidence import Sample
    from pgstats.model import Target
    from pgstats.why import Verdict

#: Looks at a cluster while it is watched.
LOOKS = 3


@click.command("why", short_help="Says why dead tuples are not reclaimed.")
@click.argument("table", metavar="[DATABASE.SCHEMA.TABLE]", required=False, default="")
@with_targets
@with_state
@option(
    "--watch",
    type=SECONDS,
    default="10s",
    metavar="DURATION",
    show_default=True,
    help="How long to look; 0 looks once.",
)
@option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def command(*, table: str, watch: float, as_json: bool, **options: Any) -> int:
    """Says why dead tuples are not reclaimed, in the whole cluster or in one table.

    Nothing is changed or ended: what would cure it is printed.
    """
    config = configured(options)
    log = log_of(options)
    clusters = [target for target in config.targets if target.family == "postgres"]
    if not clusters:
        raise ConfigError(["no PostgreSQL to ask: give --postgres DSN or a [[postgres]] entry"])
    verdicts = [_investigated(target, config, table, watch, log) for target in clusters]
    _print(verdicts, as_json=as_json)
    return _code(verdicts)


def _investigated(target: Target, config: Config, table: str, watch: float, log: Log) -> Verdict:
    """The verdict on one cluster; one that cannot be asked is unknown."""
    from pgstats.ask import Witness  # noqa: PLC0415
    from pgstats.evidence import Limit, Sample  # noqa: PLC0415
    from pgstats.why import Case, judge  # noqa: PLC0415

    try:
        with closing(Witness(target)) as witness:
            asked = witness.ask_for(table) if table else None
            samples = list(_watched(witness, watch))
            case = Case(target.name, samples, _heaps(samples), _seen(config, target, samples))
            if asked:
                case = replace(case, asked=asked.title, database=asked.database)
            return judge(case)
    except UnknownName as error:
        raise click.UsageError(str(error)) from error
    except AskError as error:
        log.tell(ERROR, f"{target.name}: {error.stage}: {error}")
        unasked = Case(target.name, [Sample(0, {})], asked=table)
        return judge(unasked, [Limit("the whole server", str(error))])


def _watched(witness: Witness, watch: float) -> Iterator[Sample]:
    """Samples over the time of watching, the first one at once."""
    yield witness.sample()
    for look in range(1, LOOKS if watch else 1):
        _progress(f"{witness.target.name}: look {look} of {LOOKS} taken, watching for {watch:g} s")
        time.sleep(watch / (LOOKS - 1))
        yield witness.sample()
    _progress("")


def _progress(text: str) -> None:
    """Tell a person who waits what is going on; the next text takes its place."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", err=True, nl=False)


def _heaps(samples: Sequence[Sample]) -> list[Any]:
    """The heaps of the last sample, with what the earlier ones say of each."""
    from pgstats.why import Heap  # noqa: PLC0415

    found = []
    for database, rows in samples[-1].heaps.items():
        for row in rows:
            before = (_row(sample, database, row["oid"]) for sample in samples)
            found.append(Heap(database, [one for one in before if one is not None]))
    return found


def _row(sample: Sample, database: str, oid: int) -> Mapping[str, Any] | None:
    return next((row for row in sample.heaps.get(database, ()) if row["oid"] == oid), None)


def _seen(config: Config, target: Target, samples: Sequence[Sample]) -> Mapping[str, float]:
    """Since when each hold has been there, as earlier polls and this one know."""
    from pgstats.state import glanced  # noqa: PLC0415
    from pgstats.why import first_seen, holders  # noqa: PLC0415

    known: Mapping[str, float] = glanced(config.state).of(target).get("holds", {})
    for sample in samples:
        known = first_seen(holders(sample), known, sample.at)
    return known


def _print(verdicts: Sequence[Verdict], *, as_json: bool) -> None:
    from pgstats.why.report import document, report  # noqa: PLC0415

    if as_json:
        import json  # noqa: PLC0415

        found = [document(verdict) for verdict in verdicts]
        click.echo(json.dumps(found[0] if len(found) == 1 else found, indent=1))
        return
    for verdict in verdicts:
        click.echo(report(verdict, _paint), nl=False)


_COLOURS: dict[str, dict[str, Any]] = {
    "held": {"fg": "red", "bold": True},
    "clear": {"fg": "green", "bold": True},
    "unknown": {"fg": "yellow", "bold": True},
    "critical": {"fg": "red"},
    "warning": {"fg": "yellow"},
    "info": {"fg": "cyan"},
    "command": {"bold": True},
}


def _paint(text: str, kind: str) -> str:
    """Colour, which click leaves out where no terminal would show it."""
    return click.style(text, **_COLOURS[kind])


def _code(verdicts: Sequence[Verdict]) -> int:
    found = {verdict.verdict for verdict in verdicts}
    return FAILED if "held" in found else UNAVAILABLE if "unknown" in found else OK
