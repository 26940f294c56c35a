"""One connection with a deadline on everything: psycopg2, made safe to wait for."""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from pgstats.ask.failure import translate
from pgstats.errors import AskError, ConfigError
from pgstats.lookup import LookupFailed, addresses, is_name


def _import_psycopg2() -> Any:
    """Import psycopg2 without ssl, which doubles its cost.

    psycopg2 imports ssl only to set thread callbacks that OpenSSL dropped in 1.1, and carries on
    when that fails. TLS is libpq's own business and works all the same.
    """
    hide = "ssl" not in sys.modules
    if hide:
        sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        import psycopg2  # noqa: PLC0415
        import psycopg2.extensions  # noqa: PLC0415
    finally:
        if hide:
            del sys.modules["ssl"]
    return psycopg2


psycopg2 = _import_psycopg2()
extensions = psycopg2.extensions

#: Kinds of columns by the OID of their type: int2, int4, int8, float4, float8, numeric.
NUMERIC = frozenset({21, 23, 20, 700, 701, 1700})


class DeadlinePassed(Exception):
    """The time given to a connection is used up."""


class _Connection(extensions.connection):  # type: ignore[misc,name-defined]
    """A psycopg2 connection that knows when it has to be done."""

    def __init__(self, dsn: str, until: float) -> None:
        self.until = until
        super().__init__(dsn)


def _wait(connection: Any) -> None:
    """Wait for libpq no longer than the connection's deadline.

    Nothing else ends a wait for a stopped process: neither TCP timeouts, signals, nor cancel().
    The callback is the whole process's: a connection of somebody else has no deadline.
    """
    until = getattr(connection, "until", math.inf)
    while (state := connection.poll()) != extensions.POLL_OK:
        left = min(until - time.monotonic(), 3600.0)
        if left <= 0:
            raise DeadlinePassed
        poll = select.poll()
        poll.register(
            connection.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
        )
        poll.poll(left * 1000)


extensions.set_wait_callback(_wait)


def parse_dsn(dsn: str) -> dict[str, str]:
    """The keywords of a libpq connection string or URI.

    libpq's own message may quote a piece of a password, so it is not passed on.
    """
    try:
        found: dict[str, str] = extensions.parse_dsn(dsn)
    except psycopg2.ProgrammingError as error:
        raise ConfigError([_dsn_fault(str(error))]) from None
    return found


def moved(dsn: str, host: str, port: str = "") -> str:
    """The same connection string, but to another host or socket folder."""
    given = parse_dsn(dsn) | {"host": host}
    given.pop("hostaddr", None)
    return str(extensions.make_dsn(**(given | ({"port": port} if port else {}))))


def _dsn_fault(message: str) -> str:
    """A safe sentence; a keyword is named only when it is nearly a known one."""
    if found := re.search(r'invalid connection option "(\w+)"', message):
        import difflib  # noqa: PLC0415

        if near := difflib.get_close_matches(found[1], _KEYWORDS, 1):
            return f'unknown connection keyword "{found[1]}"; did you mean "{near[0]}"?'
    return (
        "not a libpq connection string; write 'host=... port=... user=... dbname=...' "
        "or 'postgresql://user@host:port/dbname'"
    )


_KEYWORDS = (
    "host", "hostaddr", "port", "dbname", "user", "password", "passfile", "service", "options",
    "application_name", "client_encoding", "connect_timeout", "sslmode", "sslcert", "sslkey",
    "sslrootcert", "sslcrl", "sslpassword", "gssencmode", "krbsrvname", "require_auth",
    "channel_binding", "target_session_attrs", "load_balance_hosts", "keepalives",
    "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
)  # fmt: skip


def _look_up(host: str, until: float) -> list[str]:
    try:
        return addresses(host, 0, socket.SOCK_STREAM, until - time.monotonic())
    except LookupFailed as error:
        raise AskError(
            "name resolution", "dns", str(error), "check the name and this machine's resolver"
        ) from error


class Connection:
    """One server connection: connects in ``__init__``, answers, closes. Raises `AskError` only.

    ``until`` is the deadline on the monotonic clock; it may be set anew for each poll.
    """

    def __init__(
        self,
        family: str,
        dsn: str,
        settings: Mapping[str, str],
        until: float,
        password: str = "",
        *,
        options: str | None = None,
    ) -> None:
        self.family = family
        given = parse_dsn(dsn)
        keywords = {key: value for key, value in settings.items() if value}
        host = given.get("host", "")
        if password:
            keywords["password"] = password
        if options is not None:
            keywords["options"] = options
        if is_name(host) and "," not in host and "hostaddr" not in given:
            found = _look_up(host, until)
            keywords["hostaddr"] = ",".join(found)
            keywords["host"] = ",".join([host] * len(found))
        self._secrets = [
            s for s in (password, given.get("password"), given.get("sslpassword")) if s
        ]
        try:
            self._raw = psycopg2.connect(
                dsn, connection_factory=lambda text: _Connection(text, until), **keywords
            )
        except (psycopg2.Error, DeadlinePassed, UnicodeError) as error:
            raise translate(error, "connect", family, self._secrets) from error
        self._raw.autocommit = True

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return bool(self._raw.closed)

    @property
    def version(self) -> int:
        """The server's version as libpq numbers it, 150018 or 11800."""
        return int(self._raw.server_version)

    def parameter(self, name: str) -> str:
        """What the server said of itself at login, "" if nothing."""
        return str(self._raw.get_parameter_status(name) or "")

    def allow(self, until: float) -> None:
        """Move the deadline, for the next poll on a kept connection."""
        self._raw.until = until

    def speak(self, encoding: str) -> None:
        """Change the client's encoding."""
        try:
            self._raw.set_client_encoding(encoding)
        except (psycopg2.Error, DeadlinePassed) as error:
            raise translate(error, "encoding", self.family, self._secrets) from error

    def whole_numbers(self) -> None:
        """Read numeric as int, in C: the console has no fractions, and Decimal is slow."""
        self._raw.string_types[1700] = extensions.LONGINTEGER

    def ask(
        self, sql: str, parameters: Mapping[str, object] | None = None, stage: str = ""
    ) -> tuple[dict[str, bool], list[tuple[Any, ...]]]:
        """The columns of an answer, each with whether it is a number, and the rows."""
        try:
            with self._raw.cursor() as cursor:
                cursor.execute(sql, parameters)
                columns = {c.name: c.type_code in NUMERIC for c in cursor.description or ()}
                return columns, cursor.fetchall() if columns else []
        except (psycopg2.Error, DeadlinePassed, UnicodeError) as error:
            raise translate(error, stage or sql, self.family, self._secrets) from error

    def close(self, patience: float = 0.0) -> None:
        """Close the connection; never fails.

        With some ``patience`` in seconds, wait for the server to hang up: until then its backend
        still holds a slot, and the next connection would take another one.
        """
        line = os.dup(self._raw.fileno()) if patience and not self.closed else -1
        self._raw.close()
        if line >= 0:
            _hear_out(line, time.monotonic() + patience)
            os.close(line)


def _hear_out(line: int, until: float) -> None:
    """Read what still comes until the other side hangs up."""
    poll = select.poll()
    poll.register(line, select.POLLIN)
    with contextlib.suppress(OSError):
        while (left := until - time.monotonic()) > 0 and poll.poll(left * 1000):
            if not os.read(line, 4096):
                return
