"""The causes that keep vacuum away, or make it useless: nobody needs the rows any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pgstats.evidence import CRITICAL, INFO, WARNING, Record, Remedy
from pgstats.why.cause import Case, Cause, Found
from pgstats.why.causes import roots
from pgstats.why.causes.horizon import values
from pgstats.why.heaps import Heap
from pgstats.why.words import identifier, lasting
from pgstats.why.workers import WORKER, Worker

#: Naptimes after which autovacuum must have come to a table over its threshold.
_NAPTIMES = 10
#: Seconds of a naptime from which on it is a cause by itself.
_LONG_NAPTIME = 600
#: Bytes from which on a table is large.
_LARGE = 1 << 30

_SUPERUSER = "a superuser"
_OWNER = "the owner of the table"
_THERE = "{target}, database {database}"
_RESET = Remedy("ALTER SYSTEM RESET {name}; SELECT pg_reload_conf();", needs=_SUPERUSER)
_VACUUM = Remedy("VACUUM {table};", _THERE, "the owner of the table; from 17 on MAINTAIN")
_TERMINATE = Remedy("SELECT pg_terminate_backend({pid});", needs="pg_signal_backend")
_ROLLBACK = Remedy(
    "ROLLBACK PREPARED {gid!l};",
    "{target}, database {database}",
    "its owner or a superuser; or COMMIT PREPARED: ask the transaction manager",
)

#: Locks that VACUUM cannot share a table with.
_CONFLICTS = frozenset(
    f"{mode}Lock"
    for mode in (
        *("ShareUpdateExclusive", "Share", "ShareRowExclusive"),
        *("Exclusive", "AccessExclusive"),
    )
)


# ---- what the detections have in common


def _on(cause: Cause, case: Case, heap: Heap, evidence: Record, **more: Any) -> Found:
    """A cause at work on one heap."""
    own = {
        "heap": heap.name,
        "table": heap.sql,
        "database": heap.database,
        "rows": heap.dead,
        "threshold": heap["threshold"],
    }
    usual: dict[str, Any] = {"severity": cause.severity, "tables": (heap.title,), "rows": heap.dead}
    texts = {**values(case), **own, **more.pop("values", {})}
    shown = {"heap": heap.name, "n_dead_tup": heap.dead, **evidence}
    return Found(cause, evidence=shown, values=texts, **usual | more)


def _neglected(case: Case) -> Iterator[Heap]:
    """Heaps over their threshold to which no vacuum has come: neither now nor since their hold."""
    for heap in case.heaps or ():
        neglected = heap.lasting and heap.over and heap["persistent"] != "t"
        if neglected and not any(case.in_vain(h, heap) for h in case.first):
            yield heap


def _reachable(case: Case) -> Iterator[Heap]:
    """Neglected heaps that autovacuum is meant to come to."""
    if _off(case) is None:
        yield from (heap for heap in _neglected(case) if heap["enabled"])


def _off(case: Case) -> Record | None:
    return next((row for row in _settings(case, "autovacuum") if row["setting"] == "off"), None)


def _settings(case: Case, *names: str) -> list[Record]:
    return [row for row in case.last.rows("settings") if row["name"] in names]


def _shown(row: Record) -> Record:
    """A setting as evidence: its value, and where that stands if the role may see it."""
    names = ("name", "setting", "unit", "source", "sourcefile", "sourceline")
    return {name: row[name] for name in names if row.get(name) is not None}


def _over(case: Case) -> list[Heap]:
    return [heap for heap in case.heaps or () if heap.over]


def _global(cause: Cause, case: Case, evidence: Record, hit: list[Heap], **more: Any) -> Found:
    """A cause at work on the whole server; where it hits nothing yet it is a warning at most."""
    usual: dict[str, Any] = {
        "severity": cause.severity,
        "values": {**values(case), **evidence},
        "tables": tuple(dict.fromkeys(heap.title for heap in hit)),
        "rows": sum(heap.dead for heap in hit),
    }
    return Found(cause, evidence=evidence, **usual | more)


def _every(case: Case, heap: Heap) -> list[list[Worker]]:
    return [list(crew.at(heap)) for crew in case.crews]


def _sees_workers(case: Case) -> bool:
    """Whether the role sees who is a worker: to one that does not, nobody seems to come."""
    return bool(case.last.server.get("sees_all"))


def _alone(case: Case, heap: Heap) -> bool:
    """Whether no worker was met at a heap."""
    return not any(_every(case, heap))


def _same(case: Case, heap: Heap) -> Worker | None:
    """The worker that was at a heap whenever somebody looked."""
    each = _every(case, heap)
    pids = set.intersection(*({one.pid for one in found} for found in each))
    return next((one for one in each[-1] if one.pid in pids), None)


# ---- the server as a whole


def _standby(cause: Cause, case: Case) -> Iterator[Found]:
    if case.last.server.get("in_recovery"):
        sender = next(iter(case.last.rows("receiver")), {})
        shown = {name: sender[name] for name in ("sender_host", "sender_port") if sender.get(name)}
        where = f" at {shown['sender_host']}:{shown['sender_port']}" if len(shown) == 2 else ""
        yield Found(cause, INFO, shown, {**values(case), "where": where})


def _disabled_global(cause: Cause, case: Case) -> Iterator[Found]:
    if row := _off(case):
        yield _global(cause, case, _shown(row), _over(case))


def _uncounted(cause: Cause, case: Case) -> Iterator[Found]:
    """Rows that nobody counts: for the server, a database or a role."""
    for row in _settings(case, "track_counts"):
        if row["setting"] == "off" and row.get("source") not in ("database", "user"):
            yield _global(cause, case, _shown(row), [])
    for row in case.last.rows("role_settings"):
        name, _, value = row["setting"].partition("=")
        off = name == "track_counts" and value.lower() in ("off", "false", "no", "0", "f", "n")
        if off and (not case.asked or row["database"] in (None, case.database)):
            shown = {key: value for key, value in row.items() if value is not None}
            yield _global(
                cause, case, shown, [], remedies=(_reset_role(row), _ANALYZE_ALL), summary=_ROLE
            )


_ROLE = "{setting} is set for some sessions: the rows that these change are not counted"
_ANALYZE_ALL = Remedy("VACUUM (ANALYZE);", needs="the owner of the tables")


def _reset_role(row: Record) -> Remedy:
    """The statement that takes the setting of a role, a database, or both away."""
    role, database = (identifier(row.get(key) or "") for key in ("role", "database"))
    inside = f" IN DATABASE {database}" if row.get("database") else ""
    whose = f"ROLE {role}{inside}" if row.get("role") else f"DATABASE {database}"
    braced = whose.replace("{", "{{").replace("}", "}}")  # it becomes a template
    return Remedy(f"ALTER {braced} RESET track_counts;", needs=_SUPERUSER)


def _naptime(cause: Cause, case: Case) -> Iterator[Found]:
    for row in _settings(case, "autovacuum_naptime"):
        if int(row["setting"]) > _LONG_NAPTIME:
            hit = [heap for heap in _reachable(case) if _alone(case, heap)]
            usual = case.heaps is None or bool(hit)
            yield _global(cause, case, _shown(row), hit, severity=WARNING if usual else INFO)


def _starved(cause: Cause, case: Case) -> Iterator[Found]:
    """One database that is near its wraparound gets every worker; the others get none."""
    if not _sees_workers(case):
        return
    served = {row.get("datname") for crew in case.crews for row in crew.sessions}
    forced = [row for row in case.last.rows("databases") if _is_forced(row, case)]
    forced.sort(key=lambda row: (row["datname"] in served, row["xid_age"], row["mxid_age"]))
    for heap in _reachable(case):
        others = [row for row in forced if row["datname"] != heap.database]
        if others and heap.database not in served:
            shown = {key: others[-1][key] for key in ("datname", "xid_age", "mxid_age")}
            yield _on(cause, case, heap, shown, values=shown)


def _is_forced(database: Record, case: Case) -> bool:
    """Whether a database is so old that autovacuum goes there before anywhere else."""
    return bool(database["datallowconn"]) and any(
        database[age] > int(case.last.setting(limit) or 1 << 31) for limit, age in _LIMITS.items()
    )


_LIMITS = {
    "autovacuum_freeze_max_age": "xid_age",
    "autovacuum_multixact_freeze_max_age": "mxid_age",
}


def _saturated(cause: Cause, case: Case) -> Iterator[Found]:
    limit = int(case.last.setting("autovacuum_max_workers") or 0)
    counts = [len(crew.sessions) for crew in case.crews]
    if not limit or min(counts) < limit:
        return
    busy = list(case.crews[-1].busy())
    cost = max(1000, *(int(case.last.setting(name) or 0) for name in _COST_LIMITS))
    for heap in _reachable(case):
        if _alone(case, heap):
            shown = {"workers": counts[-1], "autovacuum_max_workers": limit, "busy": busy}
            more = {"more_workers": 2 * limit, "more_cost": min(10000, 2 * cost)}
            yield _on(cause, case, heap, shown, values={**shown, **more})


_COST_LIMITS = ("autovacuum_vacuum_cost_limit", "vacuum_cost_limit")


def _wraparound_waits(cause: Cause, case: Case) -> Iterator[Found]:
    """A worker against wraparound gives way to nobody: it waits for its lock."""
    for row in case.crews[-1].sessions:
        forced = "(to prevent wraparound)" in (row.get("query") or "")
        if forced and row.get("wait_event_type") == "Lock":
            behind = list(roots.blockers(case.last, row["pid"]))
            pids = [one.get("pid", one.get("gid")) for _, one in behind]
            shown = {"pid": row["pid"], "datname": row["datname"], "query": row["query"]}
            cure = _end(behind[0]) if behind else {}
            yield _global(
                cause,
                case,
                {**shown, "blockers": pids},
                [],
                values={**values(case), **cure, "worker": row["pid"]},
                remedies=_ends(behind),
                sessions=tuple(one for _, one in behind[:1] if "datid" in one),
            )


def _end(blocker: tuple[str, Record]) -> Record:
    """The values that the remedy against somebody with a lock needs."""
    kind, row = blocker
    found = {"pid": row.get("pid"), "gid": row.get("gid"), **roots.named(kind, row)}
    return found | ({"database": row["database"]} if kind == "gid" else {})


def _ends(behind: list[tuple[str, Record]]) -> tuple[Remedy, ...]:
    return ((_TERMINATE if behind[0][0] == "pid" else _ROLLBACK),) if behind else ()


# ---- one heap


def _disabled_table(cause: Cause, case: Case) -> Iterator[Found]:
    for heap in case.heaps or ():
        if heap["enabled"] is False and heap.dead and heap["persistent"] != "t":
            option = f"{heap.reset}autovacuum_enabled"
            yield _on(
                cause,
                case,
                heap,
                {"reloptions": heap["reloptions"] or heap["owner_reloptions"]},
                severity=CRITICAL if heap.over else INFO,
                values={"option": option},
            )


#: Share of a large table's rows from which on its threshold is too high: more than the usual 0.2,
#: which in the server's single precision is a little more already.
_LATE = 0.2001
#: Scale factor and threshold that are proposed, where they make vacuum come.
_LOWER = 0.01, 1000


def _below(cause: Cause, case: Case) -> Iterator[Found]:
    for heap in case.heaps or ():
        if heap.dead and not heap.over and heap["persistent"] != "t" and case.asked:
            names = ("autovacuum_vacuum_threshold", "autovacuum_vacuum_scale_factor")
            parts = {name: heap.option(name) or case.last.setting(name) for name in names}
            own = any(heap.option(name) for name in names)
            late = heap["threshold"] > _LATE * heap["reltuples"] + 50 and heap["bytes"] > _LARGE
            shown = {**parts, "reltuples": heap["reltuples"], "threshold": heap["threshold"]}
            shown["source"] = "reloptions" if own else "settings"
            lower = _LOWER[0] * heap["reltuples"] + _LOWER[1]
            cure = () if heap.dead > lower else (_VACUUM,)
            severity = WARNING if late else INFO
            yield _on(cause, case, heap, shown, severity=severity, remedies=cure)


def _throttled(cause: Cause, case: Case) -> Iterator[Found]:
    for heap in case.heaps or ():
        worker = _same(case, heap)
        waits = [one.waits_for for found in _every(case, heap) for one in found]
        if worker and "VacuumDelay" in waits and not heap.vacuumed:
            shown = {"pid": worker.pid, **_pace(case, heap, worker), **_delay(case, heap)}
            yield _on(cause, case, heap, shown, values=shown)


def _pace(case: Case, heap: Heap, worker: Worker) -> dict[str, Any]:
    """How far a worker is, how fast, and when it will be done with the heap at that pace."""
    found = [
        (sample.at, one.progress)
        for sample, crew in zip(case.samples, case.crews, strict=True)
        for one in crew.at(heap)
        if one.pid == worker.pid
    ]
    (began, first), (ended, last) = found[0], found[-1]
    names = ("phase", "heap_blks_total", "heap_blks_scanned", "index_vacuum_count")
    shown: dict[str, Any] = {name: last[name] for name in names if name in last}
    done = (last.get("heap_blks_scanned") or 0) - (first.get("heap_blks_scanned") or 0)
    if ended > began and done > 0:
        pace = done / (ended - began)
        shown["blocks_per_second"] = round(pace, 1)
        left = last["heap_blks_total"] - last["heap_blks_scanned"]
        shown["remaining"] = lasting(left / pace)
    return shown


def _delay(case: Case, heap: Heap) -> dict[str, Any]:
    """The delay and the limit that a worker lives by, and who sets them."""
    shown: dict[str, Any] = {"source": "settings"}
    for name in ("autovacuum_vacuum_cost_delay", "autovacuum_vacuum_cost_limit"):
        own = heap.option(name)
        shown[name] = own or case.last.setting(name)
        if own:
            shown["source"] = "reloptions"
    return shown


def _pinned(cause: Cause, case: Case) -> Iterator[Found]:
    """A worker waits for a page that somebody looks at: no view shows who, but who may."""
    for heap in case.heaps or ():
        worker = _same(case, heap)
        if worker is None or {w.waits_for for f in _every(case, heap) for w in f} != {"BufferPin"}:
            continue
        relations = {heap["oid"], *(heap["indexes"] or ())}
        readers = {
            lock["pid"]
            for lock in case.last.rows("locks")
            if lock["relation"] in relations and lock["granted"]
        }
        suspects = [
            row
            for row in case.last.rows("activity")
            if row["pid"] in readers and row["pid"] != worker.pid and row.get("backend_xmin")
        ]
        shown = {"worker": worker.pid, "phase": worker.progress.get("phase")}
        told = {"suspects": [row["pid"] for row in suspects], **shown, **_named(suspects)}
        yield _on(
            cause,
            case,
            heap,
            told,
            values={**told, "pid": suspects[0]["pid"] if suspects else None},
            remedies=(_TERMINATE,) if suspects else (),
            summary=_PINS if suspects else "",
            sessions=tuple(suspects[:1]),
        )


_PINS = (
    "the worker at {heap} (pid {worker}) waits for a page that is pinned, as it seems by {who} "
    "(pid {pid})"
)


def _named(rows: Sequence[Record]) -> Record:
    """Who the first of some sessions is."""
    names = ("usename", "application_name", "client_addr", "client_port")
    return {name: row[name] for row in rows[:1] for name in names if row.get(name) is not None}


def _cancelled(cause: Cause, case: Case) -> Iterator[Found]:
    """Workers come and go without an end: somebody's lock request cancels each of them."""
    blocked = [r for one in case.samples for r in one.rows("activity") if r.get("blockers")]
    for heap in _neglected(case):
        pids = {one.pid for found in _every(case, heap) for one in found}
        behind = {row["pid"]: row for row in blocked if pids & set(row["blockers"])}
        if len(pids) > 1 and behind:  # else they fail by themselves
            names = ("pid", "application_name", "usename", "query")
            first, *_ = rows = list(behind.values())
            waits = [{key: row.get(key) for key in names} for row in rows]
            shown = {"workers": sorted(pids), "waiting": waits, "pid": first["pid"]}
            told = {**shown, **_named(rows)}
            yield _on(cause, case, heap, told, values=shown, sessions=tuple(rows[:1]))


