"""The causes that hold the horizon: somebody may still need the dead rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pgstats.evidence import CRITICAL, INFO, WARNING, Holder, Record, Remedy
from pgstats.why.cause import PATIENCE, Case, Cause, Found
from pgstats.why.causes import roots
from pgstats.why.heaps import Heap
from pgstats.why.holders import holders

_SESSION = (
    *("pid", "usename", "datname", "application_name", "client_addr", "client_port"),
    *("backend_type", "state", "backend_start", "xact_start", "query_start", "state_change"),
    *("wait_event_type", "wait_event", "backend_xid", "backend_xmin", "query"),
)
_PREPARED = ("gid", "database", "owner", "prepared", "transaction")
_SLOT = (
    *("slot_name", "slot_type", "plugin", "database", "active", "active_pid", "xmin"),
    *("catalog_xmin", "wal_status", "restart_lsn", "retained_bytes", "inactive_since"),
)
#: Share of autovacuum_freeze_max_age from which on a hold is a worry though nothing is stuck yet.
_FAR = 0.1

_TERMINATE = Remedy("SELECT pg_terminate_backend({pid});", needs="pg_signal_backend")
_CANCEL = Remedy("SELECT pg_cancel_backend({pid});", needs="pg_signal_backend")
_DROP_SLOT = Remedy("SELECT pg_drop_replication_slot({slot_name!l});", needs="REPLICATION")
_ROLLBACK = Remedy(
    "ROLLBACK PREPARED {gid!l};",
    "{target}, database {database}",
    "its owner or a superuser; or COMMIT PREPARED: ask the transaction manager",
)
_SEE = Remedy("GRANT pg_monitor TO {role!i};", needs="a superuser")
_TRACK = Remedy("ALTER ROLE {usename!i} RESET track_activities;", needs="CREATEROLE")


def _held(cause: Cause, case: Case) -> Iterator[Found]:
    """Every holder that counts and is of this cause."""
    for holder in _relevant(case):
        if holder.cause == cause.id:
            yield found(cause, case, holder, limits=tuple(_behind(holder.row)))


def _behind(row: Record) -> Iterator[str]:
    """Where to look for who is behind a session that another server has opened."""
    said = f"{row.get('backend_type')}: {row.get('query')}"
    for name, statement, hint in _BEHIND:
        if re.search(name, row.get("application_name") or "") or re.match(statement, said):
            yield hint


#: Sessions that other servers open, by the names they give themselves (which PGAPPNAME in the
#: environment of that server overrides) and by what they say.
_BEHIND = (
    (
        r"^postgres_fdw$",
        r"client backend: ((DECLARE|FETCH \d+ FROM|CLOSE) c\d+\b|DEALLOCATE pgsql_fdw_prep_\d+)",
        "A session of the PostgreSQL at that address is behind it: look there.",
    ),
    (
        r"_sync_\d+",
        r"walsender: (COPY .* TO STDOUT|CREATE_REPLICATION_SLOT [^ ]*_sync_\d+)",
        "A subscriber copies a table: look there for its worker, and who blocks that.",
    ),
)


def _relevant(case: Case) -> list[Holder]:
    """The holders that count, of those who can hold what was asked about."""
    return [h for h in case.steady if not case.asked or h.database in ("", case.database)]


def found(cause: Cause, case: Case, holder: Holder, **more: Any) -> Found:
    """A holder as a cause at work."""
    hit = case.kept(holder)
    began = case.began(holder)
    owner = case.owner(holder)
    usual: dict[str, Any] = {
        "severity": severity(cause, case, holder, hit),
        "values": values(case),
        "tables": tuple(dict.fromkeys(heap.title for heap in hit)),
        "rows": sum(heap.dead for heap in hit),
        "since": began,
        "since_known": holder.since is not None,
        "root": " ".join(owner[0].split()[:2]) if owner else "",
        "witnesses": 0 if owner else case.shared[holder.xid] - 1,
        "sessions": (holder.row,) if holder.row.get("datid") else (),
    }
    return Found(cause, evidence=evidence(holder), holder=holder, **usual | more)


def values(case: Case) -> dict[str, Any]:
    """Words for the texts of every cause."""
    return {"target": case.target, "at": case.last.at, "role": case.last.server.get("role")}


def severity(cause: Cause, case: Case, holder: Holder, hit: Sequence[Heap]) -> str:
    """How bad it is: where nobody is hit, only an old hold is more than worth a line."""
    if case.heaps is None or hit:
        return cause.severity
    limit = float(case.last.setting("autovacuum_freeze_max_age") or "inf")
    return WARNING if holder.xid_age > _FAR * limit and not case.asked else INFO


def evidence(holder: Holder) -> Record:
    """What proves a hold, by the names of the columns."""
    row = holder.row
    names = _SESSION if "pid" in row else _PREPARED if "gid" in row else _SLOT
    shown = {name: row[name] for name in names if row.get(name) not in (None, "")}
    return {**shown, "hold": holder.xid, "xid_age": holder.xid_age}


# ---- what some of them need besides


def _waiting(cause: Cause, case: Case) -> Iterator[Found]:
    """Statements that run for long: what they wait for, and who is behind that."""
    for one in _held(cause, case):
        holder = one.holder
        assert holder
        row = holder.row
        if row.get("wait_event_type") == "Lock":
            yield _blocked(one, case, row["pid"])
        elif row.get("wait_event") in _CLIENT:
            yield one._replace(summary=_CLIENT[row["wait_event"]])
        elif row.get("application_name") == "pg_dump" and one.severity != INFO:
            yield one._replace(severity=WARNING)
        else:
            yield one


#: Statements that wait for their client are active: no timeout for idle transactions ends them.
_CLIENT = {
    "ClientRead": "{who} sends no more of the data its statement waits for{lasting} (pid {pid})",
    "ClientWrite": "{who} does not read the result of its statement{lasting} (pid {pid})",
}


def _blocked(one: Found, case: Case, pid: int) -> Found:
    """A holder that waits for a lock is ended by ending whoever has the lock."""
    behind = list(roots.blockers(case.last, pid))
    if not behind:
        return one
    kind, row = behind[0]
    cure = {
        "blocker_pid": row.get("pid"),
        "gid": row.get("gid"),
        "database": row.get("database"),
        **roots.named(kind, row),
    }
    blockers = [row.get("pid", row.get("gid")) for _, row in behind]
    remedy = _END_BLOCKER if kind == "pid" else _ROLLBACK
    return one._replace(
        evidence={**one.evidence, "blockers": blockers},
        sessions=(*one.sessions, *((row,) if kind == "pid" else ())),
        values={**one.values, **cure},
        root=cure["blocker"],
        summary="{who} waits for a lock of {blocker}{lasting} (pid {pid})",
        remedies=(remedy, _CANCEL),
    )


_END_BLOCKER = Remedy("SELECT pg_terminate_backend({blocker_pid});", needs="pg_signal_backend")


def _orphaned(cause: Cause, case: Case) -> Iterator[Found]:
    """Prepared transactions, with the sessions that wait for them."""
    for one in _held(cause, case):
        waiting = roots.waiting(case.last, one.evidence["gid"])
        yield one._replace(evidence={**one.evidence, "waiting": waiting}) if waiting else one


def _building(cause: Cause, case: Case) -> Iterator[Found]:
    """Maintenance, with how far it is."""
    work = {row["pid"]: row for row in case.last.rows("building")}
    for one in _held(cause, case):
        row = work.get(one.evidence["pid"], {})
        names = ("command", "phase", "relid", "blocks_done", "blocks_total", "tuples_done")
        shown = {name: row[name] for name in names if row.get(name) is not None}
        yield one._replace(evidence={**one.evidence, **shown})


def _applying(cause: Cause, case: Case) -> Iterator[Found]:
    """Apply workers, with their subscription and who blocks them."""
    workers = {row["pid"]: row for row in case.last.rows("subscriptions")}
    for one in _held(cause, case):
        pid = one.evidence["pid"]
        worker = workers.get(pid, {})
        shown = {key: worker[key] for key in ("subname", "relid") if worker.get(key)}
        named = one._replace(evidence={**one.evidence, **shown})
        behind = _blocked(named, case, pid)
        if behind is named:
            yield named
        else:
            yield behind._replace(summary=_APPLY_WAITS, remedies=(behind.remedies[0], _DISABLE))


_APPLY_WAITS = "the apply worker of subscription {subname} waits for a lock of {blocker}{lasting}"
_DISABLE = Remedy(
    "ALTER SUBSCRIPTION {subname!i} DISABLE;", "{target}, database {datname}", "its owner"
)


def _unseen(cause: Cause, case: Case) -> Iterator[Found]:
    """Sessions whose state is hidden: by a missing right, or by their own setting."""
    like_vacuum = {
        lock["pid"]
        for lock in case.last.rows("locks")
        if not lock["granted"] and lock["mode"] == "ShareUpdateExclusiveLock"
    }
    for one in _held(cause, case):
        if one.evidence.get("state") == "disabled":
            yield one._replace(remedies=(_TERMINATE, _TRACK))
        elif one.evidence["pid"] in like_vacuum:
            yield one._replace(limits=(*one.limits, _LIKE_VACUUM))
        else:
            yield one


_LIKE_VACUUM = (
    "It waits for a lock as VACUUM does, which would hold nothing, but also ANALYZE and CREATE "
    "INDEX CONCURRENTLY, which do: pg_monitor would tell which."
)


def _fed_back(cause: Cause, case: Case) -> Iterator[Found]:
    """Standbys with their address, and who it is there, where the standby could be asked."""
    walsenders = {row["pid"]: row for row in case.last.rows("replication")}
    for one in _held(cause, case):
        pid = one.evidence.get("pid") or one.evidence.get("active_pid")
        row = walsenders.get(pid, {})
        names = ("application_name", "client_addr", "client_port", "state", "sync_state")
        shown = {name: row[name] for name in names if row.get(name) is not None}
        yield _on_standby(one._replace(evidence={**one.evidence, **shown}), case)


def _on_standby(one: Found, case: Case) -> Found:
    """Who holds the same transaction on a standby that was asked: a session, or a slot there.

    One that only hands on what a further standby needs is named where that one was not asked.
    """
    there = [
        (name, holder)
        for name, sample in case.standbys.items()
        for holder in holders(sample)
        if one.holder and holder.xid == one.holder.xid
    ]
    there.sort(key=lambda pair: pair[1].cause == one.cause.id)
    if not there:
        return one
    if there[0][1].cause == one.cause.id:
        return one._replace(limits=(*one.limits, _handed_on(*there[0])))
    name, holder = there[0]
    kind = "slot" if "slot_name" in holder.row else "session"
    shown = {f"standby_{key}": value for key, value in evidence(holder).items()}
    return one._replace(
        root=f"{holder.name} of {name}",
        evidence={**one.evidence, **shown},
        values={**one.values, "standby": name, **shown},
        summary=_THERE[kind],
        remedies=(_END_THERE[kind], *one.cause.remedies[1:]),
    )


def _handed_on(name: str, holder: Holder) -> str:
    """What is left to say where a standby has it from one that was not asked."""
    row = holder.row
    further = f"slot {row['slot_name']}" if "slot_name" in row else row.get("application_name")
    at = f" at {row['client_addr']}" if row.get("client_addr") else ""
    told = f" ({further}{at})" if further or at else ""
    return f"Standby {name} only hands on what a further one needs{told}: ask that one as well."


_THERE = {
    "session": "a session on standby {standby} (pid {standby_pid}) holds the horizon by "
    "hot_standby_feedback{lasting}",
    "slot": "slot {standby_slot_name} on standby {standby} holds the horizon by "
    "hot_standby_feedback{lasting}",
}
_END_THERE = {
    "session": Remedy(
        "SELECT pg_terminate_backend({standby_pid});", "{standby}", "pg_signal_backend"
    ),
    "slot": Remedy(
        "SELECT pg_drop_replication_slot({standby_slot_name!l});", "{standby}", "REPLICATION"
    ),
}


def _inherited(cause: Cause, case: Case) -> Iterator[Found]:
    """Transactions of another database that every snapshot taken here has inherited."""
    for key, database, xid in _heirlooms(case):
        heirs = [h for h in case.every[-1] if h.database == database and h.xid == xid]
        row = roots.session(case.last, key)
        owner = next((h for h in case.every[-1] if h.key == key), None)
        if owner is None or not heirs or (case.asked and database != case.database):
            continue
        kind = "gid" if "gid" in row else "pid"
        here = owner._replace(cause=cause.id, database=database)
        yield found(
            cause,
            case,
            here,
            witnesses=len(heirs),
            root=owner.name,
            values={**values(case), "heirs": database, "owned": owner.database},
            summary=_INHERITED[kind],
            remedies=(_TERMINATE if kind == "pid" else _ROLLBACK,),
        )


_INHERITED = {
    "pid": "{who} has had a transaction open in database {owned}{lasting} (pid {pid}), and every "
    "snapshot taken in database {heirs} inherits it",
    "gid": "prepared transaction {gid!l} in database {owned} has been waiting{lasting}, and every "
    "snapshot taken in database {heirs} inherits it",
}


def _heirlooms(case: Case) -> set[tuple[str, str, int]]:
    """Who owns what the snapshots of which other database have inherited, in every sample."""
    found = [
        {
            (owned[h.xid][0], h.database, h.xid)
            for h in every
            if h.database and h.xid in owned and owned[h.xid][1] != h.database
        }
        for every, owned in zip(case.every, case.owners, strict=True)
    ]
    steady = {holder.key for holder in case.steady}
    return {one for one in set.intersection(*found) if one[0] in steady}


def _of_catalogs(cause: Cause, case: Case) -> Iterator[Found]:
    """Logical slots: harmless to ordinary tables, a risk where nobody reads them on.

    One that is read moves on within seconds, or has no need to.
    """
    for one in _held(cause, case):
        idle = one.holder is not None and not one.holder.row.get("active")
        stands = idle or (one.since is not None and case.last.at - one.since >= PATIENCE)
        hidden = one.severity == INFO and stands and not case.asked
        yield one._replace(severity=WARNING) if hidden else one


def _deferred(cause: Cause, case: Case) -> Iterator[Found]:
    """A setting, up to 15, that keeps rows for so many transactions."""
    row = next(
        (r for r in case.last.rows("settings") if r["name"] == "vacuum_defer_cleanup_age"), None
    )
    if row is None or int(row["setting"]) <= 0:
        return
    hit = [heap for heap in case.heaps or () if heap.dead]
    yield Found(
        cause,
        cause.severity,
        {key: row[key] for key in ("name", "setting", "sourcefile", "sourceline") if row.get(key)},
        values(case),
        tables=tuple(dict.fromkeys(heap.title for heap in hit)),
        rows=sum(heap.dead for heap in hit),
    )


def _shared(cause: Cause, case: Case) -> Iterator[Found]:
    """Sessions of other databases, which hold the catalogs that all databases share."""
    hit = [heap for heap in case.heaps or () if heap["shared"] and heap.dead]
    if not case.asked or not hit:
        return
    for holder in case.steady:
        if holder.database not in ("", case.database):
            kind = "gid" if "gid" in holder.row else "pid"
            one = found(cause, case, holder._replace(cause=cause.id, database=""))
            remedy = _TERMINATE if kind == "pid" else _ROLLBACK
            yield one._replace(
                severity=INFO,
                tables=tuple(dict.fromkeys(heap.title for heap in hit)),
                rows=sum(heap.dead for heap in hit),
                summary=_SHARES[kind],
                values={**one.values, "where": holder.database},
                remedies=(remedy,),
            )


_SHARES = {
    "pid": "{who} in database {where} holds the catalogs that all databases share{lasting} "
    "(pid {pid})",
    "gid": "prepared transaction {gid!l} in database {where} holds the catalogs that all databases "
    "share{lasting}",
}


def _cause(name: str, text: str, severities: str, **more: Any) -> Cause:
    words = {"c": CRITICAL, "w": WARNING, "i": INFO}
    kinds = tuple(words[letter] for letter in severities)
    usual: dict[str, Any] = {"detect": _held, "cheap": True, "needs": ("activity",)}
    return Cause(f"horizon.{name}", text, kinds, **usual | more)


CAUSES = (
    _cause(
        "idle_in_xact",
        "A transaction is open and its client does nothing",
        "cwi",
        summary="{who} has been idle in transaction{lasting} (pid {pid})",
        remedies=(_TERMINATE,),
        prevention=(
            "PostgreSQL: idle_in_transaction_session_timeout",
            "PgBouncer: idle_transaction_timeout; from 1.25 on transaction_timeout",
        ),
    ),
    _cause(
        "active_query",
        "A statement has been running, or waiting, for long",
        "cwi",
        detect=_waiting,
        summary="{who} has been running one statement{lasting} (pid {pid})",
        remedies=(_CANCEL, _TERMINATE),
        prevention=("PostgreSQL: statement_timeout; from 17 on transaction_timeout",),
    ),
    _cause(
        "prepared_xact",
        "A prepared transaction was never committed nor rolled back",
        "cwi",
        detect=_orphaned,
        needs=("prepared",),
        summary="prepared transaction {gid!l} of {owner} has been waiting{lasting}",
        remedies=(_ROLLBACK,),
        prevention=("max_prepared_transactions = 0 where no transaction manager is in use",),
    ),
    _cause(
        "slot_physical",
        "The slot of a standby that is gone keeps its last horizon",
        "cwi",
        needs=("slots",),
        summary="slot {slot_name} keeps the horizon of a standby that is not connected{lasting}",
        remedies=(_DROP_SLOT,),
        prevention=("max_slot_wal_keep_size; from 18 on idle_replication_slot_timeout",),
    ),
    _cause(
        "standby_feedback",
        "A standby reports that its queries still need the rows",
        "cwi",
        detect=_fed_back,
        summary="{who} holds the horizon by hot_standby_feedback{lasting}",
        remedies=(
            Remedy(
                "SELECT pid, usename, application_name, xact_start, state, query\n"
                "  FROM pg_stat_activity WHERE backend_xmin IS NOT NULL ORDER BY xact_start;",
                "the standby",
                "pg_monitor; then end that session there",
            ),
            Remedy(
                "ALTER SYSTEM SET hot_standby_feedback = off; SELECT pg_reload_conf();",
                "the standby",
                "superuser; its queries may then be cancelled",
            ),
        ),
        prevention=("on the standby: statement_timeout and idle_in_transaction_session_timeout",),
    ),
    _cause(
        "slot_catalog",
        "A logical slot keeps old rows of the system catalogs",
        "cwi",
        detect=_of_catalogs,
        needs=("slots",),
        summary="logical slot {slot_name} keeps old rows of the system catalogs{lasting}",
        remedies=(_DROP_SLOT,),
        prevention=("drop slots that nobody reads; max_slot_wal_keep_size",),
    ),
    _cause(
        "walsender_snapshot",
        "A replication connection exported a snapshot, or copies a table",
        "cwi",
        summary="{who} holds a snapshot through a replication connection{lasting} (pid {pid})",
        remedies=(_TERMINATE,),
    ),
    _cause(
        "logical_apply",
        "A worker that applies a subscription's changes is stuck",
        "cwi",
        detect=_applying,
        summary="a subscription's apply worker has been in one transaction{lasting} (pid {pid})",
        remedies=(_TERMINATE,),
    ),
    _cause(
        "maintenance",
        "An index is built, or a table analyzed or rewritten",
        "wi",
        detect=_building,
        summary="maintenance by {who} has been running{lasting} (pid {pid})",
        remedies=(_CANCEL,),
        prevention=("build indexes at a quiet hour",),
    ),
    _cause(
        "unknown_state",
        "A session holds the horizon and its state cannot be seen",
        "cwi",
        detect=_unseen,
        summary="{who} holds the horizon{lasting} in a state that cannot be seen (pid {pid})",
        remedies=(_SEE,),
    ),
    _cause(
        "inherited_other_db",
        "A transaction in another database, which every snapshot taken here inherits",
        "cwi",
        detect=_inherited,
        summary="a transaction of another database is inherited by every snapshot here",
        remedies=(_TERMINATE,),
        prevention=("as for a transaction in this database: idle_in_transaction_session_timeout",),
    ),
    _cause(
        "vacuum_defer_cleanup_age",
        "A setting keeps dead rows for a number of transactions",
        "w",
        detect=_deferred,
        needs=("settings",),
        until=160000,
        summary="vacuum_defer_cleanup_age keeps every dead row for {setting} transactions",
        remedies=(
            Remedy(
                "ALTER SYSTEM RESET vacuum_defer_cleanup_age; SELECT pg_reload_conf();",
                needs="a superuser",
            ),
        ),
    ),
    _cause(
        "shared_catalog",
        "A session of another database holds a catalog that all databases share",
        "i",
        detect=_shared,
        cheap=False,
        summary="a transaction of another database holds the catalogs that all databases share",
    ),
)
