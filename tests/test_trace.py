"""From a session of PostgreSQL through PgBouncers to the application's own socket, for real."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import Any

import psycopg2
import pytest

from pgstats.ask.links import addresses, links
from pgstats.ask.session import Session
from pgstats.ask.witness import sample
from pgstats.catalogue.evidence import VIEWS
from pgstats.evidence import Client, Links, Record
from pgstats.model import PGBOUNCER, POSTGRES, Target
from pgstats.scratch import Bouncer, Cluster, Scratch, free_port
from pgstats.why.console import SOCKET, UNIX, WEAK, address, moment
from pgstats.why.trace import CHANGING, DIRECT, ENDED, HIDDEN, Trail, follow, trace
from tests.console import TEXT, WHOLE, console, table
from tests.test_peers import Process, grouped
from tests.test_replay import FOLDER, VERSIONS, number_of

LONG_AGO = "2020-01-01 00:07:30 UTC"
ACTIVITY = [view for view in VIEWS if view.name == "activity"]


@pytest.fixture(scope="module")
def front(scratch: Scratch, cluster: Cluster) -> Iterator[Bouncer]:
    """In front of PostgreSQL over TCP: ``tcp``, and ``local`` over its unix socket."""
    databases = {
        "tcp": f"host=127.0.0.1 port={cluster.port} dbname=postgres",
        "local": f"{cluster.address} dbname=postgres",
    }
    with pooler(scratch, "front", databases) as bouncer:
        yield bouncer


@contextmanager
def pooler(
    scratch: Scratch, name: str, databases: dict[str, str], mode: str = "transaction", **more: Any
) -> Iterator[Bouncer]:
    with Bouncer(
        scratch, databases, stats_users=["stats"], pool_mode=mode, settings=more, name=name
    ) as bouncer:
        yield bouncer


def behind(bouncer: Bouncer, name: str = "tcp") -> str:
    """How another pooler reaches that one, over TCP."""
    return f"host=127.0.0.1 port={bouncer.port} dbname={name}"


@contextmanager
def application(
    bouncer: Bouncer, dbname: str = "tcp", name: str = "shop", **more: Any
) -> Iterator[Any]:
    """A client with an open transaction that has written; ``pid`` is its session."""
    where = {"host": "127.0.0.1"} | more
    with closing(psycopg2.connect(bouncer.dsn(dbname, application_name=name, **where))) as found:
        write(found)
        yield found


def write(client: Any) -> None:
    with client.cursor() as cursor:
        cursor.execute("SELECT txid_current()")


def pid_of(client: Any) -> int:
    """The process of PostgreSQL that serves a client at this moment."""
    with client.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        found: int = cursor.fetchone()[0]
        return found


def own_port(client: Any) -> int:
    """The port of the application's own socket."""
    with socket.socket(fileno=os.dup(client.fileno())) as line:
        port: int = line.getsockname()[1]
        return port


def activity(cluster: Cluster, user: str = "postgres") -> list[Record]:
    target = Target(POSTGRES, "main", cluster.dsn(user=user))
    with closing(Session(target, time.monotonic() + 30)) as session:
        return list(sample(session, ACTIVITY).rows("activity"))


def session_of(cluster: Cluster, pid: int, user: str = "postgres") -> Record:
    return next(row for row in activity(cluster, user) if row["pid"] == pid)


def links_of(*bouncers: Bouncer) -> list[Links]:
    """What their consoles show; nothing may fail."""
    found = []
    for bouncer in bouncers:
        target = Target(PGBOUNCER, bouncer.name, bouncer.dsn("pgbouncer", "stats"))
        some, failures = links(target, time.monotonic() + 30)
        assert failures == []
        found += some
    return found


def client_of(cluster: Cluster, client: Any, *bouncers: Bouncer) -> Client:
    """The client that a session is traced to while it is idle in its transaction."""
    session = session_of(cluster, pid_of(client))
    (trail,) = follow([session], lambda: links_of(*bouncers), lambda: activity(cluster))
    assert trail.client, trail.reason
    return trail.client