def _lock_held(cause: Cause, case: Case) -> Iterator[Found]:
    for heap in _neglected(case):
        for lock in _locks(case, heap):
            row = _lock_holder(case, lock)
            if row is None:
                continue
            kind = "gid" if "gid" in row else "pid"
            shown = {n: row[n] for n in _LOCKER if row.get(n) is not None}
            since = row.get("xact_start") or row.get("prepared")
            yield _on(
                cause,
                case,
                heap,
                {"mode": lock["mode"], **shown},
                values={**shown, **_end((kind, row))},
                remedies=(_TERMINATE if kind == "pid" else _ROLLBACK,),
                summary=_END_LOCK if kind == "pid" else "",
                since=since,
                since_known=since is not None,
                sessions=(row,) if "datid" in row else (),
            )


_LOCKER = (
    *("pid", "gid", "usename", "owner", "application_name", "client_addr", "client_port"),
    *("state", "xact_start", "state_change", "prepared", "query"),
)
_END_LOCK = "{who} has a lock ({mode}) on {heap}{lasting} (pid {pid}), and autovacuum passes it by"


def _locks(case: Case, heap: Heap) -> list[Record]:
    """The locks on a heap that were there in every sample and keep vacuum away."""

    def found(rows: Any) -> dict[tuple[Any, ...], Record]:
        return {
            (lock["pid"], lock["virtualtransaction"], lock["mode"]): lock
            for lock in rows
            if lock["relation"] == heap["oid"] and lock["granted"] and lock["mode"] in _CONFLICTS
        }

    each = [found(sample.rows("locks")) for sample in case.samples]
    steady = set.intersection(*(set(one) for one in each))
    return [each[-1][key] for key in sorted(steady, key=str)]


