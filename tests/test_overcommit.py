"""Over-commit: what the pools of real PgBouncers may open, against a real cluster's connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pgstats.ask import asker
from pgstats.ask.place import behind, reached
from pgstats.model import PGBOUNCER, POSTGRES, Failure, Frame, Poll, Site, Target
from pgstats.scratch import Bouncer, Cluster, Scratch, conninfo
from pgstats.shape import commit, derived, leading, overcommit, retired
from pgstats.spell import DIALECTS, Speller
from pgstats.state import State
from tests.program import gauges, pgstats

OURS = ("localhost",)
NAME = "pgstats.postgres.main.overcommit."
#: Two pools of 3 and 2 in reserve, two of 10 + 2 that share 4 connections.
OPEN = 2 * (3 + 2) + 4


@pytest.fixture(scope="module")
def front(scratch: Scratch, cluster: Cluster) -> Iterator[Bouncer]:
    """A PgBouncer with four pools that lead to the cluster, and one that leads elsewhere."""
    address = f"{cluster.address} {conninfo(dbname='postgres')}"
    tcp = conninfo(host="127.0.0.1", port=cluster.port, dbname="postgres")
    databases = {
        "small": f"{address} pool_size=3 reserve_pool=2",
        "capped": f"{tcp} pool_size=10 reserve_pool=2 max_db_connections=4",
        "unused": f"{tcp} pool_size=50",
        "elsewhere": "host=192.0.2.7 port=5432 dbname=postgres pool_size=30",
    }
    users = {"pgadmin": "", "postgres": "", "second": ""}
    one = Bouncer(scratch, databases, users=users, admin_users=["pgadmin"], name="overcommit")
    cluster.psql("CREATE ROLE second LOGIN")
    with one:
        for name in ("small", "capped"):
            for user in ("postgres", "second"):
                one.psql("SELECT 1", name, user)
        yield one
    cluster.psql("DROP ROLE second")


def configured(tmp_path: Path, cluster: Cluster, *bouncers: str) -> str:
    texts = [f'[[postgres]]\nname = "main"\ndsn = "{cluster.dsn()}"\ndatabases = ["postgres"]\n']
    texts += [
        f'[[pgbouncer]]\nname = "front{number}"\ndsn = "{dsn}"\n'
        for number, dsn in enumerate(bouncers)
    ]
    path = tmp_path / "pgstats.toml"
    path.write_text("".join(texts))
    return str(path)


def shipped(config: str) -> dict[str, float]:
    """The gauges of over-commit, by metric."""
    done = pgstats("once", "--dry-run", "--config", config)
    found = gauges(done.stdout)
    return {name.removeprefix(NAME): v for name, v in found.items() if name.startswith(NAME)}


def usable(cluster: Cluster) -> int:
    return int(
        cluster.psql(
            "SELECT current_setting('max_connections')::int"
            " - current_setting('superuser_reserved_connections')::int"
        )
    )


def test_what_pools_may_open_is_held_against_the_usable_connections(
    cluster: Cluster, front: Bouncer, tmp_path: Path
) -> None:
    found = shipped(configured(tmp_path, cluster, front.dsn("pgbouncer", "pgadmin")))
    assert found == {
        "pools": 4,
        "pool_size": OPEN,
        "ratio": pytest.approx(OPEN / usable(cluster), abs=1e-6),
    }


class Counted(list[Any]):
    """A column that knows how often it was gone through."""

    times = 0

    def __iter__(self) -> Iterator[Any]:
        self.times += 1
        return super().__iter__()


def test_what_is_made_of_an_answer_goes_through_it_a_few_times(front: Bouncer) -> None:
    """And not once for each of its rows: there are PgBouncers with 5,000 pools."""
    poll = asker(Target(PGBOUNCER, "front", front.dsn("pgbouncer", "pgadmin"))).poll()
    for at, answer in enumerate(poll.frames):
        many = [Counted(value for value in column for _ in range(50)) for column in answer.columns]
        poll.frames[at] = answer._replace(columns=many)
    poll.leads = {f"{name} {n}": place for name, place in poll.leads.items() for n in range(50)}
    memory: dict[str, Any] = {}
    commit(poll, memory, 1.0)
    made = [*poll.frames, *derived(poll, memory, 1.0)]
    retired(made, {}, 0)
    assert Speller(DIALECTS["plain"], "pgstats").spell(*made)
    passes = {
        (frame.query.group, at): column.times
        for frame in poll.frames
        for at, column in enumerate(frame.columns)
        if isinstance(column, Counted)
    }
    assert max(passes.values()) < 20, passes


def test_pools_of_all_polled_pgbouncers_add_up(
    cluster: Cluster, front: Bouncer, tmp_path: Path
) -> None:
    by_tcp = front.dsn("pgbouncer", "pgadmin", host="127.0.0.1")
    config = configured(tmp_path, cluster, front.dsn("pgbouncer", "pgadmin"), by_tcp)
    assert shipped(config)["pool_size"] == 2 * OPEN


def test_a_pgbouncer_that_never_answered_costs_nothing(
    cluster: Cluster, front: Bouncer, tmp_path: Path
) -> None:
    silent = "host=127.0.0.1 port=1 user=pgadmin"
    config = configured(tmp_path, cluster, front.dsn("pgbouncer", "pgadmin"), silent)
    assert shipped(config)["pool_size"] == OPEN
    assert shipped(configured(tmp_path, cluster, silent)) == {}
    assert shipped(configured(tmp_path, cluster)) == {}


# ---- one target after the other, as in `pgstats run`


def polled(target: Target) -> Poll:
    with closing(asker(target)) as asks:
        return asks.poll()


@pytest.fixture
def polls(cluster: Cluster, front: Bouncer) -> tuple[Poll, Poll]:
    """A poll of the cluster, and one of the PgBouncer."""
    main = Target(POSTGRES, "main", cluster.dsn(), databases=("postgres",))
    return polled(main), polled(Target(PGBOUNCER, "front", front.dsn("pgbouncer", "pgadmin")))


def numbers(frames: list[Frame]) -> Any:
    """The one row there is; None for a frame without, "unknown" for no frame."""
    if not frames:
        return "unknown"
    rows = frames[0].rows
    return rows[0] if rows else None


def test_an_answer_counts_until_it_is_stale(polls: tuple[Poll, Poll]) -> None:
    main, front = polls
    state = State()
    known = state.of(front.target, front.identity)

    def at(now: float) -> Any:
        return numbers(overcommit(main, leading([state.memories(front.target)]), now))

    assert at(1000) == "unknown", "not asked yet"
    commit(front, known, 1000)
    assert at(1000)[:2] == (4, OPEN)
    commit(Poll(front.target, down=Failure("connect", "refused", "gone")), known, 1020)
    assert at(1030)[:2] == (4, OPEN)
    assert at(1031) == "unknown", "three intervals later"
    commit(front, known, 1040)
    assert at(1041)[:2] == (4, OPEN)
    assert numbers(overcommit(main, leading([]), 1041)) is None, "no PgBouncer is polled any more"


def test_silence_concerns_those_alone_that_it_led_to(polls: tuple[Poll, Poll]) -> None:
    main, front = polls
    known: dict[str, Any] = {}
    front.leads = {name: Site(("192.0.2.7",), "5432") for name in front.leads}
    commit(front, known, 1000)
    assert numbers(overcommit(main, leading([[known]]), 2000)) is None


def test_each_process_behind_a_port_has_pools_of_its_own(polls: tuple[Poll, Poll]) -> None:
    main, front = polls
    state = State()
    for peer in ("1", "2"):
        one = front.but(target=front.target._replace(peer=peer))
        commit(one, state.of(one.target), 1000)
    commit(Poll(front.target), state.of(front.target), 1000)  # the group, which leads nowhere
    found = overcommit(main, leading([state.memories(front.target)]), 1000)
    assert numbers(found)[:2] == (8, 2 * OPEN)


def test_one_of_several_processes_says_nothing_of_the_others(polls: tuple[Poll, Poll]) -> None:
    main, front = polls
    front.shared = True
    known: dict[str, Any] = {}
    commit(front, known, 1000)
    assert numbers(overcommit(main, leading([[known]]), 1000)) == (4, None, None)


def test_without_a_limit_there_is_no_sum(polls: tuple[Poll, Poll]) -> None:
    """From 1.24 on a pool_size of 0 is none; a database's limit holds all the same."""
    main, front = polls
    (databases,) = (f for f in front.frames if f.query.group == "databases")
    at = 1 + [metric.name for metric in databases.metrics].index("pool_size")
    columns = [*databases.columns]
    columns[at] = [0] * databases.height
    front.frames = [
        f._replace(columns=columns) if f.query.group == "databases" else f for f in front.frames
    ]
    known: dict[str, Any] = {}
    front.version = 11800
    commit(front, known, 1000)
    assert numbers(overcommit(main, leading([[known]]), 1000))[:2] == (4, 2 * 2 + 4)
    front.version = 12400
    commit(front, known, 1000)
    assert numbers(overcommit(main, leading([[known]]), 1000)) == (4, None, None)


