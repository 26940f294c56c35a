"""A verdict in words: a report for a person, and a document for a program."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pgstats.evidence import INFO, Client, Remedy
from pgstats.why.cause import Found
from pgstats.why.filling import filled
from pgstats.why.heaps import Heap
from pgstats.why.verdict import CLEAR, Verdict
from pgstats.why.words import lasting, plain, several

WIDTH = 80
#: Tables that are named in a sentence, and what is shown of each kind; `--json` has all.
_NAMED, _SHOWN = 3, 12

Paint = Callable[[str, str], str]  # a text and what it is: a verdict, a severity, "command", "dim"


class _Words(dict[str, Any]):
    """The values of a template; what the server does not tell is called unknown."""

    def __missing__(self, key: str) -> str:
        return "unknown"


# ---- one cause


def words(found: Found, named: str) -> Mapping[str, Any]:
    """Everything that the templates of a cause may name; ``named`` is who it is."""
    values = _Words({**found.evidence, **found.values})
    values["who"] = named
    values["lasting"] = _lasting(found)
    behind = found.blocker or (None if found.holder else found.client)
    if "blocker" in values:
        values["blocker"] += f" ({_application(behind)})" if behind else values["blocker_is"]
    return values


def summary(found: Found) -> str:
    """The cause in one sentence."""
    return _sentence(found, who(found))


def _sentence(found: Found, named: str) -> str:
    return filled(found.summary or found.cause.summary, words(found, named))


def at_length(found: Found) -> str:
    """The cause in one sentence, with the user and the way that a client came."""
    client = found.client or found.blocker
    user = client.user if client else found.evidence.get("usename")
    via = client.via if client else ()
    steps = [f"PgBouncer {step['pgbouncer']}, database {step['database']}" for step in via]
    way = [f"user {user}"] if user and f"user {user}" not in who(found) else []
    way += ["through " + ", behind ".join(steps)] if steps else []
    if not way:
        return summary(found)
    return _sentence(found, f"{who(found)} ({', '.join(way)})")


def remedies(found: Found) -> list[Remedy]:
    """What ends the cause, its texts filled in. Where the pooler can end it, that comes as well."""
    values = words(found, who(found))
    told = [
        Remedy(*(filled(text, values) for text in (one.command, one.where, one.needs)))
        for one in found.remedies or found.cause.remedies
    ]
    client = found.client
    if client and client.kill:
        where = f"the console of PgBouncer {client.via[-1]['pgbouncer']}"
        told.append(Remedy(client.kill, where, "admin_users"))
    return told


def who(found: Found) -> str:
    """Who it is, as far as that is known: the application and where it runs."""
    if found.client:
        return _application(found.client)
    evidence = found.evidence
    if "slot_name" in evidence:
        return f"slot {evidence['slot_name']}"
    user = f"user {evidence['usename']}" if evidence.get("usename") else ""
    name = evidence.get("application_name") or user or evidence.get("backend_type") or "a session"
    address, port = evidence.get("client_addr"), evidence.get("client_port")
    return f"{name} at {address}:{port}" if address else str(name)


def _application(client: Client) -> str:
    name = client.application_name or f"user {client.user}"
    if client.port:
        return f"{name} at {client.addr}:{client.port}"
    return f"{name} (process {client.pid})" if client.pid else f"{name} at {client.addr}"


def _lasting(found: Found) -> str:
    """For how long, with a blank in front; "" where nobody knows."""
    at = found.values.get("at")
    if found.since is None or at is None:
        return ""
    least = "" if found.since_known else "at least "
    return f" for {least}{lasting(at - found.since)}"


# ---- the document


def document(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain data."""
    case = verdict.case
    server = case.last.server
    held = holds(verdict)
    return {
        "verdict": verdict.verdict,
        "target": case.target,
        "asked": case.asked or None,
        "server": {
            "version": case.last.version,
            "in_recovery": bool(server.get("in_recovery")),
        },
        "heaps": [_heap(heap, held.get(heap.title, ())) for heap in case.heaps or ()],
        "causes": [_cause(found, rank) for rank, found in enumerate(verdict.causes, 1)],
        "innocent": [{"who": one.who, "why": one.why} for one in verdict.innocent],
        "limits": [
            {"what": one.what, "why": one.why, "grant": one.grant or None} for one in verdict.limits
        ],
    }


def _heap(heap: Heap, held: Sequence[Found]) -> dict[str, Any]:
    rows, quality = stuck(heap, held)
    return {
        "database": heap.database,
        "heap": heap.name,
        "table": heap.title,
        "n_dead_tup": heap.dead,
        "threshold": heap["threshold"],
        "last_autovacuum": heap["last_autovacuum"],
        "autovacuum_count": heap["autovacuum_count"],
        "signature": heap.signature,
        "stuck": {"rows": rows, "quality": quality},
    }