def _lock_holder(case: Case, lock: Record) -> Record | None:
    """The session or prepared transaction that has a lock, None for one that vacuums."""
    if lock["pid"] is None:
        numbers = {
            other["transactionid"]
            for other in case.last.rows("locks")
            if other["virtualtransaction"] == lock["virtualtransaction"] and other["transactionid"]
        }
        return next((r for r in case.last.rows("prepared") if r["transaction"] in numbers), None)
    vacuums = {row["pid"] for row in case.last.rows("vacuuming")}
    rows = (r for r in case.last.rows("activity") if r["pid"] == lock["pid"])
    row = next(rows, {"pid": lock["pid"]})
    vacuum = row["pid"] in vacuums or row.get("backend_type") == WORKER
    return None if vacuum else row


def _failing(cause: Cause, case: Case) -> Iterator[Found]:
    """By exclusion: nothing keeps autovacuum away, and yet no vacuum ends."""
    if not _sees_workers(case):
        return
    others = (_naptime, _starved, _saturated, _cancelled, _lock_held)
    explained = {
        (table, found.evidence.get("heap"))
        for detect in others
        for found in detect(cause, case)
        for table in found.tables
    }
    titles = {table for table, heap in explained if heap is None}
    naptime = float(case.last.setting("autovacuum_naptime") or 60)
    for heap in _reachable(case):
        if (heap.title, heap.name) in explained or heap.title in titles or _same(case, heap):
            continue
        since = case.over_since(heap)
        long = case.last.at - since >= _NAPTIMES * naptime
        if not long and any(case.keeps(h, heap) for h in case.first):
            continue  # it would find nothing that it may remove
        shown = {"last_autovacuum": heap["last_autovacuum"], "over_since": since}
        yield _on(
            cause,
            case,
            heap,
            {key: value for key, value in shown.items() if value is not None},
            severity=CRITICAL if long else INFO,
            summary="" if long else _NOT_YET,
            remedies=() if long else (_VACUUM,),
            values={"naptime": lasting(naptime)},
            since=since,
        )


