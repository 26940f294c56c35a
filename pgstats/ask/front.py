"""Finds a cluster through the PgBouncer in front of it: its SHOW DATABASES says where it is.

A host stands in PgBouncer's own words. What is on PgBouncer's machine is looked for there, which
may be another one than ours; a folder of a unix socket is of use on the same machine alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import closing

from pgstats.ask.connection import Connection
from pgstats.ask.dsn import merged, moved, parse_dsn
from pgstats.ask.password import Secret
from pgstats.catalogue.pgbouncer import ADMIN
from pgstats.errors import AskError
from pgstats.model import Target
from pgstats.noun import Noun

#: Share of the time of a poll that the console may take.
PATIENCE = 1 / 3
_COLUMNS = ("name", "host", "port", "database")
_LOOPBACK = ("localhost", "127.", "::1")


class Place(Noun):
    """Where a server listens: a host or a socket's folder, and a port."""

    host: str
    port: str

    def __str__(self) -> str:
        return f"host={self.host} port={self.port}"


class Behind(Noun):
    """A cluster as a PgBouncer knows it: the target with its place, and its databases in order."""

    target: Target
    databases: tuple[str, ...]

    @property
    def home(self) -> str:
        """The database to log in to, "" where the target's own DSN names one."""
        return "" if named(self.target) else self.databases[0]


def named(target: Target) -> bool:
    """Whether the DSN itself leads to a database; libpq's default, the user's name, does not."""
    given = merged(target.dsn, {})
    return "dbname" in parse_dsn(target.dsn) or given.get("dbname") != given.get("user")


def find(target: Target, front: Target, until: float) -> Behind:
    """The cluster that a target means, of those its PgBouncer leads to.

    Raises `AskError`, which names the PgBouncer, where that does not answer, lists no database,
    or leads to several servers of which the DSN chooses none.
    """
    try:
        found = _listed(front, until)
    except AskError as error:
        text = f"{error.stage}: {error}"
        raise AskError(_stage(front), error.reason, text, error.remedy) from error
    there = parse_dsn(target.dsn)
    wanted = Place(there.get("hostaddr") or there.get("host", ""), there.get("port", ""))
    chosen = [(place, name) for place, name in found if _fits(place, wanted)]
    place = _one(front, [place for place, _ in chosen], [place for place, _ in found])
    return Behind(
        target._replace(dsn=moved(target.dsn, *place)),
        tuple(dict.fromkeys(name for _, name in chosen)),
    )


def _stage(front: Target) -> str:
    return f"from_pgbouncer {front.name}"


def _fits(place: Place, wanted: Place) -> bool:
    return wanted.host in ("", place.host) and wanted.port in ("", place.port)


def _one(front: Target, chosen: Sequence[Place], found: Sequence[Place]) -> Place:
    """The only place that is left."""
    places = list(dict.fromkeys(chosen))
    if len(places) == 1:
        return places[0]
    there = "; ".join(dict.fromkeys(map(str, found)))
    if not found:
        text, cure = "lists no database", "one under * is listed while it has clients"
    elif places:
        text, cure = f"leads to several servers: {there}", "choose with host and port in dsn"
    else:
        text, cure = f"leads to none that dsn means, but to {there}", "correct host and port in dsn"
    raise AskError(_stage(front), "other", text, cure)


def _listed(front: Target, until: float) -> list[tuple[Place, str]]:
    """The place and the real name of every database, the console's own left out."""
    from pgstats.ask.pgbouncer import connect  # noqa: PLC0415 - not every cluster has one

    until = time.monotonic() + (until - time.monotonic()) * PATIENCE
    with closing(connect(front, until, Secret(front, until))) as console:
        rows = _texts(console, "SHOW DATABASES", _COLUMNS)
        found = [(host, port, name) for alias, host, port, name in rows if alias != ADMIN]
        folder = "" if all(host for host, *_ in found) else _socket_folder(console)
    own = _own_host(front)
    return [
        (Place(one, port), name)
        for hosts, port, name in found
        for one in _seen(hosts or folder, own)
    ]


def _texts(console: Connection, command: str, wanted: Iterable[str]) -> list[tuple[str, ...]]:
    """Some columns of an answer as text, NULL as ""."""
    columns, rows = console.ask(command)
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise AskError(command, "other", f"the answer has no column {missing[0]}")
    at = [list(columns).index(name) for name in wanted]
    return [tuple("" if row[n] is None else str(row[n]) for n in at) for row in rows]


def _socket_folder(console: Connection) -> str:
    """Where PgBouncer looks for the server of a database that names no host."""
    config = _texts(console, "SHOW CONFIG", ("key", "value"))
    return next((value for key, value in config if key == "unix_socket_dir"), "")


def _own_host(front: Target) -> str:
    """The host of a PgBouncer on another machine, "" for one on ours."""
    given = merged(front.dsn, {})
    host = given.get("hostaddr") or given.get("host", "")
    return "" if not host or host.startswith(("/", "@", *_LOOPBACK)) else host


def _seen(hosts: str, own: str) -> Iterable[str]:
    """PgBouncer's hosts as they are reached from here; it may take turns among several."""
    for host in hosts.split(","):
        yield own if own and host.startswith(("/", "@", *_LOOPBACK)) else host
