"""`pgstats top`."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from pgstats.cli import colour
from pgstats.cli.events import END, NEWS, STOP, Events
from pgstats.cli.main import OK
from pgstats.cli.options import SECONDS, option, with_view

if TYPE_CHECKING:
    from pgstats.config import Config
    from pgstats.model import Poll, Table
    from pgstats.screen import Before, Terminal

#: What is on the page, from top to bottom.
GROUPS = ("pools", "tables", "horizon")


@click.command("top")
@with_view
@option(
    "--watch",
    type=SECONDS,
    default="2s",
    metavar="DURATION",
    show_default=True,
    help="Time between polls.",
)
def command(*, watch: float, **options: Any) -> int:
    """Fills the terminal with pools, the worst tables and the horizon, until q.

    Whom it asks is said as for `pgstats show`; port 6432, or database pgbouncer, is a PgBouncer.
    """
    if not (sys.stdin.isatty() and colour.movable(sys.stdout)):
        raise click.UsageError("top needs a terminal; pgstats show GROUP --watch 2s does without")
    from pgstats.cli.viewing import Poller, viewed  # noqa: PLC0415
    from pgstats.model import PGBOUNCER, POSTGRES  # noqa: PLC0415
    from pgstats.screen import Terminal  # noqa: PLC0415

    config = viewed(options, (PGBOUNCER, POSTGRES))
    with (
        Events({signal.SIGWINCH: NEWS, signal.SIGTSTP: STOP}, sys.stdin.fileno()) as events,
        closing(Terminal(sys.stdout, colour=colour.on(sys.stdout), full=True)) as terminal,
    ):
        page = _Page(config, terminal)
        poller = Poller(config.targets, watch, lambda: events.tell(NEWS))
        poller.start()
        page.draw(poller.polls)
        while (event := events.next()) not in (END, "q", "Q"):
            if event == STOP:
                _stop(events, terminal)
            page.draw(poller.polls)
    return OK


def _stop(events: Events, terminal: Terminal) -> None:
    """Rest in the background of a shell, whose terminal it is meanwhile."""
    terminal.close()
    events.give_keys()
    os.kill(os.getpid(), signal.SIGSTOP)
    events.take_keys()


class _Page:
    """What is drawn: the newest polls, and what changed since those before."""

    def __init__(self, config: Config, terminal: Terminal) -> None:
        from pgstats.cli.viewing import View  # noqa: PLC0415

        self._view = View(config)
        families = {target.family for target in config.targets}
        self._groups = [group for group in GROUPS if families & set(_families(group))]
        self._terminal = terminal
        self._polls: Sequence[Poll] = ()
        self._tables: Mapping[str, tuple[Table, Before]] = {}

    def draw(self, polls: Sequence[Poll]) -> None:
        """Draw the polls, which may be those of the last time."""
        from pgstats.cli.viewing import trouble  # noqa: PLC0415
        from pgstats.screen import Part, page  # noqa: PLC0415

        if polls is not self._polls:
            self._take(polls)
        parts = [Part(_title(one), one, before) for one, before in self._tables.values()]
        faults = [f"{name}: {text}" for name, text in trouble(polls).items() if text]
        size = self._terminal.size or (80, 24)
        foot = "q quits"
        self._terminal.draw(page(_head(polls), parts, faults, foot, size, self._terminal.signs))

    def _take(self, polls: Sequence[Poll]) -> None:
        from pgstats.shape.joined import known, values, worst  # noqa: PLC0415

        self._polls = polls
        tables = [known(worst(one)) for one in self._view.tables(polls, self._groups)]
        self._tables = {
            one.group: (one, values(self._tables.get(one.group, (one, None))[0])) for one in tables
        }


def _families(group: str) -> Sequence[str]:
    from pgstats.cli.viewing import GROUPS  # noqa: PLC0415

    return GROUPS[group]


def _title(table: Table) -> str:
    by = f" by {table.metrics[0].name}" if table.metrics else ""
    return f"{table.group}{by}"


def _head(polls: Sequence[Poll]) -> str:
    """Who is up, and when that was."""
    if not polls:
        return "pgstats top: asking ..."
    now = time.strftime("%H:%M:%S", time.gmtime())
    groups = [poll for poll in polls if not poll.target.peer]
    states = ", ".join(f"{poll.target.name} {'up' if poll.up else 'DOWN'}" for poll in groups)
    slowest = max(poll.seconds for poll in groups)
    return f"pgstats top at {now} UTC, polled in {slowest:.2g} s: {states}"