_NOT_YET = (
    "{heap} waits for autovacuum, which comes to each database every {naptime}; "
    "whether it fails shows in a longer watch"
)


def _no_index_cleanup(cause: Cause, case: Case) -> Iterator[Found]:
    for heap in case.heaps or ():
        value = heap.option("vacuum_index_cleanup") or "auto"
        if value.lower() in ("off", "false", "no", "0", "f", "n") and heap["indexes"]:
            shown = {"vacuum_index_cleanup": value, "index_bytes": heap["index_bytes"]}
            yield _on(
                cause,
                case,
                heap,
                shown,
                severity=WARNING if heap.over else INFO,
                values={"option": f"{heap.reset}vacuum_index_cleanup"},
            )


def _failsafe(cause: Cause, case: Case) -> Iterator[Found]:
    """So old that vacuum leaves out everything but freezing."""
    for age, failsafe, limit in _FAILSAFE:
        bound = max(
            int(case.last.setting(failsafe) or 1 << 31),
            1.05 * int(case.last.setting(limit) or 0),
        )
        for heap in case.heaps or ():
            if heap[age] is not None and heap[age] > bound:
                yield _on(cause, case, heap, {age: heap[age], failsafe: int(bound)})


_FAILSAFE = (
    ("xid_age", "vacuum_failsafe_age", "autovacuum_freeze_max_age"),
    ("mxid_age", "vacuum_multixact_failsafe_age", "autovacuum_multixact_freeze_max_age"),
)