def test_behind_one_pooler_over_tcp(cluster: Cluster, front: Bouncer) -> None:
    with application(front) as shop, application(front, name="other"):
        found = client_of(cluster, shop, front)
        assert (found.addr, found.port) == ("127.0.0.1", own_port(shop))
    assert found.pid is None
    assert found.application_name == "shop"
    assert found.user == "postgres"
    assert found.via == ({"pgbouncer": "front", "database": "tcp"},)
    assert found.proof == SOCKET
    assert found.kill == ""
    assert found.silent is not None
    assert 0 <= found.silent < 60


def test_over_unix_sockets_on_both_sides(cluster: Cluster, front: Bouncer) -> None:
    with application(front, "local", host=front.host) as shop:
        found = client_of(cluster, shop, front)
    assert (found.addr, found.port, found.pid) == ("unix", None, os.getpid())
    assert found.proof == UNIX
    assert found.note == ""


def test_silent_since_its_last_request(cluster: Cluster, front: Bouncer) -> None:
    with application(front) as shop:
        session = session_of(cluster, pid_of(shop))
        deadline = time.monotonic() + 60
        while silence(session, front) < 2:
            assert time.monotonic() < deadline
        while silence(session, front) > 1:
            write(shop)
            assert time.monotonic() < deadline


def silence(session: Record, bouncer: Bouncer) -> float:
    client = trace(session, links_of(bouncer)).client
    assert client
    assert client.silent is not None
    return client.silent


@pytest.fixture(scope="module")
def outer(scratch: Scratch, front: Bouncer) -> Iterator[Bouncer]:
    """A pooler in front of the pooler, over TCP and over its unix socket."""
    databases = {
        "tcp": behind(front),
        "local": f"{front.address} dbname=local",
    }
    with pooler(scratch, "outer", databases) as bouncer:
        yield bouncer


def test_behind_two_poolers(cluster: Cluster, front: Bouncer, outer: Bouncer) -> None:
    with application(outer) as shop, application(front, name="other") as other:
        found = client_of(cluster, shop, outer, front)
        assert (found.addr, found.port) == ("127.0.0.1", own_port(shop))
        assert client_of(cluster, other, outer, front).port == own_port(other)
    assert [one["pgbouncer"] for one in found.via] == ["front", "outer"]
    assert found.proof == SOCKET
    assert found.application_name == "shop"


def test_behind_two_poolers_over_unix_sockets(
    cluster: Cluster, front: Bouncer, outer: Bouncer
) -> None:
    with application(outer, "local") as shop:
        found = client_of(cluster, shop, outer, front)
        assert (found.addr, found.port) == ("127.0.0.1", own_port(shop))
    assert [one["database"] for one in found.via] == ["local", "local"]
    assert found.proof == UNIX


def test_two_connections_between_poolers_that_nothing_tells_apart(
    cluster: Cluster, front: Bouncer, outer: Bouncer
) -> None:
    """Begun in the same seconds, over unix sockets, by applications of the same name."""
    with application(outer, "local") as shop, application(outer, "local"):
        found = client_of(cluster, shop, outer, front)
    assert (found.addr, found.port) == ("unix", None)
    assert found.pid == outer.pid
    assert "several connections of PgBouncer outer" in found.note


def test_of_two_poolers_only_the_inner_one_is_configured(
    cluster: Cluster, front: Bouncer, outer: Bouncer
) -> None:
    with application(outer) as shop:
        found = client_of(cluster, shop, front)
        assert found.port != own_port(shop)
    assert found.addr == "127.0.0.1"
    assert found.application_name == "shop"
    assert found.note == "a pooler runs there, this may be one too"


def test_two_poolers_in_front_of_one_server(
    scratch: Scratch, cluster: Cluster, front: Bouncer
) -> None:
    databases = {"tcp": f"host=127.0.0.1 port={cluster.port} dbname=postgres"}
    with pooler(scratch, "second", databases) as second, ExitStack() as stack:
        applications = [stack.enter_context(application(one)) for one in (front, second, front)]
        for shop, name in zip(applications, ("front", "second", "front"), strict=True):
            found = client_of(cluster, shop, front, second)
            assert found.port == own_port(shop)
            assert [one["pgbouncer"] for one in found.via] == [name]


def test_a_pooler_that_is_named_twice_is_one(cluster: Cluster, front: Bouncer) -> None:
    with application(front) as shop, application(front, "local") as other:
        assert client_of(cluster, shop, front, front).port == own_port(shop)
        assert client_of(cluster, other, front, front).port == own_port(other)


