"""Polls one PgBouncer through its admin console: connect, read, close.

A held console connection would block PgBouncer's rolling restart and keep a SUSPEND from ending
by itself, so there is never one between polls. The console takes one command per query, no
BEGIN, no ping, no options; which commands exist follows from the version it tells at login.

Several processes may share one port (so_reuseport); a login meets one of them by chance. Each has
a unix socket of its own, which SHOW PEERS (1.19+) or the configuration names: then every process
is polled by itself.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial

from pgstats.ask.answer import Columns, Rows, fit, frame
from pgstats.ask.burst import Burst, peaks
from pgstats.ask.connection import Connection
from pgstats.ask.dsn import moved, parse_dsn
from pgstats.ask.failure import failure, remedy
from pgstats.ask.password import Secret
from pgstats.ask.place import behind
from pgstats.catalogue import COLLECTED
from pgstats.catalogue.pgbouncer import ADMIN, CONFIG, DATABASES, PEERS, POOLS, QUERIES, STATS
from pgstats.errors import AskError
from pgstats.lookup import addresses, is_name
from pgstats.model import PGBOUNCER, Failure, Frame, Number, Poll, Query, Site, Target

_ADDRESSES = PEERS._replace(labels={name: name for name in ("peer_id", "host", "port")})
BY_CHANCE = "so_reuseport is on: this is one of several processes, met by chance"
_FIND_THEM = (
    "name their socket folders with sockets = [...], or list them under [peers] in pgbouncer.ini "
    "from 1.19 on"
)
_GO_THERE = "poll them from their own machine, where each has a unix socket"
#: What psycopg2 raises where a number is expected and there is none.
UNREADABLE = (ValueError, ArithmeticError)
#: What the host of a unix socket starts with: a folder, or a name in the abstract namespace.
_SOCKETS = ("/", "@")
#: From this version on a process that is shut down keeps its unix socket for the console.
DRAINS_VISIBLY = 12500


class PgBouncerAsker:
    """Asks one PgBouncer, or each of the processes behind its port."""

    def __init__(self, target: Target, burst: Burst | None = None) -> None:
        self.target = target
        self._burst = burst
        self._secret: Secret | None = None
        self._door: tuple[str, str] | None = None  # folder and port of the unix socket beside TCP

    def poll(self) -> Poll:
        """All answers of one poll; of several processes as ``peers`` of a poll without frames."""
        started = time.monotonic()
        until = started + self.target.timeout + (self._burst.seconds if self._burst else 0.0)
        self._secret = Secret(self.target, until)  # anew: it may have been rotated
        if self.target.sockets:
            named = enumerate(self.target.sockets, 1)
            siblings = [sibling(self.target, str(number), folder) for number, folder in named]
            poll = Poll(self.target, peers=self._visit_all(siblings, until))
        else:
            poll = self._visit(until)
            siblings = [sibling(self.target, *peer) for peer in poll.siblings]
            if siblings:
                poll = _group(poll, self._visit_all(siblings, until))
        poll.seconds = time.monotonic() - started
        return poll

    def close(self) -> None:
        """Nothing is kept between polls."""

    def _visit(self, until: float) -> Poll:
        """A poll of the process that the DSN leads to.

        One that is shut down takes no more clients over TCP, but from 1.25 on its unix socket still
        leads to the console: it is draining, and says how far it is.
        """
        visit = self._meet(self.target, until)
        if visit.poll.up:
            self._door = visit.door()
        elif self._door and visit.poll.down and visit.poll.down.reason == "refused":
            beside = self._meet(sibling(self.target, "", *self._door), until).poll
            if beside.up:
                beside.draining = True
                return beside
        return visit.poll

    def _visit_all(self, siblings: Sequence[Target], until: float) -> list[Poll]:
        """A poll of each process, side by side: one that hangs takes no time of the others."""
        polls: dict[int, Poll] = {}

        def work(at: int) -> None:
            try:
                polls[at] = self._meet(siblings[at], until).poll
            except Exception as error:  # a bug of ours is no reason to lose the other processes
                polls[at] = Poll(siblings[at], down=Failure.bug("connect", error))

        threads = [
            threading.Thread(target=work, args=(at,), daemon=True) for at in range(len(siblings))
        ]
        for at, thread in enumerate(threads):
            try:
                thread.start()
            except RuntimeError:  # no more threads: then one after the other
                work(at)
        for thread in threads:
            if thread.ident:
                thread.join()
        return [polls[at] for at in range(len(siblings))]

    def _meet(self, target: Target, until: float) -> _Visit:
        return _Visit(target, until, self._burst, self._secret)


class _Visit:
    """One connection to one process: asks all there is to ask."""

    def __init__(
        self, target: Target, until: float, burst: Burst | None, secret: Secret | None
    ) -> None:
        started = time.monotonic()
        self.target = target
        self.poll = Poll(target, counts={"unknown_columns": 0, "unavailable_queries": 0})
        self._until = until
        self._texts: dict[str, str] = {}
        self._given: Mapping[str, str] = {}
        try:
            console = connect(target, until, secret)
        except AskError as error:
            self.poll.down = failure(error)
        else:
            with closing(console):
                self._read(console, burst)
        self.poll.seconds = time.monotonic() - started

    def door(self) -> tuple[str, str] | None:
        """Folder and port of the process's unix socket, if it can be reached from here."""
        folder = self._texts.get("unix_socket_dir", "")
        if not folder.startswith(_SOCKETS) or not on_this_host(self._given):
            return None
        return folder, self._texts.get("listen_port", "")

    def _read(self, console: Connection, burst: Burst | None) -> None:
        poll = self.poll
        self._given = console.given
        poll.version = console.version
        poll.process = console.process()
        poll.place = console.place
        for query in lacking(self.target, console.version):
            self._miss(query)
        queries = wanted(self.target, console.version)
        if CONFIG not in queries:  # of use to us all the same
            self._try_in_silence(console, partial(self._configure, console))
        poll.at = time.monotonic()
        for query in queries:
            if console.closed:
                break
            self._try(query.title, partial(self._answer, console, query))
        if console.closed and not poll.frames:
            poll.down = poll.failures.pop()
            return
        self._try("processes", partial(self._look_around, console))
        poll.identity = self._identity()
        if burst and not console.closed and not poll.siblings:
            self._try("samples", partial(self._sample, console, burst))

    def _identity(self) -> str:
        """What tells this process from those it shares a port with, "" where nothing does.

        Its totals must never be taken for those of another one. Processes have socket folders and
        pid files of their own; without either, each poll may have met somebody else.
        """
        own = [self._texts.get(key, "") for key in ("unix_socket_dir", "pidfile")]
        if any(own):
            return ":".join(own)
        if self.poll.shared:
            return str(self.poll.at)
        return self._given.get("host", "") if self.target.peer else ""

    def _try(self, stage: str, ask: Callable[[], None]) -> None:
        """One step of the poll: whatever goes wrong costs that step alone."""
        try:
            ask()
        except AskError as error:
            self.poll.failures.append(failure(error))
        except Exception as error:  # a bug of ours is no reason to lose the other answers
            self.poll.failures.append(Failure.bug(stage, error))

    def _try_in_silence(self, console: Connection, ask: Callable[[], None]) -> None:
        """One step that nobody asked for: it matters when the connection does not outlive it."""
        try:
            ask()
        except AskError as error:
            if console.closed:
                self.poll.failures.append(failure(error))

    def _configure(self, console: Connection) -> None:
        self._texts = _settings(*answered(console, CONFIG))

    def _miss(self, query: Query) -> None:
        """Count a question without an answer; tell it to those who asked it by name."""
        self.poll.counts["unavailable_queries"] += 1
        if self.target.collect and set(self.target.collect) != set(COLLECTED):
            since = max(query.since, min(metric.since for metric in query.metrics))
            self.poll.notes.append(
                f"{query.title} has nothing to ship here: this is {_number(self.poll.version)}"
                + f", its numbers came with {_number(since)}" * (since > self.poll.version)
                + f" (leave {query.group} out of collect)"
            )

    def _answer(self, console: Connection, query: Query) -> None:
        columns, rows = answered(console, query)
        if query is STATS:
            self.poll.console = _of_the_console(columns, rows, console.version)
        elif query is CONFIG:
            self._texts = _settings(columns, rows)
        rows = self._kept(query, columns, rows)
        if query is DATABASES and self.poll.place:
            self.poll.leads = _leads(columns, rows, self.poll.place)
        found, strange = frame(
            query, console.version, columns, rows, target=self.target.name, tags=self.target.also
        )
        self.poll.frames.append(found)
        self.poll.counts["unknown_columns"] += strange
        if not found.metrics:
            self._miss(query)

    def _kept(self, query: Query, columns: Columns, rows: Rows) -> Rows:
        """The rows of an answer, the console's own database left out unless that is wanted."""
        name = query.labels.get("database")
        if name and name in columns and not self.target.include_admin:
            at = list(columns).index(name)
            rows = [row for row in rows if row[at] != ADMIN]
        return rows

    def _sample(self, console: Connection, burst: Burst) -> None:
        """Ask for the pools again and again, and keep what the poll alone would have missed."""
        samples: list[Frame] = []
        started = time.monotonic()
        for number in range(burst.times):  # on a grid: what an answer takes must not add up
            due = min(started + number * burst.every, self._until)
            time.sleep(max(0.0, due - time.monotonic()))
            columns, rows = answered(console, POOLS)
            rows = self._kept(POOLS, columns, rows)
            samples.append(frame(POOLS, console.version, columns, rows, target=self.target.name)[0])
        self.poll.frames.append(peaks(samples, self.target))

    def _look_around(self, console: Connection) -> None:
        """Find out about siblings on the same port, and whether the port still is open."""
        poll = self.poll
        poll.shared = self._texts.get("so_reuseport") == "1"
        if by_socket(self._given):
            poll.draining = console.version >= DRAINS_VISIBLY and _refuses_tcp(self._texts)
        elif poll.shared:
            here = on_this_host(self._given)
            if here:
                poll.siblings = group_of(console, self._texts)
            if not poll.siblings:
                cure = _FIND_THEM if here else _GO_THERE
                poll.notes.append(f"{BY_CHANCE} ({cure})")


