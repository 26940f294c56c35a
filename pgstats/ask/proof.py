"""Proves that a target can be polled in full, and says what to change where it cannot."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, cast

from pgstats.ask.asker import Asker, asker, unmatched
from pgstats.errors import AskError
from pgstats.model import PGBOUNCER, Failure, Finding, Poll, Target

if TYPE_CHECKING:
    from pgstats.ask.postgres import PostgresAsker

_ROLE = """SELECT current_user::text AS role,
       pg_has_role(current_user, 'pg_monitor', 'USAGE') AS monitor,
       current_setting('track_counts')::bool AS counts,
       pg_is_in_recovery() AS standby"""


def prove(target: Target) -> list[Finding]:
    """What works and what does not, from one poll and a look at the role's rights."""
    with closing(asker(target)) as one:
        poll = one.poll()
        return [finding for each in poll.peers or [poll] for finding in _findings(each, one)]


def _findings(poll: Poll, one: Asker) -> list[Finding]:
    """What is to be said of one server, or of one of the processes behind a port."""
    whom = f"process {poll.target.peer}: " if poll.target.peer else ""
    found = [_failed(failure) for failure in poll.problems()]
    if poll.up:
        seconds = f"{poll.seconds * 1000:.0f} ms"
        found.insert(0, Finding("ok", f"{_kind(poll)} answered in {seconds}"))
        pooler = poll.target.family == PGBOUNCER
        found += _pooler(poll) if pooler else _server(poll, cast("PostgresAsker", one))
    return [finding._replace(message=whom + finding.message) for finding in found]


def _failed(failure: Failure) -> Finding:
    text = f"{failure.stage}: {failure.message}"
    return Finding("failed", text, failure.remedy, failure.trace)


def _kind(poll: Poll) -> str:
    version = poll.version
    if poll.target.family == PGBOUNCER:
        return f"PgBouncer {version // 10000}.{version // 100 % 100}.{version % 100}"
    return f"PostgreSQL {version // 10000}.{version % 10000}"


def _questions(poll: Poll) -> list[Finding]:
    """The questions of the user's own that were answered: what failed is told with the poll."""
    asked = [question.query for question in poll.target.questions]
    rows = {query.group: [f.rows for f in poll.frames if f.query is query] for query in asked}
    return [
        Finding("ok", f"query {name}: {many} row{'s' * (many != 1)}")
        for name, answers in rows.items()
        if answers
        for many in [sum(map(len, answers))]
    ] + _notes(poll)


def _notes(poll: Poll) -> list[Finding]:
    return [Finding("note", note) for note in poll.notes]


def _pooler(poll: Poll) -> list[Finding]:
    findings = _notes(poll)
    if strange := poll.counts.get("unknown_columns"):
        findings.append(Finding("note", f"{strange} columns are new to this version of pgstats"))
    return findings


def _server(poll: Poll, one: PostgresAsker) -> list[Finding]:
    try:
        columns, rows = one.session().ask(_ROLE, stage="rights of the role")
    except AskError as error:
        return [Finding("failed", f"{error.stage}: {error}", error.remedy)]
    return _rights(dict(zip(columns, rows[0], strict=True)), poll)


def _rights(found: dict[str, object], poll: Poll) -> list[Finding]:
    findings = []
    role = found["role"]
    if found["monitor"]:
        findings.append(Finding("ok", f"role {role} has the rights of pg_monitor"))
    else:
        findings.append(
            Finding(
                "failed",
                f"role {role} lacks the rights of pg_monitor: other sessions' states are hidden",
                f'GRANT pg_monitor TO "{role}";',
            )
        )
    if not found["counts"]:
        findings.append(
            Finding(
                "failed",
                "track_counts is off: the server counts no dead rows, and autovacuum sleeps",
                "ALTER SYSTEM RESET track_counts; SELECT pg_reload_conf();",
            )
        )
    if found["standby"]:
        text = "a standby: it knows no dead rows of its own, so that tables are not polled"
        findings.append(Finding("note", text, "poll the primary too"))
    polled = poll.counts["databases_polled"]
    if text := unmatched(poll):
        cure = "name databases, or globs over their names; ! in front leaves out"
        findings.append(Finding("failed", text, cure))
    else:
        findings.append(Finding("ok", f"{polled} databases polled"))
    findings += _questions(poll)
    findings += [
        Finding(
            "note",
            f"database {name} does not let {role} in and is left out: {why}",
            "GRANT CONNECT, a line in pg_hba.conf, or leave it out with databases = [...]",
        )
        for name, why in poll.refused.items()
    ]
    return findings
