"""The causes that hold the horizon: somebody may still need the dead rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pgstats.evidence import CRITICAL, INFO, WARNING, Holder, Record, Remedy
from pgstats.why.cause import Case, Cause, Found
from pgstats.why.heaps import Heap

_SESSION = [
    "pid",
    "usename",
    "datname",
    "application_name",
    "client_addr",
    "client_port",
    "backend_type",
    "state",
    "backend_start",
    "xact_start",
    "query_start",
    "state_change",
    "wait_event_type",
    "wait_event",
    "blockers",
    "backend_xid",
    "backend_xmin",
    "query",
]
_PREPARED = ("gid", "database", "owner", "prepared", "transaction")
_SLOT = [
    "slot_name",
    "slot_type",
    "plugin",
    "database",
    "active",
    "active_pid",
    "xmin",
    "catalog_xmin",
    "wal_status",
    "restart_lsn",
    "retained_bytes",
    "inactive_since",
]
#: Share of autovacuum_freeze_max_age from which on a hold is a worry though nothing is stuck yet.
_FAR = 0.1

_TERMINATE = Remedy("SELECT pg_terminate_backend({pid});", needs="pg_signal_backend")
_CANCEL = Remedy("SELECT pg_cancel_backend({pid});", needs="pg_signal_backend")
_DROP_SLOT = Remedy("SELECT pg_drop_replication_slot({slot_name!l});", needs="REPLICATION")


def affected(holder: Holder, heaps: Iterable[Heap]) -> list[Heap]:
    """The heaps whose dead rows a holder keeps."""
    return [
        heap
        for heap in heaps
        if heap.dead
        and holder.database in ("", heap.database)
        and (not holder.catalogs or heap.is_catalog)
    ]


def _held(cause: Cause, case: Case) -> Iterator[Found]:
    """Every holder that counts and is of this cause."""
    for holder in case.steady():
        if holder.cause == cause.id:
            yield found(cause, case, holder)


def found(cause: Cause, case: Case, holder: Holder) -> Found:
    """A holder as a cause at work."""
    hit = affected(holder, case.heaps or ())
    began = case.began(holder)
    return Found(
        cause,
        severity(cause, case, holder, hit),
        evidence(holder),
        values={"target": case.target, "began": began, "at": case.last.at},
        tables=tuple(dict.fromkeys(heap.title for heap in hit)),
        rows=sum(heap.dead for heap in hit),
        holder=holder,
        since=began,
        since_known=holder.since is not None,
    )


def severity(cause: Cause, case: Case, holder: Holder, hit: Iterable[Heap]) -> str:
    """How bad it is: where nobody is hit, only an old hold is more than worth a line."""
    if case.heaps is None or any(hit):
        return cause.severity
    limit = float(case.last.setting("autovacuum_freeze_max_age") or "inf")
    return WARNING if holder.xid_age > _FAR * limit else INFO


def evidence(holder: Holder) -> Record:
    """What proves a hold, by the names of the columns."""
    row = holder.row
    names = _SESSION if "pid" in row else _PREPARED if "gid" in row else _SLOT
    shown = {name: row[name] for name in names if row.get(name) not in (None, "")}
    return {**shown, "hold": holder.xid, "xid_age": holder.xid_age}


def _cause(name: str, text: str, severities: str, **more: object) -> Cause:
    words = {"c": CRITICAL, "w": WARNING, "i": INFO}
    kinds = tuple(words[letter] for letter in severities)
    usual = {"detect": _held, "cheap": True, "needs": ("activity",)}
    return Cause(f"horizon.{name}", text, kinds, **usual | more)  # type: ignore[arg-type]


CAUSES = (
    _cause(
        "idle_in_xact",
        "A transaction is open and its client does nothing",
        "cwi",
        summary="{who} has been idle in transaction{lasting} (pid {pid})",
        remedies=(_TERMINATE,),
        prevention=(
            "PostgreSQL: idle_in_transaction_session_timeout",
            "PgBouncer: idle_transaction_timeout",
        ),
    ),
    _cause(
        "active_query",
        "A statement has been running, or waiting, for long",
        "cwi",
        summary="{who} has been running one statement{lasting} (pid {pid})",
        remedies=(_CANCEL, _TERMINATE),
        prevention=("PostgreSQL: statement_timeout; from 17 on transaction_timeout",),
    ),
    _cause(
        "prepared_xact",
        "A prepared transaction was never committed nor rolled back",
        "cwi",
        needs=("prepared",),
        summary="prepared transaction {gid!l} of {owner} has been waiting{lasting}",
        remedies=(
            Remedy(
                "ROLLBACK PREPARED {gid!l};",
                "{target}, database {database}",
                "its owner or a superuser; or COMMIT PREPARED: ask the transaction manager",
            ),
        ),
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
        summary="a subscription's apply worker has been in one transaction{lasting} (pid {pid})",
        remedies=(_TERMINATE,),
    ),
    _cause(
        "maintenance",
        "An index is built, or a table analyzed or rewritten",
        "wi",
        summary="maintenance by {who} has been running{lasting} (pid {pid})",
        remedies=(_CANCEL,),
        prevention=("build indexes at a quiet hour",),
    ),
    _cause(
        "unknown_state",
        "A session holds the horizon and its state cannot be seen",
        "cwi",
        summary="{who} holds the horizon{lasting} in a state that cannot be seen (pid {pid})",
        remedies=(Remedy("GRANT pg_monitor TO {role!i};", needs="a superuser"),),
    ),
)
