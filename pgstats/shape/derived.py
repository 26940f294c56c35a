"""What the answers of a PgBouncer imply: means and rates from totals, saturation, clocks.

Never from PgBouncer's own averages: they cover one to two of its periods, are cut to whole
numbers, and one changed its meaning. A total that fell (a restart, a reaped pool) says nothing
this time; it is counted, and never becomes a spike or a negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pgstats.catalogue.pgbouncer import CROWDING, DERIVED, LIFECYCLE, SATURATION
from pgstats.model import PGBOUNCER, Frame, Metric, Number, Poll, Query, Row

Memory = dict[str, Any]

_ACTIVE, _PAUSED, _SUSPENDED, _DRAINING, _UNREACHABLE, _REFUSED = 1, 2, 3, 4, 5, 6
_LOGIN = ("auth", "not_allowed", "too_many_connections", "wrong_database")
#: Columns of SHOW POOLS that hold a server which is not free.
_BUSY = ("sv_active", "sv_active_cancel", "sv_being_canceled", "sv_tested", "sv_login")
#: By group: the totals that something is derived from. Only these never fall while all is well.
_TOTALS = {
    group: {name for query in pair for metric in query.metrics for name in (*metric.of, metric.per)}
    for group, pair in DERIVED.items()
}


def derived(poll: Poll, memory: Memory, now: float) -> list[Frame]:
    """The computed frames of a poll.

    ``memory`` is what was remembered of the target, and is brought up to date; ``now`` is when the
    poll was taken, in seconds on a clock that goes on across restarts. What lacks one of its inputs
    is unknown.
    """
    if poll.target.family != PGBOUNCER:
        return []
    answers = {frame.query.group: frame for frame in poll.frames if frame.query.sql}
    return [
        *_grown(poll, answers, memory, now),
        *_saturation(poll, answers),
        *_crowding(poll, answers, memory, now),
        *_lifecycle(poll, answers),
    ]


def _grown(poll: Poll, answers: Mapping[str, Frame], memory: Memory, now: float) -> list[Frame]:
    """Rates and counters of every group whose totals are here."""
    found = []
    for group, (rates, counts) in DERIVED.items():
        if frame := answers.get(group):
            growth = _growth(frame, memory, now)
            resets = sum(delta is None for delta in growth.values())
            poll.counts["counter_resets"] = poll.counts.get("counter_resets", 0) + resets
            found.append(_compute(rates, growth, poll))
            if poll.target.counters == "count":
                found.append(_compute(counts, growth, poll))
    return found


def _growth(frame: Frame, memory: Memory, now: float) -> dict[Row, dict[str, float] | None]:
    """By labels: what each total grew by, and "seconds"; None where a total fell.

    Rows seen for the first time are left out.
    """
    group, width = frame.query.group, len(frame.query.labels)
    totals = [
        (at, metric.name)
        for at, metric in enumerate(frame.metrics, width)
        if metric.name in _TOTALS[group]
    ]
    names = [name for _, name in totals]
    rows = [(row[:width], [row[at] for at, _ in totals]) for row in frame.rows]
    before = memory.get(group, {})
    elapsed = now - before.get("at", now)
    known = dict(zip(map(tuple, before.get("labels", ())), before.get("totals", ()), strict=False))
    growth: dict[Row, dict[str, float] | None] = {}
    if before.get("names") == names and elapsed > 0:
        for labels, numbers in rows:
            if (last := known.get(labels)) is not None:
                growth[labels] = _delta(names, last, numbers, elapsed)
    memory[group] = {
        "at": now,
        "names": names,
        "labels": [list(labels) for labels, _ in rows],
        "totals": [numbers for _, numbers in rows],
    }
    return growth


def _delta(
    names: Sequence[str],
    last: Sequence[Number | None],
    new: Sequence[Number | None],
    elapsed: float,
) -> dict[str, float] | None:
    delta = {
        name: value - old
        for name, old, value in zip(names, last, new, strict=True)
        if old is not None and value is not None
    }
    return None if any(value < 0 for value in delta.values()) else {**delta, "seconds": elapsed}


def _compute(query: Query, growth: Mapping[Row, dict[str, float] | None], poll: Poll) -> Frame:
    metrics = tuple(m for m in query.metrics if m.on(poll.version))
    rows = [
        (*labels, *(_value(metric, delta) for metric in metrics))
        for labels, delta in growth.items()
        if delta is not None
    ]
    return poll.target.frame(query, metrics, rows)


def _value(metric: Metric, delta: Mapping[str, float]) -> Number | None:
    """The growth of a metric's totals per unit; unknown without them, or when nothing happened.

    Clients also wait at login, before their first query: then more was waited than queried, and
    the time in the server cannot be told.
    """
    base = delta.get(metric.per, 0.0) if metric.per else 1
    if not base or not delta.keys() >= metric.of.keys():
        return None
    grown = sum(delta[name] * factor for name, factor in metric.of.items())
    if grown < 0:
        return None
    return round(grown / base, 6) if metric.per else grown


def _column(frame: Frame | None, name: str) -> list[Any]:
    """One metric of a frame, a value per row; empty without it."""
    names = [metric.name for metric in frame.metrics] if frame else []
    if not frame or name not in names:
        return []
    at = len(frame.query.labels) + names.index(name)
    return [row[at] for row in frame.rows]


def _saturation(poll: Poll, answers: Mapping[str, Frame]) -> list[Frame]:
    used = _column(answers.get("lists"), "used_clients")
    allowed = _column(answers.get("config"), "max_client_conn")
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
    for row, at_work, clock in zip(pools.rows, _at_work(pools), clocks, strict=True):
        size = sizes.get(("user", row[1])) or sizes.get(("database", row[0]))
        share = round(at_work / size, 6) if size and at_work is not None else None
        rows.append((*row[:2], share, clock))
    return [poll.target.frame(CROWDING, CROWDING.metrics, rows)]


def _at_work(pools: Frame) -> list[Number | None]:
    """How many servers of each pool are not free."""
    columns = [column for name in _BUSY if (column := _column(pools, name))]
    if not _column(pools, "sv_active"):
        return [None] * len(pools.rows)
    return [None if None in counts else sum(counts) for counts in zip(*columns, strict=True)]


def _sizes(answers: Mapping[str, Frame]) -> dict[tuple[str, str], Any]:
    """Pool sizes by (kind, name): a user's own goes before the database's."""
    found: dict[tuple[str, str], Any] = {}
    for group, kind in (("databases", "database"), ("users", "user")):
        frame = answers.get(group)
        for row, size in zip(
            frame.rows if frame else (), _column(frame, "pool_size"), strict=False
        ):
            found[kind, row[0]] = size
    return found


def _clocks(pools: Frame, memory: Memory, now: float) -> list[float | None]:
    """How long each pool has had waiting clients, at every poll in between as well."""
    labels = [row[:2] for row in pools.rows]
    unknown = [None] * len(labels)
    waiting = _column(pools, "cl_waiting") or unknown
    longest = _column(pools, "maxwait_seconds") or unknown
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
    if 1 in _column(state, "suspended"):
        return _SUSPENDED
    if 1 in _column(state, "paused"):
        return _PAUSED
    if poll.draining:
        return _DRAINING
    return _ACTIVE if 1 in _column(state, "active") else None
