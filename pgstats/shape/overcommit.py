"""Over-commit across both halves: what pools may open, against the connections a cluster has.

The answers come from several targets, which may be polled at different times: what each PgBouncer
may open, and where, is remembered with the time it was true.

A pool is a database and a user that SHOW POOLS lists: each may open ``pool_size`` servers (its
user's own, where SHOW USERS is collected and tells it) and ``reserve_pool_size`` more, and all
those of a database no more than its ``max_connections``. Limits by user are not taken into account.
Each process behind a port has pools of its own. A cluster is the one that a pool leads to when port
and host are the same: the host as it stands in both configurations, or the address that its name
has for pgstats; what is on PgBouncer's own machine is where PgBouncer is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pgstats.catalogue.postgres.overcommit import OVERCOMMIT
from pgstats.model import Frame, Number, Poll, Row, Site
from pgstats.shape.column import column

Memory = dict[str, Any]
#: By port: the hosts that a database is on, until when that counts, its pools, and their servers.
Leading = dict[str, list[tuple[list[str], float, int, Number | None]]]

#: Intervals of a PgBouncer after which what it said last counts no more.
STALE = 3
#: From this version on a pool_size of 0 is no limit.
_UNLIMITED = 12400


def commit(poll: Poll, memory: Memory, now: float) -> None:
    """Remember what a process of PgBouncer may open, and where: ``now`` is when that was true.

    What is known from before stays while it is down, to tell whom its silence concerns; one that
    never answered concerns nobody.
    """
    if not poll.up:
        memory.setdefault("commitments", {"until": now, "databases": []})
        return
    answers = {frame.query.group: frame for frame in poll.frames if frame.query.sql}
    if poll.place is None or not answers.keys() >= {"databases", "pools"}:
        memory.pop("commitments", None)
        return
    openable = _openable(answers, poll)
    memory["commitments"] = {
        "until": now + STALE * poll.target.interval,
        "databases": [
            [list(place.hosts), place.port, *openable(name, place)]
            for name, place in poll.leads.items()
        ],
    }


def _numbers(frame: Frame | None, *names: str) -> dict[Row, tuple[Number | None, ...]]:
    """Those metrics of each row, by its labels; None where there is no such metric."""
    if frame is None:
        return {}
    unknown = [None] * frame.height
    wanted = (column(frame, name) or unknown for name in names)
    return dict(zip(frame.keys, zip(*wanted, strict=True), strict=True))


def _openable(
    answers: Mapping[str, Frame], poll: Poll
) -> Callable[[str, Site], tuple[int, Number | None]]:
    """A function that says how many pools a database has, and how many servers they may open.

    None is without a limit, or where nobody knows: one of several servers or processes was met.
    """
    limits = ("pool_size", "reserve_pool_size")
    databases = _numbers(answers["databases"], *limits, "max_connections")
    users = _numbers(answers.get("users"), *limits)
    members: dict[str, list[str]] = {}
    for name, user in answers["pools"].keys:
        members.setdefault(name, []).append(user)

    def openable(database: str, place: Site) -> tuple[int, Number | None]:
        own, theirs = databases.get((database,)), members.get(database, [])
        if own is None or place.several or (poll.shared and not poll.target.peer):
            return len(theirs), None
        sizes = tuple(users.get((user,), ()) for user in theirs)
        return len(theirs), _together(own, sizes, poll.version)

    return openable


@lru_cache(maxsize=1000)
def _together(
    own: Sequence[Number | None], theirs: Sequence[Sequence[Number | None]], version: int
) -> Number | None:
    """What the pools of a database may open; most databases have the same limits."""
    *defaults, most = own
    sizes = [_size(user, defaults, version) for user in theirs]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    bounds = [bound for bound in (total, most or None) if bound is not None]
    return min(bounds, default=None) if theirs else 0


def _size(
    theirs: Sequence[Number | None], defaults: Sequence[Number | None], version: int
) -> Number | None:
    """What one pool may open; None without a limit, or where that is unknown."""
    size, reserve = (
        default if given is None else given
        for given, default in zip(theirs or (None, None), defaults, strict=True)
    )
    if size is None or (size == 0 and version >= _UNLIMITED):
        return None
    return size + (reserve or 0)


def leading(fronts: Iterable[Sequence[Memory]]) -> Leading | None:
    """What leads where; None as long as one of the PgBouncers is not known at all.

    ``fronts`` is what is remembered of each polled PgBouncer: a memory for each of its processes.
    """
    found: Leading = {}
    for memories in fronts:
        known = [memory["commitments"] for memory in memories if "commitments" in memory]
        if not known:
            return None
        for one in known:
            for hosts, port, pools, size in one["databases"]:
                found.setdefault(port, []).append((hosts, one["until"], pools, size))
    return found


def overcommit(poll: Poll, fronts: Leading | None, now: float) -> list[Frame]:
    """What leads to a polled cluster, where all of it is known.

    A cluster that none leads to gets a frame without a row.
    """
    if poll.place is None or fronts is None:
        return []
    ours = set(poll.place.hosts)
    found = [one for one in fronts.get(poll.place.port, ()) if not ours.isdisjoint(one[0])]
    if any(until < now for _, until, _, _ in found):
        return []
    rows = _rows(poll, [(pools, size) for _, _, pools, size in found])
    return [poll.target.frame(OVERCOMMIT, OVERCOMMIT.metrics, rows)]


def _rows(poll: Poll, found: Sequence[tuple[int, Number | None]]) -> list[Row]:
    if not found:
        return []
    sizes = [size for _, size in found if size is not None]
    total = sum(sizes) if len(sizes) == len(found) else None
    connections = next((f for f in poll.frames if f.query.group == "connections"), None)
    usable = next(iter(_numbers(connections, "usable").values()), (None,))[0]
    ratio = round(total / usable, 6) if total is not None and usable else None
    return [(sum(pools for pools, _ in found), total, ratio)]