def test_a_pooler_may_be_its_own_client(scratch: Scratch, cluster: Cluster) -> None:
    databases = {"tcp": f"host=127.0.0.1 port={cluster.port} dbname=postgres"}
    twice = Bouncer(scratch, databases, stats_users=["stats"], name="twice")
    twice.databases["again"] = behind(twice)
    with twice, application(twice, "again") as shop:
        found = client_of(cluster, shop, twice)
        assert found.port == own_port(shop)
    assert [one["database"] for one in found.via] == ["tcp", "again"]


def test_session_pooling(scratch: Scratch, cluster: Cluster) -> None:
    databases = {"tcp": f"host=127.0.0.1 port={cluster.port} dbname=postgres"}
    with pooler(scratch, "sessions", databases, "session") as bouncer, ExitStack() as stack:
        applications = [stack.enter_context(application(bouncer)) for _ in range(3)]
        for shop in applications:
            assert client_of(cluster, shop, bouncer).port == own_port(shop)


@pytest.fixture(scope="module")
def processes(scratch: Scratch, cluster: Cluster) -> Iterator[list[Process]]:
    """Three that share a port."""
    port = free_port()
    with ExitStack() as stack:
        yield [stack.enter_context(Process(scratch, cluster, port, n)) for n in (4, 5, 6)]


def test_processes_that_share_a_port(cluster: Cluster, processes: list[Process]) -> None:
    target = grouped(processes)
    with ExitStack() as stack:
        applications = [
            stack.enter_context(application(one, "shop", host=one.host)) for one in processes
        ]
        found, failures = links(target, time.monotonic() + 30)
        assert failures == []
        assert [one.pgbouncer for one in found] == ["front-1", "front-2", "front-3"]
        for number, shop in enumerate(applications, 1):
            client = trace(session_of(cluster, pid_of(shop)), found).client
            assert client
            assert client.via == ({"pgbouncer": f"front-{number}", "database": "shop"},)
            assert client.pid == os.getpid()


def test_a_process_that_does_not_answer_costs_its_own_links(processes: list[Process]) -> None:
    target = grouped(processes)._replace(timeout=1.5)
    processes[0].signal(19)
    try:
        found, failures = links(target, time.monotonic() + 3)
    finally:
        processes[0].signal(18)
    assert [one.pgbouncer for one in found] == ["front-2", "front-3"]
    assert [(one.stage, one.reason) for one in failures] == [("process 1: connect", "timeout")]


def test_one_of_several_met_by_chance_is_told(processes: list[Process]) -> None:
    dsn = f"host=127.0.0.1 port={processes[0].port} user=stats"
    found, failures = links(Target(PGBOUNCER, "front", dsn), time.monotonic() + 30)
    assert [one.pgbouncer for one in found] == ["front"]
    assert "so_reuseport" in str(*failures)


def test_processes_are_found_by_show_peers(processes: list[Process]) -> None:
    config = table("key value", "so_reuseport 1", f"listen_port {processes[0].port}")
    rows = [f"{n} {one.host} {one.port} 4" for n, one in enumerate(processes, 1)]
    peers = table("peer_id host port pool_size", *rows)
    empty = table("ptr link")
    answers = {f"SHOW {what}": empty for what in ("SERVERS", "CLIENTS", "DATABASES")}
    with console({**answers, "SHOW CONFIG": config, "SHOW PEERS": peers}, "1.24.1") as one:
        found, failures = links(Target(PGBOUNCER, "front", one.dsn), time.monotonic() + 30)
    assert failures == []
    assert [(one.pgbouncer, one.version) for one in found] == [
        (f"front-{number}", 11800) for number in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({}, "unknown command"),
        ({"SHOW DATABASES": ([], [])}, "no table"),
        ({"SHOW DATABASES": ([("name", TEXT), ("name", WHOLE)], [["a", "1"]])}, "no table"),
    ],
)
def test_a_console_that_answers_something_else(answers: Any, said: str) -> None:
    with console(answers) as one:
        found, (failure,) = links(Target(PGBOUNCER, "front", one.dsn), time.monotonic() + 30)
    assert found == []
    assert failure.stage == "SHOW DATABASES"
    assert said in failure.message


