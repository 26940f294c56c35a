"""Proves that a target can be polled in full, and says what to change where it cannot."""

from __future__ import annotations

import time

from pgstats.ask.asker import asker
from pgstats.ask.password import password
from pgstats.ask.session import Session
from pgstats.errors import AskError
from pgstats.model import PGBOUNCER, Failure, Finding, Poll, Target

_ROLE = """SELECT current_user::text AS role,
       pg_has_role(current_user, 'pg_monitor', 'USAGE') AS monitor,
       current_setting('track_counts')::bool AS counts,
       pg_is_in_recovery() AS standby"""


def prove(target: Target) -> list[Finding]:
    """What works and what does not, from one poll and a look at the role's rights."""
    one = asker(target)
    try:
        poll = one.poll()
    finally:
        one.close()
    if poll.down:
        return [_failed(poll.down)]
    findings = [Finding("ok", f"{_kind(poll)} answered in {poll.seconds * 1000:.0f} ms")]
    findings += [_failed(failure) for failure in poll.failures]
    return findings + (_pooler(poll) if target.family == PGBOUNCER else _server(target, poll))


def _failed(failure: Failure) -> Finding:
    return Finding("failed", f"{failure.stage}: {failure.message}", failure.remedy)


def _kind(poll: Poll) -> str:
    version = poll.version
    if poll.target.family == PGBOUNCER:
        return f"PgBouncer {version // 10000}.{version // 100 % 100}.{version % 100}"
    return f"PostgreSQL {version // 10000}.{version % 10000}"


def _pooler(poll: Poll) -> list[Finding]:
    config = {
        metric.name: value
        for frame in poll.frames
        if frame.query.group == "config"
        for metric, value in zip(frame.metrics, frame.rows[0], strict=True)
    }
    findings = []
    if config.get("so_reuseport") and not _local(poll.target):
        findings.append(
            Finding(
                "note",
                "so_reuseport is on: several processes may share the port, and each poll meets "
                "one of them by chance",
                "name each process by its own unix socket: host=/its/unix_socket_dir",
            )
        )
    if strange := poll.counts.get("unknown_columns"):
        findings.append(Finding("note", f"{strange} columns are new to this version of pgstats"))
    return findings


def _local(target: Target) -> bool:
    from pgstats.ask.connection import parse_dsn  # noqa: PLC0415

    return parse_dsn(target.dsn).get("host", "/").startswith("/")


def _server(target: Target, poll: Poll) -> list[Finding]:
    try:
        until = time.monotonic() + target.timeout
        session = Session(target, until, secret=password(target, until))
        try:
            columns, rows = session.ask(_ROLE, stage="rights of the role")
        finally:
            session.close()
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
    polled, refused = poll.counts["databases_polled"], poll.counts["databases_refused"]
    findings.append(Finding("ok", f"{polled} databases polled"))
    if refused:
        findings.append(
            Finding(
                "note",
                f"{refused} databases do not let {role} in and are left out",
                "GRANT CONNECT, a line in pg_hba.conf, or leave them out with databases = [...]",
            )
        )
    return findings
