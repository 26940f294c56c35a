"""What one PgBouncer process shows of its connections, and how a connection's two ends are matched.

Which server connection of a pooler is a session of this very PostgreSQL has to be proven: process
ids are unique on one server only.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections import defaultdict
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address

from pgstats.evidence import Links, Record
from pgstats.noun import Noun

#: How sure it is that a pooler's connection is a session, best first: both ends name the same
#: socket; both are unix sockets, and user, database and time agree; only these agree.
SOCKET, UNIX, WEAK = PROOFS = ("socket", "unix", "weak")

#: Seconds between the two ends of one connection noting its beginning; consoles tell whole ones.
SLACK = 3.0
#: The same over a unix socket with the right pid, where only a busy server comes in between.
_UNIX_SLACK = 30.0
#: Zones differ by whole quarters of an hour.
_QUARTER = 900.0
_UTC = ("UTC", "GMT", "UCT", "Z")
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d) ?(.*)")


class Moment(Noun):
    """A point in time as the clock of a zone shows it, in seconds since 1970 there."""

    seconds: float
    zone: str

    def apart(self, other: Moment) -> float:
        """Seconds between two; where a zone is not known, to the nearest quarter of an hour."""
        between = abs(self.seconds - other.seconds)
        if self.zone in _UTC and other.zone in _UTC:
            return between
        rest = between % _QUARTER
        return min(rest, _QUARTER - rest)


def moment(text: object) -> Moment | None:
    """A time of the console: without a zone up to 1.10, later with the abbreviation of one."""
    if found := _TIME.fullmatch(str(text or "").strip()):
        *numbers, zone = found.groups()
        return Moment(timegm(tuple(map(int, numbers))), zone)
    return None


def address(text: object) -> str:
    """An address in its one form, "unix" for a unix socket, "" for none."""
    plain = str(text or "").partition("%")[0]
    if plain.startswith(UNIX):
        return UNIX
    try:
        found = ip_address(plain)
    except ValueError:
        return plain
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return str(mapped or found)


class End(Noun):
    """A connection as the side that took it shows it, to be found on the side that made it.

    ``pid`` is that of PostgreSQL's process; a pooler has none for a connection. ``name`` is the
    application's, ``listens`` the port of the unix socket, both of a pooler's client alone.
    """

    addr: str
    port: int
    user: str
    database: str
    began: Moment | None
    pid: int | None = None
    name: str = ""
    listens: int | None = None


def session_end(row: Record) -> End:
    """A session of PostgreSQL; over a unix socket its port is -1."""
    began = row.get("backend_start")
    return End(
        addr=UNIX if row.get("client_port") == -1 else address(row.get("client_addr")),
        port=row.get("client_port") or 0,
        user=row.get("usename") or "",
        database=row.get("datname") or "",
        began=None if began is None else Moment(float(began), "UTC"),
        pid=row["pid"],
    )


def client_end(row: Record) -> End:
    """A client of a pooler, which may be another pooler."""
    return End(
        addr=address(row.get("addr")),
        port=row.get("port") or 0,
        user=row.get("user") or "",
        database=row.get("database") or "",
        began=moment(row.get("connect_time")),
        name=row.get("application_name") or "",
        listens=row.get("local_port"),
    )


class Console:
    """The connections of one PgBouncer process, by what they are looked for."""

    def __init__(self, links: Links) -> None:
        self.links = links
        self._clients = {row.get("ptr"): row for row in links.clients}
        self._databases = {row.get("name"): row.get("database") for row in links.databases}
        self._by_pid: dict[object, list[Record]] = defaultdict(list)
        self._by_socket: dict[tuple[str, object], list[Record]] = defaultdict(list)
        for row in links.servers:
            self._by_pid[row.get("remote_pid")].append(row)
            self._by_socket[local(row)].append(row)

    def client(self, server: Record) -> Record | None:
        """The client that a server connection is linked with, if both sides say so."""
        client = self._clients.get(server["link"])
        return client if client and client.get("link") == server.get("ptr") else None

    def hosts(self) -> set[str]:
        """The addresses of its own host, as far as its connections show them."""
        return {local(row)[0] for row in self._rows()} - {UNIX, ""}

    def now(self) -> Moment | None:
        """The time on its clock: the latest request is the one that asked for all this."""
        found = filter(None, (moment(row.get("request_time")) for row in self._rows()))
        return max(found, key=lambda one: one.seconds, default=None)

    def made(self, end: End) -> Iterator[tuple[Record, str]]:
        """The server connections that may be the other end of one, each with its proof."""
        if end.pid is not None:
            rows = self._by_pid.get(end.pid, ())
        elif end.addr == UNIX:
            rows = [row for row in self.links.servers if _may_be_before(end, row)]
        else:
            rows = self._by_socket.get((end.addr, end.port), ())
        yield from ((row, proof) for row in rows if (proof := self._proof(end, row)))

    def resembles(self, end: End, server: Record) -> bool:
        """Whether a server connection has the same user and database as a session."""
        alias = server.get("database")
        database = self._databases.get(alias, alias)
        return (server.get("user"), database) == (end.user, end.database)

    def has_like(self, end: End) -> bool:
        """Whether there is a connection with the same pid, user and database, proven or not."""
        return any(self.resembles(end, row) for row in self._by_pid.get(end.pid, ()))

    def _proof(self, end: End, server: Record) -> str:
        """How sure it is that a server connection with the right pid leads there, "" for not."""
        unix = address(server.get("addr")) == end.addr == UNIX
        if not unix and local(server) == (end.addr, end.port):
            return SOCKET
        slack = _UNIX_SLACK if unix and end.pid is not None else SLACK
        if not self.resembles(end, server) or not _together(end, server, slack):
            return ""
        return UNIX if unix else WEAK

    def _rows(self) -> Iterator[Record]:
        yield from self.links.servers
        yield from self.links.clients


def local(row: Record) -> tuple[str, object]:
    """The pooler's own side of a connection."""
    return address(row.get("local_addr")), row.get("local_port")


def _may_be_before(end: End, server: Record) -> bool:
    """Whether a server connection over a unix socket may lead to a pooler's client.

    There is neither a pid nor a socket's name to go by. It leads to the pooler's port, has a client
    at this moment, and the name of its application was handed on.
    """
    leads = address(server.get("addr")) == UNIX and server.get("port") == end.listens
    name = server.get("application_name") or ""
    return leads and bool(server.get("link")) and end.name.startswith(name)


def _together(end: End, server: Record, slack: float) -> bool:
    """Whether both ends of a connection noted its beginning at the same time."""
    made = moment(server.get("connect_time"))
    return bool(made and end.began and made.apart(end.began) <= slack)
