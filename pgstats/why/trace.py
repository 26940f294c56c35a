"""Follows a session of PostgreSQL through any number of PgBouncers to the application.

PostgreSQL sees the pooler alone; a PgBouncer shows which client is linked with which of its server
connections, and in front of that client another PgBouncer may stand.

What the console calls ``ptr`` is an address in memory that is used again at once, and SERVERS and
CLIENTS are two answers. A link counts when both sides name each other, and while the session's
transaction is the same before and after: for so long neither side can have changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from pgstats.evidence import Client, Links, Record
from pgstats.noun import Noun
from pgstats.why.console import (
    PROOFS,
    UNIX,
    WEAK,
    Console,
    End,
    address,
    client_end,
    local,
    moment,
    session_end,
)
from pgstats.why.holders import APPLY_WORKERS

#: Why there is no client: the session is the application's own.
DIRECT = "direct"
CHANGING = "link kept changing"
ENDED = "its transaction ended meanwhile"
HIDDEN = "this role may not see where it comes from (GRANT pg_monitor would change that)"

#: How often the consoles are read until the links agree.
TRIES = 3
#: From this version on a client has an id, and the console a command that ends it.
_HAS_ID = 12400
#: PostgreSQL cuts names after so many bytes, and what stands at their end may be a piece.
_LONGEST_NAME = 62
_ADDED = "as application_name tells it (application_name_add_host)"
#: An address at the end of a name, or a unix socket and the process on its other side.
_SUFFIX = re.compile(
    r"(.*) - (?:\[?([0-9A-Fa-f.:]+)\]?:(\d+)|unix(?:\((\d+)@[^)]*\))?:\d+)", re.DOTALL
)


class Trail(Noun):
    """Where a session comes from: its client, or the reason why it is not traceable.

    The reason is `DIRECT` where no pooler stands between: the session's own ``client_addr`` is the
    application. ``again`` is set where another look at the consoles may tell more.
    """

    client: Client | None = None
    reason: str = ""
    again: bool = False


def follow(
    sessions: Sequence[Record],
    read_consoles: Callable[[], Sequence[Links]],
    read_sessions: Callable[[], Iterable[Record]],
    *,
    known: Sequence[tuple[str, int]] = (),
    unasked: Sequence[str] = (),
) -> list[Trail]:
    """The trail of each session, in their order; the consoles are read up to `TRIES` times.

    ``sessions`` are rows of pg_stat_activity (or of slots and prepared transactions) as they were
    accused. ``read_sessions`` reads pg_stat_activity anew: whoever is not the same there after the
    consoles were read has ended. ``known`` and ``unasked`` are as in `trace`, and looked at only
    after each reading.
    """
    trails = [Trail(again=True)] * len(sessions)
    for _ in range(TRIES):
        unsure = [number for number, trail in enumerate(trails) if trail.again]
        if not unsure:
            break
        poolers = _Poolers(read_consoles(), known, unasked)
        now = {row.get("pid"): row for row in read_sessions()}
        for number in unsure:
            session = sessions[number]
            lasts = "pid" not in session or _same(session, now.get(session["pid"]))
            trails[number] = poolers.trail(session) if lasts else Trail(reason=ENDED)
    return trails


def trace(
    session: Record,
    consoles: Sequence[Links],
    known: Sequence[tuple[str, int]] = (),
    unasked: Sequence[str] = (),
) -> Trail:
    """Where a session comes from, by one reading of the consoles.

    ``known`` are the addresses (or socket folders) and ports by which pgstats reaches the session's
    PostgreSQL: of several poolers that could be it, one that goes there is. ``unasked`` are the
    addresses of PgBouncers whose console is not configured or did not answer.
    """
    return _Poolers(consoles, known, unasked).trail(session)


def _same(session: Record, now: Record | None) -> bool:
    """Whether it still is the same transaction of the same session."""
    began = "state_change" if session.get("xact_start") is None else "xact_start"
    return now is not None and all(
        session.get(name) == now.get(name) for name in ("backend_start", began)
    )


def _clientless(session: Record) -> str:
    """Why something that holds dead rows has no client at all, "" for a session."""
    kind = session.get("backend_type")
    if "gid" in session:
        return "a prepared transaction has no session: only its name and its owner are known"
    if "pid" not in session:
        return "a slot has no session"
    if kind in APPLY_WORKERS:
        return "it applies a subscription's changes: it has no client"
    if kind in (None, "client backend", "walsender"):
        return ""
    return f"the {kind} has no client"


class _LostError(Exception):
    """The way cannot be followed any further; ``again`` where another look may help."""

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


class _Made(Noun):
    """A server connection of a pooler, and the proof that it leads where it is looked for."""

    console: Console
    server: Record
    proof: str

    @property
    def itself(self) -> tuple[object, ...]:
        """The same where two consoles show one connection, of a process that is named twice."""
        return *local(self.server), self.server.get("ptr"), self.server.get("connect_time")

    @property
    def via(self) -> Mapping[str, str]:
        """The pooler and its name of the database."""
        database = self.server.get("database") or ""
        return {"pgbouncer": self.console.links.pgbouncer, "database": database}

    def client(self) -> Record:
        """The client that is linked with it; raises `_LostError` while they do not agree."""
        if not self.server.get("link"):
            name = self.console.links.pgbouncer
            raise _LostError(f"PgBouncer {name} shows no client that is linked with it", again=True)
        client = self.console.client(self.server)
        if client is None:
            raise _LostError(CHANGING, again=True)
        return client


class _Way(Noun):
    """The poolers from a session on, nearest first, as far as they could be followed."""

    made: tuple[_Made, ...]
    client: Record
    broken: str = ""
    again: bool = False


class _Poolers:
    """All that the consoles showed at about one time."""

    def __init__(
        self, consoles: Sequence[Links], known: Sequence[tuple[str, int]], unasked: Sequence[str]
    ) -> None:
        self._consoles = [Console(links) for links in consoles]
        self._known = {(address(host), port) for host, port in known}
        self._ports = {port for _, port in known}
        self._unasked = {address(host) for host in unasked}

    def trail(self, session: Record) -> Trail:
        """Where a session comes from."""
        if reason := _clientless(session):
            return Trail(reason=reason)
        end = session_end(session)
        try:
            way = self._way(end)
        except _LostError as lost:
            return Trail(reason=str(lost), again=lost.again)
        if way is None:
            return self._without_console(session, end)
        return Trail(self._client(way, session), again=way.again)

    def _way(self, end: End, before: tuple[_Made, ...] = ()) -> _Way | None:
        """The way on from one end of a connection, None where no pooler made it.

        Raises `_LostError` where the first pooler cannot be seen through. One that is its own
        client, which is possible, is not followed in circles.
        """
        made = self._maker(end)
        if made is None or made.itself in {one.itself for one in before}:
            return None
        way = _Way((*before, made), made.client())
        try:
            return self._way(client_end(way.client), way.made) or way
        except _LostError as lost:
            return way._replace(broken=str(lost), again=lost.again)

    def _maker(self, end: End) -> _Made | None:
        """The server connection at the other end of one, by the best proof that there is."""
        found = [
            _Made(console, server, proof)
            for console in self._consoles
            for server, proof in console.made(end)
        ]
        best = min(map(self._rank, found), default=None)
        rivals = {made.itself: made for made in found if self._rank(made) == best}
        if len(rivals) > 1:
            names = ", ".join(sorted({made.console.links.pgbouncer for made in rivals.values()}))
            raise _LostError(f"several connections of PgBouncer {names} could be it")
        return next(iter(rivals.values()), None)

    def _rank(self, made: _Made) -> tuple[int, bool]:
        """The lower the better: by proof, then by whether it goes where pgstats goes as well."""
        addr, port = address(made.server.get("addr")), made.server.get("port")
        there = port in self._ports if addr == UNIX else (addr, port) in self._known
        return PROOFS.index(made.proof), not there

    def _client(self, way: _Way, session: Record) -> Client:
        """The client of the last pooler on the way."""
        console, row = way.made[-1].console, way.client
        addr = address(row.get("addr"))
        name = row.get("application_name")  # from 1.18 on; PostgreSQL has always been told it
        found = Client(
            addr,
            None if addr == UNIX else row.get("port"),
            row.get("remote_pid") if addr == UNIX else None,
            application_name=(session.get("application_name") if name is None else name) or "",
            user=row.get("user") or "",
            via=tuple(made.via for made in way.made),
            proof=max((made.proof for made in way.made), key=PROOFS.index),
            silent=_silent(row, console),
            kill=_kill(row, console),
            note=way.broken,
        )
        return self._doubted(_told(found))

    def _doubted(self, client: Client) -> Client:
        """The client, with a note where it comes from a host on which a pooler is known to run."""
        hosts = self._unasked.union(*(console.hosts() for console in self._consoles))
        if client.note or client.addr not in hosts - {UNIX}:
            return client
        return client._replace(note="a pooler runs there, this may be one too")

    def _without_console(self, session: Record, end: End) -> Trail:
        """Where a session comes from that no console shows."""
        name = session.get("application_name") or ""
        port = None if end.addr == UNIX else end.port
        itself = Client(end.addr, port, application_name=name, user=end.user)
        told = _told(itself)
        if told.note:
            return Trail(told)
        return Trail(reason=self._untraceable(session, end))

    def _untraceable(self, session: Record, end: End) -> str:
        """Why the client of such a session is not known; `DIRECT` where it is the session's own."""
        if session.get("client_port") is None:
            return HIDDEN
        if alike := [console for console in self._consoles if console.has_like(end)]:
            return (
                f"PgBouncer {alike[0].links.pgbouncer} has a connection with its pid, user and "
                "database, but neither address nor time prove that it is this one"
            )
        if end.addr in self._unasked or (end.addr == UNIX and self._unasked):
            where = "a unix socket" if end.addr == UNIX else end.addr
            return f"it comes from {where}, where a PgBouncer may be whose console was not asked"
        return DIRECT