def answered(console: Connection, query: Query) -> tuple[Columns, Rows]:
    """The answer to a command, as a table that has what tells its rows apart."""
    columns, rows = _whole(console, query)
    fit(query, columns, rows)
    return columns, rows


def _whole(console: Connection, query: Query) -> tuple[Columns, Rows]:
    """The answer to a command, its numbers read in C as long as they all are whole."""
    try:
        return legible(console, query.sql)
    except UNREADABLE:
        console.any_numbers()
    try:
        return legible(console, query.sql)
    except UNREADABLE as error:
        text = "the answer holds something that is no number where one belongs"
        raise AskError(query.title, "other", text) from error


def legible(console: Connection, command: str) -> tuple[Columns, Rows]:
    """The answer to a command, whatever bytes it holds.

    Any client can have a database or an application_name listed that is not UTF-8.
    """
    try:
        return console.ask(command)
    except AskError as error:
        if not isinstance(error.__cause__, UnicodeError):
            raise
    console.any_text()
    return console.ask(command)


def _settings(columns: Columns, rows: Rows) -> dict[str, str]:
    """What SHOW CONFIG says, by key."""
    key, value = map(list(columns).index, CONFIG.pairs or ())
    return {str(row[key]): str(row[value] or "") for row in rows}


def _group(met: Poll, peers: list[Poll]) -> Poll:
    """The processes that SHOW PEERS named; or, where none can be reached, the one that was met."""
    if any(peer.up for peer in peers):
        return Poll(met.target, peers=peers)
    why = next(peer.down.message for peer in peers if peer.down)
    met.notes.append(f"{BY_CHANCE} (none of the {len(peers)} in SHOW PEERS can be reached: {why})")
    return met


