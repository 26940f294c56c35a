"""Operators at work on PgBouncer between and during polls: nothing breaks, nothing is held up."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest

from pgstats.ask import asker
from pgstats.model import PGBOUNCER, Poll, Target
from pgstats.scratch import Bouncer, Cluster, Scratch
from pgstats.shape import derived
from pgstats.shape.growth import Memory


@pytest.fixture
def pool(scratch: Scratch, cluster: Cluster) -> Iterator[Bouncer]:
    """A PgBouncer of its own for a test, with a pool that was used."""
    with Bouncer(
        scratch,
        {"shop": f"{cluster.address} dbname=postgres"},
        stats_users=["stats"],
        admin_users=["pgadmin"],
        name=f"operated{time.monotonic_ns()}",
    ) as bouncer:
        bouncer.psql("SELECT 1", "shop")
        yield bouncer


def look(bouncer: Bouncer, memory: Memory, now: float, timeout: float = 8.0) -> Poll:
    target = Target(
        PGBOUNCER, "front", bouncer.dsn("pgbouncer", "stats"), timeout=timeout, counters="count"
    )
    poll = asker(target).poll()
    poll.frames += derived(poll, memory, now)
    return poll


def values(poll: Poll) -> dict[str, float]:
    return {
        ".".join([f.query.group, *map(str, row[: len(f.query.labels)]), m.name]): value
        for f in poll.frames
        for row in f.rows
        for m, value in zip(f.metrics, row[len(f.query.labels) :], strict=True)
        if value is not None
    }


def sane(poll: Poll) -> dict[str, float]:
    """The values, none of them a spike or negative."""
    found = values(poll)
    for name, value in found.items():
        assert value >= 0 or name == "lists.dns_queries", name
        if name.endswith("_per_second"):
            assert value < 1e6, name
    return found


@contextmanager
def under_load(bouncer: Bouncer) -> Iterator[None]:
    """Clients that query all the time."""
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            try:
                with closing(psycopg2.connect(bouncer.dsn("shop", connect_timeout=3))) as client:
                    client.autocommit = True
                    while not done.is_set():
                        client.cursor().execute("SELECT 1")
            except psycopg2.Error:
                time.sleep(0.05)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    yield
    done.set()
    for thread in threads:
        thread.join(10)


OPERATIONS = [
    ["RELOAD"],
    ["RECONNECT"],
    ["PAUSE", "RESUME"],
    ["PAUSE shop", "RESUME shop"],
    ["DISABLE shop", "ENABLE shop"],
    ["KILL shop", "RESUME shop"],
]


@pytest.mark.parametrize("commands", OPERATIONS, ids=" ".join)
def test_operations_between_and_during_polls(pool: Bouncer, commands: list[str]) -> None:
    memory: Memory = {}
    with under_load(pool):
        sane(look(pool, memory, 1.0))
        stop = threading.Event()
        polls: list[Poll] = []

        def watch() -> None:
            now = 2.0
            while not stop.is_set():
                polls.append(look(pool, memory, now))
                now += 1

        watcher = threading.Thread(target=watch)
        watcher.start()
        for command in commands:
            started = time.monotonic()
            pool.console(command, "pgadmin")
            assert time.monotonic() - started < 5, "an operation must not wait for the monitor"
            time.sleep(0.3)
        stop.set()
        watcher.join()
    assert polls
    for poll in polls:
        assert poll.ok, poll.problems()
        sane(poll)


def test_a_paused_database_shows(pool: Bouncer) -> None:
    pool.console("PAUSE shop", "pgadmin")
    assert values(look(pool, {}, 1.0))["databases.shop.paused"] == 1
    pool.console("RESUME shop", "pgadmin")
    assert values(look(pool, {}, 2.0))["databases.shop.paused"] == 0
    pool.console("DISABLE shop", "pgadmin")
    assert values(look(pool, {}, 3.0))["databases.shop.disabled"] == 1


def test_while_suspended_it_is_down_by_timeout_and_the_suspend_is_left_alone(
    pool: Bouncer,
) -> None:
    with closing(psycopg2.connect(pool.dsn("pgbouncer", "pgadmin"))) as admin:
        admin.autocommit = True
        admin.cursor().execute("SUSPEND")
        poll = look(pool, {}, 1.0, timeout=1.0)
        assert poll.down
        assert poll.down.reason == "timeout"
        assert values(poll)["state.code"] == 5
        admin.cursor().execute("RESUME")
    assert look(pool, {}, 2.0).ok


def test_suspend_ends_by_itself_though_it_is_polled(pool: Bouncer) -> None:
    """PgBouncer undoes a SUSPEND when the last console client has gone: a held one defeats that."""
    assert look(pool, {}, 1.0).ok
    with closing(psycopg2.connect(pool.dsn("pgbouncer", "pgadmin"))) as admin:
        admin.autocommit = True
        admin.cursor().execute("SUSPEND")
    deadline = time.monotonic() + 20
    while not look(pool, {}, 2.0, timeout=1.0).ok:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_does_not_wait_for_the_monitor(pool: Bouncer, number: int) -> None:
    assert look(pool, {}, 1.0).ok
    state = Path(f"/proc/{pool.pid}/stat")
    pool.signal(number)
    deadline = time.monotonic() + 5
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "an idle PgBouncer stops at once"
        time.sleep(0.05)
    poll = look(pool, {}, 2.0)
    assert poll.down
    assert poll.down.reason == "refused"


def test_a_reaped_pool_is_unknown_and_comes_back_clean(pool: Bouncer, cluster: Cluster) -> None:
    """A database taken out and put back starts its totals at 0."""
    memory: Memory = {}
    for _ in range(5):
        pool.psql("SELECT 1", "shop")
    sane(look(pool, memory, 1.0))
    databases = dict(pool.databases)
    pool.databases.clear()
    pool.reload()
    if "shop" in pool.console("SHOW DATABASES"):
        pool.console("KILL shop", "pgadmin")
    gone = sane(look(pool, memory, 2.0))
    pool.databases.update(databases)
    pool.reload()
    pool.psql("SELECT 1", "shop")
    back = sane(look(pool, memory, 3.0))
    assert "stats.shop.query_count" not in gone or gone["stats.shop.query_count"] == 0
    assert back.get("stats.shop.query_count", 0) <= 1
    assert cluster.psql("SELECT 1").strip() == "1"