@pytest.mark.parametrize("change", [{"hosts": ("192.0.2.7",)}, {"port": "1"}])
def test_pools_that_lead_elsewhere_are_left_out(
    polls: tuple[Poll, Poll], change: dict[str, Any]
) -> None:
    main, front = polls
    front.leads["small"] = front.leads["small"]._replace(**change)
    known: dict[str, Any] = {}
    commit(front, known, 1000)
    assert numbers(overcommit(main, leading([[known]]), 1000))[:2] == (2, 4)


def test_a_server_that_cannot_be_chosen_between_is_no_sum(polls: tuple[Poll, Poll]) -> None:
    main, front = polls
    there = front.leads["small"]
    front.leads["small"] = there._replace(hosts=(*there.hosts, "other"), several=True)
    known: dict[str, Any] = {}
    commit(front, known, 1000)
    assert numbers(overcommit(main, leading([[known]]), 1000)) == (4, None, None)


# ---- where servers are


@pytest.mark.parametrize(
    ("parameters", "hosts"),
    [
        ({}, OURS),
        ({"host": "/run/postgresql"}, OURS),
        ({"host": "LocalHost", "hostaddr": "::1"}, OURS),
        ({"host": "127.0.1.1"}, OURS),
        ({"host": "DB.example", "hostaddr": "192.0.2.7"}, ("db.example", "192.0.2.7")),
        ({"host": "own.example", "hostaddr": "127.0.1.1"}, ("own.example", "localhost")),
    ],
)
def test_a_server_is_known_by_name_and_address(
    parameters: dict[str, str], hosts: tuple[str, ...]
) -> None:
    assert reached(parameters) == Site(hosts, "5432")
    assert reached(parameters | {"port": "6000"}).port == "6000"


@pytest.mark.parametrize(
    ("host", "hosts", "several"),
    [
        (None, ("pooler", "192.0.2.9"), False),
        ("/tmp", ("pooler", "192.0.2.9"), False),
        ("127.0.0.1", ("pooler", "192.0.2.9"), False),
        ("DB.example", ("db.example",), False),
        ("a,b", ("a", "b"), True),
        ("a,/tmp", ("a", "pooler", "192.0.2.9"), True),
    ],
)
def test_what_is_on_the_machine_of_pgbouncer_is_where_that_is(
    host: str | None, hosts: tuple[str, ...], several: bool
) -> None:
    front = reached({"host": "pooler", "hostaddr": "192.0.2.9", "port": "6432"})
    assert behind(host, 5432, front) == Site(hosts, "5432", several)
