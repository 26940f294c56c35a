"""What looks tell besides causes: who is harmless, and what one look alone leaves open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pgstats.evidence import Innocent, Limit, Record, dotted
from pgstats.why.cause import PATIENCE, Case, Found
from pgstats.why.holders import session_key
from pgstats.why.words import lasting

_ONCE = "one look does not tell (--watch 0)"


# ---- who is harmless


def harmless(case: Case, found: Sequence[Found]) -> Iterator[Innocent]:
    """Those who look guilty to whoever looks at pg_stat_activity, and hold no row asked about."""
    accused = set(_pids(found))
    yield from (_idle(case, row) for row in _quiet(case) if row["pid"] not in accused)
    if not case.asked or any(heap["shared"] for heap in case.heaps or ()):
        return
    for holder in case.steady:
        if holder.database not in ("", case.database) and holder.row.get("pid") not in accused:
            why = f"its database is {holder.database}, and nobody here has inherited what it needs"
            yield Innocent(holder.name, why)


def _pids(found: Sequence[Found]) -> Iterator[object]:
    """The processes that a cause names, in whatever part they play."""
    for one in found:
        yield from (one.evidence.get("pid"), *one.evidence.get("blockers", ()))
        yield from one.evidence.get("suspects", ())


def _quiet(case: Case) -> Iterator[Record]:
    """Sessions that have been idle in transaction for long and hold nothing."""
    times = [{session_key(row) for row in sample.rows("activity")} for sample in case.samples]
    steady = set.intersection(*times) if len(times) > 1 else set()
    for row in case.last.rows("activity"):
        idle = (row.get("state") or "").startswith("idle in transaction")
        began = row.get("xact_start")
        if not idle or began is None or row.get("backend_xid") or row.get("backend_xmin"):
            continue
        if session_key(row) in steady or case.last.at - began >= PATIENCE:
            yield row


def _idle(case: Case, row: Record) -> Innocent:
    since = lasting(case.last.at - row["xact_start"])
    why = "neither a transaction id nor a snapshot: it holds no rows"
    return Innocent(f"pid {row['pid']}", f"{row['state']} for {since}, but it has {why}")


# ---- what one look leaves open


def doubts(case: Case) -> Iterator[Limit]:
    """Holders seen once, too young to be accused of the rows that they may keep."""
    for holder in case.passing:
        hit = [heap.title for heap in case.heaps or () if heap.over and case.keeps(holder, heap)]
        if hit:
            began = holder.since
            since = "" if began is None else f" after {lasting(case.last.at - began)}"
            yield Limit(f"whether {holder.name} goes on holding the rows of {hit[0]}{since}", _ONCE)


def once(case: Case) -> Iterator[Limit]:
    """What a second look would tell, where nobody took one."""
    if len(case.samples) > 1 or not case.last.server or case.last.server.get("in_recovery"):
        return
    over = [heap for heap in case.heaps or () if heap.over]
    for heap in over[:1]:
        more = f" and {len(over) - 1} more" if len(over) > 1 else ""
        name = dotted(heap.database, heap["schema"], heap["name"])
        yield Limit(f"whether vacuum comes to {name}{more}, and whether it helps", _ONCE)
    if not over:
        yield Limit("who holds rows for longer than a moment, and which vacuums get on", _ONCE)
