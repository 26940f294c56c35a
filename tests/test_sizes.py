"""Real sizes: now and then, on demand, and never behind somebody's lock."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pgstats.ask import sizes
from pgstats.ask.postgres import PostgresAsker
from pgstats.catalogue.postgres.sizes import MEASURE
from pgstats.model import POSTGRES, Poll, Target
from pgstats.scratch import Cluster
from tests.program import gauges, pgstats
from tests.test_ask_postgres import column, database, frames, poll
from tests.why import until

__all__ = ["database"]

TABLE, INDEXES = "pg_table_size('{0}')", "pg_indexes_size('{0}')"


@pytest.fixture
def shop(cluster: Cluster, database: str) -> str:
    """A database with a plain table, one of two partitions, and one that has TOAST."""
    for sql in (
        "CREATE TABLE plain (i int PRIMARY KEY)",
        "INSERT INTO plain SELECT generate_series(1, 5000)",
        "CREATE TABLE parted (i int) PARTITION BY RANGE (i)",
        "CREATE TABLE one PARTITION OF parted FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE two PARTITION OF parted FOR VALUES FROM (100) TO (99999)",
        "INSERT INTO parted SELECT generate_series(1, 5000)",
        "CREATE TABLE wide (t text); ALTER TABLE wide ALTER t SET STORAGE EXTERNAL",
        "INSERT INTO wide SELECT repeat('x', 5000) FROM generate_series(1, 100)",
    ):
        cluster.psql(sql, database)
    return database


def target(cluster: Cluster, shop: str, **more: object) -> Target:
    given: dict[str, object] = {"databases": (shop,), "sizes": 3600.0} | more
    return Target(POSTGRES, "main", cluster.dsn(), **given)  # type: ignore[arg-type]


def measured(found: Poll, metric: str = "size_bytes") -> dict[str, float]:
    return {table: size for (_, _, table), size in column(found, "tables", metric).items()}


def test_sizes_are_those_of_the_server(cluster: Cluster, shop: str) -> None:
    found = poll(target(cluster, shop))
    assert found.ok, found.problems()

    def size(what: str, *tables: str) -> int:
        expressions = " + ".join(what.format(table) for table in tables)
        return int(cluster.psql(f"SELECT {expressions}", shop))

    assert measured(found) == {
        "plain": size(TABLE, "plain"),
        "parted": size(TABLE, "one", "two"),
        "wide": size(TABLE, "wide"),
    }
    assert measured(found)["wide"] > 500_000, "TOAST is counted"
    assert measured(found, "indexes_size_bytes")["plain"] == size(INDEXES, "plain")
    whole = int(cluster.psql(f"SELECT pg_database_size('{shop}')"))
    assert column(found, "database", "size_bytes") == {(shop,): pytest.approx(whole, abs=1 << 17)}
    assert column(found, "database", "sizes_skipped") == {(shop,): 0}


def test_nobody_measures_unasked(cluster: Cluster, shop: str) -> None:
    found = poll(target(cluster, shop, sizes=None))
    assert found.ok
    assert not frames(found, "tables", "size_bytes")
    assert not frames(found, "database", "size_bytes")


def test_a_table_that_is_locked_is_left_out_and_counted(cluster: Cluster, shop: str) -> None:
    """Whether the lock is held, or only waited for: behind both pgstats would stand in a queue."""
    with (
        closing(psycopg2.connect(cluster.dsn(shop))) as holder,
        closing(psycopg2.connect(cluster.dsn(shop))) as reader,
    ):
        holder.cursor().execute("LOCK TABLE one IN ACCESS EXCLUSIVE MODE")
        reader.cursor().execute("SELECT count(*) FROM wide")
        waiter = psycopg2.connect(cluster.dsn(shop), async_=1)
        until(lambda: waiter.poll() == psycopg2.extensions.POLL_OK)
        waiter.cursor().execute("ALTER TABLE wide ADD j int")
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
        until(lambda: cluster.psql(waits) == "1")
        found = poll(target(cluster, shop))
        waiter.close()
    assert found.ok, found.problems()
    assert set(measured(found)) == {"plain"}
    assert column(found, "database", "sizes_skipped") == {(shop,): 2}
    assert set(measured(poll(target(cluster, shop)))) == {"plain", "parted", "wide"}


def test_a_lock_that_comes_meanwhile_is_not_waited_for(
    cluster: Cluster, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look at the locks came too early: lock_timeout ends the statement."""
    blind = MEASURE.replace("'AccessExclusiveLock'", "'nobody looks'")
    monkeypatch.setattr(sizes, "MEASURE", blind)
    monkeypatch.setattr(sizes, "BATCH", 1)
    with closing(psycopg2.connect(cluster.dsn(shop))) as holder:
        holder.cursor().execute("LOCK TABLE wide IN ACCESS EXCLUSIVE MODE")
        found = poll(target(cluster, shop))
    assert found.ok, found.problems()
    assert set(measured(found)) == {"plain", "parted"}
    assert column(found, "database", "sizes_skipped") == {(shop,): 1}


def test_they_are_measured_when_they_are_due(cluster: Cluster, shop: str) -> None:
    with closing(PostgresAsker(target(cluster, shop))) as asks:
        polls = [asks.poll() for _ in range(2)]
    with closing(PostgresAsker(target(cluster, shop), json.loads(json.dumps(polls[-1].memo)))) as a:
        polls.append(a.poll())
    assert [bool(frames(found, "tables", "size_bytes")) for found in polls] == [True, False, False]


def test_what_there_is_no_time_for_comes_at_the_next_poll(
    cluster: Cluster, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "BATCH", 1)
    measure = sizes._sizes
    with closing(PostgresAsker(target(cluster, shop))) as asks:

        def slow(*arguments: Any) -> Any:
            assert asks._sizes
            asks._sizes._until = 0.0
            return measure(*arguments)

        monkeypatch.setattr(sizes, "_sizes", slow)
        found = [measured(asks.poll()) for _ in range(4)]
    assert [len(one) for one in found] == [1, 1, 1, 0]
    assert {table for one in found for table in one} == {"plain", "parted", "wide"}


def test_from_cron_too(cluster: Cluster, shop: str, tmp_path: Path) -> None:
    path = tmp_path / "pgstats.toml"
    path.write_text(
        f'state = "state"\n[[postgres]]\nname = "main"\ndsn = "{cluster.dsn()}"\n'
        f'databases = ["{shop}"]\nsizes = "1h"\ntables = 2\nexclude_tables = ["public.wide"]\n'
    )
    run = ("once", "--config", str(path))
    name = f"pgstats.postgres.main.tables.{shop}.public.plain.size_bytes"
    assert name in gauges(pgstats(*run, "--dry-run").stdout)
    pgstats(*run, "--statsd", "udp://127.0.0.1:9")
    assert name not in gauges(pgstats(*run, "--dry-run").stdout), "not due, and not gone"
    cluster.psql("DROP TABLE plain", shop)
    assert gauges(pgstats(*run, "--dry-run").stdout)[name] == 0, "gone"
