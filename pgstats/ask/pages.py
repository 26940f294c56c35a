"""Asks one database for all its tables, each with a name of its own, a page at a time.

What is fetched is in memory twice until it is a frame, and takes several times as much. A cursor
would hold a snapshot; each page is a statement of its own.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from pgstats.ask.answer import Columns, Rows, turned
from pgstats.ask.session import Session
from pgstats.ask.tables import OF_ALL, OF_EACH, Answer, Shown, frames, globs, named, over, total
from pgstats.catalogue.postgres.tables import PAGE, paged
from pgstats.model import Frame, Poll
from pgstats.noun import Noun

_Row = dict[str, Any]

#: How an array can hold numbers of a kind.
_CODES: dict[type | None, str] = {int: "iq", float: "d"}


class _Page(Noun):
    """The columns of the tables of a page, its row of what is folded, and its own sums."""

    tables: Answer
    rest: _Row
    whole: _Row


def every_table(session: Session, database: str, poll: Poll) -> list[Shown]:
    """All tables; none of them, nor a sum, unless every page was answered."""
    found: list[Frame] = []
    shown: list[Shown] = []
    late: list[int] = []
    sums = _Sums(session.version)
    for page in _pages(session, poll):
        sums.add(page)
        found += frames(session, database, OF_EACH, page.tables) if page.tables["root"] else []
        shown += named(page.tables) if "oids" in page.tables else []
        late += over(page.tables)
    # What is folded comes first: a large dictionary, of strings until then, that is given `OTHER`
    # last grows to twice the size and more.
    poll.frames += frames(session, database, OF_EACH, sums.rest())
    poll.frames += frames(session, database, OF_ALL, sums.totals())
    poll.frames += found
    poll.over[database] = late
    poll.counts["tables_folded"] += sums.folded
    return shown


def _pages(session: Session, poll: Poll) -> Iterator[_Page]:
    """One page after the other, each of which is small when the next one is asked for."""
    sql = paged(
        session.version,
        globs=bool(session.target.exclude_tables),
        heaps=session.target.sizes is not None,
        complete=poll.complete,
    )
    settings = session.settings(poll.settings)
    asked: dict[str, Any] = {"page": PAGE, **globs(session.target), **settings}
    after: int | None = 0
    while after is not None:
        page = _small(*session.ask(sql, asked | {"after": after}, "tables"))
        after = page.whole["next"]
        yield page


def _small(columns: Columns, rows: Rows) -> _Page:
    """A page as it is kept."""
    found = turned(columns, rows)
    rest = {name: values[-1] for name, values in found.items()}
    tables = {name: _packed(values[:-1]) for name, values in found.items()}
    return _Page(tables, rest, rest["page"])


class _Sums:
    """The sums over pages. A row of the rest says nothing where nothing is folded."""

    def __init__(self, version: int) -> None:
        self.folded = 0
        self._each = [m for query in OF_EACH for m in query.on(version)]
        self._all = [m for query in OF_ALL for m in query.on(version)]
        self._pages: list[_Row] = []
        self._rests: list[_Row] = []
        self._none: _Row = {}

    def add(self, page: _Page) -> None:
        """Add a page."""
        sums = {m.name: total(m, page.tables[m.name]) for m in self._each if m.fold}
        self._pages.append(page.whole | sums)
        self._rests += [page.rest] if page.whole["tables_folded"] else []
        self._none = page.rest
        self.folded += page.whole["tables_folded"]

    def rest(self) -> Answer:
        """The row of all that is folded."""
        rests = self._rests or [self._none]
        folded = {m.name: total(m, [row[m.name] for row in rests]) for m in self._each if m.fold}
        return {name: (value,) for name, value in (self._none | folded).items()}

    def totals(self) -> Answer:
        """The sums over all tables."""
        rows = [*self._pages, *self._rests]
        if not any(page["tables"] for page in self._pages):
            rows.append(self._none)
        return {m.name: (total(m, [row.get(m.name) for row in rows]),) for m in self._all}


def _packed(values: Sequence[Any]) -> Sequence[Any]:
    """The same in less memory: numbers of one kind without an object for each."""
    kind = type(values[0]) if values else None
    if kind is type(None) and values.count(None) == len(values):
        return _unknown(len(values))
    for code in _CODES.get(kind, ()):
        try:
            return array(code, values)
        except (TypeError, OverflowError):  # some are unknown, or too large
            continue
    return values


@lru_cache(maxsize=2)
def _unknown(length: int) -> tuple[None, ...]:
    """Values of which none is known: of most pages the same."""
    return (None,) * length
