"""Several PgBouncer processes behind one port: three real ones, and SHOW PEERS by replay."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pgstats.ask import asker
from pgstats.ask import pgbouncer as asking
from pgstats.ask.burst import Burst
from pgstats.ask.pgbouncer import _refuses_tcp, group_of, sibling
from pgstats.model import PGBOUNCER, Failure, Frame, Poll, Target
from pgstats.scratch import Bouncer, Cluster, Scratch, free_port
from pgstats.shape import derived, frames, spread
from pgstats.spell import DIALECTS, Speller
from pgstats.state import State
from tests.console import Answer, console, table
from tests.program import gauges
from tests.test_operations import recorded

Answers = Mapping[str, Answer]


class Process(Bouncer):
    """One of several on the same port, with a socket folder of its own."""

    def __init__(self, scratch: Scratch, cluster: Cluster, port: int, number: int) -> None:
        super().__init__(
            scratch,
            {"shop": f"{cluster.address} dbname=postgres"},
            stats_users=["stats"],
            admin_users=["pgadmin"],
            settings={"so_reuseport": 1, "default_pool_size": 5, "max_client_conn": 10},
            name=f"peer{number}",
        )
        self.port = port
        self.settings["listen_port"] = port


@pytest.fixture(scope="module")
def processes(scratch: Scratch, cluster: Cluster) -> Iterator[list[Process]]:
    port = free_port()
    with ExitStack() as stack:
        yield [stack.enter_context(Process(scratch, cluster, port, number)) for number in (1, 2, 3)]


def grouped(processes: list[Process]) -> Target:
    sockets = tuple(process.host for process in processes)
    dsn = f"host=127.0.0.1 port={processes[0].port} user=stats"
    return Target(PGBOUNCER, "front", dsn, sockets=sockets)


def shipped(poll: Poll, dialect: str = "plain") -> str:
    speller = Speller(DIALECTS[dialect], "pgstats")
    return "".join(
        speller.spell(frame)
        for one in spread(poll)
        for frame in [*derived(one, {}, 1.0), *frames(one)]
    )


def test_each_process_is_its_own_target_and_the_group_is_their_sum(
    processes: list[Process],
) -> None:
    with ExitStack() as stack:
        for number, process in enumerate(processes, 1):
            for _ in range(number):  # 1, 2 and 3 clients, each with a server of its own
                client = stack.enter_context(closing(psycopg2.connect(process.dsn("shop"))))
                client.cursor().execute("SELECT 1")
        found = gauges(shipped(asker(grouped(processes)).poll()))
    pool = "pools.shop.postgres"
    for number in (1, 2, 3):
        assert found[f"pgstats.pgbouncer.front-{number}.{pool}.sv_active"] == number
        assert found[f"pgstats.pgbouncer.front-{number}.up"] == 1
        assert found[f"pgstats.self.poll.front-{number}.ok"] == 1
    assert found[f"pgstats.pgbouncer.front.{pool}.sv_active"] == 6
    assert found["pgstats.pgbouncer.front.up"] == 1
    assert found["pgstats.pgbouncer.front.lists.used_clients"] == 6 + 3  # and our consoles
    assert found["pgstats.pgbouncer.front.databases.shop.pool_size"] == 15
    assert found["pgstats.pgbouncer.front.config.max_client_conn"] == 30
    assert found["pgstats.pgbouncer.front.lists.client_utilization"] == 9 / 30
    # What is no amount is not added up.
    assert found["pgstats.pgbouncer.front.config.so_reuseport"] == 1
    assert found["pgstats.pgbouncer.front.config.server_lifetime_seconds"] == 3600
    assert found["pgstats.pgbouncer.front.lists.databases"] == 2


def test_in_the_tag_dialects_the_process_is_a_tag(processes: list[Process]) -> None:
    lines = shipped(asker(grouped(processes)).poll(), "dogstatsd").splitlines()
    ups = [line for line in lines if line.startswith("pgstats.pgbouncer.up:")]
    assert ups == [
        "pgstats.pgbouncer.up:1|g|#target:front",
        *(f"pgstats.pgbouncer.up:1|g|#target:front,peer:{number}" for number in (1, 2, 3)),
    ]


def test_a_dead_process_costs_its_own_gauges(processes: list[Process]) -> None:
    processes[1].stop()
    try:
        poll = asker(grouped(processes)).poll()
    finally:
        processes[1].start()
    found = gauges(shipped(poll))
    assert found["pgstats.pgbouncer.front-2.up"] == 0
    assert found["pgstats.pgbouncer.front-1.up"] == found["pgstats.pgbouncer.front-3.up"] == 1
    assert found["pgstats.pgbouncer.front.up"] == 1
    assert found["pgstats.self.poll.front.ok"] == 0
    (whole, *_) = spread(poll)
    assert [failure.stage for failure in whole.failures] == ["process 2: connect"]


def test_sums_have_the_metrics_of_the_processes(processes: list[Process]) -> None:
    """The very objects, so that what is spelled of a group is put together once as well."""
    whole, first, *_ = spread(asker(grouped(processes)).poll())
    theirs = {frame.query.group: frame.metrics for frame in first.frames}
    assert {"pools", "stats", "lists"} <= theirs.keys()
    for frame in whole.frames:
        if all(metric.across for metric in theirs[frame.query.group]):
            assert frame.metrics is theirs[frame.query.group]


def test_all_dead_is_down(processes: list[Process]) -> None:
    peers = [
        Poll(sibling(grouped(processes), "1", "/nowhere"), down=Failure("connect", "refused", "no"))
    ]
    (whole, _) = spread(Poll(grouped(processes), peers=peers))
    assert not whole.up
    assert not whole.frames


def test_over_the_shared_port_one_of_them_is_sampled_and_that_is_noted(
    processes: list[Process],
) -> None:
    dsn = f"host=127.0.0.1 port={processes[0].port} user=stats"
    poll = asker(Target(PGBOUNCER, "front", dsn)).poll()
    assert poll.ok
    (note,) = poll.notes
    assert "sockets" in note


def test_from_another_machine_no_socket_is_in_reach(processes: list[Process]) -> None:
    """0.0.0.0 leads to this one, but does not say so."""
    dsn = f"host=0.0.0.0 port={processes[0].port} user=stats"
    (note,) = asker(Target(PGBOUNCER, "front", dsn)).poll().notes
    assert "from their own machine" in note


def test_over_its_own_socket_a_process_is_no_sample(processes: list[Process]) -> None:
    poll = asker(Target(PGBOUNCER, "front", processes[0].dsn("pgbouncer", "stats"))).poll()
    assert poll.ok
    assert poll.notes == []
    assert not poll.peers


class Recorded:
    """A console of a version that cannot be had here: what SHOW PEERS answered there."""

    def __init__(self, version: int, rows: list[tuple[object, ...]]) -> None:
        self.version = version
        self.rows = rows

    def ask(self, sql: str) -> tuple[dict[str, bool], list[tuple[object, ...]]]:
        assert sql == "SHOW PEERS"
        names = ("peer_id", "host", "port", "pool_size")
        return {name: name != "host" for name in names}, self.rows


def test_siblings_are_found_by_show_peers() -> None:
    rows: list[tuple[object, ...]] = [(1, "/run/pgb1", 6432, 4), (2, "/run/pgb2", 6432, 4)]
    # Peers on another host, or with another port, share none.
    rows += [(3, "10.0.0.9", 6432, 4), (4, "/run/pgb4", 6433, 4)]
    own = {"peer_id": "1", "unix_socket_dir": "/run/pgb1", "listen_port": "6432"}
    found = group_of(Recorded(12401, rows), own)  # type: ignore[arg-type]
    assert found == [("1", "/run/pgb1", "6432"), ("2", "/run/pgb2", "6432")]
    assert group_of(Recorded(12401, rows[1:]), own) == found, "it need not list itself"  # type: ignore[arg-type]
    assert group_of(Recorded(12401, rows[:1]), own) == [], "there is nobody else"  # type: ignore[arg-type]
    assert group_of(Recorded(11800, rows), own) == []  # type: ignore[arg-type]
    target = Target(PGBOUNCER, "front", "host=localhost hostaddr=127.0.0.1 port=1 user=stats")
    one = sibling(target, *found[1])
    assert set(one.dsn.split()) == {"host=/run/pgb2", "hostaddr=''", "port=6432", "user=stats"}
    assert one.title == "front-2"


def memories(target: Target, state: State, now: float) -> dict[str, dict[str, float]]:
    """What is derived of each name that a poll of the group ships, as the main job does it."""
    found = {}
    for one in spread(asker(target).poll()):
        frames_of = derived(one, state.of(one.target, one.identity), now)
        found[one.target.title] = {
            f"{f.query.group}.{m.name}": value
            for f in frames_of
            for row in f.rows
            for m, value in zip(f.metrics, row[len(f.query.labels) :], strict=True)
        }
    return found


def counting(processes: list[Process], *numbers: int) -> Target:
    sockets = tuple(processes[number - 1].host for number in numbers)
    return grouped(processes)._replace(sockets=sockets, counters="count")


def test_a_process_that_comes_back_is_no_spike_of_the_group(processes: list[Process]) -> None:
    for process, queries in zip(processes, (1, 5, 50), strict=True):
        process.psql("SELECT 1;" * queries, "shop")
    state = State()
    everybody = counting(processes, 1, 2, 3)
    memories(everybody, state, 1.0)
    idle = memories(everybody, state, 2.0)
    assert {name: values["stats.query_count"] for name, values in idle.items()} == {
        "front": 0,
        "front-1": 0,
        "front-2": 0,
        "front-3": 0,
    }
    processes[2].signal(19)
    try:
        without = memories(everybody._replace(timeout=1.5), state, 3.0)
    finally:
        processes[2].signal(18)
    back = memories(everybody, state, 4.0)
    again = memories(everybody, state, 5.0)
    assert "stats.query_count" not in without["front"]
    assert without["front-1"]["stats.query_count"] == 0
    assert "stats.query_count" not in back["front"]
    assert back["front-3"]["stats.query_count"] == 0
    assert again["front"]["stats.query_count"] == 0


def test_a_folder_taken_out_gives_no_process_the_memory_of_another(
    processes: list[Process],
) -> None:
    state = State()
    memories(counting(processes, 1, 2, 3), state, 1.0)
    fewer = memories(counting(processes, 1, 3), state, 2.0)
    assert "stats.query_count" not in fewer["front-2"], "it was another process before"
    assert "stats.query_count" not in fewer["front"]
    assert fewer["front-1"]["stats.query_count"] == 0


def test_a_poll_by_chance_is_compared_with_the_same_process_alone(
    processes: list[Process],
) -> None:
    dsn = f"host=127.0.0.1 port={processes[0].port} user=stats"
    one = Target(PGBOUNCER, "front", dsn, counters="count")
    state = State()
    for now in range(12):
        assert memories(one, state, float(now))["front"].get("stats.query_count", 0) == 0


def test_a_poll_by_chance_is_told_whatever_is_collected(processes: list[Process]) -> None:
    """Who does not collect SHOW CONFIG must not take one process's totals for another's growth."""
    for process, queries in zip(processes, (1, 100, 400), strict=True):
        process.psql("SELECT 1;" * queries, "shop")
    dsn = f"host=127.0.0.1 port={processes[0].port} user=stats"
    one = Target(PGBOUNCER, "front", dsn, counters="count", collect=("stats",))
    poll = asker(one).poll()
    (note,) = poll.notes
    assert "sockets" in note
    assert {frame.query.group for frame in poll.frames} == {"stats"}
    state = State()
    for now in range(12):
        assert memories(one, state, float(now))["front"].get("stats.query_count", 0) == 0


@pytest.mark.parametrize("collect", [(), ("stats", "lists")])
@pytest.mark.parametrize("when", ["SHOW CONFIG", "SHOW STATS", "SHOW LISTS"])
def test_a_poll_cut_short_is_not_taken_for_another_process(
    tmp_path: Path, when: str, collect: tuple[str, ...]
) -> None:
    state = State()
    nowhere = [tmp_path / str(number) for number in (1, 2)]
    with console({}, "1.18.0") as one:
        target = Target(PGBOUNCER, "front", one.dsn, counters="count", collect=collect)
        for number, count in ((1, 100), (2, 500)):
            one.answers |= recorded_process(number, nowhere[number - 1], one.port)
            one.answers["SHOW STATS"] = table("database total_query_count", f"shop {count}")
            one.dies_at = when if number == 2 else ""
            poll = asker(target).poll()
            memory = state.of(target, poll.identity)
            grew = [f for f in derived(poll, memory, float(number)) if f.query.group == "stats"]
            assert not any(frame.rows for frame in grew)
            assert poll.ok == (number == 1)
    assert poll.up == (when == "SHOW LISTS" or (when == "SHOW STATS" and not collect))


def test_all_processes_are_sampled_at_the_same_time(processes: list[Process]) -> None:
    """So that many samples of many processes take no longer than those of one."""
    target = grouped(processes)._replace(timeout=1.5)
    poll = asker(target, Burst(4, 0.7)).poll()
    assert [peer.problems() for peer in poll.peers] == [[], [], []]
    found = gauges(shipped(poll))
    for name in ("front-1", "front-3", "front"):
        assert f"pgstats.pgbouncer.{name}.pools.shop.postgres.cl_waiting_mean" in found
    assert "pgstats.pgbouncer.front.pools.shop.postgres.cl_waiting_max" not in found


def test_where_threads_are_short_one_process_is_asked_after_the_other(
    processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    poll = asker(grouped(processes)).poll()
    assert [peer.ok for peer in poll.peers] == [True, True, True]


def test_a_bug_costs_the_process_that_it_happens_on(
    processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(target: Target, *more: Any) -> Any:
        return 1 / 0 if target.peer == "2" else really(target, *more)

    really = asking.connect
    monkeypatch.setattr(asking, "connect", connect)
    poll = asker(grouped(processes)).poll()
    assert [peer.up for peer in poll.peers] == [True, False, True]
    assert "ZeroDivisionError" in str(poll.peers[1].down)


def recorded_process(number: int, folder: Path, port: int, *peers: tuple[int, Path]) -> Answers:
    """What one of several processes of 1.24 on a port answers."""
    own = {"so_reuseport": "1", "peer_id": str(number), "unix_socket_dir": str(folder)}
    answers = recorded("1.24.1", listen_port=str(port), **own)
    rows = [[str(peer), str(where), str(port), "4"] for peer, where in peers]
    return answers | {"SHOW PEERS": (answers["SHOW PEERS"][0], rows)}


def test_from_one_port_all_of_a_newer_version_are_found(tmp_path: Path) -> None:
    """By replay: 1.24 with SHOW PEERS, whose processes do not list themselves."""
    folders = {number: tmp_path / str(number) for number in (1, 2)}
    for folder in folders.values():
        folder.mkdir()
    with (
        console({}, "1.24.1", str(folders[1])) as one,
        console({}, "1.24.1", str(folders[2])) as two,
    ):
        name = f".s.PGSQL.{one.port}"
        (folders[2] / name).symlink_to(f".s.PGSQL.{two.port}")
        one.answers |= recorded_process(1, folders[1], one.port, (2, folders[2]))
        two.answers |= recorded_process(2, folders[2], one.port, (1, folders[1]))
        target = Target(PGBOUNCER, "front", one.dsn)
        found = gauges(shipped(asker(target).poll()))
        two.close()
        without = asker(target).poll()
    assert found["pgstats.pgbouncer.front-1.config.peer_id"] == 1
    assert found["pgstats.pgbouncer.front-2.config.peer_id"] == 2
    assert found["pgstats.pgbouncer.front-1.pools.billing.billing_user.cl_waiting"] == 2
    assert found["pgstats.pgbouncer.front.pools.billing.billing_user.cl_waiting"] == 4
    assert found["pgstats.pgbouncer.front.pools.billing.billing_user.maxwait_seconds"] == 7.999713
    assert [peer.up for peer in without.peers] == [True, False]


def test_siblings_out_of_reach_do_not_take_away_the_one_that_answers(tmp_path: Path) -> None:
    """Their folders may be in a container: one of them is better than none."""
    with console({}, "1.24.1") as one:
        nowhere = [(number, tmp_path / str(number)) for number in (1, 2)]
        one.answers |= recorded_process(1, nowhere[0][1], one.port, *nowhere)
        poll = asker(Target(PGBOUNCER, "front", one.dsn)).poll()
    assert poll.ok, poll.problems()
    assert not poll.peers
    (note,) = poll.notes
    assert "none of the 2 in SHOW PEERS can be reached" in note
    assert "SHOW POOLS" in {frame.query.sql for frame in poll.frames}


def test_a_hanging_process_leaves_the_others_their_time(processes: list[Process]) -> None:
    target = grouped(processes)
    target = Target(PGBOUNCER, "front", target.dsn, sockets=target.sockets, timeout=1.5)
    processes[0].signal(19)
    try:
        done: list[Poll] = []
        thread = threading.Thread(target=lambda: done.append(asker(target).poll()))
        thread.start()
        thread.join(10)
    finally:
        processes[0].signal(18)
    assert [peer.up for peer in done[0].peers] == [False, True, True]


def test_a_process_that_closed_its_port_is_read_through_its_socket(
    scratch: Scratch, cluster: Cluster
) -> None:
    """As 1.25 does while it waits for its clients; here the port is closed by a restart."""
    with Bouncer(
        scratch, {"*": cluster.address}, stats_users=["stats"], name="draining"
    ) as bouncer:
        asks = asker(Target(PGBOUNCER, "front", f"host=127.0.0.1 port={bouncer.port} user=stats"))
        assert not asks.poll().draining
        bouncer.settings["listen_addr"] = ""
        bouncer.restart()
        poll = asks.poll()
        bouncer.stop()
        gone = asks.poll()
    assert poll.ok
    assert poll.draining
    found = gauges(shipped(poll))
    assert found["pgstats.pgbouncer.front.state.code"] == 4
    assert found["pgstats.pgbouncer.front.up"] == 1
    assert gone.down
    assert gone.down.reason == "refused"


def test_a_port_that_refuses_while_the_socket_answers_is_draining() -> None:
    """1.25 keeps the unix socket open for the console while it waits for its clients."""
    closed = str(free_port())
    assert _refuses_tcp({"listen_addr": "127.0.0.1", "listen_port": closed})
    assert _refuses_tcp({"listen_addr": "*", "listen_port": closed})
    assert _refuses_tcp({"listen_addr": "localhost", "listen_port": closed})
    assert not _refuses_tcp({"listen_addr": "", "listen_port": closed})
    assert not _refuses_tcp({"listen_addr": "nowhere.invalid", "listen_port": closed})
    poll = Poll(Target(PGBOUNCER, "front", ""))
    poll.draining = True
    (frame,) = [f for f in derived(poll, {}, 1.0) if isinstance(f, Frame)]
    assert frame.rows == [(4,)]
