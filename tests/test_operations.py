"""Operators at work on PgBouncer between and during polls: nothing breaks, nothing is held up."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg2
import pytest

from pgstats.ask import asker
from pgstats.errors import ScratchError
from pgstats.model import PGBOUNCER, Poll, Target
from pgstats.scratch import Bouncer, Cluster, Scratch
from pgstats.shape import derived
from pgstats.shape.growth import Memory
from tests.console import Answer, Console, console
from tests.program import pgstats
from tests.test_run import config, running

FOLDER = Path(__file__).parent / "data" / "pgbouncer-shows"


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
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join(10)


def until(fact: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def more(polls: list[Poll], number: int) -> None:
    """Wait for so many more polls."""
    last = len(polls)
    until(lambda: len(polls) >= last + number)


@contextmanager
def watching(bouncer: Bouncer, polls: list[Poll]) -> Iterator[None]:
    """Polls one after the other, a second apart as far as anybody can tell."""
    done = threading.Event()
    memory: Memory = {}

    def watch() -> None:
        while not done.is_set():
            polls.append(look(bouncer, memory, float(len(polls)), timeout=1.0))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


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


def test_suspend_during_polls(pool: Bouncer) -> None:
    """Who polls meanwhile waits in vain, and SUSPEND neither for that nor for anything else."""
    polls: list[Poll] = []
    with watching(pool, polls), closing(psycopg2.connect(pool.dsn("pgbouncer", "pgadmin"))) as a:
        a.autocommit = True
        until(lambda: polls)
        a.cursor().execute("SUSPEND")
        until(lambda: polls[-1].down)
        a.cursor().execute("RESUME")
        until(lambda: polls[-1].ok)
    for poll in polls:
        sane(poll)
        assert poll.ok or [problem.reason for problem in poll.problems()] == ["timeout"]


@pytest.mark.parametrize("end", ["SHUTDOWN", "SIGKILL"])
def test_an_end_and_a_start_during_polls(pool: Bouncer, end: str) -> None:
    """On the real server: what is cut off is a failure of that poll, and nothing spikes."""
    polls: list[Poll] = []
    with under_load(pool), watching(pool, polls):
        for _ in range(2):
            until(lambda: polls and polls[-1].ok)
            if end == "SIGKILL":
                pool.kill()
            else:
                with suppress(ScratchError):  # the console goes with it
                    pool.console("SHUTDOWN", "pgadmin")
            until(lambda: polls[-1].down)
            pool.stop()
            pool.start()
            until(lambda: polls[-1].ok)
    for poll in polls:
        sane(poll)
        assert poll.ok or {problem.reason for problem in poll.problems()} <= {"refused", "other"}


def test_a_pool_reaped_during_polls_is_gone_and_comes_back_from_0(
    scratch: Scratch, cluster: Cluster
) -> None:
    """PgBouncer forgets an idle automatic database, its pool and its totals by itself."""
    settings = {"server_idle_timeout": 1, "autodb_idle_timeout": 1}
    polls: list[Poll] = []
    count = "stats.postgres.query_count"
    with (
        Bouncer(
            scratch,
            {"*": cluster.address},
            stats_users=["stats"],
            settings=settings,
            name=f"reaping{time.monotonic_ns()}",
        ) as bouncer,
        watching(bouncer, polls),
    ):
        for _ in range(2):
            until(lambda: polls and "stats.postgres.total_query_count" not in values(polls[-1]))
            before = len(polls) - 1
            bouncer.psql("SELECT 1; SELECT 1", "postgres")
            until(lambda: "stats.postgres.total_query_count" in values(polls[-1]))
            more(polls, 5)
            found = [sane(poll) for poll in polls[before:]]
            assert sum(one.get(count, 0) for one in found) == 2
    assert all(poll.ok for poll in polls)


def counted(packets: socket.socket) -> Callable[[str], float]:
    """The sum so far of what came for a counter, as a statsd keeps it."""
    sums: dict[str, float] = defaultdict(float)

    def so_far(name: str) -> float:
        with suppress(BlockingIOError):
            while True:
                for line in packets.recv(65536).decode().splitlines():
                    what, _, rest = line.partition(":")
                    value, kind = rest.split("|")
                    if kind == "c":
                        assert float(value) >= 0
                        sums[what] += float(value)
                    elif what.endswith((".up", ".total_query_count")):
                        sums[f"{what} seen"] += 1
        return sums[name]

    return so_far


def test_counters_of_the_daemon_over_restarts_of_either_side(pool: Bouncer, tmp_path: Path) -> None:
    """What happened while pgstats was away is counted once; what PgBouncer took along is not."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
        packets.bind(("127.0.0.1", 0))
        packets.setblocking(False)
        url = f"udp://127.0.0.1:{packets.getsockname()[1]}"
        target = ("pgbouncer", "front", pool.dsn("pgbouncer", "stats"))
        file = config(tmp_path, url, target, interval="300ms")
        with Path(file).open("a") as more:
            more.write('\ncounters = "count"\n')
        so_far = counted(packets)
        name = "pgstats.pgbouncer.front.stats.shop.query_count"

        def polled_again() -> None:
            seen = "pgstats.pgbouncer.front.stats.shop.total_query_count seen"
            last = so_far(seen)
            until(lambda: so_far(seen) > last + 2)

        def ask(times: int) -> None:
            for _ in range(times):
                pool.psql("SELECT 1", "shop")

        with running(tmp_path, file) as daemon:
            polled_again()
            assert so_far(name) == 0, "what was before the first poll is nobody's growth"
            ask(3)
            until(lambda: so_far(name) == 3)
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(20)
        ask(4)
        with running(tmp_path, file) as daemon:
            until(lambda: so_far(name) == 7)
            ask(1)
            until(lambda: so_far(name) == 8)
            polled_again()
        ask(2)  # the daemon was killed, with no time to note anything
        with running(tmp_path, file):
            polled_again()
            assert so_far(name) == 10
            pool.restart()
            ask(1)
            polled_again()
            after = so_far(name)
            assert after in (10, 11), "whether a poll saw the database gone decides"
            ask(5)
            until(lambda: so_far(name) == after + 5)
            polled_again()
            assert so_far(name) == after + 5


