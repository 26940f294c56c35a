"""Measures the tables that are shown, now and then, and never waits for a lock on one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from pgstats.ask.answer import Rows
from pgstats.ask.failure import failure, sqlstate
from pgstats.ask.session import Session
from pgstats.ask.tables import Shown
from pgstats.catalogue.postgres.sizes import MEASURE, SIZE, SIZES
from pgstats.errors import AskError
from pgstats.model import Frame, Poll, Row, Target

#: Share of a poll's time after which no more is measured: the rest is for the tables themselves.
SHARE = 0.5
#: Heaps that are measured by one statement.
BATCH = 100
#: For a lock that came after the look at all locks.
_LOCK_TIMEOUT_MS = 50
_LOCKED = "55P03"


class _Round:
    """One measurement of a database, which may take several polls: what is left of it."""

    def __init__(self, shown: Sequence[Shown]) -> None:
        self.left = list(shown)
        self.skipped = 0


class Sizes:
    """Measures one database after the other, each when it is due.

    ``asked`` holds when each one was, on the monotonic clock.
    """

    def __init__(self, target: Target, asked: Mapping[str, float]) -> None:
        self._target = target
        self.asked = dict(asked)
        self._until = 0.0
        self._rounds: dict[str, _Round] = {}

    def begin(self) -> None:
        """A poll begins."""
        self._until = time.monotonic() + SHARE * self._target.timeout

    def measure(self, session: Session, poll: Poll, shown: Sequence[Shown], database: str) -> None:
        """Measure what is due in the session's database; what there is no time for comes later."""
        if self._due(database):
            self.asked[database] = time.monotonic()
            self._rounds[database] = _Round(shown)
        turn = self._rounds.get(database)
        if turn is None or time.monotonic() >= self._until:
            return
        try:
            poll.frames += self._measured(session, database, turn)
        except AskError as error:
            error.stage = f"sizes in database {database}"
            poll.failures.append(failure(error))
            turn.left.clear()
        if not turn.left:
            del self._rounds[database]

    def _due(self, database: str) -> bool:
        """Half a poll too early is closer than half a poll too late."""
        if self._target.sizes is None or database in self._rounds:
            return False
        last, now = self.asked.get(database), time.monotonic()
        pause = self._target.sizes - self._target.interval / 2
        return last is None or last > now or now - last >= pause

    def _measured(self, session: Session, database: str, turn: _Round) -> list[Frame]:
        """The sizes of a database and of its tables, of as many as there is time for."""
        ((whole,),) = _ask(session, "SELECT pg_database_size(current_database())", {})
        rows: list[Row] = []
        while turn.left and time.monotonic() < self._until:
            batch = _taken(turn.left)
            found = _sizes(session, batch)
            turn.skipped += len(batch) - len(found)
            rows += [
                (database, *one.labels, *found[one.root]) for one in batch if one.root in found
            ]
        name, scope = self._target.name, (database,)
        return [
            Frame.of(SIZE, SIZE.metrics, [(database, whole, turn.skipped)], name, scope=scope),
            Frame.of(SIZES, SIZES.metrics, rows, name, scope=scope),
        ]


def _taken(left: list[Shown]) -> list[Shown]:
    """The next tables, taken from those that are left."""
    batch = [left.pop(0)]
    heaps = len(batch[0].heaps)
    while left and heaps + len(left[0].heaps) <= BATCH:
        heaps += len(left[0].heaps)
        batch.append(left.pop(0))
    return batch


def _sizes(session: Session, batch: Sequence[Shown]) -> dict[int, Row]:
    """The sizes of tables by their root; those that are locked are missing."""
    parameters: dict[str, object] = {
        "roots": [one.root for one in batch for _ in one.heaps],
        "heaps": [heap for one in batch for heap in one.heaps],
    }
    try:
        rows = _ask(session, MEASURE, parameters)
    except AskError as error:
        if sqlstate(error) != _LOCKED:
            raise
        return {}
    return {root: tuple(sizes) for root, locked, *sizes in rows if not locked}


def _ask(session: Session, sql: str, parameters: dict[str, object]) -> Rows:
    seconds = (session.until - time.monotonic()) / 2
    _, rows = session.ask_apart(
        sql, seconds, "sizes", parameters, lock_timeout=str(_LOCK_TIMEOUT_MS)
    )
    return rows
