"""Reads who is linked with whom in a PgBouncer: for `why` alone, at no poll.

PgBouncer has one thread, which serves nobody while it lists all its connections.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial

from pgstats.ask.connection import Connection
from pgstats.ask.dsn import located, merged, places
from pgstats.ask.failure import failure
from pgstats.ask.password import Secret
from pgstats.ask.pgbouncer import (
    BY_CHANCE,
    by_socket,
    connect,
    group_of,
    legible,
    on_this_host,
    sibling,
)
from pgstats.errors import AskError
from pgstats.evidence import Links, Record
from pgstats.model import Failure, Target

_DEFAULT_PORT = "5432"


def links(target: Target, until: float) -> tuple[list[Links], list[Failure]]:
    """The links of each process of a PgBouncer, and all that could not be read.

    ``until`` is the deadline on the monotonic clock. Processes that share a port are found as at
    every poll; each fails alone. Never raises for what the target does.
    """
    secret = Secret(target, until)
    numbered = enumerate(target.sockets, 1)
    group = [sibling(target, str(number), folder) for number, folder in numbered]
    if not group:
        met = _met(target, until, secret)
        group = [sibling(target, *peer) for peer in met.siblings]
    visits = _visit_all(group, until, secret) if group else [met]
    return (
        [visit.links for visit in visits if visit.links],
        [problem for visit in visits for problem in visit.failures],
    )


def addresses(target: Target, until: float) -> list[tuple[str, int]]:
    """Where a target's connection string leads: an address or a socket's folder, and a port.

    Hosts are looked up until the deadline; those without an address are left out.
    """
    given = merged(target.dsn, {})
    found = []
    for place in places(given):
        with suppress(OSError, RuntimeError, ValueError):
            for one in located(place, given, until):
                host = one.get("hostaddr") or one.get("host", "")
                found.append((host, int(one.get("port") or _DEFAULT_PORT)))
    return [(host, port) for host, port in found if host]


class _Met:
    """What one process told: its links (None if it would not), and of others on its port."""

    def __init__(self) -> None:
        self.links: Links | None = None
        self.failures: list[Failure] = []
        self.siblings: Sequence[tuple[str, str, str]] = ()


def _visit_all(group: Sequence[Target], until: float, secret: Secret) -> list[_Met]:
    """Each process; one that hangs leaves the others their share of the time."""
    started = time.monotonic()
    share = (until - started) / len(group)
    return [_met(one, started + share * number, secret) for number, one in enumerate(group, 1)]


def _met(target: Target, until: float, secret: Secret) -> _Met:
    met = _Met()
    steps: list[Callable[[Connection], None]] = [partial(_read, met, target)]
    if not target.peer:
        steps.append(partial(_look_around, met))
    try:
        with closing(connect(target, until, secret)) as console:
            for step in steps:
                step(console)
    except AskError as error:
        met.failures.append(failure(error))
    except Exception as error:  # a bug of ours is no reason to lose the other processes
        met.failures.append(Failure.bug("links", error))
    if target.peer:
        met.failures = [
            one._replace(stage=f"process {target.peer}: {one.stage}") for one in met.failures
        ]
    return met


def _read(met: _Met, target: Target, console: Connection) -> None:
    """Ask for all connections, the two lists without anything in between."""
    databases = _records(console, "SHOW DATABASES")
    servers, clients = (_records(console, f"SHOW {what}") for what in ("SERVERS", "CLIENTS"))
    met.links = Links(target.title, console.version, servers, clients, databases)


def _look_around(met: _Met, console: Connection) -> None:
    """Find those that share the port; where they cannot be found, part of the links is missing."""
    if by_socket(console.given):
        return
    config = {
        str(row.get("key")): str(row.get("value") or "") for row in _records(console, "SHOW CONFIG")
    }
    if config.get("so_reuseport") != "1":
        return
    met.siblings = group_of(console, config) if on_this_host(console.given) else ()
    if not met.siblings:
        cure = "name their socket folders with sockets = [...]"
        met.failures.append(Failure("processes", "other", BY_CHANCE, cure))


def _records(console: Connection, command: str) -> list[Record]:
    """The rows of an answer by the names of their columns."""
    columns, rows = legible(console, command)
    if not columns or any(len(row) != len(columns) for row in rows):
        raise AskError(command, "other", "the answer is no table of differently named columns")
    return [dict(zip(columns, row, strict=True)) for row in rows]
