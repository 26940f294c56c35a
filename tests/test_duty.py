"""How much of the time vacuums were at work, from the totals that PostgreSQL 18 keeps."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from pgstats.ask.postgres import PostgresAsker
from pgstats.catalogue.postgres.tables import NEEDS
from pgstats.model import POSTGRES, Frame, Poll, Target
from pgstats.scratch import Cluster
from pgstats.shape import derived
from tests.versions import scratch_of

TARGET = Target(POSTGRES, "main", "")
SPENT = tuple(metric for metric in NEEDS.metrics if metric.name == "vacuum_time_ms")


def shares(memory: dict[str, Any], now: float, **spent: float | None) -> dict[str, float | None]:
    """What follows from the totals of some databases at a time."""
    frames = [Frame.of(NEEDS, SPENT, [(name, ms)], scope=(name,)) for name, ms in spent.items()]
    found = derived(Poll(TARGET, frames), memory, now)
    return dict(row for frame in found for row in frame.rows)


def test_the_time_spent_by_the_time_between() -> None:
    memory: dict[str, Any] = {}
    assert shares(memory, 100.0, a=5000.0, b=0.0) == {"a": None, "b": None}
    assert shares(memory, 110.0, a=6000.0) == {"a": 0.1}
    assert shares(memory, 120.0, a=6000.0, b=30_000.0) == {"a": 0, "b": 1.5}
    assert shares(memory, 130.0, a=10.0, b=None) == {"a": None}, "a table was dropped"
    assert shares(memory, 140.0, a=2010.0, b=30_000.0) == {"a": 0.2, "b": 0}
    assert shares(memory, 130.0, a=3000.0) == {"a": None}, "a clock that was set back"


def test_before_18_nobody_knows() -> None:
    frame = Frame.of(NEEDS, NEEDS.on(170000), [], scope=("a",))._replace()
    assert derived(Poll(TARGET, [frame]), {}, 1.0) == []


@pytest.mark.full
def test_vacuums_of_a_real_server() -> None:
    with scratch_of("18") as scratch, Cluster(scratch, {"autovacuum": "off"}) as cluster:
        cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 100000) i")
        memory: dict[str, Any] = {}
        with closing(PostgresAsker(Target(POSTGRES, "main", cluster.dsn()))) as asks:
            derived(asks.poll(), memory, 0.0)
            cluster.psql("DELETE FROM t WHERE i % 2 = 0; VACUUM t")
            spent = "SELECT sum(total_vacuum_time) FROM pg_stat_user_tables"
            milliseconds = float(cluster.psql(spent))
            (frame,) = derived(asks.poll(), memory, 10.0)
    assert milliseconds > 0
    assert frame.rows == [("postgres", pytest.approx(milliseconds / 10_000, abs=1e-6))]
