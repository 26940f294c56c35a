"""Judges a case: which causes are at work, in which order, and what may have been overlooked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pgstats.evidence import INFO, SEVERITIES, Innocent, Limit, Sample
from pgstats.model import Failure
from pgstats.why.cause import Case, Found
from pgstats.why.causes import CAUSES
from pgstats.why.holders import innocents

CLEAR, HELD, UNKNOWN = "clear", "held", "unknown"


class Verdict(NamedTuple):
    """What is to be said of one cluster: ``verdict`` is clear, held or unknown."""

    verdict: str
    case: Case
    causes: Sequence[Found]
    innocent: Sequence[Innocent]
    limits: Sequence[Limit]


def judge(case: Case, limits: Iterable[Limit] = ()) -> Verdict:
    """The verdict on a case; ``limits`` are what is known already not to have been looked at."""
    found, bugs = _detected(case)
    ranked = _ranked(_freed(found))
    limited = [*limits, *_limits(case.last), *bugs]
    return Verdict(_verdict(case, ranked, limited), case, ranked, innocents(case.last), limited)


def _detected(case: Case) -> tuple[list[Found], list[Limit]]:
    """Every cause at work; one whose detection fails is told, and the others are found."""
    found: list[Found] = []
    bugs = []
    for cause in CAUSES:
        if cause.on(case.last.version):
            try:
                found += cause.detect(cause, case)
            except Exception as error:
                bugs.append(Limit(cause.id, Failure.bug(cause.id, error).message))
    return found, bugs


def _ranked(found: Iterable[Found]) -> list[Found]:
    """Holders of the horizon by the age of their transaction, then the rest by severity and rows.

    What is no more than worth a line comes last.
    """

    def key(one: Found) -> tuple[bool, bool, int, int]:
        if one.holder:  # of those with the same transaction its owner comes first
            return one.severity == INFO, False, -one.holder.xid_age, -one.witnesses
        return one.severity == INFO, True, SEVERITIES.index(one.severity), -one.rows

    return sorted(found, key=key)


def _freed(found: Iterable[Found]) -> Iterator[Found]:
    """What ending each holder alone would free.

    Ending any but the oldest frees nothing: the horizon stays where it is. Ending the oldest moves
    it to the next; how many rows lie between nobody knows.
    """
    every = list(found)
    for one in every:
        if one.holder is None:
            yield one
            continue
        rivals = [
            other
            for other in every
            if other.holder and other is not one and set(other.tables) & set(one.tables)
        ]
        rivals.sort(key=lambda other: -(other.holder.xid_age if other.holder else 0))
        yield _alone(one, rivals)


def _alone(one: Found, rivals: Sequence[Found]) -> Found:
    if not rivals:
        return one._replace(alone=one.rows)
    age = one.holder.xid_age if one.holder else 0
    first = rivals[0].holder
    behind = first is not None and first.xid_age >= age
    return one._replace(alone=0 if behind else None, next=first.name if first else "")


def _limits(sample: Sample) -> Iterator[Limit]:
    """What could not be looked at, by right or by failure."""
    server = sample.server
    role = str(server.get("role") or "")
    if server and not server.get("sees_all"):
        yield Limit(
            "pg_stat_activity: state, query, start and address of other sessions",
            "the role lacks pg_read_all_stats",
            f'GRANT pg_monitor TO "{role}";',
        )
    for name, failure in sample.missing.items():
        yield Limit(name, str(failure))


def _verdict(case: Case, found: Sequence[Found], limits: Sequence[Limit]) -> str:
    """An informational cause leaves the verdict clear, but nothing unseen does."""
    if any(one.severity != INFO for one in found):
        return HELD
    standby = bool(case.last.server.get("in_recovery", True))
    return UNKNOWN if standby or limits else CLEAR
