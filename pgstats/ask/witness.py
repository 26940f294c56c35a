"""Reads what a cluster says of itself, each view once: the raw material of `pgstats why`."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

from pgstats.ask.failure import failure
from pgstats.ask.front import Behind, find
from pgstats.ask.globs import chosen
from pgstats.ask.password import Secret
from pgstats.ask.session import Session
from pgstats.catalogue.evidence import FIND, NAMES, VIEWS, heap_view
from pgstats.catalogue.postgres import DISCOVER
from pgstats.catalogue.postgres.heaps import SETTINGS
from pgstats.errors import AskError, UnknownName, kept
from pgstats.evidence import Asked, Record, Sample, View, dotted
from pgstats.model import Failure, Target

#: What every poll reads.
ALWAYS = tuple(view for view in VIEWS if view.always)
#: Seconds a server may take to end the backend of a database that was visited.
HANG_UP = 0.2
#: Tables that are named where the one asked for does not exist.
_NEAREST = 3


def sample(
    session: Session, views: Iterable[View] = ALWAYS, *, relations: Sequence[int] = ()
) -> Sample:
    """One sample; a view that cannot be read is missing from it, with the reason.

    ``relations`` are the oids of heaps and indexes on which every lock is of interest. Raises
    `AskError` only where the connection is gone.
    """
    found: dict[str, Sequence[Record]] = {}
    missing: dict[str, Failure] = {}
    for view in views:
        if session.version < view.since:
            continue
        try:
            found[view.name] = _records(session, view, relations=list(relations))
        except AskError as error:
            if session.closed:
                raise
            missing[view.name] = failure(error)
    return Sample(session.version, found, missing=missing)


def _records(session: Session, view: View, **parameters: Any) -> list[Record]:
    """The rows of a view, as bytes, since a name may be in any encoding, or in none."""
    _, rows = session.ask(_as_bytes(view.sql), parameters, view.name)
    if not rows:  # as most say
        return []
    texts = ",".join([bytes(row).decode(errors="replace") for (row,) in rows])
    found: list[Record] = json.loads(f"[{texts}]")
    return found


@lru_cache(maxsize=100)
def _as_bytes(sql: str) -> str:
    """The same question, the very string at every poll."""
    return f"SELECT textsend(v::text) FROM ({sql}) AS rows (v)"  # noqa: S608 - our own


class Witness:
    """Takes samples of one cluster, with at most two connections, until closed.

    One is kept to the DSN's database; the other visits one database after the other. Every
    statement is a transaction of its own, so that nothing is held between samples. Raises
    `AskError` where the cluster cannot be asked at all.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._secret: Secret | None = None
        until = time.monotonic() + target.timeout
        front = target.front
        self._behind = find(target, front, until) if front else Behind(target, ())
        self._kept = self._connect(self._behind.home if front else "")
        self._settings: dict[str, Any] = {}  # autovacuum's
        self._here, self._databases = self._discover()
        self._owners: dict[str, Sequence[int]] | None = None  # by database; None for all suspects
        self._relations: set[int] = set()

    def close(self) -> None:
        """Let go of the kept connection."""
        self._kept.close()

    def ask_for(self, name: str) -> Asked:
        """Look at one table from now on, its partitions and their TOAST. Raises `UnknownName`.

        As in SQL, what is not quoted may be meant in lower case; the table of the database that the
        DSN leads to goes before those of others, of which none goes before another. Databases that
        cannot be asked are passed over; the last fault is raised where no other one has the table.
        """
        fault: AskError | None = None
        found: list[tuple[Asked, list[int]]] = []
        for reading in _readings(name, self._here, self._databases):
            for database, schema, table in reading:
                try:
                    rows = self._find(database, schema, table)
                except AskError as error:
                    fault = kept(error)
                    continue
                if rows:
                    asked = Asked(database, tuple(rows[0][1]), table)
                    found.append((asked, [row[0] for row in rows]))
            if found:
                break
        if len(found) > 1:
            raise UnknownName(name, [asked.title for asked, _ in found], several=True)
        if not found:
            raise fault or UnknownName(name, self._nearest(name))
        asked, owners = found[0]
        self._owners = {asked.database: owners}
        return asked

    def _find(self, database: str, schema: str | None, table: str) -> Sequence[Any]:
        with self._visit(database) as session:
            return session.ask(FIND, {"name": table, "schema": schema}, "look-up of the name")[1]

    def sample(self) -> Sample:
        """One sample of all views, and of the heaps asked for or in need of a look."""
        self._kept.until = time.monotonic() + self.target.timeout
        heaps: dict[str, Sequence[Record]] = {}
        failures: dict[str, Failure] = {}
        for database in self._owners if self._owners is not None else self._databases:
            try:
                heaps[database] = self._heaps(database)
            except AskError as error:
                failures[f"tables of database {database}"] = failure(error)
        self._narrow(heaps)
        found = sample(self._kept, VIEWS, relations=sorted(self._relations))
        return Sample(found.version, found.views, heaps, {**found.missing, **failures})

    def sessions(self) -> Sequence[Record]:
        """What pg_stat_activity says now of all sessions that are not idle."""
        self._kept.until = time.monotonic() + self.target.timeout
        return sample(self._kept, [view for view in VIEWS if view.name == "activity"]).rows(
            "activity"
        )

    def _heaps(self, database: str) -> Sequence[Record]:
        owners = None if self._owners is None else self._owners[database]
        view = heap_view(self._kept.version, asked=owners is not None)
        with self._visit(database) as session:
            settings = session.settings(self._settings)
            return _records(session, view, owners=list(owners or ()), **settings)

    def _narrow(self, heaps: dict[str, Sequence[Record]]) -> None:
        """From the first sample on, look at the same heaps: what changes of them is the point."""
        if self._owners is None:
            self._owners = {
                database: sorted({row["owner"] for row in rows})
                for database, rows in heaps.items()
                if rows
            }
        for rows in heaps.values():
            for row in rows:
                self._relations |= {row["oid"], *(row["indexes"] or ())}

    def _connect(self, database: str = "") -> Session:
        until = time.monotonic() + self.target.timeout
        self._secret = self._secret or Secret(self.target, until)
        return Session(self._behind.target, until, database, self._secret)

    def _discover(self) -> tuple[str, list[str]]:
        _, rows = self._kept.ask(DISCOVER, stage="list of databases")
        names: list[tuple[str, bool, bool]] = []
        for raw, current, _, may, _, *settings in rows:
            names.append((bytes(raw).decode(errors="replace"), current, may))
            self._settings = dict(zip(SETTINGS, settings, strict=True))
        here = next((name for name, current, _ in names if current), "")
        return here, [
            name for name, _, may in names if name == here or (may and self._admitted(name))
        ]

    def _admitted(self, database: str) -> bool:
        known = not self.target.front or database in self._behind.databases
        return known and chosen(database, self.target.databases)

    @contextmanager
    def _visit(self, database: str) -> Iterator[Session]:
        """A session in a database: the kept one, or one for the time being."""
        if database == self._here:
            self._kept.until = time.monotonic() + self.target.timeout
            yield self._kept
            return
        guest = self._connect(database)
        try:
            yield guest
        finally:
            guest.close(HANG_UP)

    def _nearest(self, name: str) -> list[str]:
        """The names most like one that there is not, those of the database it names first."""
        import difflib  # noqa: PLC0415 - only a fault pays for it

        *front, tail = _parts(name) or [""]
        wanted = [database for database in self._databases if database in front[:1]]
        names: dict[str, list[str]] = {}
        for database in dict.fromkeys((*wanted, self._here, *self._databases)):
            with suppress(AskError):
                for schema, table in self._names(database):
                    names.setdefault(table, []).append(dotted(database, schema, table))
        lower = {table.lower(): table for table in reversed(names)}
        found = difflib.get_close_matches(tail.lower(), lower, _NEAREST)
        return [full for table in found for full in names[lower[table]]][:_NEAREST]

    def _names(self, database: str) -> Sequence[tuple[str, str]]:
        with self._visit(database) as session:
            return session.ask(NAMES, {}, "list of tables")[1]


def _readings(
    name: str, here: str, databases: Sequence[str]
) -> Iterator[list[tuple[str, str | None, str]]]:
    """What a name can mean, likeliest first: database, schema (None for any), table.

    What is as likely comes together.
    """
    others = [database for database in databases if database != here]
    for parts in dict.fromkeys((tuple(_parts(name)), tuple(_parts(name, fold=True)))):
        *front, table = parts or ("",)
        if len(front) == 2 and front[0] in databases:
            yield [(front[0], front[1], table)]
        elif len(front) < 2:
            schema = front[0] if front else None
            yield [(here, schema, table)]
            if schema is not None and schema in databases:
                yield [(schema, None, table)]
            yield [(database, schema, table) for database in others]


def _parts(name: str, *, fold: bool = False) -> list[str]:
    """The parts of a dotted name; what is quoted is taken as it stands."""
    found = re.findall(r'"((?:[^"]|"")*)"|([^."]+)', name)
    return [
        (plain.lower() if fold else plain) if plain else quoted.replace('""', '"')
        for quoted, plain in found
    ]
