"""Asks one database for its tables: those that need vacuum most by name, all others folded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

from pgstats.ask.answer import framed, turned
from pgstats.ask.globs import pattern
from pgstats.ask.session import Session
from pgstats.catalogue.postgres.tables import (
    FEW,
    MANY,
    NEED,
    NEEDS,
    STAY,
    TABLES,
    TOTALS,
    choice,
    rest,
    select,
)
from pgstats.catalogue.postgres.tables import named as of_roots
from pgstats.model import Frame, Metric, Number, Poll, Query, Target
from pgstats.noun import Noun

Answer = Mapping[str, Sequence[Any]]  # the values of each column
_Asked = dict[str, Any]
_Put = Callable[[Callable[..., str], _Asked], Answer]

OF_EACH = (TABLES, NEED)
OF_ALL = (TOTALS, NEEDS)


class Shown(Noun):
    """A table that is shown by name, and the heaps it consists of."""

    root: int
    labels: tuple[str, str]
    heaps: Sequence[int]


#: The roots that were shipped the last time, by database.
Members = dict[str, list[int]]


def tables(
    session: Session, database: str, poll: Poll, members: Members, large: dict[str, bool]
) -> list[Shown]:
    """Ask for the tables of one database, and their sums; returns those that are shown by name.

    The frames go to the poll; ``members`` is brought up to date, and so is ``large``: whether a
    database has many tables.

    Who was shipped by name the last time stays, unless another table needs vacuum clearly more: so
    membership does not flap.
    """
    if session.target.tables is not None:
        return _chosen(session, database, poll, members, large)
    from pgstats.ask.pages import every_table  # noqa: PLC0415 - seldom all

    return every_table(session, database, poll)


def _chosen(
    session: Session, database: str, poll: Poll, members: Members, large: dict[str, bool]
) -> list[Shown]:
    """As many tables as are to have a name."""
    asked: _Asked = {
        "tables": session.target.tables,
        "members": members.get(database, []),
        **globs(session.target),
        **session.settings(poll.settings),
    }
    if database not in large:
        large[database] = bool(session.target.tables) and session.ask(MANY)[1][0][0]
    by_name = _ask(session, poll, asked, many=large[database])
    shown = named({name: values[:-1] for name, values in by_name.items()})
    members[database] = [one.root for one in shown]
    poll.over[database] = over(by_name)
    poll.counts["tables_folded"] += max(by_name["tables_folded"])
    large[database] = sum(by_name["tables"]) > FEW
    poll.frames += frames(session, database, OF_EACH, by_name)
    poll.frames += frames(session, database, OF_ALL, _totals(by_name))
    return shown


def frames(session: Session, database: str, queries: Sequence[Query], found: Answer) -> list[Frame]:
    """The frames of queries that are answered by the same rows."""
    height = len(next(iter(found.values())))
    return framed(queries, session.version, found, height, session.target.name, (database,))


def named(found: Answer) -> list[Shown]:
    """The tables of an answer."""
    columns = (found[name] for name in ("root", "schema", "table", "oids"))
    return [
        Shown(root, (schema, name), oids) for root, schema, name, oids in zip(*columns, strict=True)
    ]


def over(found: Answer) -> list[int]:
    """The oids of the tables that have more dead rows than their thresholds."""
    return [oid for oids in found["over"] for oid in oids or ()]


def _ask(session: Session, poll: Poll, asked: _Asked, *, many: bool) -> Answer:
    """Of many tables those chosen before are kept if they can be: else it takes another look."""
    tables = session.target.tables
    put = partial(_put, session, poll, again=not many)
    if not tables:
        return put(partial(rest, named=False), asked)
    if not many:
        return put(select, asked)
    if len(asked["members"]) == tables:
        found = _members(put, asked)
        if _settled(found, tables):
            return found
    return _members(put, asked | {"members": [*put(choice, asked)["root"]]})


def _members(put: _Put, asked: _Asked) -> Answer:
    """The rows of those members that are still there, and of the rest."""
    found = put(of_roots, asked)
    heaps = ",".join(map(str, chain.from_iterable(found["heaps"])))  # there may be many thousand
    others = put(rest, asked | {"heaps": f"{{{heaps}}}"})
    return {name: [*found[name], *values] for name, values in others.items()}


def _put(
    session: Session, poll: Poll, sql: Callable[..., str], asked: _Asked, *, again: bool
) -> Answer:
    """The answer to a statement.

    Beside many tables to plan it is nothing, and a plan is memory that a kept backend keeps.
    """
    text = sql(session.version, globs=bool(session.target.exclude_tables), complete=poll.complete)
    return turned(*session.ask(text, asked, "tables", again=again))


def _settled(found: Answer, tables: int) -> bool:
    """Whether all who were to stay are there, and none of the others needs vacuum clearly more."""
    *mine, others = found["need"]
    if len(mine) < tables or None in mine:  # dropped, or to be folded from now on
        return False
    return others is None or others < min(mine) * STAY


def globs(target: Target) -> dict[str, list[str]]:
    """The tables to be folded whatever comes, and exceptions (with `!` in front) from that.

    With exceptions alone, all others are folded.
    """
    kept = [pattern(glob[1:]) for glob in target.exclude_tables if glob.startswith("!")]
    folded = [pattern(glob) for glob in target.exclude_tables if not glob.startswith("!")]
    return {"exclude_tables": folded or [".*"] * bool(kept), "keep_tables": kept}


def _totals(found: Answer) -> Answer:
    """The totals of a database. The row of the rest says nothing where there is no rest."""
    metrics = [metric for query in OF_ALL for metric in query.metrics]
    none_left = not max(found["tables_folded"]) and len(found["root"]) > 1
    rows = slice(0, -1) if none_left else slice(None)
    return {
        m.name: (total(m, found[m.name][rows if m.fold else slice(None)]),)
        for m in metrics
        if m.name in found
    }


def total(metric: Metric, values: Sequence[Number | None]) -> Number | None:
    """A sum or the largest of what is known; unknown where nothing is."""
    known = [value for value in values if value is not None]
    if metric.fold == "max":
        return max(known, default=None)
    return sum(known) if known else None