def test_a_name_in_another_encoding_hides_nobody(cluster: Cluster, front: Bouncer) -> None:
    psql = front.scratch.binaries.postgres / "psql"
    with application(front) as shop:
        # Once the pool has a server, a login needs none: this client never asks for anything.
        stranger = subprocess.Popen(
            [psql, "-X", "-d", front.dsn("tcp")],
            stdin=subprocess.PIPE,
            env={b"PGAPPNAME": b"caf\xe9"},
        )
        try:
            deadline = time.monotonic() + 60
            while r"caf\xe9" not in names(front):
                assert time.monotonic() < deadline
            assert client_of(cluster, shop, front).port == own_port(shop)
        finally:
            stranger.communicate()


def names(bouncer: Bouncer) -> list[str]:
    return [row["application_name"] for one in links_of(bouncer) for row in one.clients]


def test_nobody_there() -> None:
    dsn = f"host=127.0.0.1 port={free_port()} user=stats"
    found, (failure,) = links(Target(PGBOUNCER, "front", dsn), time.monotonic() + 30)
    assert found == []
    assert failure.reason == "refused"


@pytest.fixture(scope="module")
def adding(scratch: Scratch, cluster: Cluster) -> Iterator[Bouncer]:
    """A pooler that adds its client's address to application_name."""
    databases = {"tcp": f"host=127.0.0.1 port={cluster.port} dbname=postgres"}
    with pooler(scratch, "adding", databases, application_name_add_host=1) as bouncer:
        yield bouncer


def test_without_a_console_the_name_may_hold_the_address(cluster: Cluster, adding: Bouncer) -> None:
    with application(adding) as shop:
        found = client_of(cluster, shop)
        assert (found.addr, found.port) == ("127.0.0.1", own_port(shop))
    assert (found.application_name, found.user) == ("shop", "postgres")
    assert found.proof == WEAK
    assert found.via == ()
    assert "application_name_add_host" in found.note
    with application(adding, host=adding.host) as shop:
        found = client_of(cluster, shop)
    assert (found.addr, found.port, found.pid) == ("unix", None, os.getpid())


def test_with_its_console_the_added_address_is_no_news(cluster: Cluster, adding: Bouncer) -> None:
    with application(adding) as shop:
        found = client_of(cluster, shop, adding)
        assert (found.addr, found.port) == ("127.0.0.1", own_port(shop))
    assert (found.application_name, found.proof) == ("shop", SOCKET)
    with application(adding, host=adding.host) as shop:
        found = client_of(cluster, shop, adding)
    assert (found.application_name, found.pid, found.note) == ("shop", os.getpid(), "")


def test_the_outer_pooler_may_tell_by_name(
    scratch: Scratch, cluster: Cluster, front: Bouncer
) -> None:
    with (
        pooler(scratch, "teller", {"tcp": behind(front)}, application_name_add_host=1) as outer,
        application(outer) as shop,
    ):
        found = client_of(cluster, shop, front)
        assert (found.addr, found.port) == ("127.0.0.1", own_port(shop))
    assert found.application_name == "shop"
    assert found.proof == WEAK
    assert [one["pgbouncer"] for one in found.via] == ["front"]


def test_a_name_that_was_cut_tells_no_address(cluster: Cluster, adding: Bouncer) -> None:
    with application(adding, name="x" * 45) as shop:
        session = session_of(cluster, pid_of(shop))
        assert trace(session, []).client is None
        found = client_of(cluster, shop, adding)
        assert found.port == own_port(shop)


