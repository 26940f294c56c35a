"""A verdict in words: a report for a person, and a document for a program."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pgstats.evidence import INFO, Client, Remedy
from pgstats.why.cause import Found
from pgstats.why.heaps import Heap
from pgstats.why.verdict import CLEAR, HELD, Verdict
from pgstats.why.words import filled, lasting, several

WIDTH = 80
#: Tables that are named in a sentence; `--json` names all.
_NAMED = 3

Paint = Callable[[str, str], str]  # a text and what it is: a verdict, a severity, "command", "dim"


class _Words(dict[str, Any]):
    """The values of a template; what the server does not tell is called unknown."""

    def __missing__(self, key: str) -> str:
        return "unknown"


# ---- one cause


def words(found: Found) -> Mapping[str, Any]:
    """Everything that the templates of a cause may name."""
    values = _Words({**found.evidence, **found.values})
    values["who"] = who(found)
    values["lasting"] = _lasting(found)
    if found.blocker:
        values["blocker"] = f"{values['blocker']} ({_application(found.blocker)})"
    return values


def summary(found: Found) -> str:
    """The cause in one sentence."""
    return filled(found.summary or found.cause.summary, words(found))


def remedies(found: Found) -> list[Remedy]:
    """What ends the cause, its texts filled in. Where the pooler can end it, that comes as well."""
    values = words(found)
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
    name = evidence.get("application_name") or f"user {evidence.get('usename', 'unknown')}"
    if "slot_name" in evidence:
        return f"slot {evidence['slot_name']}"
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
    return {
        "verdict": verdict.verdict,
        "target": case.target,
        "asked": case.asked or None,
        "server": {
            "version": case.last.version,
            "in_recovery": bool(server.get("in_recovery")),
        },
        "heaps": [_heap(verdict, heap) for heap in case.heaps or ()],
        "causes": [_cause(found, rank) for rank, found in enumerate(verdict.causes, 1)],
        "innocent": [{"who": one.who, "why": one.why} for one in verdict.innocent],
        "limits": [
            {"what": one.what, "why": one.why, "grant": one.grant or None} for one in verdict.limits
        ],
    }


def _heap(verdict: Verdict, heap: Heap) -> dict[str, Any]:
    rows, quality = stuck(verdict, heap)
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


def stuck(verdict: Verdict, heap: Heap) -> tuple[int, str]:
    """How many rows of a heap somebody holds, and how good that number is.

    What is dead right after a vacuum could not be removed. A vacuum newer than the hold left at
    least what was dead then; without one it is at most all that is dead.
    """
    holds = [f for f in verdict.causes if f.holder and heap.title in f.tables]
    if not holds:
        return 0, "exact"
    if heap.vacuumed:
        return heap.dead, "exact"
    began = min((f.since for f in holds if f.since is not None), default=None)
    vacuumed = heap.last_vacuum
    newer = began is not None and vacuumed is not None and vacuumed > began
    return heap.dead, "about" if newer else "at_most"


def _cause(found: Found, rank: int) -> dict[str, Any]:
    holder = found.holder
    scope = None
    if holder:
        scope = "catalog" if holder.catalogs else "this_db" if holder.database else "all_dbs"
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
    parts = [*_wrapped(_headline(verdict), width)]
    parts[:1] = [paint(parts[0], verdict.verdict)]
    for rank, found in enumerate(verdict.causes, 1):
        parts += ["", *_paragraph(found, rank, paint, width)]
    parts += _section("Innocent", (f"{one.who}: {one.why}" for one in verdict.innocent), width)
    parts += _section("Not looked at", (f"{one.what}: {one.why}" for one in verdict.limits), width)
    for grant in dict.fromkeys(one.grant for one in verdict.limits if one.grant):
        parts += [f"  {paint(grant, 'command')}"]
    return "\n".join(parts) + "\n"


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]


def _headline(verdict: Verdict) -> str:
    """The whole in one sentence."""
    about = _about(verdict)
    worst = [found for found in verdict.causes if found.severity != INFO]
    if verdict.verdict == HELD:
        rows = max(found.rows for found in worst)
        what = (
            f"{several(rows, 'dead row')} cannot be removed"
            if rows
            else "vacuum cannot do its work"
        )
        return f"{about}: {what}: {summary(worst[0])}{_through(worst[0])}."
    if verdict.verdict == CLEAR:
        return f"{about}: nothing keeps dead rows from being removed."
    return f"{about}: it cannot be told whether dead rows are kept; see below what was not seen."


def _about(verdict: Verdict) -> str:
    """What the sentence speaks of: the table asked for, or those that are hit first."""
    if verdict.case.asked:
        return verdict.case.asked
    hit = next((found.tables for found in verdict.causes if found.tables), ())
    if not hit:
        return verdict.case.target
    more = len(hit) - 1
    return hit[0] + (f" and {several(more, 'other table')}" if more else "")


def _through(found: Found) -> str:
    """Through which poolers the client came."""
    if not found.client or not found.client.via:
        return ""
    steps = ", ".join(
        f"PgBouncer {step['pgbouncer']}, database {step['database']}" for step in found.client.via
    )
    return f", through {steps}"


def _paragraph(found: Found, rank: int, paint: Paint, width: int) -> Iterator[str]:
    head = f"{rank}. {found.cause.id} ({found.severity})"
    yield paint(head, found.severity)
    yield from _wrapped(f"{summary(found)}{_through(found)}.", width, "   ")
    if found.tables:
        named = ", ".join(found.tables[:_NAMED])
        more = len(found.tables) - _NAMED
        rest = f" and {more} more" if more > 0 else ""
        yield from _wrapped(f"Tables: {named}{rest}{_dead(found)}", width, "   ")
    yield from _wrapped(_evidence(found), width, "   ")
    yield from _wrapped(_frees(found), width, "   ") if found.holder else ()
    for remedy in remedies(found):
        yield from _wrapped(f"On {remedy.where}" + _needing(remedy) + ":", width, "   ")
        yield from (f"     {paint(line, 'command')}" for line in remedy.command.splitlines())
    for text in found.cause.prevention:
        yield from _wrapped(f"To prevent it: {text}", width, "   ")
    for text in found.limits:
        yield from _wrapped(text, width, "   ")


def _dead(found: Found) -> str:
    return f" ({several(found.rows, 'dead row')})" if found.rows else ""


def _needing(remedy: Remedy) -> str:
    return f" (needs {remedy.needs})" if remedy.needs else ""


def _evidence(found: Found) -> str:
    """The evidence as name=value; times are said, a query comes last."""
    at = found.values.get("at")
    shown = []
    for name, value in found.evidence.items():
        if name in ("query", "client_addr", "client_port") or value is None:
            continue
        shown.append(f"{name}={_value(name, value, at)}")
    text = "Evidence: " + ", ".join(shown)
    query = " ".join(str(found.evidence.get("query") or "").split())
    return f"{text}. Last statement: {query[:200]}" if query else text


def _value(name: str, value: Any, at: float | None) -> str:
    is_time = name.endswith(("_start", "_change", "_since")) or name == "prepared"
    if is_time and at is not None and isinstance(value, int | float):
        return f"{lasting(at - value)} ago"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _frees(found: Found) -> str:
    if not found.tables:
        return "No table waits for it yet."
    if found.alone:
        return f"Ending it lets up to {several(found.alone, 'row')} go."
    if found.alone is None:
        return f"Ending it frees a part; the rest is held by {found.next}."
    return f"Ending it alone frees nothing: {found.next} holds as much." if found.next else ""


def _section(title: str, lines: Iterable[str], width: int) -> list[str]:
    told = [row for line in lines for row in _wrapped(f"- {line}", width, "  ")]
    return ["", f"{title}:", *told] if told else []
