"""Statements that are asked at every poll are prepared: to plan them is most of their cost."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pgstats.ask.answer import Columns, Rows
from pgstats.ask.connection import Connection
from pgstats.ask.failure import sqlstate
from pgstats.errors import AskError

_Parameters = Mapping[str, object] | None

#: What a server says of a statement that it does not know, or knows already.
_ASTRAY = ("26000", "42P05")
#: Of one whose answer would have other columns by now, or that it has no way to prepare.
_UNFIT = "0A000"


class _Statement:
    """One that was asked: with what, how often, its name once prepared, and if it can be.

    The ``columns`` of what is prepared are the same in every answer: the server sees to that.
    """

    def __init__(self, parameters: _Parameters) -> None:
        self.parameters = parameters
        self.asked = 0
        self.name = ""
        self.able = True
        self.columns: dict[str, bool] | None = None


class Prepared:
    """Asks over one connection; what is asked a third time with the same parameters is prepared.

    So whoever asks once, or compares two samples, pays nothing for it. Of each text there is one
    statement at most, with the parameters of the last time. What cannot be prepared is sent as it
    is, and so is all where a statement is lost (something in between pools connections).
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[str, _Statement] = {}
        self._count = 0
        # Where something in between pools connections, nobody is to execute another's statement.
        self._mark = os.urandom(4).hex()
        self._able = True

    def ask(self, sql: str, parameters: _Parameters, stage: str) -> tuple[Columns, Rows]:
        """The answer to a statement; raises `AskError`."""
        if self._ready(sql, parameters, stage):
            one = self._known[sql]
            try:
                one.columns, rows = self._connection.ask(
                    f"EXECUTE {one.name}", stage=stage, columns=one.columns
                )
            except AskError as error:
                if self._connection.closed or sqlstate(error) not in (*_ASTRAY, _UNFIT):
                    raise
                one.able = False
                self._able = self._able and sqlstate(error) == _UNFIT
            else:
                return one.columns, rows
        return self._connection.ask(sql, parameters, stage)

    def _ready(self, sql: str, parameters: _Parameters, stage: str) -> bool:
        """Whether it is prepared, now or since it was asked before."""
        last = self._known.get(sql)
        if last is None or last.parameters != parameters:
            if last and last.name:
                self._tried(f"DEALLOCATE {last.name}", None, stage)
            self._known[sql] = last = _Statement(parameters)
        last.asked += 1
        if last.asked < 3 or not self._able or not last.able:
            return False
        if not last.name:
            self._count += 1
            name = f'"pgstats {self._count}: {stage} {self._mark}"'  # as pg_stat_activity has it
            last.able = self._tried(f"PREPARE {name} AS {sql}", parameters, stage)
            last.name = name if last.able else ""
        return last.able

    def _tried(self, sql: str, parameters: _Parameters, stage: str) -> bool:
        """Whether the server did it; why not, what is asked next will tell."""
        try:
            self._connection.ask(sql, parameters, stage)
        except AskError:
            if self._connection.closed:
                raise
            return False
        return True
