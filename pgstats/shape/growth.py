"""What totals grew by since the last poll, and what follows: means, rates, counters.

A total that fell (a restart, a reaped pool) says nothing this time; it is counted, and never
becomes a spike or a negative.

PgBouncer counts a query when it comes, books its wait when it gets a server, and its time when it
ends. What grew between two polls need not be of the same queries: where that is known to mislead,
a mean is withheld.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import lru_cache
from typing import Any

from pgstats.catalogue.pgbouncer import ADMIN, DERIVED, OF_CONSOLES, TOTALS
from pgstats.model import Frame, Metric, Number, Poll, Query, Row
from pgstats.shape.column import at_work, column

Memory = dict[str, Any]
Growth = dict[Row, dict[str, float] | None]
Totals = tuple[list[str], list[tuple[Row, list[Any]]]]

_QUERIES, _TIME, _WAITS = "total_query_count", "total_query_time_us", "total_wait_time_us"
#: By group: the totals that something is derived from. Only these never fall while all is well.
_TOTALS = {
    group: {name for query in pair for metric in query.metrics for name in (*metric.of, metric.per)}
    for group, pair in DERIVED.items()
}
#: What is booked when a query or a transaction ends: it stands still while none does.
_ENDS = {_QUERIES: _TIME, "total_xact_count": "total_xact_time_us"}
# Marks beside the totals that grew.
_ASTRAY = "astray"  # too many of these queries had to wait until another poll
_UNSETTLED = "unsettled"  # some waits of these queries were booked at the poll before


def grown(poll: Poll, answers: Mapping[str, Frame], memory: Memory, now: float) -> list[Frame]:
    """Rates and counters of every group whose totals are among the answers of a poll."""
    found = []
    for group, (rates, counts) in DERIVED.items():
        if frame := answers.get(group):
            growth = _compare(poll, frame, answers.get("pools"), memory, now)
            resets = sum(delta is None for delta in growth.values())
            poll.counts["counter_resets"] = poll.counts.get("counter_resets", 0) + resets
            found.append(_compute(rates, growth, poll))
            if poll.target.counters == "count":
                found.append(_compute(counts, growth, poll))
    return found


def _compare(poll: Poll, frame: Frame, pools: Frame | None, memory: Memory, now: float) -> Growth:
    """What the totals of a frame grew by; the memory is brought up to date."""
    group = frame.query.group
    before = memory.get(group, {})
    totals = _totals(frame)
    growth = _growth(poll, totals, before, now)
    if frame.query is TOTALS and not poll.target.include_admin:
        _take_out_the_console(poll, before, growth)
    memory[group] = _remembered(poll, totals, now)
    waiting = _waiting(memory[group]["labels"], pools)
    _mark_astray(growth, before, waiting)
    memory[group]["waiting"] = list(waiting.values())
    memory[group]["unsettled"] = [list(labels) for labels in _unsettled(growth, pools)]
    return growth


def _totals(frame: Frame) -> Totals:
    """The names of the totals that something is derived from; of each row its labels and these."""
    wanted = _TOTALS[frame.query.group]
    metrics = zip(frame.metrics, frame.numbers, strict=True)
    totals = [(metric.name, column) for metric, column in metrics if metric.name in wanted]
    rows = (
        list(map(list, zip(*(column for _, column in totals), strict=True))) or [[]] * frame.height
    )
    return [name for name, _ in totals], list(zip(frame.keys, rows, strict=True))


def _remembered(poll: Poll, totals: Totals, now: float) -> Memory:
    """What the next poll is compared with, as plain data for JSON."""
    names, rows = totals
    return {
        "at": now,
        "names": names,
        "labels": [list(labels) for labels, _ in rows],
        "totals": [numbers for _, numbers in rows],
        "console": {name: poll.console[name] for name in sorted(OF_CONSOLES & set(poll.console))},
        "process": poll.process,
    }


def _by_row(before: Mapping[str, Any], what: str) -> dict[Row, Any]:
    """What was remembered of each row, by its labels."""
    return dict(zip(map(tuple, before.get("labels", ())), before.get(what, ()), strict=False))


def _growth(poll: Poll, totals: Totals, before: Mapping[str, Any], now: float) -> Growth:
    """By labels: what each total grew by, and "seconds"; None where a total fell.

    Rows seen for the first time are left out, unless they are certainly new: then all they count
    has come since the last poll.
    """
    names, rows = totals
    elapsed = now - before.get("at", now)
    if before.get("names") != names or elapsed <= 0:
        return {}
    again = _restarted(poll, before)
    known, new = _by_row(before, "totals"), _of_new_rows(poll, before, len(names), again=again)
    unsettled = set(map(tuple, before.get("unsettled", ())))
    growth: Growth = {}
    for labels, numbers in rows:
        last = known.get(labels, new if labels != (ADMIN,) else None)
        if last is not None:
            growth[labels] = None if again else _delta(names, last, numbers, elapsed)
        if labels in unsettled and (delta := growth.get(labels)):
            delta[_UNSETTLED] = 1
    return growth


def _restarted(poll: Poll, before: Mapping[str, Any]) -> bool:
    """Whether PgBouncer counts from 0 again.

    Each poll is one more client of the console, whose count falls at a restart even where all
    others have come to more than they were.
    """
    last: Number = before.get("console", {}).get(_QUERIES, 0)
    return poll.console.get(_QUERIES, math.inf) < last


def _of_new_rows(
    poll: Poll, before: Mapping[str, Any], width: int, *, again: bool
) -> list[int] | None:
    """What a row counted at the last poll that was not there: 0 where the same process answers.

    A database has a row as long as it has a pool, and its totals go with its pools. Of another
    process, or one that is met over TCP and may be another, nobody knows how long it has counted.
    """
    same = poll.process and poll.process == before.get("process")
    return [0] * width if same and not again else None


def _take_out_the_console(poll: Poll, before: Mapping[str, Any], growth: Growth) -> None:
    """Leave of the growth of SHOW TOTALS what the clients of databases did.

    Without SHOW STATS that is unknown. A client of the console may come between the two answers:
    that is no reason to go below 0.
    """
    last = before.get("console", {})
    for delta in filter(None, growth.values()):
        for name in OF_CONSOLES & delta.keys():
            if name in last and name in poll.console:
                delta[name] = max(0, delta[name] - (poll.console[name] - last[name]))
            else:
                del delta[name]


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
    if min(delta.values(), default=0) < 0:
        return None
    delta["seconds"] = elapsed
    return delta


def _waiting(rows: Iterable[Sequence[str]], pools: Frame | None) -> dict[Row, Number | None]:
    """How many clients wait, by the labels of each row; None where nobody knows."""
    clients = column(pools, "cl_waiting")
    found: dict[Row, Number | None] = dict.fromkeys(map(tuple, rows), 0 if clients else None)
    for name, number in zip(pools.columns[0] if pools and clients else (), clients, strict=True):
        labels = (name,) if (name,) in found else ()
        if labels in found:
            so_far = found[labels]
            found[labels] = None if number is None or so_far is None else so_far + number
    return found


def _mark_astray(
    growth: Growth, before: Mapping[str, Any], waiting: Mapping[Row, Number | None]
) -> None:
    """Mark the rows of which more than a tenth of the queries had to wait for another poll.

    A query is counted when it comes: by as many as more clients wait now, fewer of those that were
    counted went on; by as many as fewer wait, more. So before and after a PAUSE.
    """
    for labels, last in _by_row(before, "waiting").items():
        delta, now = growth.get(labels), waiting.get(labels)
        if not delta or last is None or now is None or now == last:
            continue
        if abs(now - last) * 10 > delta.get(_QUERIES, math.inf):
            delta[_ASTRAY] = 1


def _unsettled(growth: Growth, pools: Frame | None) -> list[Row]:
    """The rows of which more was waited than queried, by queries that are still at work.

    Where no server is at work these were waits at login, which belong to no query.
    """
    found = [
        labels
        for labels, delta in growth.items()
        if delta and delta.get(_WAITS, 0) > delta.get(_TIME, math.inf)
    ]
    if not found or pools is None:
        return found
    work = zip(pools.columns[0], at_work(pools), strict=True)
    busy = {(name,) for name, servers in work if servers != 0}
    return [labels for labels in found if (labels in busy if labels else busy)]


def _compute(query: Query, growth: Growth, poll: Poll) -> Frame:
    metrics = _metrics(query, poll.version, frozenset().union(*filter(None, growth.values())))
    rows: list[Row] = []
    alike: dict[Row, Row] = {}  # most pools do nothing most of the time
    for labels, delta in growth.items():
        if delta is not None:
            key = tuple(delta.items())
            if key not in alike:
                alike[key] = tuple(_value(metric, delta) for metric in metrics)
            rows.append((*labels, *alike[key]))
    return poll.target.frame(query, metrics, rows)


@lru_cache(maxsize=100)
def _metrics(query: Query, version: int, grew: Set[str]) -> tuple[Metric, ...]:
    """What there is to say: the same at every poll, as what is spelled of it is remembered."""
    return tuple(m for m in query.metrics if m.on(version) or m.of.keys() <= grew)


def _value(metric: Metric, delta: Mapping[str, float]) -> Number | None:
    """The growth of a metric's totals per unit; unknown without them, or when nothing happened."""
    base = delta.get(metric.per, 0.0) if metric.per else 1
    if not base or not delta.keys() >= metric.of.keys() or _misleads(metric, delta):
        return None
    whole = sum(delta[name] * factor for name, factor in metric.of.items())
    if not metric.per:
        return whole
    return None if whole < 0 else round(whole / base, 6)


def _misleads(metric: Metric, delta: Mapping[str, float]) -> bool:
    """Whether what the totals say is known not to be of the same queries.

    Clients also wait at login, before their first query: then more was waited than queried as well.
    """
    end = _ENDS.get(metric.per)
    if end is None:
        return False
    nothing = not delta.get(end, 1) and not any(delta[name] for name in metric.of)
    less = min(metric.of.values()) < 0
    return nothing or _ASTRAY in delta or (less and _UNSETTLED in delta)
