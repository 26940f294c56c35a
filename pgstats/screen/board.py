"""The table that a person reads: the moving numbers among what statsd received."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pgstats.screen.picture import number
from pgstats.screen.terminal import Terminal

#: Changes of a total over which its rate is taken: some polls, so that it moves calmly.
_CHANGES = 4


@dataclass(frozen=True, slots=True)
class Column:
    """One metric of a group; a total may be shown as its growth per second."""

    metric: str
    per_second: bool = False

    @property
    def title(self) -> str:
        """The metric's name as it is shipped."""
        return f"{self.metric}/s" if self.per_second else self.metric


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the board: the gauges below one path, a row for each combination of labels."""

    path: str  # PREFIX.FAMILY.TARGET.GROUP
    labels: tuple[str, ...]
    columns: tuple[Column, ...]

    def rows(self, values: Mapping[str, float]) -> dict[tuple[str, ...], dict[str, float]]:
        """Values by metric, by labels."""
        rows: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
        for name, value in values.items():
            if name.startswith(f"{self.path}."):
                *labels, metric = name.removeprefix(f"{self.path}.").split(".")
                rows[tuple(labels)][metric] = value
        return dict(sorted(rows.items()))


SECTIONS = (
    Section(
        "pgstats.pgbouncer.front.pools",
        ("database", "user"),
        tuple(map(Column, ("cl_active", "cl_waiting", "sv_active", "maxwait_seconds"))),
    ),
    Section(
        "pgstats.pgbouncer.front.stats",
        ("database",),
        (
            Column("total_query_count"),
            Column("total_query_count", per_second=True),
            Column("total_wait_time_us", per_second=True),
        ),
    ),
    Section(
        "pgstats.postgres.main.tables",
        ("database", "schema", "table"),
        tuple(map(Column, ("n_live_tup", "n_dead_tup", "last_autovacuum_age_seconds"))),
    ),
)
_UP = ("pgstats.pgbouncer.front.up", "pgstats.postgres.main.up")
_SECONDS = ("pgstats.self.poll.front.seconds", "pgstats.self.poll.main.seconds")


class Board:
    """Draws on a terminal, in place; anywhere else prints a plain picture each time."""

    def __init__(self, out: TextIO, *, colour: bool, live: bool) -> None:
        self.live = live
        self._terminal = Terminal(out, colour=colour, live=live)
        self._totals: dict[str, deque[tuple[float, float]]] = {}

    def say(self, text: str) -> None:
        """Print lines that stay."""
        self._terminal.say(text)

    def draw(self, values: Mapping[str, float], now: float, footer: str, why: str) -> None:
        """Show the values of all series (``now`` on any clock, seconds), and ``why`` rows stay."""
        self._remember(values, now)
        tables = [self._table(section, values) for section in SECTIONS]
        reason = [Text(f"pgstats why: {' '.join(why.split())}\n")] if why else []
        self._terminal.draw([*tables, *reason, Text(f"{_health(values)}; {footer}")])

    def close(self) -> None:
        """Leave the last picture where it is and give the cursor back."""
        self._terminal.close()

    def _remember(self, values: Mapping[str, float], now: float) -> None:
        """Note when totals changed."""
        for name, value in values.items():
            if ".total_" in name:
                seen = self._totals.setdefault(name, deque(maxlen=_CHANGES))
                if not seen or seen[-1][1] != value:
                    seen.append((now, value))

    def _rate(self, name: str) -> float | None:
        """Growth per second over the last changes; None until there are two."""
        seen = list(self._totals.get(name, ()))
        if len(seen) < 2:
            return None
        (before, first), (now, last) = seen[0], seen[-1]
        return (last - first) / (now - before)

    def _table(self, section: Section, values: Mapping[str, float]) -> RenderableType:
        title = f"{section.path}."
        table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        table.pad_edge = False
        table.add_column(".".join(section.labels), overflow="fold")
        for column in section.columns:
            table.add_column(column.title, justify="right", overflow="fold")
        for labels, row in section.rows(values).items():
            table.add_row(".".join(labels), *self._cells(section, labels, row))
        return table

    def _cells(
        self, section: Section, labels: Iterable[str], row: Mapping[str, float]
    ) -> Iterable[str]:
        for column in section.columns:
            name = ".".join((section.path, *labels, column.metric))
            yield number(self._rate(name) if column.per_second else row.get(column.metric))


def healthy(values: Mapping[str, float]) -> bool:
    """Whether both servers are up and each table has a row."""
    return all(values.get(name) == 1 for name in _UP) and all(
        section.rows(values) for section in SECTIONS
    )


def _health(values: Mapping[str, float]) -> str:
    ups = ", ".join(f"{name.split('.')[2]} {number(values.get(name))}" for name in _UP)
    polls = ", ".join(number(values.get(name)) for name in _SECONDS)
    return f"up: {ups}; polls took {polls} s"
