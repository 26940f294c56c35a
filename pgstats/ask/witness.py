"""Reads what a cluster says of itself, each view once: the raw material of `pgstats why`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pgstats.ask.failure import failure
from pgstats.ask.session import Session
from pgstats.catalogue.evidence import VIEWS
from pgstats.errors import AskError
from pgstats.evidence import Record, Sample, View
from pgstats.model import Failure

#: What every poll reads.
ALWAYS = tuple(view for view in VIEWS if view.always)


def sample(
    session: Session,
    views: Iterable[View] = ALWAYS,
    *,
    relations: Sequence[int] = (),
    heaps: dict[str, Sequence[Record]] | None = None,
) -> Sample:
    """One sample; a view that cannot be read is missing from it, with the reason.

    ``relations`` are the oids of heaps and indexes on which every lock is of interest. Raises
    `AskError` only where nothing at all can be read.
    """
    found: dict[str, Sequence[Record]] = {}
    missing: dict[str, Failure] = {}
    for view in views:
        if session.version < view.since:
            continue
        try:
            found[view.name] = records(session, view, relations=list(relations))
        except AskError as error:
            if not found and session.closed:
                raise
            missing[view.name] = failure(error)
    return Sample(session.version, found, heaps or {}, missing)


def records(session: Session, view: View, **parameters: Any) -> list[Record]:
    """The rows of a view."""
    _, rows = session.ask(view.sql, parameters, view.name)
    return [row for (row,) in rows]
