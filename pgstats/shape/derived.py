"""What the answers of a target imply: means and rates from totals, saturation, clocks, state.

Of PgBouncer never from its own averages: they cover one to two of its periods, are cut to whole
numbers, and one changed its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pgstats.catalogue.pgbouncer import CROWDING, LIFECYCLE, SATURATION
from pgstats.model import PGBOUNCER, Frame, Poll
from pgstats.shape.column import at_work, column
from pgstats.shape.duty import duty
from pgstats.shape.growth import Memory, grown

_ACTIVE, _PAUSED, _SUSPENDED, _DRAINING, _UNREACHABLE, _REFUSED = 1, 2, 3, 4, 5, 6
_LOGIN = ("auth", "not_allowed", "too_many_connections", "wrong_database")


def derived(poll: Poll, memory: Memory, now: float) -> list[Frame]:
    """The computed frames of a poll.

    ``memory`` is what was remembered of the target, and is brought up to date; ``now`` is when the
    poll was taken, in seconds on a clock that goes on across restarts. What lacks one of its inputs
    is unknown.
    """
    if poll.target.family != PGBOUNCER:
        return duty(poll, memory, now)
    answers = {frame.query.group: frame for frame in poll.frames if frame.query.sql}
    return [
        *grown(poll, answers, memory, now),
        *_saturation(poll, answers),
        *_crowding(poll, answers, memory, now),
        *_lifecycle(poll, answers),
    ]


def _saturation(poll: Poll, answers: Mapping[str, Frame]) -> list[Frame]:
    used = column(answers.get("lists"), "used_clients")
    allowed = column(answers.get("config"), "max_client_conn")
    if not used or used[0] is None or not allowed or not allowed[0]:
        return []
    share = round(used[0] / allowed[0], 6)
    return [poll.target.frame(SATURATION, SATURATION.metrics, [(share,)])]


def _crowding(poll: Poll, answers: Mapping[str, Frame], memory: Memory, now: float) -> list[Frame]:
    pools = answers.get("pools")
    if pools is None:
        return []
    sizes = _sizes(answers)
    clocks = _clocks(pools, memory, now)
    rows = []
    for database, user, busy, clock in zip(*pools.labels, at_work(pools), clocks, strict=True):
        own = sizes.get(("user", user))
        size = sizes.get(("database", database)) if own is None else own
        share = round(busy / size, 6) if size and busy is not None else None
        rows.append((database, user, share, clock))
    return [poll.target.frame(CROWDING, CROWDING.metrics, rows)]


def _sizes(answers: Mapping[str, Frame]) -> dict[tuple[str, str], Any]:
    """Pool sizes by (kind, name): a user's own goes before the database's."""
    found: dict[tuple[str, str], Any] = {}
    for group, kind in (("databases", "database"), ("users", "user")):
        if frame := answers.get(group):
            sizes = column(frame, "pool_size")
            found |= {
                (kind, name): size for name, size in zip(frame.columns[0], sizes, strict=False)
            }
    return found


def _clocks(pools: Frame, memory: Memory, now: float) -> list[float | None]:
    """How long each pool has had waiting clients, at every poll in between as well."""
    labels = pools.keys
    unknown = [None] * len(labels)
    waiting = column(pools, "cl_waiting") or unknown
    longest = column(pools, "maxwait_seconds") or unknown
    before = {tuple(pool): since for *pool, since in memory.get("waiting", ())}
    since = {
        pool: min(before.get(pool, now), now - (maxwait or 0), now)
        for pool, clients, maxwait in zip(labels, waiting, longest, strict=True)
        if clients or (clients is None and pool in before)
    }
    memory["waiting"] = [[*pool, start] for pool, start in since.items()]
    return [
        None if clients is None else round(now - since.get(pool, now), 6)
        for pool, clients in zip(labels, waiting, strict=True)
    ]


def _lifecycle(poll: Poll, answers: Mapping[str, Frame]) -> list[Frame]:
    """The state of the process; no row where it is known that nobody can tell it.

    So a code that was sent before (unreachable, say) gets its last value. Where SHOW STATE may have
    failed there is no frame at all, as for every answer that is missing.
    """
    code = _code(poll, answers)
    if code is None and not poll.ok:
        return []
    rows = [] if code is None else [(code,)]
    return [poll.target.frame(LIFECYCLE, LIFECYCLE.metrics, rows)]


def _code(poll: Poll, answers: Mapping[str, Frame]) -> int | None:
    """The state of the process as one number.

    Without SHOW STATE (1.19) an active process cannot be told from one where everything is paused:
    a PAUSE of all databases shows nowhere else.
    """
    if poll.down:
        return _REFUSED if poll.down.reason in _LOGIN else _UNREACHABLE
    state = answers.get("state")
    if 1 in column(state, "suspended"):
        return _SUSPENDED
    if poll.draining:  # SHUTDOWN WAIT_FOR_SERVERS pauses too, but there is no RESUME from it
        return _DRAINING
    if 1 in column(state, "paused"):
        return _PAUSED
    return _ACTIVE if 1 in column(state, "active") else None
