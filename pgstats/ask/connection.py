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
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from pgstats.ask import verbose
from pgstats.ask.dsn import (
    Place,
    extensions,
    located,
    merged,
    moved,
    parse_dsn,
    places,
    psycopg2,
    trust,
)
from pgstats.ask.failure import DeadlinePassed, remedy, translate
from pgstats.ask.password import Secret
from pgstats.ask.place import reached
from pgstats.errors import AskError, kept
from pgstats.model import Site

__all__ = ["FAULTS", "NUMERIC", "Connection", "moved", "parse_dsn", "psycopg2"]

#: Kinds of columns by the OID of their type: int2, int4, int8, float4, float8, numeric.
NUMERIC = frozenset({21, 23, 20, 700, 701, 1700})
#: All that psycopg2 and the wait for it may raise; `RuntimeError` is a thread that cannot start.
FAULTS = (psycopg2.Error, DeadlinePassed, OSError, UnicodeError, RuntimeError)


class _Connection(extensions.connection):  # type: ignore[misc]
    """A psycopg2 connection that knows when it has to be done."""

    def __init__(self, dsn: str, until: float) -> None:
        self.until = until
        self.terse = True
        try:
            super().__init__(dsn)
            verbose.usual(self)
        except BaseException:
            self.close()  # now, not when the last reference to the exception goes
            raise


_DONE, _READ = extensions.POLL_OK, extensions.POLL_READ


def _wait(connection: Any) -> None:
    """Wait for libpq no longer than the connection's deadline.

    Nothing else ends a wait for a stopped process: neither TCP timeouts, signals, nor cancel().
    The callback is the whole process's: a connection of somebody else has no deadline.
    """
    until = getattr(connection, "until", math.inf)
    if getattr(connection, "terse", False):
        connection.terse = False
        verbose.more(connection)
    while (state := connection.poll()) != _DONE:
        left = min(until - time.monotonic(), 3600.0)
        if left <= 0:
            raise DeadlinePassed
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN if state == _READ else select.POLLOUT)
        poll.poll(left * 1000)


extensions.set_wait_callback(_wait)

#: A server that answers like this was reached: as with libpq, the next one is not tried.
_FINAL = ("auth", "not_allowed", "wrong_database", "too_many_connections", "tls")
_NO_STANDBY = "server is not in hot standby mode"


class _Search:
    """Tries the places that a connection string leads to, one after the other.

    libpq would do so itself, but with a wait callback set it does not know ``connect_timeout``:
    the first dead server would take all the time. Here each one gets its share of what is left.
    """

    def __init__(
        self,
        connect: Callable[[Place, float], Any],
        family: str,
        given: Mapping[str, str],
    ) -> None:
        self._connect = connect
        self._family = family
        self._given = given
        self._patience = _patience(given)
        self._errors: list[tuple[Place, AskError]] = []

    def run(self, until: float) -> Any:
        """The first connection that succeeds; any server will do where no standby is found."""
        if self._given.get("target_session_attrs") != "prefer-standby":
            found = self._first(places(self._given), until)
        else:
            standby = [p | {"target_session_attrs": "standby"} for p in places(self._given)]
            found = self._first(standby, until, spare=1)
            for place in [] if found else self._primaries():
                found = found or self._try(place | {"target_session_attrs": "any"}, until)
        if not found:
            raise self._verdict()
        return found

    def _first(self, hosts: list[Place], until: float, spare: int = 0) -> Any:
        """The first connection to one of the hosts, or None; leaves time for ``spare`` more."""
        for left, host in zip(range(len(hosts), 0, -1), hosts, strict=True):
            limit = _share(until, left + spare)
            try:
                addresses = located(host, self._given, limit)
            except (OSError, RuntimeError) as error:
                fault = translate(kept(error), "name resolution", self._family, ())
                self._errors.append((host, fault))
                continue
            for rest, place in zip(range(len(addresses), 0, -1), addresses, strict=True):
                if found := self._try(place, _share(limit, rest)):
                    return found
        return None

    def _try(self, place: Place, until: float) -> Any:
        try:
            return self._connect(place, min(until, time.monotonic() + self._patience))
        except AskError as error:
            if error.reason in _FINAL:
                raise
            self._errors.append((place, kept(error)))
        return None

    def _primaries(self) -> list[Place]:
        """The servers that were turned down for not being a standby."""
        return [place for place, error in self._errors if _NO_STANDBY in str(error)]

    def _verdict(self) -> AskError:
        """One error for all: the reason of the last one that has a telling one."""
        tried, self._errors = self._errors, []  # what is raised holds the frame that holds this
        errors = [error for _, error in tried]
        if len(errors) == 1 and errors[0].reason != "refused":  # which alone asks: where?
            return errors[0]
        last = next((error for error in reversed(errors) if error.reason != "other"), errors[-1])
        text = "; ".join(f"{_name(place)}: {_gist(error)}" for place, error in tried)
        return AskError(last.stage, last.reason, text, remedy(self._family, last.reason, str(last)))


def _share(until: float, parts: int) -> float:
    """The deadline of the first of several attempts that have to share the time."""
    now = time.monotonic()
    return now + (until - now) / parts