def test_counters_of_single_runs_over_restarts_of_pgbouncer(pool: Bouncer, tmp_path: Path) -> None:
    """The state file carries them from run to run; a restart is a gap, and no spike."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
        packets.bind(("127.0.0.1", 0))
        packets.setblocking(False)
        url = f"udp://127.0.0.1:{packets.getsockname()[1]}"
        target = ("pgbouncer", "front", pool.dsn("pgbouncer", "stats"))
        file = config(tmp_path, url, target)
        with Path(file).open("a") as more:
            more.write('\ncounters = "count"\n')
        so_far = counted(packets)

        def run_after(queries: int) -> float:
            for _ in range(queries):
                pool.psql("SELECT 1", "shop")
            done = pgstats("once", "--config", file, "--state", str(tmp_path / "state"))
            assert (done.returncode, done.stderr) == (0, "")
            return so_far("pgstats.pgbouncer.front.stats.shop.query_count")

        assert run_after(5) == 0, "what was before the first run is nobody's growth"
        assert run_after(3) == 3
        assert run_after(0) == 3
        pool.restart()
        assert run_after(4) == 3, "what it counted before and after cannot be told apart"
        assert run_after(2) == 5


def recorded(version: str, **config: str) -> dict[str, Answer]:
    """The recorded answers of a version, with other settings of the process."""
    shows = json.loads((FOLDER / f"{version}.json").read_text())["shows"]
    for row in shows["CONFIG"]["rows"]:
        row[1] = config.get(row[0], row[1])
    return {
        f"SHOW {name}": (
            [(column["name"], column["type_oid"]) for column in show["columns"]],
            [[None if cell is None else str(cell) for cell in row] for row in show["rows"]],
        )
        for name, show in shows.items()
        if "columns" in show
    }


def drained(one: Console) -> None:
    """Nobody is connected any more: a process that waits for its clients can end."""
    until(lambda: one.open == 0)


def test_waiting_for_clients_does_not_wait_for_the_monitor_between_polls() -> None:
    """1.24 then takes no more connections anywhere, 1.23 and 1.24 leave no way to the console."""
    with console(recorded("1.24.1"), "1.24.1") as one:
        asks = asker(Target(PGBOUNCER, "front", one.dsn, counters="count"))
        memory: Memory = {}
        poll = asks.poll()
        poll.frames += derived(poll, memory, 1.0)
        assert poll.ok
        one.shut_down()
        drained(one)
        gone = asks.poll()
        gone.frames += derived(gone, memory, 2.0)
    assert gone.down
    assert gone.down.reason == "refused"
    assert values(gone) == {"state.code": 5}


@pytest.mark.parametrize("paused", ["no", "yes"], ids=["WAIT_FOR_CLIENTS", "WAIT_FOR_SERVERS"])
def test_a_draining_process_is_polled_through_its_socket_and_not_held_up(
    tmp_path: Path, paused: str
) -> None:
    """From 1.25 on the console can be reached there until the process ends."""
    answers = recorded("1.24.1", unix_socket_dir=str(tmp_path))
    with console(answers, "1.25.0", str(tmp_path)) as one:
        told(one, "CONFIG", listen_port=str(one.port))
        asks = asker(Target(PGBOUNCER, "front", one.dsn, counters="count"))
        memory: Memory = {}
        before = asks.poll()
        before.frames += derived(before, memory, 1.0)
        assert before.ok, before.problems()
        assert values(before)["state.code"] == 1
        one.shut_down()
        told(one, "STATE", paused=paused)
        drained(one)
        for now in (2.0, 3.0):
            poll = asks.poll()
            poll.frames += derived(poll, memory, now)
            assert poll.ok, poll.problems()
            found = sane(poll)
            assert found["state.code"] == 4
            assert found["state.paused"] == (paused == "yes")
            assert found["stats.app.query_count"] == 0, "it is the same process"
            drained(one)
    gone = asks.poll()
    assert gone.down
    assert gone.down.reason == "refused"


@pytest.mark.parametrize("when", ["SHOW STATS", "SHOW POOLS", "SHOW CONFIG"])
def test_a_poll_in_which_the_shutdown_comes_ends_and_lets_go(tmp_path: Path, when: str) -> None:
    answers = recorded("1.24.1", unix_socket_dir=str(tmp_path))
    with console(answers, "1.25.0", str(tmp_path)) as one:
        asks = asker(Target(PGBOUNCER, "front", one.dsn, counters="count"))
        polls: list[Poll] = []
        one.halt = when
        watcher = threading.Thread(target=lambda: polls.append(asks.poll()))
        watcher.start()
        until(lambda: one.asked[-1:] == [when])
        one.shut_down()
        assert one.open == 1
        one.halt = ""
        watcher.join()
        drained(one)
    (poll,) = polls
    poll.frames += derived(poll, {}, 1.0)
    assert poll.ok, poll.problems()
    assert sane(poll)["state.code"] == 1, "what it said before it shut down"


def test_a_process_that_ends_during_a_poll_costs_what_was_not_answered() -> None:
    """SHUTDOWN WAIT_FOR_SERVERS ends when the last server is released, whoever is connected."""
    with console(recorded("1.24.1"), "1.25.0") as one:
        one.dies_at = "SHOW POOLS"
        poll = asker(Target(PGBOUNCER, "front", one.dsn)).poll()
    poll.frames += derived(poll, {}, 1.0)
    assert [failure.stage for failure in poll.failures] == ["SHOW POOLS"]
    assert poll.up
    assert "stats.app.total_query_count" in sane(poll)
    assert "state.code" not in values(poll)


def told(one: Console, show: str, **new: str) -> None:
    """Change what a console says under some keys."""
    columns, rows = one.answers[f"SHOW {show}"]
    changed = [[row[0], new.get(str(row[0]), row[1]), *row[2:]] for row in rows]
    one.answers[f"SHOW {show}"] = (columns, changed)
