"""`pgstats nagios`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import IO, TYPE_CHECKING, Any

import click

from pgstats.cli.options import log_of, option, with_view
from pgstats.cli.threshold import Threshold, contradict, threshold
from pgstats.errors import PgstatsError
from pgstats.noun import Noun
from pgstats.printing import escaped

if TYPE_CHECKING:
    from pgstats.catalogue.limits import Place
    from pgstats.model import Metric, Number, Poll, Query, Row, Table

#: Exit codes of a plug-in, and the order in which the worst counts.
OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3
_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
_WORST = (CRITICAL, WARNING, UNKNOWN, OK)

_FAMILIES = ("pgbouncer", "postgres")
#: How perfdata writes units; a total is a counter.
_UNITS = {"seconds": "s", "ms": "ms", "us": "us", "bytes": "B"}
#: Rows that are told; Nagios cuts what is longer than some kilobytes.
_MOST = 50


class _Unknown(click.ClickException):
    """What a plug-in says where it cannot do its work: on standard output, which Nagios shows."""

    exit_code = UNKNOWN

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"PGSTATS UNKNOWN: {_plain(self.message)}", file)


class _Plugin(click.Command):
    """A command that keeps to a plug-in's exit codes, whatever is wrong with its use."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        try:
            return super().make_context(*args, **more)
        except click.ClickException as error:
            raise _Unknown(error.format_message()) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.ClickException as error:
            raise _Unknown(error.format_message()) from error
        except PgstatsError as error:
            raise _Unknown(str(error)) from error


class _Threshold(click.ParamType):  # type: ignore[type-arg]
    name = "threshold"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Threshold:
        if isinstance(value, Threshold):
            return value
        found = threshold(str(value))
        if found is None:
            self.fail(f"{value} is none of N, N%, -N and N:", param, ctx)
        return found


def _names(_: click.Context, __: click.Parameter, start: str) -> list[str]:
    from pgstats.catalogue import QUERIES  # noqa: PLC0415

    names = {name for query in QUERIES for name in _named(query)}
    return sorted(name for name in names if name.startswith(start))


@click.command("nagios", cls=_Plugin)
@click.argument("name", metavar="NAME", shell_complete=_names)
@option("-w", "--warning", type=_Threshold(), metavar="THRESHOLD", help="Where WARNING begins.")
@option("-c", "--critical", type=_Threshold(), metavar="THRESHOLD", help="Where CRITICAL begins.")
@option(
    "--where",
    multiple=True,
    metavar="LABEL=GLOB",
    help="Judge these rows alone, for instance database=shop; repeatable.",
)
@with_view
def command(
    *,
    name: str,
    warning: Threshold | None,
    critical: Threshold | None,
    where: Sequence[str],
    **options: Any,
) -> int:
    """Judges one metric as a Nagios plug-in: one line, perfdata, exit code 0, 1, 2 or 3.

    NAME is GROUP.METRIC as `pgstats metrics` lists it: pools.maxwait_seconds. THRESHOLD is N (a
    value of at least that), N% of its limit, -N (no more than that is left to it), or N: (less
    than that). The worst row counts. A target that is down is CRITICAL; what is not known is
    UNKNOWN.
    """
    check = _Check.of(name, warning, critical, where)
    from pgstats.cli.cycle import poll_all  # noqa: PLC0415
    from pgstats.cli.telling import tell  # noqa: PLC0415
    from pgstats.cli.viewing import View, collecting, viewed  # noqa: PLC0415

    config = viewed(options, check.families)
    groups = [check.place[0], *([check.limit[0]] if check.limit else [])]
    targets = [collecting(collecting(one, groups[0]), groups[-1]) for one in config.targets]
    polls = poll_all(targets)
    if options["verbose"]:
        tell(polls, log_of(options))
    results = list(check.results(View(config).tables(polls, groups)))
    state, lines = check.report(results, list(_faults(polls, results)))
    for line in lines:
        click.echo(line)
    return state


def _faults(polls: Sequence[Poll], results: Sequence[_Result]) -> Iterator[tuple[int, str]]:
    """What is wrong with the targets that nothing is known of."""
    from pgstats.cli.viewing import trouble  # noqa: PLC0415

    told = trouble(polls)
    known = {result.target for result in results}
    for poll in polls:
        name = poll.target.title
        if not poll.up:
            yield CRITICAL, f"{name}: {told[poll.target.name]}"
        elif name not in known:
            yield UNKNOWN, f"{name}: {told[poll.target.name] or 'no row is known'}"


class _Result(Noun):
    """One row: its state, whose it is and what it is called, its number and that of its limit."""

    state: int
    target: str
    name: str
    value: Number
    limit: Number | None