def holds(verdict: Verdict) -> dict[str, list[Found]]:
    """By table: the causes that are somebody who holds its rows."""
    found: dict[str, list[Found]] = {}
    for one in verdict.causes:
        for table in one.tables if one.holder else ():
            found.setdefault(table, []).append(one)
    return found


def stuck(heap: Heap, held: Sequence[Found]) -> tuple[int, str]:
    """How many rows of a heap somebody holds, and how good that number is.

    What is dead right after a vacuum could not be removed. A vacuum newer than the hold left at
    least what was dead then; without one it is at most all that is dead.
    """
    if not held:
        return 0, "exact"
    if heap.vacuumed:
        return heap.dead, "exact"
    began = min((f.since for f in held if f.since is not None), default=None)
    vacuumed = heap.last_vacuum
    newer = began is not None and vacuumed is not None and vacuumed > began
    return heap.dead, "about" if newer else "at_most"


def _cause(found: Found, rank: int) -> dict[str, Any]:
    holder = found.holder
    scope = None
    if holder:
        scope = "catalog" if holder.catalogs else "this_db" if holder.database else "all_dbs"
        scope = "shared" if found.cause.id == "horizon.shared_catalog" else scope
    return {
        "id": found.cause.id,
        "severity": found.severity,
        "rank": rank,
        "summary": summary(found),
        "root": found.root or None,
        "since": found.since,
        "since_known": found.since_known,
        "xid": holder.xid if holder else None,
        "xid_age": holder.xid_age if holder else None,
        "scope": scope,
        "witnesses": found.witnesses,
        "tables": list(found.tables),
        "frees": {"alone_rows": found.alone, "next_holder": found.next or None},
        **({"client": _client(found.client)} if found.client else {}),
        "evidence": dict(found.evidence),
        "remedy": [
            {"command": one.command, "where": one.where, "needs": one.needs or None}
            for one in remedies(found)
        ],
        "prevention": list(found.cause.prevention),
        "limits": list(found.limits),
    }


def _client(client: Client) -> dict[str, Any]:
    return {
        "addr": client.addr,
        "port": client.port,
        "pid": client.pid,
        "application_name": client.application_name,
        "user": client.user,
        "via": [dict(step) for step in client.via],
        "proof": client.proof,
    }


# ---- the report


def report(verdict: Verdict, paint: Paint = lambda text, _: text, width: int = WIDTH) -> str:
    """The verdict for a person, without a line longer than ``width`` but for commands and names."""
    parts = [paint(line, verdict.verdict) for line in _wrapped(_headline(verdict), width)]
    for rank, found in enumerate(verdict.causes[:_SHOWN], 1):
        parts += ["", *_paragraph(verdict, found, rank, paint, width)]
    if more := len(verdict.causes) - _SHOWN:
        parts += ["", f"And {several(more, 'more cause')}: --json lists all."] if more > 0 else []
    parts += _section("Innocent", [f"{one.who}: {one.why}" for one in verdict.innocent], width)
    parts += _section("Not looked at", [f"{one.what}: {one.why}" for one in verdict.limits], width)
    if grants := dict.fromkeys(one.grant for one in verdict.limits if one.grant):
        parts += ["", "To see more:", *(f"  {paint(plain(one), 'command')}" for one in grants)]
    return "\n".join(parts) + "\n"


def _wrapped(text: str, width: int, indent: str = "", hang: str = "") -> list[str]:
    return textwrap.wrap(
        plain(text),
        width,
        initial_indent=indent,
        subsequent_indent=indent + hang,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]


def _headline(verdict: Verdict) -> str:
    """The whole in one sentence."""
    about = _about(verdict)
    worst = [found for found in verdict.causes if found.severity != INFO]
    if worst:
        first = next((found for found in worst if found.rows), worst[0])
        more = f" {several(len(worst) - 1, 'more cause')} below." if len(worst) > 1 else ""
        return f"{about}: {_rows(verdict, first)} because {at_length(first)}.{more}"
    if not verdict.case.last.version:
        return f"{about}: it could not be asked."
    if verdict.verdict == CLEAR:
        return f"{about}: nothing keeps dead rows from being removed."
    if verdict.case.last.server.get("in_recovery"):
        return f"{about}: it cannot be told on a standby whether dead rows are kept."
    return f"{about}: it cannot be told whether dead rows are kept; see below what was not seen."


def _rows(verdict: Verdict, first: Found) -> str:
    """How many rows are stuck, and how good that number is."""
    rows = first.rows
    if not rows:
        return "vacuum cannot do its work"
    if not first.holder:
        return f"{several(rows, 'dead row')} are not removed"
    tables = set(first.tables)
    heaps = [heap for heap in verdict.case.heaps or () if heap.title in tables]
    held = holds(verdict)
    qualities = {quality for n, quality in (stuck(one, held[one.title]) for one in heaps) if n}
    prefix = next((_QUALITY[one] for one in ("at_most", "about") if one in qualities), "")
    return f"{prefix}{several(rows, 'dead row')} cannot be removed"


