"""The horizon and the causes as gauges, at every poll."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pgstats.catalogue.postgres.horizon import HORIZON, VAIN, WHY
from pgstats.catalogue.postgres.tables import TABLES
from pgstats.evidence import BACKEND, HOLDERS, PREPARED, STANDBY, Holder, Sample
from pgstats.model import Frame, Number, Poll, Row
from pgstats.why.cause import Case
from pgstats.why.causes import CAUSES
from pgstats.why.holders import first_seen
from pgstats.why.tables import over_since, vacuumed_in_vain

Memory = dict[str, Any]

#: The view without which nobody knows the holders of a kind.
_SEEN_IN = {BACKEND: "activity", STANDBY: "activity", PREPARED: "prepared"}


def frames(poll: Poll, memory: Memory) -> list[Frame]:
    """The gauges that follow from what a poll saw of the cluster; none on a standby.

    ``memory`` holds since when each hold has been there, and is brought up to date.
    """
    sample = poll.sample
    if sample is None or sample.server.get("in_recovery", True):
        return []
    seen: dict[str, float] = {}
    case = Case(poll.target.name, (sample,), seen=seen)
    seen |= first_seen(case.every[-1], memory.get("holds", {}), sample.at)
    memory["holds"] = seen
    tables = [frame for frame in poll.frames if frame.query is TABLES]
    memory["over"] = over_since(poll.over, memory.get("over", {}), sample.at)
    memory.pop("tables", None)  # of versions that remembered them by another name
    vain = vacuumed_in_vain(tables, memory.setdefault("vacuums", {}), case)
    return [
        poll.target.frame(HORIZON, HORIZON.metrics, _ages(case)),
        poll.target.frame(WHY, WHY.metrics, _counts(case)),
        *(
            poll.target.frame(VAIN, VAIN.metrics, [(database, count)])._replace(scope=(database,))
            for database, count in vain.items()
        ),
    ]


def _ages(case: Case) -> list[Row]:
    """A row for each kind whose holders are known, and one for the oldest of all."""
    sample = case.last
    kinds = [kind for kind in HOLDERS if _SEEN_IN.get(kind, "slots") in sample.views]
    found = case.every[-1]
    rows: list[Row] = [
        (kind, *_oldest(case, [holder for holder in found if holder.kind == kind]))
        for kind in kinds
    ]
    return [*rows, ("oldest", *_oldest(case, found))] if len(kinds) == len(HOLDERS) else rows


def _oldest(case: Case, found: Iterable[Holder]) -> tuple[Number, Number | None]:
    """The age of the oldest of some holders, in transactions and seconds."""
    oldest = max(found, key=lambda holder: holder.xid_age, default=None)
    if oldest is None:
        return 0, 0
    began = _told(case, oldest)
    return oldest.xid_age, None if began is None else max(0.0, round(case.last.at - began, 3))


def _told(case: Case, holder: Holder) -> float | None:
    """When a hold began. Where rights hide it, the memory of one who cannot see is no answer."""
    hidden = "pid" in holder.row and not case.last.server.get("sees_all")
    return holder.since if hidden else case.began(holder)


def _counts(case: Case) -> list[Row]:
    """How often each cause is at work that needs no look at tables; 0 where it is not."""
    counts: dict[tuple[str, str], int] = {}
    for cause in CAUSES:
        if cause.cheap and cause.on(case.last.version) and _known(case.last, cause.needs):
            name = cause.id.replace(".", "_")
            counts[name, cause.severity] = 0
            for found in cause.detect(cause, case):
                counts[name, found.severity] = counts.get((name, found.severity), 0) + 1
    return [(*labels, count) for labels, count in counts.items()]


def _known(sample: Sample, needs: Iterable[str]) -> bool:
    """Whether every view was read that a cause is seen in."""
    return all(view in sample.views for view in needs)
