"""From a holder to the one behind it: who owns its transaction, who blocks it."""

from __future__ import annotations

from collections.abc import Iterator

from pgstats.evidence import Record, Sample
from pgstats.why.holders import session_key


def blockers(sample: Sample, pid: int) -> Iterator[tuple[str, Record]]:
    """Who a session waits for in the end, with the row of each: ("pid", ...) or ("gid", ...).

    Whoever blocks may wait as well; who waits for nobody is an end. A prepared transaction has no
    process: its number is 0, and the transaction waited for tells which one it is.
    """
    sessions = {row["pid"]: row for row in sample.rows("activity")}
    seen, ahead = {pid}, [pid]
    while ahead:
        row = sessions.get(ahead.pop(), {})
        for other in row.get("blockers") or ():
            if other == 0:
                yield from (("gid", one) for one in _prepared(sample, row["pid"]))
            elif other not in seen:
                seen.add(other)
                ahead.append(other)
                if not sessions.get(other, {}).get("blockers"):
                    yield "pid", sessions.get(other, {"pid": other})


def named(kind: str, row: Record) -> Record:
    """Who somebody behind is, as values for texts: ``blocker``, and ``blocker_is`` besides."""
    if kind == "gid":
        return {"blocker": f"prepared transaction {row['gid']}", "blocker_is": ""}
    name, host = row.get("application_name"), row.get("client_addr")
    at = f" at {host}:{row.get('client_port')}" if host else ""
    return {"blocker": f"pid {row['pid']}", "blocker_is": f" ({name}{at})" if name else ""}


def waiting(sample: Sample, gid: str) -> list[int]:
    """The sessions that wait for a prepared transaction."""
    return [
        row["pid"]
        for row in sample.rows("activity")
        if 0 in (row.get("blockers") or ())
        and gid in (one["gid"] for one in _prepared(sample, row["pid"]))
    ]


def _prepared(sample: Sample, pid: int) -> list[Record]:
    """The prepared transactions that a session waits for.

    Their locks may carry the number of the session that prepared them; the lock on the transaction
    itself is what tells.
    """
    waits = {
        lock["transactionid"]
        for lock in sample.rows("locks")
        if lock["pid"] == pid and not lock["granted"] and lock["locktype"] == "transactionid"
    }
    known = [row for row in sample.rows("prepared") if row["transaction"] in waits]
    return known or _by_relation(sample, pid)


def _by_relation(sample: Sample, pid: int) -> list[Record]:
    """The prepared transactions with a lock on a table that a session waits for."""
    wanted = {
        (lock["database"], lock["relation"])
        for lock in sample.rows("locks")
        if lock["pid"] == pid and not lock["granted"] and lock["relation"]
    }
    holding = {
        lock["virtualtransaction"]
        for lock in sample.rows("locks")
        if lock["pid"] is None and (lock["database"], lock["relation"]) in wanted
    }
    numbers = {
        lock["transactionid"]
        for lock in sample.rows("locks")
        if lock["virtualtransaction"] in holding and lock["transactionid"]
    }
    return [row for row in sample.rows("prepared") if row["transaction"] in numbers]


def session(sample: Sample, key: str) -> Record:
    """The row of the session or prepared transaction of a holder's key."""
    for row in (*sample.rows("activity"), *sample.rows("prepared")):
        if key == (f"gid {row['gid']}" if "gid" in row else session_key(row)):
            return row
    return {}