_QUALITY = {"at_most": "up to ", "about": "about "}


def _about(verdict: Verdict) -> str:
    """What the sentence speaks of: the table asked for, or those that are hit first."""
    if verdict.case.asked:
        return verdict.case.asked
    hit = next((found.tables for found in verdict.causes if found.tables), ())
    if not hit:
        return verdict.case.target
    more = len(hit) - 1
    return hit[0] + (f" and {several(more, 'other table')}" if more else "")


def _paragraph(
    verdict: Verdict, found: Found, rank: int, paint: Paint, width: int
) -> Iterator[str]:
    yield paint(f"{rank}. {found.cause.id} ({found.severity})", found.severity)
    if found.holder and found.severity == INFO and not found.tables:  # nobody has to be ended
        yield from _wrapped(f"{at_length(found)}. No table waits for it yet.", width, "   ")
        return
    for text in _sentences(verdict, found):
        yield from _wrapped(text, width, "   ")
    for remedy in remedies(found):
        yield from _wrapped(f"On {remedy.where}" + _needing(remedy) + ":", width, "   ")
        yield from (f"     {paint(plain(line), 'command')}" for line in remedy.command.split("\n"))
    for text in (*(f"To prevent it: {one}" for one in found.cause.prevention), *found.limits):
        yield from _wrapped(text, width, "   ")


def _sentences(verdict: Verdict, found: Found) -> Iterator[str]:
    """What is to be said of a cause before its remedies."""
    yield f"{at_length(found)}."
    if found.tables:
        named = ", ".join(found.tables[:_NAMED])
        more = len(found.tables) - _NAMED
        rest = f" and {more} more" if more > 0 else ""
        yield f"Tables: {named}{rest}{_dead(found)}"
    yield _evidence(found)
    if found.client and found.client.silent is not None:
        yield f"The client's last request came {lasting(found.client.silent)} ago."
    if vacuums := _vacuums(verdict, found):
        yield f"Vacuum came {several(vacuums, 'time')} while this was watched, in vain."
    if frees := _frees(found):
        yield frees


def _dead(found: Found) -> str:
    return f" ({several(found.rows, 'dead row')})" if found.rows else ""


def _vacuums(verdict: Verdict, found: Found) -> int:
    """How often vacuum came, between the looks, to what a holder keeps."""
    heaps = verdict.case.heaps or () if found.holder else ()
    tables = set(found.tables)
    return sum(heap.vacuums for heap in heaps if heap.title in tables)


def _needing(remedy: Remedy) -> str:
    return f" (needs {remedy.needs})" if remedy.needs else ""


def _evidence(found: Found) -> str:
    """The evidence as name=value; times are said, a query comes last."""
    at = found.values.get("at")
    shown = [
        f"{name}={_value(name, value, at)}"
        for name, value in found.evidence.items()
        if name not in _ELSEWHERE and value is not None
    ]
    text = "Evidence: " + ", ".join(shown)
    query = " ".join(str(found.evidence.get("query") or "").split())
    return text if query in ("", _MASKED) else f"{text}. Last statement: {query[:200]}"


#: Evidence that is in the sentence already, or comes last.
_ELSEWHERE = ("query", "client_addr", "client_port")
#: What stands instead of the query of another role.
_MASKED = "<insufficient privilege>"
_TIMES = ("prepared", "started", "last_autovacuum")


def _value(name: str, value: Any, at: float | None) -> str:
    """A value as one says it."""
    is_time = name.endswith(("_start", "_change", "_since", "_reset")) or name in _TIMES
    if is_time and at is not None and isinstance(value, int | float):
        return f"{lasting(at - value)} ago"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_value(key, one, at)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return f"[{'; '.join(_value('', one, at) for one in value)}]"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _frees(found: Found) -> str:
    if not found.tables:
        return "No table waits for it yet." if found.holder else ""
    if found.severity == INFO and not found.holder:
        return ""
    if found.alone:
        return f"Ending it lets up to {several(found.alone, 'row')} go."
    if found.alone is None:
        return f"Ending it frees a part; {found.next} is in the way of the rest."
    return f"Ending it alone frees nothing: {found.next} is in the way too." if found.next else ""


def _section(title: str, lines: Sequence[str], width: int) -> list[str]:
    more = [f"and {len(lines) - _SHOWN} more: --json lists all"] if len(lines) > _SHOWN else []
    bullets = [
        row for line in [*lines[:_SHOWN], *more] for row in _wrapped(f"- {line}", width, "  ", "  ")
    ]
    return ["", f"{title}:", *bullets] if bullets else []