def _forgotten(cause: Cause, case: Case) -> Iterator[Found]:
    """Heaps that were filled and vacuumed once, and whose counters are gone."""
    if case.last.server.get("in_recovery"):
        return
    stamps = {row["datname"]: row.get("stats_reset") for row in case.last.rows("databases")}
    server = {key: case.last.server.get(key) for key in ("stats_reset", "started")}
    for heap in case.heaps or ():
        if heap.signature == "no_statistics" and heap["persistent"] != "t" and not heap.is_catalog:
            shown = {
                "reltuples": heap["reltuples"],
                "database_stats_reset": stamps.get(heap.database),
            }
            told = {key: value for key, value in {**shown, **server}.items() if value is not None}
            yield _on(cause, case, heap, told)


def _temporary(cause: Cause, case: Case) -> Iterator[Found]:
    for heap in case.heaps or ():
        if heap["persistent"] == "t" and heap.over:
            pid = heap["owner_pid"]
            remedies = (_VACUUM_ITSELF, *((_TERMINATE,) if pid else ()))
            shown = {"pid": pid} if pid else {}
            yield _on(cause, case, heap, shown, values=shown, remedies=remedies)


_VACUUM_ITSELF = Remedy("VACUUM {table};", "the session that made the table")


def _many_passes(cause: Cause, case: Case) -> Iterator[Found]:
    for heap in case.heaps or ():
        for worker in case.crews[-1].at(heap):
            passes = worker.progress.get("index_vacuum_count") or 0
            if passes > 1:
                memory = case.last.setting("autovacuum_work_mem")
                shown = {"index_vacuum_count": passes, "autovacuum_work_mem": memory}
                yield _on(cause, case, heap, {"pid": worker.pid, **shown})


