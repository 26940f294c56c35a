"""Asks one database for its tables: those that need vacuum most by name, all others folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pgstats.ask.answer import Columns, Rows, frame
from pgstats.ask.globs import pattern
from pgstats.ask.session import Session
from pgstats.catalogue.postgres.tables import NEED, NEEDS, TABLES, TOTALS, select
from pgstats.model import Frame, Metric, Number, Poll, Query, Target

_Answer = Mapping[str, Sequence[Any]]  # the values of each column

#: The roots that were shipped the last time, by database.
Members = dict[str, list[int]]


def tables(session: Session, database: str, poll: Poll, members: Members) -> list[Frame]:
    """The tables of one database, and their sums. ``members`` is brought up to date.

    Who was shipped by name the last time stays, unless another table needs vacuum clearly more: so
    membership does not flap.
    """
    asked: dict[str, object] = {
        "tables": session.target.tables,
        "members": members.get(database, []),
        **_globs(session.target),
    }
    columns, rows = session.ask(select(session.version), asked, "tables")
    by_name = dict(zip(columns, zip(*rows, strict=True), strict=True))
    members[database] = [root for root in by_name["root"] if root is not None]
    poll.counts["tables_folded"] += max(by_name["tables_folded"])
    sums = {name: (total,) for name, total in _totals(by_name).items()}
    return [
        frame(
            query,
            session.version,
            *_part(query, found),
            target=poll.target.name,
            shared=(database,),
        )[0]
        for query, found in ((TABLES, by_name), (NEED, by_name), (TOTALS, sums), (NEEDS, sums))
    ]


def _part(query: Query, found: _Answer) -> tuple[Columns, Rows]:
    """The columns of an answer that belong to one of its queries."""
    own = ["schema", "table", *(metric.name for metric in query.metrics)]
    kept = {name: found[name] for name in own if name in found}
    return dict.fromkeys(kept, True), list(zip(*kept.values(), strict=True))


def _globs(target: Target) -> dict[str, list[str]]:
    """The tables to be folded whatever comes, and exceptions (with `!` in front) from that.

    With exceptions alone, all others are folded.
    """
    kept = [pattern(glob[1:]) for glob in target.exclude_tables if glob.startswith("!")]
    folded = [pattern(glob) for glob in target.exclude_tables if not glob.startswith("!")]
    return {"exclude_tables": folded or [".*"] * bool(kept), "keep_tables": kept}


def _totals(found: _Answer) -> dict[str, Number | None]:
    """The totals of a database. The row of the rest says nothing where there is no rest."""
    metrics = [metric for query in (TOTALS, NEEDS) for metric in query.metrics]
    none_left = not max(found["tables_folded"]) and len(found["root"]) > 1
    rows = slice(0, -1) if none_left else slice(None)
    return {
        m.name: _total(m, found[m.name][rows if m.fold else slice(None)])
        for m in metrics
        if m.name in found
    }


def _total(metric: Metric, values: Sequence[Number | None]) -> Number | None:
    """A sum or the largest of what is known; unknown where nothing is."""
    known = [value for value in values if value is not None]
    if metric.fold == "max":
        return max(known, default=None)
    return sum(known) if known else None