class Forwarder:
    """Hands TCP connections on: what it leads to sees its sockets, not those of the caller."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                threading.Thread(target=self._hand_on, args=(caller,), daemon=True).start()

    def _hand_on(self, caller: socket.socket) -> None:
        with caller, socket.create_connection(self._target) as there, suppress(OSError):
            other = {caller: there, there: caller}
            while True:
                for source in select.select(list(other), [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    other[source].sendall(data)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/New_York"])
def test_through_a_proxy_the_proof_is_weak(
    scratch: Scratch, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)  # which PgBouncer's times are in
    name = f"proxied-{zone.partition('/')[0]}"
    with closing(Forwarder(cluster.port)) as proxy:
        databases = {"tcp": f"host=127.0.0.1 port={proxy.port} dbname=postgres"}
        with pooler(scratch, name, databases) as bouncer, application(bouncer) as shop:
            found = client_of(cluster, shop, bouncer)
            (shown,) = links_of(bouncer)
            session = session_of(cluster, pid_of(shop))
            assert found.port == own_port(shop)
            assert found.proof == WEAK
            assert found.silent is not None
            assert 0 <= found.silent < 60
    for wrong in ({"user": "eve"}, {"connect_time": LONG_AGO}):
        assert trace(session, [doctored(shown, "servers", **wrong)]).client is None


def doctored(shown: Links, which: str, **values: object) -> Links:
    """The same, but with other values in the rows of one list."""
    lists: dict[str, Any] = {which: [{**row, **values} for row in getattr(shown, which)]}
    return shown._replace(**lists)


def test_a_pid_alone_proves_nothing(cluster: Cluster, front: Bouncer) -> None:
    """A session of PostgreSQL's own, whose pid a pooler has for a session of another server."""
    where = cluster.dsn(host="127.0.0.1")
    with closing(psycopg2.connect(where)) as direct, application(front):
        write(direct)
        session = session_of(cluster, direct.info.backend_pid)
        (shown,) = links_of(front)
    same_pid = doctored(shown, "servers", remote_pid=session["pid"])
    long_ago = doctored(same_pid, "servers", connect_time=LONG_AGO)
    trail = trace(session, [long_ago])
    assert trail.client is None
    assert "neither address nor time prove" in trail.reason
    other_user = doctored(same_pid, "servers", user="eve")
    assert trace(session, [other_user]) == Trail(reason=DIRECT)
    assert trace(session, [shown]) == Trail(reason=DIRECT)


def test_over_unix_sockets_a_pid_alone_proves_nothing(cluster: Cluster, front: Bouncer) -> None:
    with closing(psycopg2.connect(cluster.dsn())) as direct, application(front, "local"):
        write(direct)
        session = session_of(cluster, direct.info.backend_pid)
        (shown,) = links_of(front)
    same_pid = doctored(shown, "servers", remote_pid=session["pid"])
    assert session["client_port"] == -1
    for wrong in ({"user": "eve"}, {"connect_time": LONG_AGO}):
        assert trace(session, [doctored(same_pid, "servers", **wrong)]).client is None
    other_database = doctored(same_pid, "databases", database="elsewhere")
    assert trace(session, [other_database]).client is None


def test_of_equal_proofs_the_one_that_leads_to_the_same_server_counts(
    scratch: Scratch, cluster: Cluster
) -> None:
    """Two poolers with equal rows but for the server's address: as if both were behind a NAT."""
    with closing(Forwarder(cluster.port)) as proxy:
        databases = {"tcp": f"host=127.0.0.1 port={proxy.port} dbname=postgres"}
        with pooler(scratch, "nat", databases) as bouncer, application(bouncer) as shop:
            session = session_of(cluster, pid_of(shop))
            (shown,) = links_of(bouncer)
            port = own_port(shop)
    there = {"addr": "127.0.0.1", "port": cluster.port}
    one = doctored(shown, "servers", local_port=1, **there)._replace(pgbouncer="one")
    two = doctored(shown, "servers", local_port=2, addr="10.0.0.9")._replace(pgbouncer="two")
    here = Target(POSTGRES, "main", f"host=localhost port={cluster.port}")
    known = addresses(here, time.monotonic() + 30)
    assert ("127.0.0.1", cluster.port) in known
    found = trace(session, [two, one], known).client
    assert found
    assert (found.port, found.via[0]["pgbouncer"]) == (port, "one")
    unknown = trace(session, [two, one])
    assert unknown == Trail(reason="several connections of PgBouncer one, two could be it")


def test_addresses(cluster: Cluster) -> None:
    until = time.monotonic() + 30
    assert addresses(Target(POSTGRES, "a", cluster.dsn()), until) == [(cluster.host, cluster.port)]
    two = "host=127.0.0.1,::1 port=1,2"
    assert addresses(Target(POSTGRES, "a", two), until) == [("127.0.0.1", 1), ("::1", 2)]
    assert addresses(Target(POSTGRES, "a", "host=a..b"), until) == []
    assert addresses(Target(POSTGRES, "a", "host=127.0.0.1"), until) == [("127.0.0.1", 5432)]