def _of_the_console(columns: Columns, rows: Rows, version: int) -> dict[str, Number]:
    """What SHOW STATS says of the console itself, by metric; nothing without such a row."""
    at = list(columns).index(STATS.labels["database"])
    own = [row for row in rows if row[at] == ADMIN]
    found, _ = frame(STATS, version, columns, own, target="")
    numbers = {m.name: row[n] for row in found.rows for n, m in enumerate(found.metrics, 1)}
    return {name: number for name, number in numbers.items() if number is not None}


def _leads(columns: Columns, rows: Rows, front: Site) -> dict[str, Site]:
    """Where each database of SHOW DATABASES is; nothing where the answer does not say."""
    names = list(columns)
    if not {"name", "host", "port"} <= set(names):
        return {}
    name, host, port = (names.index(name) for name in ("name", "host", "port"))
    places = {(row[host], row[port]) for row in rows}  # thousands of databases share a few
    sites = {place: behind(*place, front) for place in places}
    return {str(row[name]): sites[row[host], row[port]] for row in rows}


def _number(version: int) -> str:
    """11800 is PgBouncer 1.18.0."""
    return f"PgBouncer {version // 10000}.{version // 100 % 100}.{version % 100}"


def by_socket(given: Mapping[str, str]) -> bool:
    """Whether merged parameters lead to a unix socket, and so always to the same process."""
    return not given.get("hostaddr") and (given.get("host") or "/").startswith(_SOCKETS)