class _Check(Noun):
    """What is judged: a metric, by which limit, which rows, from where on."""

    name: str
    families: Sequence[str]
    place: Place
    metric: Metric
    limit: Place | None
    filters: Mapping[str, str]
    warning: Threshold | None
    critical: Threshold | None

    @classmethod
    def of(
        cls,
        name: str,
        warning: Threshold | None,
        critical: Threshold | None,
        where: Sequence[str],
    ) -> _Check:
        """The check that a user asks for; `click.UsageError` says why there is none."""
        from pgstats.catalogue.limits import LIMITS  # noqa: PLC0415

        families, place, metric, labels = _found(name)
        limit = LIMITS.get(place)
        share = metric.unit == "ratio"
        for one in (warning, critical):
            if one and one.relative and not limit and not (share and one.how == "%"):
                raise click.UsageError(f"{name} has no limit that {one.text} could refer to")
        if warning and critical and contradict(warning, critical):
            raise click.UsageError(f"a warning at {warning.text} comes after {critical.text}")
        filters = dict(_filter(text, labels) for text in where)
        return cls(name, families, place, metric, limit, filters, warning, critical)

    def results(self, tables: Sequence[Table]) -> Iterator[_Result]:
        """The rows that are meant and known."""
        table, limits = tables[0], tables[-1]
        for row in table.rows:
            labels = dict(zip(table.labels, row, strict=False))
            value = _value(table, row, self.metric.name)
            if value is None or not _matches(labels, self.filters):
                continue
            limit = _limit(limits, labels, self.limit[1]) if self.limit else None
            target, *rest = (str(text) for text in labels.values())
            yield _Result(self._state(value, limit), target, " ".join(rest), value, limit)

    def _state(self, value: Number, limit: Number | None) -> int:
        for state, one in ((CRITICAL, self.critical), (WARNING, self.warning)):
            if one and one.crossed(value, limit, self.metric.unit):
                return state
        return OK

    def report(
        self, results: Sequence[_Result], faults: Sequence[tuple[int, str]]
    ) -> tuple[int, list[str]]:
        """The state of it all and the lines that tell it, perfdata in the first."""
        worst = sorted(results, key=lambda one: (_WORST.index(one.state), -one.value))
        texts = [*faults, *((one.state, self._text(one)) for one in worst)]
        texts.sort(key=lambda pair: _WORST.index(pair[0]))
        texts = texts or [(UNKNOWN, "no row is known")]
        state, text = texts[0]
        data = " ".join(map(self._data, worst[:_MOST]))
        more = [_plain(text) for state, text in texts[1:_MOST] if state != OK]
        first = f"PGSTATS {_WORDS[state]}: {_plain(text)}"
        return state, [f"{first} | {data}" if data else first, *more]

    def _text(self, one: _Result) -> str:
        of = f" of {one.limit:g}" if one.limit else ""
        at = " ".join(filter(None, (one.target, one.name)))
        return f"{self.name} is {one.value:g}{of} at {at}"

    def _data(self, one: _Result) -> str:
        """`'label'=value[unit];warning;critical`."""
        label = _plain(" ".join(filter(None, (one.target, one.name)))).replace("=", "_")
        unit = "c" if self.metric.kind == "total" else _UNITS.get(self.metric.unit, "")
        ends = ";".join(_end(t, one.limit, self.metric.unit) for t in (self.warning, self.critical))
        return f"'{label.replace(chr(39), chr(39) * 2)}'={one.value:.12g}{unit};{ends}".rstrip(";")


def _end(one: Threshold | None, limit: Number | None, unit: str) -> str:
    at = one.at(limit, unit) if one else None
    return "" if one is None or at is None else f"{at:.12g}{':' * (one.how == ':')}"


def _found(name: str) -> tuple[Sequence[str], Place, Metric, set[str]]:
    """The families, group and metric of a name, and the labels of its rows."""
    from pgstats.catalogue import QUERIES  # noqa: PLC0415
    from pgstats.cli.viewing import GROUPS, group_of  # noqa: PLC0415

    family, _, short = name.partition(".")
    families, short = ((family,), short) if family in _FAMILIES else (_FAMILIES, name)
    group, _, metric = short.rpartition(".")
    found = [
        (query, one)
        for query in QUERIES
        for one in query.metrics
        if (query.group, one.name) == (group, metric) and group_of(query) in GROUPS
    ]
    asked = [one for one in families if found and one in GROUPS[group_of(found[0][0])]]
    if not asked:
        from difflib import get_close_matches  # noqa: PLC0415

        near = get_close_matches(short, [n for q in QUERIES for n in _named(q)], 1)
        hint = f"did you mean {near[0]}?" if near else "pgstats metrics lists them"
        raise click.UsageError(f"there is no metric {name}; {hint}")
    query, one = found[0]
    return asked, (group_of(query), metric), one, {"target", *query.labels}


def _named(query: Query) -> list[str]:
    return [".".join(filter(None, (query.group, one.name))) for one in query.metrics]


def _filter(text: str, labels: set[str]) -> tuple[str, str]:
    label, between, glob = text.partition("=")
    if not between or label not in labels:
        raise click.UsageError(f"--where {text}: LABEL=GLOB, of {', '.join(sorted(labels))}")
    return label, glob


def _matches(labels: Mapping[str, Any], filters: Mapping[str, str]) -> bool:
    return all(fnmatchcase(str(labels[label]), glob) for label, glob in filters.items())


def _value(table: Table, row: Row, metric: str) -> Number | None:
    names = [one.name for one in table.metrics]
    value: Number | None = row[len(table.labels) + names.index(metric)] if metric in names else None
    return value


def _limit(table: Table, labels: Mapping[str, Any], metric: str) -> Number | None:
    """The number of the row with the same labels, as far as it has them."""
    for row in table.rows:
        own = zip(table.labels, row, strict=False)
        if all(labels.get(label) == text for label, text in own):
            return _value(table, row, metric)
    return None


def _plain(text: str) -> str:
    """Text that is one line of a plug-in: perfdata begins behind a bar."""
    return escaped(" ".join(text.split())).replace("|", "_")