def test_a_client_that_leaves_between_two_answers(scratch: Scratch, cluster: Cluster) -> None:
    """The next one soon gets its address in memory, and its session of PostgreSQL."""
    databases = {"tcp": f"host=127.0.0.1 port={cluster.port} dbname=postgres pool_size=1"}
    with pooler(scratch, "small", databases) as bouncer:
        with application(bouncer) as shop:
            accused = session_of(cluster, pid_of(shop))
            (before,) = links_of(bouncer)
            assert trace(accused, [before]).client
            shop.commit()
        for _ in range(100):
            with application(bouncer, name="innocent") as innocent:
                assert pid_of(innocent) == accused["pid"]
                mixed = [before._replace(clients=links_of(bouncer)[0].clients)]
                confused = trace(accused, mixed)
                trails = follow([accused], partial(list, mixed), lambda: activity(cluster))
                assert trails == [Trail(reason=ENDED)]
                innocent.commit()
            if confused.client:
                break
    assert confused.client
    assert confused.client.application_name == "innocent"
    assert follow([accused], lambda: [before], list) == [Trail(reason=ENDED)]


def test_links_that_never_agree(cluster: Cluster, front: Bouncer) -> None:
    with application(front) as shop:
        session = session_of(cluster, pid_of(shop))
        (shown,) = links_of(front)
        for wrong in ({"link": "0x1"}, {"ptr": "0x1"}):
            readings = iter([[doctored(shown, "clients", **wrong)]] * 4)
            (trail,) = follow([session], partial(next, readings), lambda: activity(cluster))
            assert trail.client is None
            assert trail.reason == CHANGING
            assert len(list(readings)) == 1


def test_links_that_agree_at_last(cluster: Cluster, front: Bouncer) -> None:
    with application(front) as shop:
        session = session_of(cluster, pid_of(shop))
        direct = {"pid": 1, "client_port": 1, "client_addr": "10.0.0.1"}
        (shown,) = links_of(front)
        readings = iter([doctored(shown, "servers", link=""), doctored(shown, "clients", link="")])
        (trail, other) = follow(
            [session, direct],
            lambda: [next(readings, shown)],
            lambda: [*activity(cluster), direct],
        )
        assert trail.client
        assert trail.client.port == own_port(shop)
    assert other == Trail(reason=DIRECT)


def test_a_server_connection_without_a_client(cluster: Cluster, front: Bouncer) -> None:
    with application(front) as shop:
        session = session_of(cluster, pid_of(shop))
        (shown,) = links_of(front)
    trail = trace(session, [doctored(shown, "servers", link="")])
    assert trail.reason == "PgBouncer front shows no client that is linked with it"
    assert trail.again


def test_a_break_behind_the_first_pooler_is_told(
    cluster: Cluster, front: Bouncer, outer: Bouncer
) -> None:
    with application(outer) as shop:
        session = session_of(cluster, pid_of(shop))
        inner, last = links_of(front, outer)
    (trail,) = follow(
        [session], lambda: [inner, doctored(last, "clients", link="")], lambda: [session]
    )
    assert trail.client
    assert trail.client.via == ({"pgbouncer": "front", "database": "tcp"},)
    assert trail.client.note == CHANGING


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"gid": "t1", "owner": "shop"}, "a prepared transaction has no session"),
        ({"slot_name": "s1", "active": False}, "a slot has no session"),
        ({"pid": 1, "backend_type": "logical replication worker"}, "applies a subscription's"),
        (
            {"pid": 1, "backend_type": "logical replication apply worker"},
            "applies a subscription's",
        ),
        ({"pid": 1, "backend_type": "autovacuum worker"}, "the autovacuum worker has no client"),
        ({"pid": 1, "usename": "shop"}, HIDDEN),
        ({"pid": 1, "client_addr": "10.0.0.9", "client_port": 7}, "comes from 10.0.0.9, where a"),
        ({"pid": 1, "client_addr": None, "client_port": -1}, "comes from a unix socket, where a"),
        ({"pid": 1, "client_addr": "10.0.0.1", "client_port": 7}, DIRECT),
    ],
)
def test_not_traceable_because(row: Record, said: str) -> None:
    trail = trace(row, [], unasked=["10.0.0.9"])
    assert trail.client is None
    assert said in trail.reason
    assert follow([row], list, lambda: [row], unasked=["10.0.0.9"]) == [trail]