def on_this_host(given: Mapping[str, str]) -> bool:
    """Whether they lead to this machine over TCP, so that sockets can be reached as well."""
    host = given.get("hostaddr") or given.get("host", "")
    return host in ("localhost", "::1") or host.startswith("127.")


def group_of(console: Connection, config: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Number, socket folder and port of each process behind the port, as SHOW PEERS knows them.

    A process may be missing from its own list. Peers elsewhere have an address for a host.
    """
    if console.version < PEERS.since:
        return []
    try:
        columns, rows = answered(console, _ADDRESSES)
    except AskError:
        return []  # told already where it was asked for by name
    at = [list(columns).index(name) for name in _ADDRESSES.labels]
    told = [tuple(str(row[n]) for n in at) for row in rows]
    own = tuple(config.get(key, "") for key in ("peer_id", "unix_socket_dir", "listen_port"))
    found = {
        host: (number, host, port)
        for number, host, port in (own, *told)
        if host.startswith(_SOCKETS) and port == own[2]
    }
    return sorted(found.values()) if len(found) > 1 else []


def _refuses_tcp(config: Mapping[str, str]) -> bool:
    """Whether nobody takes new clients on the port that the configuration names."""
    host = config.get("listen_addr", "").split(",")[0].strip()
    if not host:
        return False
    host = "127.0.0.1" if host == "*" else host
    try:
        if is_name(host):
            host = addresses(host, 0, socket.SOCK_STREAM, 0.5)[0]
        socket.create_connection((host, int(config["listen_port"])), timeout=0.5).close()
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError, KeyError):
        return False
    return False


def sibling(target: Target, peer: str, folder: str, port: str = "") -> Target:
    """The same target, but one process of it."""
    return target._replace(dsn=moved(target.dsn, folder, port), peer=peer, sockets=())


def wanted(target: Target, version: int) -> list[Query]:
    """The commands to send: those asked for that this version has.

    SHOW CONFIG, which tells one process from another, comes first: whatever happens then, no other
    answer is taken for that of another process.
    """
    found = [q for q in _collected(target) if q.since <= version]
    return sorted(found, key=lambda query: query is not CONFIG)


def lacking(target: Target, version: int) -> list[Query]:
    """Those asked for that this version has not."""
    return [q for q in _collected(target) if q.since > version]


def _collected(target: Target) -> list[Query]:
    return [q for q in QUERIES if q.group in (target.collect or COLLECTED)]


def connect(target: Target, until: float, secret: Secret | None) -> Connection:
    """A connection to the console, proven to be one."""
    given = parse_dsn(target.dsn)
    settings = {
        "dbname": "" if "dbname" in given or "service" in given else ADMIN,
        "application_name": given.get("application_name", "pgstats"),
        "target_session_attrs": "any",  # the console cannot say what it is
    }
    try:
        # PGOPTIONS is meant for PostgreSQL; the console refuses any.
        console = Connection(PGBOUNCER, target.dsn, settings, until, secret, options="")
    except AskError as error:
        misled = error.stage == "connect" and error.reason in ("auth", "other")
        if given.get("dbname", ADMIN) == ADMIN or not misled:
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
