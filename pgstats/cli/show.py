"""`pgstats show`."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from pgstats.cli import colour
from pgstats.cli.events import END, NEWS, SIZE, Events
from pgstats.cli.main import OK
from pgstats.cli.options import SECONDS, log_of, option, with_view
from pgstats.cli.progress import progress
from pgstats.cli.telling import code, tell

if TYPE_CHECKING:
    from pgstats.config import Config
    from pgstats.log import Log
    from pgstats.model import Table, Target
    from pgstats.screen import Before


def _groups(_: click.Context, __: click.Parameter, start: str) -> list[str]:
    from pgstats.cli.viewing import GROUPS  # noqa: PLC0415

    return [group for group in GROUPS if group.startswith(start)]


@click.command("show")
@click.argument("group", default="", shell_complete=_groups)
@with_view
@option("--watch", type=SECONDS, metavar="DURATION", help="Again each time, changes marked: 2s.")
@option(
    "--format",
    "form",
    type=click.Choice(("table", "json", "ndjson", "csv")),
    default="table",
    show_default=True,
    help="How to write it.",
)
def command(*, group: str, watch: float | None, form: str, **options: Any) -> int:
    """Shows the live values of a GROUP: pools, stats, databases, tables, horizon ...

    Without GROUP it lists all there are. The server is the one that psql's options name (-H for
    the host), else those of the configuration, else the one that libpq finds by itself, or a
    PgBouncer at port 6432. Nothing is shipped and nothing remembered.
    """
    if not group:
        return _list()
    from pgstats.cli.viewing import GROUPS, collecting, viewed  # noqa: PLC0415
    from pgstats.model import POSTGRES  # noqa: PLC0415

    config = viewed(options, GROUPS.get(group, (POSTGRES,)))
    _check(group, config)
    targets = [collecting(target, group) for target in config.targets]
    log = log_of(options)
    if watch:
        return _watch(config, targets, group, watch, _printer(form, live=True), log)
    return _once(config, targets, group, _printer(form, live=False), log)


def _list() -> int:
    """Every group, whose it is, and by what it is sorted."""
    from pgstats.catalogue.hurts import HURTS  # noqa: PLC0415
    from pgstats.cli.viewing import GROUPS  # noqa: PLC0415

    for group, families in GROUPS.items():
        by = HURTS.get(group, ("",))[0]
        click.echo(f"{group:<16} {' and '.join(families):<23} {by and f'by {by}'}".rstrip())
    return OK


def _check(group: str, config: Config) -> None:
    """The group is in the catalogue, or is a question of the user's own."""
    from pgstats.cli.viewing import GROUPS  # noqa: PLC0415

    own = [one.query.group for target in config.targets for one in target.questions]
    if group not in (*GROUPS, *own):
        from difflib import get_close_matches  # noqa: PLC0415

        near = get_close_matches(group, [*GROUPS, *own], 1)
        hint = f"did you mean {near[0]}?" if near else "pgstats show lists them"
        raise click.UsageError(f"there is no group {group}; {hint}")


def _once(
    config: Config, targets: Sequence[Target], group: str, printer: _Printer, log: Log
) -> int:
    from pgstats.cli.cycle import poll_all  # noqa: PLC0415
    from pgstats.cli.viewing import View, trouble  # noqa: PLC0415

    with progress("asking"):
        polls = poll_all(targets)
    (table,) = View(config).tables(polls, [group])
    tell(polls, log)
    with closing(printer):
        printer.put(table, [text for text in trouble(polls).values() if text])
    return code(polls)


def _watch(
    config: Config,
    targets: Sequence[Target],
    group: str,
    every: float,
    printer: _Printer,
    log: Log,
) -> int:
    """Show each poll until a signal comes."""
    from pgstats.cli.viewing import Poller, View, trouble  # noqa: PLC0415

    view = View(config)
    with Events({signal.SIGWINCH: SIZE}) as events, closing(printer):
        poller = Poller(targets, every, lambda: events.tell(NEWS))
        poller.start()
        while (event := events.next()) != END:
            if event == SIZE:
                printer.again()
                continue
            polls = poller.polls
            (table,) = view.tables(polls, [group])
            faults = trouble(polls)
            printer.put(table, [f"{name}: {text}" for name, text in faults.items() if text])
            for name, text in faults.items() if not printer.live else ():
                log.state(name, text)
    return code(poller.polls) if poller.polls else OK


class _Printer:
    """Writes table after table to standard output."""

    live = False

    def put(self, table: Table, faults: Sequence[str]) -> None:
        """Write a table."""
        raise NotImplementedError

    def again(self) -> None:
        """The terminal has another size."""

    def close(self) -> None:
        """No more tables come."""


class _Text(_Printer):
    """For other programs."""

    def __init__(self, form: str) -> None:
        from pgstats.cli.writing import FORMATS  # noqa: PLC0415

        self._write = FORMATS[form]()

    def put(self, table: Table, faults: Sequence[str]) -> None:  # noqa: ARG002
        text = self._write(table, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        if sys.stdout.isatty():
            from pgstats.printing import escaped  # noqa: PLC0415

            text = "".join(f"{escaped(line)}\n" for line in text.split("\n")[:-1])
        sys.stdout.write(text)
        sys.stdout.flush()


class _Pictures(_Printer):
    """For people."""

    def __init__(self, *, live: bool) -> None:
        from pgstats.screen import Terminal  # noqa: PLC0415

        self._watching = live
        self.live = live and colour.movable(sys.stdout)
        self._terminal = Terminal(sys.stdout, colour=colour.on(sys.stdout), live=self.live)
        self._last: tuple[Table, Before, Sequence[str]] | None = None

    def put(self, table: Table, faults: Sequence[str]) -> None:
        from pgstats.shape.joined import known, values  # noqa: PLC0415

        before = values(self._last[0]) if self._last else {} if self._watching else None
        if self._last is None and self._watching:
            before = values(table)  # nothing has changed yet, but there is room for the mark
        self._last = known(table), before, faults
        self.again()

    def again(self) -> None:
        from pgstats.screen import notes, picture  # noqa: PLC0415

        if self._last:
            table, before, faults = self._last
            size = self._terminal.size
            if size and self.live:
                table = table._replace(rows=table.rows[: size[1]])
            width = size[0] if size else None
            lines = picture(table, width, before, self._terminal.signs)
            if faults and not table.rows and not self._watching:
                lines = []  # who could not ask does not know that there are none
            told = notes(faults) if self.live else []  # else standard error has them
            self._terminal.draw([*lines, *told])

    def close(self) -> None:
        self._terminal.close()


def _printer(form: str, *, live: bool) -> _Printer:
    return _Pictures(live=live) if form == "table" else _Text(form)
