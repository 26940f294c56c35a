"""`pgstats why`."""

from __future__ import annotations

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
from pgstats.cli.progress import say
from pgstats.errors import AskError, ConfigError, UnknownName, kept
from pgstats.log import ERROR, WARNING, Log, printable

if TYPE_CHECKING:
    from pgstats.ask.witness import Witness
    from pgstats.config import Config
    from pgstats.evidence import Asked, Sample
    from pgstats.model import Target
    from pgstats.why.verdict import Verdict

#: Looks at a cluster while it is watched: one a second, and within these bounds.
LEAST, MOST = 2, 10
#: Clusters that are asked at the same time.
AT_ONCE = 16


@click.command("why")
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
        _each(watches, _Watch.open)
        watches = _chosen(watches, table, log)
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
        self.stranger: UnknownName | None = None
        self.witness: Witness | None = None

    def close(self) -> None:
        """Let go of the connection."""
        if self.witness:
            self.witness.close()

    def open(self) -> None:
        """Connect."""
        self._try(self._open)

    def choose(self, table: str) -> None:
        """Look at one table alone; where there is none of the name, that is kept."""
        try:
            self._try(lambda: self._ask_for(table))
        except UnknownName as error:
            self.stranger = kept(error)

    def look(self) -> None:
        """Take another sample."""
        if not self.fault:
            self._try(self._sample)

    @property
    def standby(self) -> bool:
        """Whether it is known to be one."""
        return bool(self.samples and self.samples[-1].server.get("in_recovery"))

    def _open(self) -> None:
        from pgstats.ask.witness import Witness  # noqa: PLC0415

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
            self.fault = kept(error)


def _each(watches: Sequence[_Watch], step: Callable[[_Watch], None]) -> None:
    """Do something with all clusters; one that is slow keeps nobody waiting."""
    if len(watches) < 2:
        for watch in watches:
            step(watch)
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    with ThreadPoolExecutor(min(AT_ONCE, len(watches))) as pool:
        list(pool.map(step, watches))


def _chosen(watches: list[_Watch], table: str, log: Log) -> list[_Watch]:
    """The clusters to look at: where a table is asked for, those that may have it."""
    if not table:
        return watches
    _each(watches, lambda watch: watch.choose(table))
    strangers = [
        f"{watch.target.name}: {printable(str(watch.stranger))}"
        for watch in watches
        if watch.stranger
    ]
    if len(strangers) == len(watches):
        raise click.UsageError("; ".join(strangers))
    for text in strangers:
        log.tell(WARNING, text)
    return [watch for watch in watches if not watch.stranger]


def _watch(watches: Sequence[_Watch], seconds: float) -> None:
    """Look several times over the time of watching, the first time at once."""
    looks = max(LEAST, min(MOST, 1 + round(seconds))) if seconds else 1
    began = time.monotonic()
    for number in range(looks):
        due = began + seconds * number / max(1, looks - 1)
        time.sleep(max(0.0, due - time.monotonic()))
        say(f"look {number + 1} of {looks}; watching for {seconds:g} s")
        _each(watches, _Watch.look)
    say("")


def _verdicts(watches: Sequence[_Watch], config: Config, log: Log) -> list[Verdict]:
    standbys = {one.target.name: one.samples[-1] for one in watches if one.standby}
    return [_verdict(one, config, standbys, log) for one in watches]


def _verdict(watch: _Watch, config: Config, standbys: Mapping[str, Sample], log: Log) -> Verdict:
    """The verdict on one cluster; one that cannot be asked is unknown."""
    from pgstats.ask.failure import failure  # noqa: PLC0415
    from pgstats.evidence import Limit, Sample  # noqa: PLC0415
    from pgstats.why import Case  # noqa: PLC0415
    from pgstats.why.verdict import judge  # noqa: PLC0415

    limits = []
    if watch.fault:
        text = str(failure(watch.fault))
        log.tell(ERROR, f"{watch.target.name}: {text}")
        limits = [Limit("the server" if not watch.samples else "further samples", text)]
    samples = watch.samples or [Sample(0, {})]
    asked = watch.asked
    case = Case(
        watch.target.name,
        samples,
        _heaps(samples),
        seen=_seen(config, watch.target, samples),
        asked=asked.title if asked else "",
        database=asked.database if asked else "",
        standbys={name: sample for name, sample in standbys.items() if name != watch.target.name},
    )
    verdict = judge(case, limits)
    if watch.fault or not watch.witness:
        return verdict
    from pgstats.cli.tracing import traced  # noqa: PLC0415

    try:
        return traced(verdict, watch.witness, config)
    except AskError as error:
        log.tell(ERROR, f"{watch.target.name}: {failure(error)}")
        lost = Limit("the clients behind the sessions", str(failure(error)))
        return verdict._replace(limits=[*verdict.limits, lost])


def _heaps(samples: Sequence[Sample]) -> list[Any]:
    """The heaps of the last sample, with what the earlier ones say of each.

    A catalog that all databases share is in each of them: it is told once.
    """
    from pgstats.why import Heap  # noqa: PLC0415

    found = []
    shared = set()
    for database, rows in samples[-1].heaps.items():
        each = [{row["oid"]: row for row in one.heaps.get(database, ())} for one in samples]
        for row in rows:
            if not row["shared"] or row["oid"] not in shared:
                before = (one.get(row["oid"]) for one in each)
                found.append(Heap(database, [one for one in before if one is not None]))
            if row["shared"]:
                shared.add(row["oid"])
    return found


def _seen(config: Config, target: Target, samples: Sequence[Sample]) -> Mapping[str, float]:
    """Since when each hold has been there, and each table over its threshold, as polls know."""
    from pgstats.state import glanced  # noqa: PLC0415
    from pgstats.why import first_seen, holders, over_key  # noqa: PLC0415

    memory = glanced(config.state).of(target)
    known: Mapping[str, float] = memory.get("holds", {})
    for sample in samples:
        known = first_seen(holders(sample), known, sample.at)
    over = memory.get("over", {}).items()
    over = {over_key(name, oid): at for name, oids in over for oid, at in oids.items()}
    return {**known, **over}


def _print(verdicts: Sequence[Verdict], *, as_json: bool) -> None:
    from pgstats.why.report import document, report  # noqa: PLC0415

    if as_json:
        import json  # noqa: PLC0415

        found = [document(verdict) for verdict in verdicts]
        click.echo(json.dumps(found[0] if len(found) == 1 else found, indent=1))
        return
    for number, verdict in enumerate(verdicts):
        if len(verdicts) > 1:  # which of them it is need not show in what is said
            click.echo(f"{'' if not number else chr(10)}== {verdict.case.target} ==")
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
