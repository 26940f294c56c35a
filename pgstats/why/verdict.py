"""Judges a case: which causes are at work, in which order, and what may have been overlooked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pgstats.evidence import CRITICAL, INFO, SEVERITIES, Innocent, Limit, Sample
from pgstats.model import Failure
from pgstats.noun import Noun
from pgstats.why import looks
from pgstats.why.cause import Case, Found
from pgstats.why.causes import CAUSES
from pgstats.why.holders import innocents
from pgstats.why.words import identifier

CLEAR, HELD, UNKNOWN = "clear", "held", "unknown"


class Verdict(Noun):
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
    unseen = [*limits, *_limits(case.last), *bugs, *looks.doubts(case)]
    word = _verdict(case, ranked, unseen)
    innocent = [*innocents(case.last), *looks.harmless(case, ranked)]
    return Verdict(word, case, ranked, innocent, [*unseen, *looks.once(case)])


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
    if case.last.server.get("in_recovery"):  # what it holds is its primary's trouble
        found = [one._replace(severity=INFO) for one in found]
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


def _freed(every: Sequence[Found]) -> Iterator[Found]:
    """What ending each alone would free.

    Ending any holder but the oldest frees nothing: the horizon stays where it is. Ending the oldest
    moves it to the next; how many rows lie between nobody knows. And nothing is freed while no
    vacuum comes, nor by one that comes while somebody holds the rows.
    """
    oldest: dict[str, list[Found]] = defaultdict(list)
    away: dict[str, list[Found]] = defaultdict(list)
    for one in sorted(every, key=_age, reverse=True):
        for table in one.tables:
            if one.holder and len(oldest[table]) < _ENOUGH:
                oldest[table].append(one)
            elif not one.holder and one.severity == CRITICAL:
                away[table].append(one)
    for one in every:
        yield _alone(one, oldest, away) if one.tables else one


#: Holders of a table that have to be known: the oldest, and the one after it.
_ENOUGH = 2


def _age(one: Found) -> int:
    return one.holder.xid_age if one.holder else 0


def _culprit(one: Found) -> object:
    evidence = one.evidence
    return evidence.get("pid") or evidence.get("gid") or evidence.get("slot_name") or id(one)


_Known = Mapping[str, Sequence[Found]]


def _alone(one: Found, oldest: _Known, away: _Known) -> Found:
    """What ending one frees, table by table: all, nothing, or a part that nobody can count."""
    ways = [_in_the_way(one, oldest.get(table, ()), away.get(table, ())) for table in one.tables]
    kept = [name for name, _ in ways if name]
    if not kept:
        return one._replace(alone=one.rows)
    return one._replace(alone=0 if all(whole for _, whole in ways) else None, next=kept[0])


def _in_the_way(one: Found, oldest: Sequence[Found], away: Sequence[Found]) -> tuple[str, bool]:
    """Who else keeps the rows of one table, and whether all of them."""
    for other in away:
        if _culprit(other) != _culprit(one):
            return other.cause.id, True
    for other in oldest:
        if other.holder and _culprit(other) != _culprit(one):
            return other.holder.name, not one.holder or _age(other) >= _age(one)
    return "", False


def _limits(sample: Sample) -> Iterator[Limit]:
    """What could not be looked at, by right or by failure."""
    server = sample.server
    role = str(server.get("role") or "")
    if server and not server.get("sees_all"):
        yield Limit(
            "pg_stat_activity: state, query, start and address of other sessions",
            "the role lacks pg_read_all_stats",
            f"GRANT pg_monitor TO {identifier(role)};",
        )
    if server.get("in_recovery"):
        sender = next(iter(sample.rows("receiver")), {})
        host, port = sender.get("sender_host"), sender.get("sender_port")
        where = f", at {host}:{port}" if host and port else ""
        yield Limit(
            "dead rows and vacuum", f"a standby knows nothing of them: ask its primary{where}"
        )
    for name, failure in sample.missing.items():
        yield Limit(name, str(failure))


def _verdict(case: Case, found: Sequence[Found], limits: Sequence[Limit]) -> str:
    """An informational cause leaves the verdict clear, but nothing unseen does."""
    if any(one.severity != INFO for one in found):
        return HELD
    standby = bool(case.last.server.get("in_recovery", True))
    return UNKNOWN if standby or limits else CLEAR
