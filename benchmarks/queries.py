"""What the question about tables costs the server, beside the view's four columns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import psycopg2

from benchmarks import meter
from benchmarks.case import Goal, Result
from benchmarks.lab import Lab
from benchmarks.meter import Cost
from pgstats.catalogue.postgres.tables import choice, named, rest

VIEW = "SELECT schemaname, relname, n_live_tup, n_dead_tup FROM pg_stat_user_tables"
_OURS = (
    "SET stats_fetch_consistency = none; SET jit = off; SET search_path = '';"
    " SET max_parallel_workers_per_gather = 0; SET work_mem = '4MB';"
    " SET enable_mergejoin = off"
)
#: As anybody's session is, but in one process: that is what is measured.
_THEIRS = "SET max_parallel_workers_per_gather = 0"


class _Kept:
    """A kept connection that is asked one thing again and again."""

    def __init__(self, dsn: str, settings: str, ask: Callable[[Any], None]) -> None:
        self._raw = psycopg2.connect(dsn)
        self._raw.autocommit = True
        self._cursor = self._raw.cursor()
        self._cursor.execute(settings)
        self._pid = self._raw.info.backend_pid
        self._ask = ask

    def cycle(self) -> Cost:
        before = meter.cpu(self._pid)
        self._ask(self._cursor)
        return Cost(0, meter.cpu(self._pid) - before, peak=meter.private(self._pid))

    def close(self) -> None:
        self._raw.close()


class _Chosen:
    """What is asked about 50 of many tables, and the others."""

    def __init__(self, version: int, settings: dict[str, Any], *, stay: bool) -> None:
        self._sql = [sql(version, globs=False) for sql in (choice, named, rest)]
        self._stay = stay
        self._asked: dict[str, Any] = {"tables": 50, "members": [], **settings}

    def __call__(self, cursor: Any) -> None:
        chosen, shown, others = self._sql
        if not (self._stay and self._asked["members"]):
            cursor.execute(chosen, self._asked)
            self._asked["members"] = [root for (root,) in cursor]
        cursor.execute(shown, self._asked)
        at = [column.name for column in cursor.description].index("heaps")
        heaps = [oid for row in cursor for oid in row[at]]
        cursor.execute(others, self._asked | {"heaps": heaps})
        cursor.fetchall()


def _one(sql: str) -> Callable[[Any], None]:
    """What is asked by one statement."""

    def ask(cursor: Any) -> None:
        cursor.execute(sql)
        cursor.fetchall()

    return ask


def tables(count: int) -> Callable[[Lab], Result]:
    """The question as a poll asks it, for a database with so many tables."""
    return partial(_tables, count)


def _tables(count: int, lab: Lab) -> Result:
    dsn = lab.tables(count)
    version = int(lab.cluster.psql("SHOW server_version_num"))
    kept = {
        "the view, 4 columns": _Kept(dsn, _THEIRS, _one(VIEW)),
        "pgstats, tables = 50": _Kept(dsn, _OURS, _Chosen(version, lab.settings, stay=True)),
        "pgstats, tables = 50, another look": _Kept(
            dsn, _OURS, _Chosen(version, lab.settings, stay=False)
        ),
        "pgstats, tables = 0": _Kept(
            dsn, _OURS, _one(rest(version, globs=False, named=False) % lab.settings)
        ),
    }
    found = meter.alternately(
        {name: one.cycle for name, one in kept.items()}, 3 if lab.quick else 9
    )
    for one in kept.values():
        with closing(one):
            pass
    view = found["the view, 4 columns"]
    goals = [
        Goal(
            f"{name}, {count:,} tables: server CPU against the view",
            meter.ratio(found[name], view, lambda cost: cost.server),
            limit,
        )
        for name, limit in (("pgstats, tables = 50", 0.75), ("pgstats, tables = 0", 0.45))
    ]
    costs = {name: meter.median(several) for name, several in found.items()}
    if count == 100000:
        peak = costs["pgstats, tables = 50"].peak
        goals.append(Goal("memory of the kept backend, 100,000 tables", peak, 20, "MiB"))
    return Result(costs, tuple(goals))
