"""What is derived from PgBouncer's answers, against loads whose truth is known."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest

from pgstats.ask import asker
from pgstats.model import PGBOUNCER, Failure, Frame, Poll, Target
from pgstats.scratch import Bouncer, Cluster, Scratch
from pgstats.shape import derived
from pgstats.shape.derived import Memory

Values = dict[str, float]


@pytest.fixture
def narrow(scratch: Scratch, cluster: Cluster) -> Iterator[Bouncer]:
    """A PgBouncer whose pools have one server each, and whose counters start at 0."""
    with Bouncer(
        scratch,
        {"*": cluster.address},
        stats_users=["stats"],
        admin_users=["pgadmin"],
        settings={"default_pool_size": 1, "max_client_conn": 20},
        name=f"narrow{time.monotonic_ns()}",
    ) as bouncer:
        yield bouncer


def target(bouncer: Bouncer, counters: str = "gauge") -> Target:
    return Target(PGBOUNCER, "front", bouncer.dsn("pgbouncer", "stats"), counters=counters)


def values(frames: list[Frame]) -> Values:
    """Each number under GROUP[.LABEL...].METRIC; unknown ones are left out."""
    return {
        ".".join([frame.query.group, *map(str, row[: len(frame.query.labels)]), metric.name]): value
        for frame in frames
        for row in frame.rows
        for metric, value in zip(frame.metrics, row[len(frame.query.labels) :], strict=True)
        if value is not None
    }


def look(one: Target, memory: Memory, now: float) -> tuple[Poll, Values]:
    """A poll and what it implies."""
    poll = asker(one).poll()
    assert poll.ok, poll.problems()
    return poll, values(derived(poll, memory, now))


def sleep_through(bouncer: Bouncer, seconds: float) -> None:
    with closing(psycopg2.connect(bouncer.dsn("postgres"))) as connection:
        connection.autocommit = True
        connection.cursor().execute("SELECT pg_sleep(%s)", [seconds])


def test_three_queries_of_one_second_through_one_server(narrow: Bouncer) -> None:
    memory: Memory = {}
    sleep_through(narrow, 0)
    look(target(narrow), memory, 100.0)
    threads = [threading.Thread(target=sleep_through, args=(narrow, 1)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _, found = look(target(narrow, "count"), memory, 110.0)
    assert found["stats.postgres.query_ms"] == pytest.approx(2000, abs=300)
    assert found["stats.postgres.wait_ms"] == pytest.approx(1000, abs=300)
    assert found["stats.postgres.server_ms"] == pytest.approx(1000, abs=100)
    assert found["stats.postgres.xact_ms"] == pytest.approx(2000, abs=300)
    assert found["stats.postgres.queries_per_second"] == pytest.approx(0.3)
    assert found["stats.postgres.xacts_per_second"] == pytest.approx(0.3)
    assert found["stats.postgres.query_count"] == 3
    assert found["stats.postgres.query_time_us"] == pytest.approx(6e6, abs=1e6)


def test_nothing_happened_is_a_rate_of_zero_and_no_mean(narrow: Bouncer) -> None:
    memory: Memory = {}
    sleep_through(narrow, 0)
    look(target(narrow), memory, 100.0)
    _, found = look(target(narrow), memory, 101.0)
    assert found["stats.postgres.queries_per_second"] == 0
    assert "stats.postgres.query_ms" not in found


def test_a_restart_between_polls_is_no_spike_and_no_negative(narrow: Bouncer) -> None:
    memory: Memory = {}
    for _ in range(5):
        sleep_through(narrow, 0)
    look(target(narrow, "count"), memory, 100.0)
    narrow.restart()
    sleep_through(narrow, 0)
    poll, found = look(target(narrow, "count"), memory, 101.0)
    assert poll.counts["counter_resets"] == 1
    assert not [name for name in found if name.startswith("stats.")]
    sleep_through(narrow, 0)
    _, after = look(target(narrow, "count"), memory, 102.0)
    assert after["stats.postgres.query_count"] == 1
    assert after["stats.postgres.queries_per_second"] == 1


def test_a_clock_that_stands_or_goes_back_gives_no_rate(narrow: Bouncer) -> None:
    memory: Memory = {}
    sleep_through(narrow, 0)
    look(target(narrow), memory, 100.0)
    for now in (100.0, 90.0):
        _, found = look(target(narrow), memory, now)
        assert not [name for name in found if name.startswith("stats.")]


def test_saturation_and_crowding(narrow: Bouncer) -> None:
    holder = psycopg2.connect(narrow.dsn("postgres"))
    holder.cursor().execute("SELECT 1")  # in a transaction: owns the only server
    waiter = threading.Thread(target=sleep_through, args=(narrow, 0))
    waiter.start()
    memory: Memory = {}
    pools = "pools.postgres.postgres"
    for _ in range(50):
        poll, found = look(target(narrow), memory, 100.0)
        if values(poll.frames)[f"{pools}.cl_waiting"]:
            break
        time.sleep(0.1)
    _, later = look(target(narrow), memory, 160.0)
    holder.close()
    waiter.join()
    _, freed = look(target(narrow), memory, 170.0)
    assert found["lists.client_utilization"] == 3 / 20  # holder, waiter, console
    assert found[f"{pools}.pool_utilization"] == 1
    assert 60 <= later[f"{pools}.waiting_for_seconds"] < 65
    assert freed[f"{pools}.waiting_for_seconds"] == 0
    assert freed[f"{pools}.pool_utilization"] == 0


def test_clients_queued_at_login_have_waited_though_maxwait_says_0(
    scratch: Scratch, cluster: Cluster
) -> None:
    """The server behind is down since the start: maxwait stays 0, the clock of pgstats does not."""
    dead = {"gone": "host=127.0.0.1 port=1 dbname=gone"}
    with Bouncer(scratch, dead, stats_users=["stats"], name="login_queue") as bouncer:
        client = subprocess.Popen(
            ["psql", "-c", "SELECT 1", bouncer.dsn("gone")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            memory: Memory = {}
            for _ in range(50):
                poll, _ = look(target(bouncer), memory, 100.0)
                if values(poll.frames).get("pools.gone.postgres.cl_waiting"):
                    break
                time.sleep(0.1)
            poll, found = look(target(bouncer), memory, 130.0)
        finally:
            client.kill()
            client.wait()
    assert values(poll.frames)["pools.gone.postgres.cl_waiting"] == 1
    assert values(poll.frames)["pools.gone.postgres.maxwait_seconds"] == 0
    assert found["pools.gone.postgres.waiting_for_seconds"] == 30
    assert cluster.psql("SELECT 1").strip() == "1"


@pytest.mark.parametrize(
    ("reason", "code"), [("refused", 5), ("timeout", 5), ("auth", 6), ("not_allowed", 6)]
)
def test_state_of_a_process_that_is_down(reason: str, code: int) -> None:
    poll = Poll(Target(PGBOUNCER, "front", ""), down=Failure("connect", reason, "no"))
    assert values(derived(poll, {}, 1.0)) == {"state.code": code}


def test_state_of_a_process_that_is_up(narrow: Bouncer) -> None:
    memory: Memory = {}
    assert look(target(narrow), memory, 1.0)[1]["state.code"] == 1
