"""What is derived from PgBouncer's answers, against loads whose truth is known."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pgstats.ask import asker, parse_dsn
from pgstats.ask.answer import frame
from pgstats.catalogue.pgbouncer import DATABASES, POOLS, STATE, STATS, TOTALS, USERS
from pgstats.cli.cycle import Cycle, polled
from pgstats.config import load
from pgstats.model import PGBOUNCER, Failure, Frame, Poll, Target
from pgstats.scratch import Bouncer, Cluster, Scratch
from pgstats.shape import derived, retired, spread
from pgstats.shape.growth import _TOTALS, Memory
from pgstats.ship import Paper
from pgstats.state import State
from tests.program import gauges

Values = dict[str, float]

POOL = "pools.postgres.postgres"
MEANS = {f"stats.postgres.{name}" for name in ("query_ms", "wait_ms", "server_ms", "xact_ms")}


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


def target(bouncer: Bouncer, counters: str = "gauge", *collect: str) -> Target:
    dsn = bouncer.dsn("pgbouncer", "stats")
    return Target(PGBOUNCER, "front", dsn, counters=counters, collect=collect)


def over_tcp(bouncer: Bouncer) -> Target:
    dsn = f"host=127.0.0.1 port={bouncer.port} user=stats"
    return Target(PGBOUNCER, "front", dsn, counters="count")


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


def until(fact: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def traffic(queries: int, query_us: int, wait_us: int, **pool: int) -> Poll:
    """A poll of one database with these totals, whose pool has so many clients and servers."""
    totals = ("total_query_count", "total_query_time", "total_wait_time")
    columns = {"database": False, **dict.fromkeys(totals, True)}
    found, _ = frame(STATS, 11800, columns, [("shop", queries, query_us, wait_us)], target="front")
    columns = {"database": False, "user": False, "cl_waiting": True, "sv_active": True}
    rows = [("shop", "me", pool.get("cl_waiting", 0), pool.get("sv_active", 0))]
    pools, _ = frame(POOLS, 11800, columns, rows, target="front")
    return Poll(Target(PGBOUNCER, "front", ""), frames=[found, pools], version=11800)


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


def test_waits_at_login_leave_the_time_in_the_server_unknown() -> None:
    """They count as waits but belong to no query: 0 would be a claim."""
    metrics = tuple(m for m in STATS.metrics if m.name in _TOTALS["stats"] and m.on(11800))

    def frame(queries: int, query_us: int, wait_us: int) -> Frame:
        known = {
            "total_query_count": queries,
            "total_query_time_us": query_us,
            "total_wait_time_us": wait_us,
        }
        return Frame.of(
            STATS, metrics, [("shop", *(known.get(m.name, 0) for m in metrics))], "front"
        )

    memory: Memory = {}
    one = Target(PGBOUNCER, "front", "")
    derived(Poll(one, frames=[frame(1, 1000, 0)], version=11800), memory, 1.0)
    found = values(derived(Poll(one, frames=[frame(4, 2074, 4362)], version=11800), memory, 2.0))
    assert found["stats.shop.wait_ms"] == 1.454
    assert "stats.shop.server_ms" not in found


def test_means_say_nothing_while_no_query_has_ended(narrow: Bouncer) -> None:
    """PgBouncer counts a query when it comes and its time when it ends: 0 ms would be a claim."""
    memory: Memory = {}
    sleep_through(narrow, 0)
    look(target(narrow), memory, 100.0)
    client = threading.Thread(target=sleep_through, args=(narrow, 2))
    client.start()
    until(lambda: values(asker(target(narrow)).poll().frames)[f"{POOL}.sv_active"] == 1)
    _, found = look(target(narrow), memory, 110.0)
    client.join()
    assert found["stats.postgres.queries_per_second"] == 0.1
    assert not MEANS & found.keys()
    sleep_through(narrow, 0)
    _, later = look(target(narrow), memory, 120.0)
    assert later["stats.postgres.query_ms"] == pytest.approx(2000, abs=500)


def test_means_around_a_pause_are_unknown_and_right_thereafter(narrow: Bouncer) -> None:
    """Those who wait are counted before their wait, and served when nobody comes."""
    memory: Memory = {}
    sleep_through(narrow, 0)
    look(target(narrow), memory, 100.0)
    narrow.console("PAUSE", "pgadmin")
    threads = [threading.Thread(target=sleep_through, args=(narrow, 0.1)) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: values(asker(target(narrow)).poll().frames)[f"{POOL}.cl_waiting"] == 3)
    _, during = look(target(narrow), memory, 110.0)
    narrow.console("RESUME", "pgadmin")
    for thread in threads:
        thread.join()
    sleep_through(narrow, 0)
    _, after = look(target(narrow), memory, 120.0)
    sleep_through(narrow, 0.5)
    _, settled = look(target(narrow), memory, 130.0)
    assert during["stats.postgres.queries_per_second"] == 0.3
    assert not MEANS & during.keys()
    assert after["stats.postgres.queries_per_second"] == 0.1
    assert not MEANS & after.keys(), "four queries are not the time of one"
    assert settled["stats.postgres.server_ms"] == pytest.approx(500, abs=100)


def test_the_wait_of_a_query_still_at_work_leaves_the_next_poll_alone_too(narrow: Bouncer) -> None:
    """Its wait was booked in the one poll, and all of its time is booked in the other."""
    memory: Memory = {}
    sleep_through(narrow, 0)
    holder = psycopg2.connect(narrow.dsn("postgres"))
    holder.cursor().execute("SELECT 1")
    look(target(narrow), memory, 100.0)
    waiter = threading.Thread(target=sleep_through, args=(narrow, 2))
    waiter.start()
    until(lambda: values(asker(target(narrow)).poll().frames)[f"{POOL}.maxwait_seconds"] > 1)
    holder.rollback()
    until(lambda: values(asker(target(narrow)).poll().frames)[f"{POOL}.cl_waiting"] == 0)
    _, ahead = look(target(narrow), memory, 110.0)
    waiter.join()
    sleep_through(narrow, 0)
    _, behind = look(target(narrow), memory, 120.0)
    sleep_through(narrow, 0)
    _, settled = look(target(narrow), memory, 130.0)
    holder.close()
    assert ahead["stats.postgres.wait_ms"] > 300
    assert "stats.postgres.server_ms" not in ahead
    assert "stats.postgres.server_ms" not in behind
    assert settled["stats.postgres.server_ms"] < 100


def test_waits_at_login_do_not_silence_the_next_poll() -> None:
    """No server is at work in between: whatever waited has no time to come."""
    memory: Memory = {}
    for now, queries, query_us, wait_us, busy in (
        (1.0, 1, 1000, 0, 0),
        (2.0, 4, 2074, 4362, 0),
        (3.0, 6, 6074, 4362, 1),
        (4.0, 8, 7074, 9362, 1),
        (5.0, 10, 17074, 9362, 0),
    ):
        found = values(derived(traffic(queries, query_us, wait_us, sv_active=busy), memory, now))
        assert found.get("stats.shop.server_ms") == {3.0: 2}.get(now)


def test_many_short_queries_have_means_though_some_wait_at_each_poll() -> None:
    memory: Memory = {}
    derived(traffic(0, 0, 0, cl_waiting=3), memory, 1.0)
    found = values(derived(traffic(100, 800_000, 200_000, cl_waiting=13), memory, 2.0))
    assert found["stats.shop.server_ms"] == 6
    found = values(derived(traffic(200, 1_600_000, 400_000, cl_waiting=2), memory, 3.0))
    assert "stats.shop.query_ms" not in found, "eleven more were served than came"


def test_totals_leave_out_what_the_console_s_own_clients_ask(narrow: Bouncer) -> None:
    """PgBouncer counts a query and a transaction for each of these; SHOW STATS tells how many."""
    memory: Memory = {}
    both = target(narrow, "count", "totals", "stats")
    sleep_through(narrow, 0)
    look(both, memory, 100.0)
    for _ in range(3):
        narrow.console("SHOW LISTS")
    poll, idle = look(both, memory, 110.0)
    sleep_through(narrow, 0.5)
    _, found = look(both, memory, 120.0)
    assert idle["totals.queries_per_second"] == idle["totals.xact_count"] == 0
    assert "totals.query_ms" not in idle
    assert found["totals.query_ms"] == pytest.approx(500, abs=100)
    assert found["totals.xacts_per_second"] == 0.1
    assert found["totals.query_count"] == 1
    assert "stats.pgbouncer.total_query_count" not in values(poll.frames)


def test_totals_without_stats_say_what_the_console_has_no_part_in(narrow: Bouncer) -> None:
    memory: Memory = {}
    alone = target(narrow, "count", "totals")
    for now in (100.0, 110.0):
        sleep_through(narrow, 0)
        poll, found = look(alone, memory, now)
    assert values(poll.frames)["totals.total_query_count"] == 4, "two of them our own"
    assert found["totals.received_bytes_per_second"] > 0
    assert found["totals.query_time_us"] > 0
    names = ("query_ms", "wait_ms", "xact_ms", "queries_per_second", "query_count", "xact_count")
    assert not {f"totals.{name}" for name in names} & found.keys()


def test_a_client_of_the_console_between_the_two_answers_is_no_negative() -> None:
    memory: Memory = {}
    found = {}
    for now, console, whole in ((1.0, 5, 106), (2.0, 7, 107)):
        poll = Poll(Target(PGBOUNCER, "front", "", counters="count"), version=11800)
        columns = {"name": False, "value": True}
        answer, _ = frame(TOTALS, 11800, columns, [("total_query_count", whole)], target="front")
        poll.frames, poll.console = [answer], {"total_query_count": console}
        found = values(derived(poll, memory, now))
        assert poll.counts["counter_resets"] == 0
    assert found["totals.query_count"] == found["totals.queries_per_second"] == 0


def test_with_include_admin_the_console_is_part_of_the_totals(narrow: Bouncer) -> None:
    memory: Memory = {}
    one = target(narrow, "count", "totals", "stats")._replace(include_admin=True)
    look(one, memory, 100.0)
    _, found = look(one, memory, 110.0)
    assert found["totals.query_count"] == found["stats.pgbouncer.query_count"] == 1


def test_a_restart_shows_though_all_totals_have_come_to_more(narrow: Bouncer) -> None:
    """The console has fewer clients than before: that of each poll is one of them."""
    memory: Memory = {}
    sleep_through(narrow, 0)
    for now in (98.0, 99.0, 100.0):
        look(target(narrow, "count"), memory, now)
    narrow.restart()
    for _ in range(5):
        sleep_through(narrow, 0.01)
    poll, found = look(target(narrow, "count"), memory, 110.0)
    assert poll.counts["counter_resets"] == 1
    assert not [name for name in found if name.startswith("stats.")]


def test_a_database_that_certainly_is_new_counts_from_0(narrow: Bouncer) -> None:
    """Over the unix socket it is the same process for sure, and it had no such row."""
    memory: Memory = {}
    sleep_through(narrow, 0)
    look(target(narrow, "count"), memory, 100.0)
    for _ in range(2):
        narrow.psql("SELECT 1", "template1")
    _, found = look(target(narrow, "count"), memory, 110.0)
    assert found["stats.template1.query_count"] == 2
    assert found["stats.template1.queries_per_second"] == 0.2


def test_a_database_that_may_have_counted_for_long_is_left_out(narrow: Bouncer) -> None:
    """Over TCP another process may have answered; after a restart it is another one."""
    memory: Memory = {}
    sleep_through(narrow, 0)
    look(over_tcp(narrow), memory, 100.0)
    narrow.psql("SELECT 1", "template1")
    _, found = look(over_tcp(narrow), memory, 110.0)
    assert "stats.template1.query_count" not in found
    narrow.psql("SELECT 1", "template1")
    _, found = look(over_tcp(narrow), memory, 120.0)
    assert found["stats.template1.query_count"] == 1
    narrow.restart()
    memory = {}
    look(target(narrow, "count"), memory, 100.0)
    narrow.restart()
    narrow.psql("SELECT 1", "template1")
    _, found = look(target(narrow, "count"), memory, 110.0)
    assert not [name for name in found if name.startswith("stats.")]


def test_the_console_is_never_new(narrow: Bouncer) -> None:
    """It comes with include_admin after a reload, and has counted all the while."""
    memory: Memory = {}
    for now in (98.0, 99.0, 100.0):
        look(target(narrow, "count"), memory, now)
    _, found = look(target(narrow, "count")._replace(include_admin=True), memory, 110.0)
    assert "stats.pgbouncer.query_count" not in found


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


def test_a_user_s_own_pool_size_goes_before_the_database_s() -> None:
    """From 1.24 on 0 is no limit, whatever the database has."""
    one = Target(PGBOUNCER, "front", "")
    columns = {"database": False, "user": False, "cl_waiting": True, "sv_active": True}
    users = ("a", "b", "c")
    pools, _ = frame(POOLS, 12600, columns, [("shop", u, 0, 2) for u in users], target="front")
    columns = {"name": False, "pool_size": False}
    rows = [("a", "        8"), ("b", "        0"), ("c", "")]
    sizes, _ = frame(USERS, 12600, columns, rows, target="front")
    databases, _ = frame(DATABASES, 12600, columns, [("shop", "4")], target="front")
    poll = Poll(one, frames=[pools, databases, sizes], version=12600)
    found = values(derived(poll, {}, 1.0))
    shares = [found.get(f"pools.shop.{user}.pool_utilization") for user in users]
    assert shares == [0.25, None, 0.5]


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
    poll, found = look(target(narrow), {}, 1.0)
    assert found.get("state.code") == (1 if poll.version >= STATE.since else None)


def test_a_pause_that_shows_nowhere_is_not_called_active(narrow: Bouncer) -> None:
    """Before 1.19 no column tells a PAUSE of all databases; a code from before is taken back."""
    sent: Memory = {}
    one = target(narrow)
    down = Poll(one, down=Failure("connect", "refused", "no"))
    assert retired(derived(down, {}, 1.0), sent, 0) == []
    narrow.console("PAUSE", "pgadmin")
    poll = asker(one).poll()
    narrow.console("RESUME", "pgadmin")
    implied = derived(poll, {}, 2.0)
    if poll.version >= STATE.since:
        assert values(implied)["state.code"] == 2
        return
    assert "state.code" not in values(implied)
    assert values(retired([*poll.frames, *implied], sent, 0)) == {"state.code": 0}


@pytest.mark.parametrize(
    ("said", "code"),
    [((1, 0, 0), 1), ((0, 1, 0), 2), ((0, 0, 1), 3), ((None, 0, 0), None)],
)
def test_the_code_is_what_show_state_says(said: tuple[int | None, ...], code: int | None) -> None:
    one = Target(PGBOUNCER, "front", "")
    poll = Poll(one, frames=[one.frame(STATE, STATE.metrics, [said])], version=12400)
    assert values(derived(poll, {}, 1.0)).get("state.code") == code


def test_a_failed_show_state_leaves_the_last_code_as_it_is() -> None:
    one, sent = Target(PGBOUNCER, "front", ""), dict[str, Any]()
    poll = Poll(one, frames=[one.frame(STATE, STATE.metrics, [(1, 0, 0)])], version=12400)
    assert retired([*poll.frames, *derived(poll, {}, 1.0)], sent, 0) == []
    poll = Poll(one, failures=[Failure("SHOW STATE", "timeout", "no")], version=12400)
    assert retired(derived(poll, {}, 2.0), sent, 0) == []


def stats(count: int, more: float, name: str = "shiny_new") -> Poll:
    """A poll whose only answer are totals, and a number that nobody knows."""
    columns = {"database": False, "total_query_count": True, name: True}
    found, _ = frame(STATS, 11800, columns, [("shop", count, more)], target="front")
    return Poll(Target(PGBOUNCER, "front", ""), frames=[found], version=11800)


def test_what_is_no_total_may_fall() -> None:
    memory: Memory = {}
    derived(stats(10, 7), memory, 100.0)
    poll = stats(30, 3)
    found = values(derived(poll, memory, 110.0))
    assert found["stats.shop.queries_per_second"] == 2
    assert poll.counts["counter_resets"] == 0
    found = values(derived(stats(50, 3, "another"), memory, 120.0))
    assert found["stats.shop.queries_per_second"] == 2, "nor does it matter which others there are"


def test_a_total_that_fell_says_nothing_and_is_counted() -> None:
    """One of a database's pools was reaped; the process goes on."""
    memory: Memory = {}
    found = []
    for now, count in ((100.0, 30), (110.0, 20), (120.0, 50)):
        poll = stats(count, 7)
        found.append(values(derived(poll, memory, now)).get("stats.shop.queries_per_second"))
        assert poll.counts["counter_resets"] == (count == 20)
    assert found == [None, None, 3]