def _bloated(cause: Cause, case: Case) -> Iterator[Found]:
    """No dead rows and a file far larger than its rows need: vacuum has done what it can."""
    for heap in case.heaps or ():
        need = heap["reltuples"] * (heap["row_bytes"] or 0)
        empty = heap["bytes"] - need
        if case.asked and not heap.over and heap.last_vacuum and empty > max(3 * need, 1 << 20):
            share = round(100 * empty / heap["bytes"])
            shown = {"bytes": heap["bytes"], "reltuples": heap["reltuples"], "free_percent": share}
            yield _on(cause, case, heap, shown, values=shown)


Detect = Callable[[Cause, Case], Iterator[Found]]


def _cause(
    name: str,
    text: str,
    severities: str,
    detect: Detect,
    summary: str,
    *remedies: Remedy,
    **more: Any,
) -> Cause:
    kinds = tuple({"c": CRITICAL, "w": WARNING, "i": INFO}[letter] for letter in severities)
    name = name if "." in name else f"vacuum.{name}"

    def on_a_primary(cause: Cause, case: Case) -> Iterator[Found]:
        if not case.last.server.get("in_recovery") or detect is _standby:
            yield from detect(cause, case)

    return Cause(name, text, kinds, on_a_primary, summary, remedies, **more)


