"""Polls one PostgreSQL cluster: its shared views once, then each database in turn.

One connection is kept to the DSN's database; one more is open at a time while the other databases
are walked. Every statement is a transaction of its own, read-only, with an empty search path and
with the server's own timeouts, so that the poll never holds a snapshot nor waits for a lock.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pgstats.ask.answer import Columns, Rows, frame
from pgstats.ask.connection import Connection, parse_dsn
from pgstats.ask.failure import failure
from pgstats.ask.password import password
from pgstats.catalogue.postgres import DATABASE, SERVER, TABLES, TOTALS, VENDORS
from pgstats.errors import AskError
from pgstats.model import POSTGRES, Frame, Poll, Target

LOCK_TIMEOUT_MS = 250
#: Seconds a server may take to end the backend of a database that was asked.
HANG_UP = 0.2
#: Seconds until a database that refused the role is tried again; each try is a line in its log.
REFUSED_FOR = 600.0

# The start of the server is its identity: any role may read it, and it is another one after a
# failover to a standby too, whose counters differ while its system identifier does not.
_DISCOVER = """SELECT datname::text AS datname, datname = current_database() AS here,
       extract(epoch FROM pg_postmaster_start_time())::text AS started
  FROM pg_database
 WHERE datallowconn AND NOT datistemplate AND has_database_privilege(oid, 'CONNECT')
 ORDER BY datname"""


class PostgresAsker:
    """Asks one cluster, and keeps its connection for the next poll until closed."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._kept: Session | None = None
        self._refused: dict[str, float] = {}

    def poll(self) -> Poll:
        """All answers of one poll."""
        started = time.monotonic()
        counts = {"databases_polled": 0, "databases_refused": 0, "tables_folded": 0}
        poll = Poll(self.target, counts=counts)
        try:
            session, standby = self._open(poll, started + self.target.timeout)
        except AskError as error:
            poll.down = failure(error)
            self.close()
        else:
            self._walk(session, poll, standby=standby)
        poll.seconds = time.monotonic() - started
        return poll

    def close(self) -> None:
        """Let go of the kept connection."""
        if self._kept:
            self._kept.close()
        self._kept = None

    def _open(self, poll: Poll, until: float) -> tuple[Session, bool]:
        """A session that just answered, and whether it is on a standby.

        A kept connection may have been cut since the last poll; then a new one gets its chance.
        """
        if self._kept:
            self._kept.until = until
            try:
                return self._kept, self._greet(self._kept, poll)
            except AskError:
                self.close()
        self._kept = Session(self.target, until)
        return self._kept, self._greet(self._kept, poll)

    def _greet(self, session: Session, poll: Poll) -> bool:
        poll.version = session.version
        server = session.answer(SERVER, poll)
        poll.frames.append(server)
        names = [metric.name for metric in server.metrics]
        return bool(server.rows[0][names.index("in_recovery")])

    def _walk(self, session: Session, poll: Poll, *, standby: bool) -> None:
        try:
            _, rows = session.ask(_DISCOVER, stage="list of databases")
        except AskError as error:
            poll.failures.append(failure(error))
            return
        here = next((name for name, current, _ in rows if current), "")
        poll.identity = next((started for *_, started in rows), "")
        names = [name for name, *_ in rows if chosen(name, self.target.databases)]
        try:
            poll.frames.append(session.answer(DATABASE, poll, {"databases": names}))
        except AskError as error:
            poll.failures.append(failure(error))
        if not standby:
            for name in names:
                self._visit(session if name == here else None, name, poll, session.until)

    def _visit(self, session: Session | None, name: str, poll: Poll, until: float) -> None:
        """Ask one database; one that lets nobody in is counted and left alone for a while."""
        if self._refused.get(name, 0.0) > time.monotonic():
            poll.counts["databases_refused"] += 1
            return
        try:
            guest = session or Session(self.target, until, name)
        except AskError as error:
            self._turned_away(name, error, poll)
            return
        try:
            poll.frames += tables(guest, name, poll)
            poll.counts["databases_polled"] += 1
        except AskError as error:
            error.stage = f"{error.stage} in database {name}"
            poll.failures.append(failure(error))
        finally:
            if guest is not session:
                guest.close(HANG_UP)

    def _turned_away(self, name: str, error: AskError, poll: Poll) -> None:
        if error.reason in ("not_allowed", "auth"):
            self._refused[name] = time.monotonic() + REFUSED_FOR
            poll.counts["databases_refused"] += 1
        elif error.reason != "wrong_database":  # dropped since the list was read: nothing failed
            error.stage = f"{error.stage} to database {name}"
            poll.failures.append(failure(error))


