"""Polls one PostgreSQL cluster: its shared views once, then each database in turn.

One connection is kept to the DSN's database; one more is open at a time while the other databases
are walked. Every statement is a transaction of its own, read-only, with an empty search path and
with the server's own timeouts, so that the poll never holds a snapshot nor waits for a lock.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pgstats.ask.failure import failure
from pgstats.ask.front import Behind, find
from pgstats.ask.globs import chosen
from pgstats.ask.guard import Elsewhere, cut_off, same_server
from pgstats.ask.password import Secret
from pgstats.ask.session import Session
from pgstats.ask.tables import Members, tables
from pgstats.ask.witness import sample
from pgstats.catalogue.postgres import CLUSTER, COMPLETE, DISCOVER, SERVER
from pgstats.catalogue.postgres.heaps import SETTINGS
from pgstats.errors import AskError
from pgstats.model import Failure, Poll, Query, Target

if TYPE_CHECKING:
    from pgstats.ask.question import Questions
    from pgstats.ask.sizes import Sizes

#: Seconds a server may take to end the backend of a database that was asked.
HANG_UP = 0.2
#: Seconds until a database that refused the role is tried again; each try is a line in its log.
REFUSED_FOR = 600.0
#: Share of the time that a kept connection gets to show that it still lives.
TRUST = 1 / 3


class PostgresAsker:
    """Asks one cluster, and keeps its connection for the next poll until closed.

    ``memo`` is what a poll of another process, or of one before, has left behind.
    """

    def __init__(self, target: Target, memo: Mapping[str, Any] | None = None) -> None:
        memo = memo or {}
        self.target = target
        self._kept: Session | None = None
        self._refused: dict[str, tuple[float, str]] = {}  # until when it is left alone, and why
        self._first = ""  # the database that the next walk begins with
        self._until = 0.0
        self._meant: dict[str, bool] = {}
        self._members: Members = dict(memo.get("members", {}))
        self._large: dict[str, bool] = dict(memo.get("large", {}))  # who has many tables
        self._secret: Secret | None = None
        self._behind = Behind(target, ())  # as its PgBouncer knows it, where that is asked
        self._own = _questions(target, memo)
        self._sizes = _sizes(target, memo)
        self._standby = False
        self._known: dict[str, bool] = {}  # whether that server's statistics are complete

    def poll(self) -> Poll:
        """All answers of one poll."""
        started = time.monotonic()
        self._until = started + self.target.timeout
        if self._sizes:
            self._sizes.begin()
        self._secret = Secret(self.target, self._until)  # anew: it may have been rotated
        counts = {"databases_polled": 0, "databases_refused": 0, "tables_folded": 0}
        poll = Poll(self.target, counts=counts)
        if self._own:
            poll.counts["cut_queries"] = 0
        try:
            self._find(poll)
            session, standby = self._open(poll)
        except AskError as error:
            poll.down = failure(error)
            self.close()
        else:
            self._ask_all(session, poll, standby=standby)
            poll.memo = self._memo()
        poll.seconds = time.monotonic() - started
        return poll

    def session(self) -> Session:
        """A session with the database of the DSN, as after any poll: the kept one, or another."""
        if self._kept is None or self._kept.closed:
            self._until = time.monotonic() + self.target.timeout
            self._kept = self._connect()
        return self._kept

    def _memo(self) -> dict[str, Any]:
        """What the next process is to know; who shows all tables need not know which."""
        members = {} if self.target.tables is None else dict(self._members)
        sizes = dict(self._sizes.asked) if self._sizes else {}
        asked = self._own.asked if self._own else []
        return {"members": members, "large": self._large, "asked": asked, "sizes": sizes}

    def close(self) -> None:
        """Let go of the kept connection."""
        if self._kept:
            self._kept.close()
        self._kept = None

    def _find(self, poll: Poll) -> None:
        """Look where the server is now, if a PgBouncer knows; while that is down, where it was."""
        front = self.target.front
        if front is None:
            return
        try:
            found = find(self.target, front, self._until)
        except AskError as error:
            if not self._behind.databases:
                raise
            poll.failures.append(failure(error))
            return
        if found.target != self._behind.target:
            self.close()
        self._behind = found

    def _open(self, poll: Poll) -> tuple[Session, bool]:
        """A session that just answered, and whether it is on a standby.

        A kept connection may have been cut since the last poll, or may lead nowhere by now; then
        a new one gets its chance.
        """
        if self._kept:
            left = self._until - time.monotonic()
            self._kept.until = self._until - left * (1 - TRUST)
            try:
                standby = self._greet(self._kept, poll)
            except AskError:
                self.close()
            else:
                self._kept.until = self._until
                return self._kept, standby
        self._kept = self._connect()
        return self._kept, self._greet(self._kept, poll)

    def _connect(self, database: str = "") -> Session:
        name = database or (self._behind.home if self.target.front else "")
        return Session(self._behind.target, self._until, name, self._secret)

    def _greet(self, session: Session, poll: Poll) -> bool:
        server = session.answer(SERVER, poll)
        poll.version = session.version
        poll.place = session.place()
        poll.frames.append(server)
        names = [metric.name for metric in server.metrics]
        return bool(server.rows[0][names.index("in_recovery")])

    def _ask_all(self, session: Session, poll: Poll, *, standby: bool) -> None:
        try:
            here, names = self._discover(session, poll)
            self._members = {name: self._members.get(name, []) for name in names}
            self._large = {name: self._large[name] for name in names if name in self._large}
            for query in _cluster(session.version, standby=standby):
                self._ask_one(session, query, names, poll)
            self._look(session, poll)
        except AskError as error:  # without the list, or the connection, there is nothing to ask
            poll.failures.append(failure(error))
            return
        own = self._own
        if own:
            own.put(session, poll)
        if not standby or (own and own.roam):
            self._standby = standby
            self._walk(session, here, names, poll)
        if own:
            own.conclude(poll, names)

    @staticmethod
    def _look(session: Session, poll: Poll) -> None:
        """What the horizon and the causes of dead rows follow from."""
        try:
            poll.sample = sample(session)
        except AskError as error:
            if session.closed:
                raise cut_off(error) from error
            poll.failures.append(failure(error))
        else:
            poll.failures += poll.sample.missing.values()

    @staticmethod
    def _ask_one(session: Session, query: Query, names: Sequence[str], poll: Poll) -> None:
        """One question about the cluster; it fails alone, unless it takes the connection along."""
        try:
            poll.frames.append(session.answer(query, poll, {"databases": names}))
        except AskError as error:
            if session.closed:
                raise cut_off(error) from error
            poll.failures.append(failure(error))

    def _discover(self, session: Session, poll: Poll) -> tuple[str, list[str]]:
        """The database that the session is in, and all that are to be polled.

        Behind a pool these are its own and those that the configuration names in full: the pool
        would keep a server connection to each of hundreds.
        """
        _, rows = session.ask(DISCOVER, stage="list of databases")
        here, names = "", []
        for raw, current, started, may, dated, *settings in rows:
            poll.settings = dict(zip(SETTINGS, settings, strict=True))
            if started != poll.identity:
                poll.identity = started
                poll.complete = dated and self._complete(session, started)
            name = bytes(raw).decode(errors="replace")
            here = name if current else here
            if name.encode() != bytes(raw):
                self._refuse(name, "its name is not UTF-8, so that no DSN can hold it", poll)
            elif self.target.front and name not in self._behind.databases:
                continue
            elif self._wants(name):
                if may:
                    names.append(name)
                else:
                    self._refuse(name, "the role has no CONNECT privilege", poll)
        if self.target.pooled:
            names = [name for name in names if name == here or name in self.target.databases]
        return here, names

    def _wants(self, name: str) -> bool:
        """Whether a database is meant: worked out once, for there may be hundreds at every poll."""
        if name not in self._meant:
            self._meant[name] = chosen(name, self.target.databases)
        return self._meant[name]

    def _complete(self, session: Session, identity: str) -> bool:
        """Whether the statistics are complete, asked once of each server that was started."""
        if identity not in self._known:
            _, rows = session.ask(COMPLETE, stage="age of the statistics")
            self._known = {identity: rows[0][0]}
        return self._known[identity]

    def _walk(self, session: Session, here: str, names: Sequence[str], poll: Poll) -> None:
        """Ask one database after the other, while there is time.

        What was not reached comes first the next time, so that a slow database, or many, never
        hide the same others at every poll.
        """
        start = names.index(self._first) if self._first in names else 0
        ordered = [*names[start:], *names[:start]]
        self._first = ""
        for at, name in enumerate(ordered):
            if time.monotonic() >= self._until:
                self._first = name
                text = f"no time left for {len(ordered) - at} of {len(ordered)} databases"
                cure = "raise timeout or interval, or poll fewer with databases = [...]"
                poll.failures.append(Failure("databases", "timeout", text, cure))
                return
            try:
                self._visit(session if name == here else None, name, poll, len(ordered) - at)
            except AskError as error:  # about the server: all other databases would say the same
                self._first = name
                poll.failures.append(failure(cut_off(error)))
                if isinstance(error, Elsewhere):
                    self.close()  # so that the next poll begins anew
                return

    def _visit(self, session: Session | None, name: str, poll: Poll, places: int = 1) -> None:
        """Ask one database, the first of so many ``places``.

        One that lets nobody in is counted and left alone for a while.
        """
        again, why = self._refused.get(name, (0.0, ""))
        if again > time.monotonic():
            self._refuse(name, why, poll)
            return
        try:
            guest = session or self._guest(name, poll)
        except AskError as error:
            self._turned_away(name, error, poll)
            return
        try:
            self._read(guest, name, poll)
            if self._own:
                self._own.put(guest, poll, name, places)
        finally:
            if guest is not session:
                guest.close(HANG_UP)

    def _read(self, session: Session, name: str, poll: Poll) -> None:
        """The tables of one database, where they are known."""
        try:
            if not self._standby:
                shown = tables(session, name, poll, self._members, self._large)
                if self._sizes:
                    self._sizes.measure(session, poll, shown, name)
            poll.counts["databases_polled"] += 1
        except AskError as error:
            error.stage = f"{error.stage} in database {name}"
            poll.failures.append(failure(error))

    def _guest(self, name: str, poll: Poll) -> Session:
        """A second connection; a pool may have good reasons to lead to another server."""
        guest = self._connect(name)
        try:
            if not self.target.pooled:
                same_server(guest, poll.identity)
        except AskError:
            guest.close(HANG_UP)
            raise
        return guest

    @staticmethod
    def _refuse(name: str, why: str, poll: Poll) -> None:
        """Leave a database out: as managed servers have them, it is no failure."""
        poll.counts["databases_refused"] += 1
        poll.refused[name] = why

    def _turned_away(self, name: str, error: AskError, poll: Poll) -> None:
        """A wrong password is a failure, and over as soon as it is right again."""
        if error.reason == "not_allowed":
            self._refused[name] = time.monotonic() + REFUSED_FOR, str(error)
            self._refuse(name, str(error), poll)
        elif error.reason != "wrong_database":  # dropped since the list was read: nothing failed
            error.stage = f"{error.stage} to database {name}"
            if self._concerns_all(error, poll):
                raise error
            poll.failures.append(failure(error))

    def _concerns_all(self, error: AskError, poll: Poll) -> bool:
        """Whether the other databases would say the same.

        One may be full alone (its CONNECTION LIMIT); two in a poll are a server that is full.
        """
        if error.reason == "too_many_connections":
            return any(one.reason == error.reason for one in poll.failures)
        down = error.reason == "refused" and not self.target.pooled
        return down or isinstance(error, Elsewhere)


@lru_cache(maxsize=100)
def _cluster(version: int, *, standby: bool) -> tuple[Query, ...]:
    """What is asked about the cluster as a whole; worked out once for each version."""
    return tuple(q for q in CLUSTER if q.on(version) and not (standby and q.primary_only))


def _questions(target: Target, memo: Mapping[str, Any]) -> Questions | None:
    """Who puts somebody's own questions, where there are some."""
    if not target.questions:
        return None
    from pgstats.ask.question import Questions  # noqa: PLC0415 - seldom there

    return Questions(target, memo.get("asked", ()))


def _sizes(target: Target, memo: Mapping[str, Any]) -> Sizes | None:
    """Who measures tables, where that is asked for."""
    if target.sizes is None:
        return None
    from pgstats.ask.sizes import Sizes  # noqa: PLC0415 - seldom asked for

    return Sizes(target, memo.get("sizes", {}))