def _told(client: Client) -> Client:
    """The client that a name speaks of: a pooler may have added the address of its own client.

    PostgreSQL cuts a long name, and with it the address.
    """
    found = _SUFFIX.fullmatch(client.application_name)
    if not found or len(client.application_name.encode()) > _LONGEST_NAME:
        return client
    name, addr, port, pid = found.groups()
    said = Client(
        address(addr) if addr else UNIX, int(port) if port else None, int(pid) if pid else None
    )
    if (said.addr, said.port) == (client.addr, client.port):
        return client._replace(application_name=name, pid=said.pid or client.pid)
    return client._replace(
        addr=said.addr,
        port=said.port,
        pid=said.pid,
        application_name=name,
        proof=WEAK,
        note=_ADDED,
    )


def _silent(client: Record, console: Console) -> float | None:
    """Seconds since a client's last request, None where the clock was put forward in between."""
    last, now = moment(client.get("request_time")), console.now()
    if last is None or now is None or last.zone != now.zone:
        return None
    return max(0.0, now.seconds - last.seconds)


def _kill(client: Record, console: Console) -> str:
    """The console's command that ends a client, "" where it has none for a single one."""
    number = client.get("id")
    known = number is not None and console.links.version >= _HAS_ID
    return f"KILL_CLIENT {number}" if known else ""