def test_the_unknown_total_of_one_row_is_silent() -> None:
    memory: Memory = {}
    derived(stats(10, 7), memory, 100.0)
    columns = {"database": False, "total_query_count": True}
    found, _ = frame(STATS, 11800, columns, [("shop", None)], target="front")
    poll = Poll(Target(PGBOUNCER, "front", ""), frames=[found], version=11800)
    assert [n for n in values(derived(poll, memory, 110.0)) if n.startswith("stats.")] == []


def test_a_clock_outlives_one_poll_that_does_not_know_who_waits() -> None:
    memory: Memory = {}
    columns = {"database": False, "user": False, "cl_waiting": True, "maxwait": True}
    found: list[Values] = []
    for now, waiting in ((100.0, 1), (110.0, None), (120.0, 1), (130.0, 0)):
        rows = [("shop", "me", waiting, 0)]
        pools, _ = frame(POOLS, 11800, columns, rows, target="front")
        poll = Poll(Target(PGBOUNCER, "front", ""), frames=[pools], version=11800)
        found.append(values(derived(poll, memory, now)))
    clock = "pools.shop.me.waiting_for_seconds"
    assert [one.get(clock) for one in found] == [0, None, 20, 0]


def test_rates_are_those_of_the_time_of_the_poll(tmp_path: Path) -> None:
    """However long it takes until a poll is shaped: here as long as the first shipment waits."""
    path = tmp_path / "pgstats.toml"
    path.write_text('[[pgbouncer]]\nname = "front"\ndsn = "host=here"\n')
    config, state, paper = load(str(path), {}, {}, parse_dsn), State(), Paper()
    cycle = Cycle(config, state, pytest.fail, paper)
    for at, count in ((1000.0, 10), (1010.0, 30)):
        poll = stats(count, 0)
        poll.at = at
        cycle.ship([poll], 1.0)
    lines = b"\n".join(paper.packets).decode()
    assert gauges(lines)["pgstats.pgbouncer.front.stats.shop.queries_per_second"] == 2