class Session:
    """A connection to one database, with the guards of pgstats around every statement."""

    def __init__(self, target: Target, until: float, database: str = "") -> None:
        self.target = target
        self._pooled = target.pooled
        given = parse_dsn(target.dsn)
        settings = {
            "dbname": database,
            "application_name": given.get("application_name", "pgstats"),
            "client_encoding": "UTF8",
        }
        theirs = given.get("options") or os.environ.get("PGOPTIONS", "")
        ours = " ".join(f"-c {name}={value}" for name, value in _guards(target).items())
        options = None if self._pooled else f"{theirs} {ours}".strip()
        self._connection = Connection(
            POSTGRES, target.dsn, settings, until, password(target, until), options=options
        )
        self.until = until
        if self.version >= 150000 and not self._pooled:
            # Read each counter as it is needed instead of caching it: less memory in the server.
            self._connection.ask("SET stats_fetch_consistency = none")

    @property
    def until(self) -> float:
        """The deadline on the monotonic clock."""
        return self._until

    @until.setter
    def until(self, until: float) -> None:
        self._until = until
        self._connection.allow(until)

    @property
    def version(self) -> int:
        """The server's version, 150018 for 15.18."""
        return self._connection.version

    def ask(
        self, sql: str, parameters: dict[str, object] | None = None, stage: str = ""
    ) -> tuple[Columns, Rows]:
        """The answer to one statement.

        Behind a pool in transaction mode settings would leak to the next client of the server
        connection, so that there they live no longer than one short transaction.
        """
        if not self._pooled:
            return self._connection.ask(sql, parameters, stage)
        guards = _guards(self.target)
        self._connection.ask("BEGIN READ ONLY", stage=stage)
        try:
            for name, value in guards.items():
                self._connection.ask(f"SET LOCAL {name} = '{value}'", stage=stage)
            return self._connection.ask(sql, parameters, stage)
        finally:
            if not self._connection.closed:
                self._connection.ask("ROLLBACK", stage=stage)

    def answer(self, query: Any, poll: Poll, parameters: dict[str, object] | None = None) -> Frame:
        """The frame of one query of the catalogue."""
        columns, rows = self.ask(query.select(self.version), parameters, query.group)
        return frame(query, self.version, columns, rows, target=poll.target.name)[0]

    def close(self, patience: float = 0.0) -> None:
        """Close the connection, and wait so many seconds for the server to do the same."""
        self._connection.close(patience)


def _guards(target: Target) -> dict[str, str]:
    """Settings of every session: the server's timeouts come before the client's deadline."""
    return {
        "search_path": "",
        "default_transaction_read_only": "on",
        "lock_timeout": str(LOCK_TIMEOUT_MS),
        "statement_timeout": str(max(100, int(target.timeout * 750))),
        "idle_in_transaction_session_timeout": str(max(1000, int(target.timeout * 1000))),
        "max_parallel_workers_per_gather": "0",
    }


def tables(session: Session, database: str, poll: Poll) -> list[Frame]:
    """The tables of one database, and their sums."""
    columns, rows = session.ask(
        TABLES.select(session.version),
        {
            "tables": session.target.tables,
            "exclude_tables": [pattern(glob) for glob in session.target.exclude_tables],
        },
        "tables",
    )
    name = poll.target.name
    found, _ = frame(TABLES, session.version, columns, rows, target=name, shared=(database,))
    sums, _ = frame(TOTALS, session.version, *_sums(columns, rows), target=name, shared=(database,))
    poll.counts["tables_folded"] += sum(row[2] for row in rows if row[0] is None)
    return [found, sums]


def _sums(columns: Columns, rows: Rows) -> tuple[Columns, Rows]:
    summed = {metric.name for metric in TOTALS.metrics}
    by_name = {
        name: sum(values)
        for name, values in zip(columns, zip(*rows, strict=True), strict=True)
        if name in summed
    }
    return dict.fromkeys(by_name, True), [tuple(by_name.values())]


def chosen(name: str, globs: Sequence[str]) -> bool:
    """Whether a database is one of those the globs mean; `!` in front takes out."""
    if name in VENDORS and name not in globs:
        return False
    wanted = [glob for glob in globs if not glob.startswith("!")]
    unwanted = [glob[1:] for glob in globs if glob.startswith("!")]
    return _any(name, wanted or ["*"]) and not _any(name, unwanted)


def _any(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def pattern(glob: str) -> str:
    """The server's regular expression for a glob over schema.table, or table in any schema."""
    whole = glob if "." in glob else f"*.{glob}"
    parts = {"*": ".*", "?": "."}
    return "^" + "".join(parts.get(c) or re.sub(r"(\W)", r"\\\1", c) for c in whole) + "$"
