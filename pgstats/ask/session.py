"""One connection to one PostgreSQL database, with guards around every statement."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from pgstats.ask.answer import Columns, Rows, frame
from pgstats.ask.connection import Connection, parse_dsn
from pgstats.ask.password import Secret
from pgstats.ask.prepared import Prepared
from pgstats.catalogue.postgres.heaps import READ
from pgstats.model import POSTGRES, Frame, Poll, Query, Site, Target

LOCK_TIMEOUT_MS = 250


class Session:
    """A connection to one database, with the guards of pgstats around every statement."""

    def __init__(
        self, target: Target, until: float, database: str = "", secret: Secret | None = None
    ) -> None:
        self.target = target
        self._pooled = target.pooled
        given = parse_dsn(target.dsn)
        settings = {
            "dbname": database,
            "application_name": given.get("application_name", "pgstats"),
            "client_encoding": "UTF8",
            # A host that is gone is noticed by the kernel before the next poll needs it.
            "keepalives_idle": given.get("keepalives_idle", "30"),
            "keepalives_interval": given.get("keepalives_interval", "10"),
            "keepalives_count": given.get("keepalives_count", "3"),
            "tcp_user_timeout": given.get("tcp_user_timeout", str(int(target.timeout * 1000))),
        }
        theirs = given.get("options") or os.environ.get("PGOPTIONS", "")
        ours = " ".join(f"-c {name}={_escaped(value)}" for name, value in _guards(target).items())
        options = "" if self._pooled else f"{theirs} {ours}".strip()
        self._connection = Connection(
            POSTGRES, target.dsn, settings, until, secret, options=options
        )
        #: The server's version, 150018 for 15.18.
        self.version = self._connection.version
        self._prepared = Prepared(self._connection)
        self.until = until
        if self._connection.parameter("server_encoding") == "SQL_ASCII":
            # Its names may be any bytes, which UTF-8 would refuse; here each is a character.
            self._connection.speak("LATIN1")
        if not self._pooled:
            self._connection.ask(self._late_guards(), stage="connect")

    def _late_guards(self) -> str:
        """What cannot be asked for at login.

        libpq takes a read-only session for a standby when target_session_attrs asks for one or
        the other; older servers do not know the second. With it each counter is read as it is
        needed instead of all being cached: less memory in the server.
        """
        sql = "SET default_transaction_read_only = on"
        if self.version >= 150000:
            sql += "; SET stats_fetch_consistency = none"
        return sql

    @property
    def until(self) -> float:
        """The deadline on the monotonic clock."""
        return self._until

    @until.setter
    def until(self, until: float) -> None:
        self._until = until
        self._connection.allow(until)

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._connection.closed

    def place(self) -> Site | None:
        """Where the server is; behind a pool only PgBouncer knows."""
        return None if self._pooled else self._connection.place

    def ask(
        self,
        sql: str,
        parameters: dict[str, object] | None = None,
        stage: str = "",
        *,
        again: bool = True,
    ) -> tuple[Columns, Rows]:
        """The answer to one statement, which is prepared if it comes ``again``.

        Behind a pool in transaction mode settings would leak to the next client of the server
        connection, so that there they live no longer than one short transaction.
        """
        if not self._pooled:
            one = self._prepared if again else self._connection
            return one.ask(sql, parameters, stage)
        return self._ask_guarded(sql, parameters, stage, _guards(self.target))

    def ask_apart(
        self,
        sql: str,
        seconds: float,
        stage: str,
        parameters: dict[str, object] | None = None,
        **settings: str,
    ) -> tuple[Columns, Rows]:
        """The answer to a statement that may take so many seconds, or may be somebody else's.

        Behind a pool or not, it runs in a transaction of its own that is undone: no setting that
        it changes outlives it, and nothing that it says makes that transaction write.
        """
        own = {
            "statement_timeout": str(max(1, int(seconds * 1000))),
            "enable_mergejoin": "on",
            "standard_conforming_strings": "on",  # as whoever checked the statement has read it
        }
        return self._ask_guarded(sql, parameters, stage, _guards(self.target) | own | settings)

    def _ask_guarded(
        self,
        sql: str,
        parameters: dict[str, object] | None,
        stage: str,
        settings: dict[str, str],
    ) -> tuple[Columns, Rows]:
        guards = "; ".join(f"SET LOCAL {n} = '{v}'" for n, v in settings.items())
        begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY NOT DEFERRABLE"
        self._connection.ask(f"{begin}; {guards}", stage=stage)
        try:
            return self._connection.ask(sql, parameters, stage)
        finally:
            if not self._connection.closed:
                self._connection.ask("ROLLBACK", stage=stage)

    def answer(
        self, query: Query, poll: Poll, parameters: dict[str, object] | None = None
    ) -> Frame:
        """The frame of one query of the catalogue."""
        columns, rows = self.ask(_text(query, self.version), parameters, query.group)
        return frame(query, self.version, columns, rows, target=poll.target.name)[0]

    def settings(self, known: dict[str, Any]) -> dict[str, Any]:
        """Autovacuum's settings: those ``known`` of the cluster, or what is behind a pool here."""
        if not self._pooled:
            return known
        columns, rows = self.ask(f"SELECT {READ}", stage="settings of autovacuum")
        return dict(zip(columns, *rows, strict=True))

    def close(self, patience: float = 0.0) -> None:
        """Close the connection, and wait so many seconds for the server to do the same."""
        self._connection.close(patience)


@lru_cache(maxsize=1000)
def _text(query: Query, version: int) -> str:
    """The SQL of a query of the catalogue, put together once for each version."""
    return query.select(version)


def _escaped(value: str) -> str:
    """A value as it stands among the options of a connection, where blanks separate."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _guards(target: Target) -> dict[str, str]:
    """Settings of every session: the server's timeouts come before the client's deadline.

    Whoever owns a database or a role may have set others for it: a serializable session would
    wait for snapshots and fail on a standby, one without memory would take for ever.
    """
    return {
        "search_path": "",
        "lock_timeout": str(LOCK_TIMEOUT_MS),
        "statement_timeout": str(max(100, int(target.timeout * 750))),
        "idle_in_transaction_session_timeout": str(max(1000, int(target.timeout * 1000))),
        "max_parallel_workers_per_gather": "0",
        "jit": "off",  # compiling a question takes seconds where there are 100,000 tables
        "default_transaction_isolation": "read committed",
        "default_transaction_deferrable": "off",
        "work_mem": "4MB",
        "enable_mergejoin": "off",  # it sorts all tables, in a temporary file if they are many
    }
