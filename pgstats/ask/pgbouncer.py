"""Polls one PgBouncer through its admin console: connect, read, close.

A held console connection would block PgBouncer's rolling restart and keep a SUSPEND from ending
by itself, so there is never one between polls. The console takes one command per query, no
BEGIN, no ping, no options; which commands exist follows from the version it tells at login.
"""

from __future__ import annotations

import time

from pgstats.ask.answer import frame
from pgstats.ask.connection import Connection, parse_dsn
from pgstats.ask.failure import failure, remedy
from pgstats.ask.password import password
from pgstats.catalogue import COLLECTED
from pgstats.catalogue.pgbouncer import QUERIES
from pgstats.errors import AskError
from pgstats.model import PGBOUNCER, Frame, Poll, Query, Target

ADMIN = "pgbouncer"  # the console's own pseudo-database, which also has a pool and statistics


class PgBouncerAsker:
    """Asks one PgBouncer; each poll is a connection of its own."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def poll(self) -> Poll:
        """All answers of one poll."""
        started = time.monotonic()
        poll = Poll(self.target, counts={"unknown_columns": 0})
        try:
            console = connect(self.target, started + self.target.timeout)
        except AskError as error:
            poll.down = failure(error)
        else:
            try:
                self._read(console, poll)
            finally:
                console.close()
        poll.seconds = time.monotonic() - started
        return poll

    def close(self) -> None:
        """Nothing is kept between polls."""

    def _read(self, console: Connection, poll: Poll) -> None:
        poll.version = console.version
        for query in wanted(self.target, console.version):
            try:
                found, strange = self._answer(console, query)
            except AskError as error:
                poll.failures.append(failure(error))
            else:
                poll.frames.append(found)
                poll.counts["unknown_columns"] += strange
            if console.closed:
                break
        if console.closed and not poll.frames:
            poll.down = poll.failures.pop()

    def _answer(self, console: Connection, query: Query) -> tuple[Frame, int]:
        columns, rows = console.ask(query.sql)
        name = query.labels.get("database")
        if name and not self.target.include_admin:
            at = list(columns).index(name)
            rows = [row for row in rows if row[at] != ADMIN]
        return frame(query, console.version, columns, rows, target=self.target.name)


def wanted(target: Target, version: int) -> list[Query]:
    """The commands to send: those asked for that this version has."""
    return [q for q in QUERIES if q.since <= version and q.group in (target.collect or COLLECTED)]


def connect(target: Target, until: float) -> Connection:
    """A connection to the console, proven to be one."""
    given = parse_dsn(target.dsn)
    settings = {
        "dbname": "" if "dbname" in given or "service" in given else ADMIN,
        "application_name": given.get("application_name", "pgstats"),
    }
    secret = password(target, until)
    try:
        # PGOPTIONS is meant for PostgreSQL; the console refuses any.
        console = Connection(PGBOUNCER, target.dsn, settings, until, secret, options="")
    except AskError as error:
        if given.get("dbname", ADMIN) == ADMIN or error.reason not in ("auth", "other"):
            raise
        cure = remedy(PGBOUNCER, "wrong_database", "")
        raise AskError(error.stage, "wrong_database", str(error), cure) from error
    if not console.parameter("server_version").endswith("/bouncer"):
        console.close()
        text = "this is a database behind the pooler or a PostgreSQL server, not the admin console"
        cure = remedy(PGBOUNCER, "wrong_database", text)
        raise AskError("connect", "wrong_database", text, cure)
    console.whole_numbers()
    return console