def test_without_the_right_nothing_is_claimed(cluster: Cluster, front: Bouncer) -> None:
    cluster.psql("CREATE ROLE nosy LOGIN")
    try:
        with application(front) as shop:
            session = session_of(cluster, pid_of(shop), "nosy")
            assert trace(session, links_of(front)) == Trail(reason=HIDDEN)
    finally:
        cluster.psql("DROP ROLE nosy")


def recorded(version: str) -> Links:
    """What a version answered once, by the names of the columns."""
    shows = json.loads((FOLDER / f"{version}.json").read_text())["shows"]

    def rows(command: str) -> list[Record]:
        names = [column["name"] for column in shows[command]["columns"]]
        return [dict(zip(names, row, strict=True)) for row in shows[command]["rows"]]

    return Links("front", number_of(version), rows("SERVERS"), rows("CLIENTS"), rows("DATABASES"))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_columns_of_each_version(version: str) -> None:
    shown = recorded(version)
    server = next(row for row in shown.servers if row["link"])
    client = next(row for row in shown.clients if row["ptr"] == server["link"])
    session = {
        "pid": server["remote_pid"],
        "client_addr": server["local_addr"],
        "client_port": server["local_port"],
        "application_name": "as PostgreSQL was told",
    }
    found = trace(session, [shown]).client
    assert found
    assert (found.addr, found.port) == (client["addr"], client["port"])
    assert found.user == client["user"]
    assert found.proof == SOCKET
    assert found.application_name == client.get("application_name", "as PostgreSQL was told")
    assert found.kill == (f"KILL_CLIENT {client['id']}" if "id" in client else "")
    assert found.silent is not None
    assert found.silent >= 0
    began = moment(server["connect_time"])
    assert began
    assert began.zone == ("" if number_of(version) <= 11000 else "UTC")


def test_a_version_tells_of_ids_before_it_has_them() -> None:
    shown = recorded("1.24.1")._replace(version=12302)
    server = shown.servers[0]
    session = {"pid": server["remote_pid"]}
    session |= {"client_addr": server["local_addr"], "client_port": server["local_port"]}
    found = trace(session, [shown]).client
    assert found
    assert found.kill == ""


@pytest.mark.parametrize(
    ("text", "one_form"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("FE80:0:0:0:0:0:0:1", "fe80::1"),
        ("unix", "unix"),
        ("unix(4711)", "unix"),
        ("/run/postgresql", "/run/postgresql"),
        (None, ""),
    ],
)
def test_the_one_form_of_an_address(text: str | None, one_form: str) -> None:
    assert address(text) == one_form


def test_moments_of_zones_that_are_not_known() -> None:
    def at(text: str) -> Any:
        return moment(text)

    utc = at("2026-11-24 05:02:13 UTC")
    assert utc.apart(at("2026-11-24 05:02:15 UTC")) == 2
    assert utc.apart(at("2026-11-24 06:02:15 UTC")) == 3602
    assert utc.apart(at("2026-11-24 06:02:15 CET")) == 2
    assert utc.apart(at("2026-11-24 10:47:11 +0545")) == 2
    assert utc.apart(at("2026-11-24 05:09:43")) == 450
    assert moment("") is moment(None) is moment("soon") is None


def test_silence_across_a_change_of_the_clock_is_unknown() -> None:
    shown = doctored(recorded("1.18.0-deb"), "servers", request_time="2026-10-25 02:10:00 CET")
    shown = doctored(shown, "clients", request_time="2026-10-25 02:50:00 CEST")
    shown = shown._replace(clients=[*shown.clients, {"request_time": "2026-10-25 03:00:00 CET"}])
    server = next(row for row in shown.servers if row["link"])
    session = {"pid": server["remote_pid"]}
    session |= {"client_addr": server["local_addr"], "client_port": server["local_port"]}
    found = trace(session, [shown]).client
    assert found
    assert found.silent is None
