"""`pgstats why`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import click

from pgstats.cli.main import FAILED, OK, UNAVAILABLE
from pgstats.cli.options import (
    SECONDS_OR_NONE,
    configured,
    log_of,
    option,
    with_state,
    with_targets,
)
from pgstats.errors import AskError, ConfigError, UnknownName
from pgstats.log import ERROR, Log

if TYPE_CHECKING:
    from pgstats.ask import Witness
    from pgstats.config import Config
    from pgstats.evidence import Asked, Sample
    from pgstats.model import Target
    from pgstats.why import Verdict

#: Looks at a cluster while it is watched.
LOOKS = 5


@click.command("why", short_help="Says why dead tuples are not reclaimed.")
@click.argument("table", metavar="[DATABASE.SCHEMA.TABLE]", required=False, default="")
@with_targets
@with_state
@option(
    "--watch",
    type=SECONDS_OR_NONE,
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
    with ExitStack() as stack:
        watches = [stack.enter_context(closing(_Watch(target))) for target in clusters]
        _choose(watches, table)
        _watch(watches, watch)
        verdicts = _verdicts(watches, config, log)
    _print(verdicts, as_json=as_json)
    return _code(verdicts)


class _Watch:
    """One cluster while it is looked at; whatever goes wrong ends the looking and is kept."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.asked: Asked | None = None
        self.samples: list[Sample] = []
        self.fault: AskError | None = None
        self.witness: Witness | None = None
        self._try(self._open)

    def close(self) -> None:
        """Let go of the connection."""
        if self.witness:
            self.witness.close()

    def choose(self, table: str) -> None:
        """Look at one table alone. Raises `UnknownName`."""
        self._try(lambda: self._ask_for(table))

    def look(self) -> None:
        """Take another sample."""
        if not self.fault:
            self._try(self._sample)

    @property
    def standby(self) -> bool:
        """Whether it is known to be one."""
        return bool(self.samples and self.samples[-1].server.get("in_recovery"))

    def _open(self) -> None:
        from pgstats.ask import Witness  # noqa: PLC0415

        self.witness = Witness(self.target)

    def _ask_for(self, table: str) -> None:
        if self.witness:
            self.asked = self.witness.ask_for(table)

    def _sample(self) -> None:
        if self.witness:
            self.samples.append(self.witness.sample())

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except AskError as error:
            self.fault = error


def _choose(watches: list[_Watch], table: str) -> None:
    """Look at one table; clusters that do not have it are left out, unless none has."""
    strangers = {}
    for watch in watches if table else ():
        try:
            watch.choose(table)
        except UnknownName as error:
            strangers[watch.target.name] = error
    if strangers and len(strangers) == len([watch for watch in watches if not watch.fault]):
        raise click.UsageError("; ".join(f"{name}: {text}" for name, text in strangers.items()))
    watches[:] = [watch for watch in watches if watch.target.name not in strangers]


def _watch(watches: Sequence[_Watch], seconds: float) -> None:
    """Look several times over the time of watching, the first time at once."""
    looks = LOOKS if seconds else 1
    for number in range(1, looks + 1):
        for one in watches:
            one.look()
        if number < looks:
            _progress(f"look {number} of {looks} taken; watching for {seconds:g} s")
            time.sleep(seconds / (looks - 1))
    _progress("")


def _verdicts(watches: Sequence[_Watch], config: Config, log: Log) -> list[Verdict]:
    standbys = {one.target.name: one.samples[-1] for one in watches if one.standby}
    return [_verdict(one, config, standbys, log) for one in watches]


def _verdict(watch: _Watch, config: Config, standbys: Mapping[str, Sample], log: Log) -> Verdict:
    """The verdict on one cluster; one that cannot be asked is unknown."""
    from pgstats.evidence import Limit, Sample  # noqa: PLC0415
    from pgstats.why import Case, judge  # noqa: PLC0415

    limits = []
    if watch.fault:
        text = f"{watch.fault.stage}: {watch.fault}"
        log.tell(ERROR, f"{watch.target.name}: {text}")
        limits = [Limit("the server" if not watch.samples else "further samples", text)]
    samples = watch.samples or [Sample(0, {})]
    asked = watch.asked
    case = Case(
        watch.target.name,
        samples,
        _heaps(samples),
        _seen(config, watch.target, samples),
        asked.title if asked else "",
        asked.database if asked else "",
        {name: sample for name, sample in standbys.items() if name != watch.target.name},
    )
    verdict = judge(case, limits)
    if watch.fault or not watch.witness:
        return verdict
    from pgstats.cli.tracing import traced  # noqa: PLC0415

    return traced(verdict, watch.witness, config)


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
    """Since when each hold has been there, and each table over its threshold, as polls know."""
    from pgstats.state import glanced  # noqa: PLC0415
    from pgstats.why import first_seen, holders  # noqa: PLC0415

    memory = glanced(config.state).of(target)
    known: Mapping[str, float] = memory.get("holds", {})
    for sample in samples:
        known = first_seen(holders(sample), known, sample.at)
    due = memory.get("due", {}).items()
    over = {f"over {name}.{table}": at for name, tables in due for table, at in tables.items()}
    return {**known, **over}


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