CAUSES = (
    _cause(
        "standby",
        "A standby vacuums nothing itself",
        "i",
        _standby,
        "this is a standby: its primary{where} vacuums, and knows the dead rows",
    ),
    _cause(
        "disabled_global",
        "Autovacuum is off for the whole server",
        "c",
        _disabled_global,
        "autovacuum is off for the whole server",
        _RESET,
        cheap=True,
        needs=("settings",),
    ),
    _cause(
        "track_counts_off",
        "Dead rows are not counted, so that autovacuum knows of none",
        "c",
        _uncounted,
        "track_counts is off: dead rows are not counted, and autovacuum knows of none",
        _RESET,
        _ANALYZE_ALL,
        cheap=True,
        needs=("settings", "role_settings"),
    ),
    _cause(
        "disabled_table",
        "Autovacuum is off for the table, or for its TOAST",
        "ci",
        _disabled_table,
        "autovacuum is off for {heap}",
        Remedy("ALTER TABLE {table} RESET ({option});", _THERE, _OWNER),
    ),
    _cause(
        "threshold_not_reached",
        "There are fewer dead rows than autovacuum's threshold",
        "iw",
        _below,
        "{rows} dead rows of {heap} are not above its threshold of {threshold:.0f}",
        Remedy(
            f"ALTER TABLE {{table}} SET (autovacuum_vacuum_scale_factor = {_LOWER[0]},\n"
            f"  autovacuum_vacuum_threshold = {_LOWER[1]});",
            _THERE,
            _OWNER,
        ),
    ),
    _cause(
        "workers_saturated",
        "All autovacuum workers are busy elsewhere",
        "w",
        _saturated,
        "all {autovacuum_max_workers} autovacuum workers are busy elsewhere, none is at {heap}",
        Remedy(
            "ALTER SYSTEM SET autovacuum_max_workers = {more_workers};",
            "{target}",
            "a superuser, and a restart; from 18 on a reload does",
        ),
        Remedy(
            "ALTER SYSTEM SET autovacuum_vacuum_cost_limit = {more_cost}; SELECT pg_reload_conf();",
            needs=_SUPERUSER,
        ),
    ),
    _cause(
        "throttled",
        "A worker is at the table and sleeps most of the time",
        "w",
        _throttled,
        "the worker at {heap} sleeps most of the time (pid {pid})",
        Remedy("ALTER TABLE {table} SET (autovacuum_vacuum_cost_delay = 0);", _THERE, _OWNER),
    ),
    _cause(
        "cancelled_by_locks",
        "Requests for locks cancel every vacuum of the table",
        "c",
        _cancelled,
        "every vacuum of {heap} is cancelled by a request for a lock, by {who} (pid {pid})",
        _VACUUM,
        prevention=("stop the repeated DDL, LOCK TABLE or manual ANALYZE; a VACUUM by hand stays",),
    ),
    _cause(
        "lock_held",
        "Somebody has a lock that vacuum cannot share",
        "c",
        _lock_held,
        "{blocker} has a lock ({mode}) on {heap}{lasting}, and autovacuum passes it by",
        _TERMINATE,
    ),
    _cause(
        "buffer_pin",
        "A worker waits for a page that somebody has pinned",
        "c",
        _pinned,
        "the worker at {heap} waits for a page that somebody has pinned (pid {worker})",
        prevention=("close cursors; idle_in_transaction_session_timeout",),
    ),
    _cause(
        "wraparound_waits",
        "A vacuum against wraparound waits for a lock, and is not cancelled",
        "c",
        _wraparound_waits,
        "a vacuum against wraparound waits for a lock of {blocker} (worker pid {worker})",
        cheap=True,
        needs=("activity",),
    ),
    _cause(
        "failing",
        "Autovacuum comes and fails: a broken index or function",
        "ci",
        _failing,
        "autovacuum does not get through with {heap}, and nothing keeps it away{lasting}",
        Remedy("VACUUM (VERBOSE) {table};", _THERE, "the owner; it shows the error"),
        Remedy("REINDEX TABLE {table};", _THERE, "the owner; where an index is corrupt"),
    ),
    _cause(
        "index_cleanup_off",
        "Vacuum leaves the pointers of dead rows because its indexes are left out",
        "wi",
        _no_index_cleanup,
        "vacuum of {heap} leaves its indexes out, and with them the pointers of dead rows",
        Remedy("ALTER TABLE {table} RESET ({option});", _THERE, _OWNER),
        Remedy("VACUUM (INDEX_CLEANUP ON) {table};", _THERE, _OWNER),
    ),
    _cause(
        "failsafe",
        "The table is so old that vacuum does nothing but freeze",
        "c",
        _failsafe,
        "{heap} is so old that vacuum leaves out indexes to freeze in time",
        Remedy("VACUUM FREEZE {table};", _THERE, _OWNER),
        since=140000,
    ),
    _cause(
        "stats_lost",
        "The counters of the table were lost: a crash, a promotion, a reset",
        "w",
        _forgotten,
        "the counters of {heap} were lost, so that autovacuum knows of no dead rows",
        Remedy("ANALYZE {table};", _THERE, "the owner; or vacuumdb --all --analyze-only"),
    ),
    _cause(
        "temp_table",
        "Temporary tables are vacuumed by their own session or not at all",
        "w",
        _temporary,
        "{heap} is a temporary table, which autovacuum cannot see",
        _VACUUM_ITSELF,
    ),
    _cause(
        "naptime",
        "Autovacuum sleeps long between its rounds",
        "wi",
        _naptime,
        "autovacuum comes to each database only every {setting} s",
        _RESET,
        cheap=True,
        needs=("settings",),
    ),
    _cause(
        "starved_by_wraparound",
        "A database near its wraparound gets every worker",
        "c",
        _starved,
        "database {datname} is near its wraparound and gets every worker; none comes to {heap}",
        _VACUUM,
        prevention=("end who holds the horizon of that database: pgstats why tells who",),
    ),
    _cause(
        "many_index_passes",
        "The memory of the worker is too small for one pass over the indexes",
        "i",
        _many_passes,
        "the worker at {heap} passes over the indexes again and again (pid {pid})",
        Remedy(
            "ALTER SYSTEM SET autovacuum_work_mem = '512MB'; SELECT pg_reload_conf();",
            needs=_SUPERUSER,
        ),
        until=170000,
    ),
    _cause(
        "bloat.free_space",
        "No dead rows keep the file large, only free space",
        "i",
        _bloated,
        "{heap} has no dead rows to remove; about {free_percent} % of its file is free space",
        Remedy("VACUUM FULL {table};", _THERE, "the owner; it locks the table"),
    ),
)