def test_what_is_spelled_is_put_together_once(
    tmp_path: Path, narrow: Bouncer, cluster: Cluster
) -> None:
    """The same questions have the same metrics at every poll: the very objects."""
    path = tmp_path / "pgstats.toml"
    dsns = json.dumps(narrow.dsn("pgbouncer", "stats")), json.dumps(cluster.dsn())
    path.write_text(
        f'[[pgbouncer]]\nname = "front"\ndsn = {dsns[0]}\ncounters = "count"\n'
        f'[[postgres]]\nname = "main"\ndsn = {dsns[1]}\ntimeout = "60s"\n'
    )
    config = load(str(path), {}, {}, parse_dsn)
    cycle = Cycle(config, State(), pytest.fail, Paper())
    forms: list[list[object]] = []
    with ExitStack() as stack:
        askers = [(one, stack.enter_context(closing(asker(one)))) for one in config.targets]
        for _ in range(5):
            for one, its in askers:
                polls = polled(one, its.poll)
                assert not polls[0].problems()
                assert cycle.ship(polls, 60)
            forms.append([form for its in cycle._spellers.values() for form in its._forms.values()])
    assert len(forms[2]) > 30
    assert forms[4] == forms[2]


def test_a_poll_notes_when_its_numbers_were_true(narrow: Bouncer) -> None:
    before = time.monotonic()
    poll = asker(target(narrow)).poll()
    assert before < poll.at < time.monotonic()
    silent = Poll(target(narrow))
    (noted,) = polled(silent.target, lambda: silent)
    assert noted.at > poll.at
    whole, *_ = spread(Poll(target(narrow), peers=[Poll(target(narrow), at=at) for at in (4, 8)]))
    assert whole.at == 6