def _patience(given: Mapping[str, str]) -> float:
    """Seconds that one attempt may take by the user's own ``connect_timeout``."""
    text = given.get("connect_timeout") or "0"
    try:
        seconds = int(text)
    except ValueError:
        fault = f'invalid integer value "{text}" for connection option "connect_timeout"'
        raise AskError("connect", "other", fault, "give whole seconds") from None
    return seconds if seconds > 0 else math.inf


def _name(place: Place) -> str:
    """Host, address and port as one would write them."""
    host, address = place.get("host", ""), place.get("hostaddr", "")
    where = f"{host} ({address})" if host and address not in ("", host) else host or address
    return f"{where or 'the default socket'} port {place.get('port') or 5432}"


def _gist(error: AskError) -> str:
    """What libpq says, without where it happened."""
    text = re.sub(r"^connection to server (at|on socket) .*? failed: ", "", str(error))
    return re.sub(r" Is the server running .*", "", text)


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
        secret: Secret | None = None,
        *,
        options: str | None = None,
    ) -> None:
        self.family = family
        self._dsn = dsn
        self._keywords = {key: value for key, value in settings.items() if value}
        self._given = merged(dsn, self._keywords)
        if options is not None:
            self._keywords["options"] = options
        self._secret = secret
        self._any_text = False
        self._secrets = [s for s in map(self._given.get, ("password", "sslpassword")) if s]
        trust(self._given)
        self._raw = _Search(self._connect, family, self._given).run(until)
        self._raw.autocommit = True
        self.allow(until)

    def _connect(self, place: Place, until: float) -> Any:
        """A connection of psycopg2 to one place."""
        keywords = self._keywords | place
        if self._secret and (password := self._secret.of(self._given | place)):
            keywords["password"] = password
            self._secrets.append(password)
        try:
            return psycopg2.connect(
                self._dsn, connection_factory=lambda text: _Connection(text, until), **keywords
            )
        except FAULTS as error:
            raise translate(error, "connect", self.family, self._secrets) from error

    @property
    def given(self) -> Mapping[str, str]:
        """The parameters that led to the server, as `merged` has them."""
        return self._given

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return bool(self._raw.closed)

    @property
    def version(self) -> int:
        """The server's version as libpq numbers it, 150018 or 11800."""
        return int(self._raw.server_version)

    @cached_property
    def place(self) -> Site:
        """Where the server is that answers."""
        return reached(self._raw.info.dsn_parameters)

    def parameter(self, name: str) -> str:
        """What the server said of itself at login, "" if nothing."""
        return str(self._raw.get_parameter_status(name) or "")

    def process(self) -> str:
        """The process that listens on the unix socket, as far as the kernel tells; else ""."""
        line = self._line()
        if line < 0 or not hasattr(socket, "SO_PEERCRED"):
            return ""
        with socket.socket(fileno=line) as peer:
            if peer.family != socket.AF_UNIX:
                return ""
            seen = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid = int.from_bytes(seen[:4], sys.byteorder, signed=True)
        return str(pid) if pid > 0 else ""  # 0: of another namespace

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

    def any_numbers(self) -> None:
        """Read numeric as Decimal again, for a console that has fractions after all."""
        self._raw.string_types.pop(1700, None)

    def any_text(self) -> None:
        """Read text in whatever encoding, for a console that shows what clients sent."""
        self._raw.string_types[25] = extensions.BYTES
        self._any_text = True

    def ask(
        self,
        sql: str,
        parameters: Mapping[str, object] | None = None,
        stage: str = "",
        columns: dict[str, bool] | None = None,
    ) -> tuple[dict[str, bool], list[tuple[Any, ...]]]:
        """The columns of an answer, each with whether it is a number, and the rows.

        Whoever knows the ``columns`` spares the look at them.
        """
        try:
            with self._raw.cursor() as cursor:
                cursor.execute(sql, parameters)
                if columns is None:
                    columns = {c.name: c.type_code in NUMERIC for c in cursor.description or ()}
                rows = cursor.fetchall() if columns else []
        except FAULTS as error:
            raise translate(error, stage or sql, self.family, self._secrets) from error
        return columns, [tuple(map(_legible, row)) for row in rows] if self._any_text else rows

    def close(self, patience: float = 0.0) -> None:
        """Close the connection; never fails.

        With some ``patience`` in seconds, wait for the server to hang up: until then its backend
        still holds a slot, and the next connection would take another one.
        """
        line = self._line() if patience else -1
        with contextlib.suppress(psycopg2.Error):
            self._raw.close()
        if line >= 0:
            _hear_out(line, time.monotonic() + patience)
            os.close(line)

    def _line(self) -> int:
        """A file descriptor of our own on the connection's socket, -1 where none can be had."""
        try:
            return os.dup(self._raw.fileno())
        except (OSError, psycopg2.Error):
            return -1


def _legible(value: object) -> object:
    """Bytes as text. Odd ones are spelled out, so that no two names read the same."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _hear_out(line: int, until: float) -> None:
    """Read what still comes until the other side hangs up."""
    poll = select.poll()
    poll.register(line, select.POLLIN)
    with contextlib.suppress(OSError):
        while (left := until - time.monotonic()) > 0 and poll.poll(left * 1000):
            if not os.read(line, 4096):
                return
