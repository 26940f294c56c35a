"""Servers that take nobody any more, and what is known of them all the same."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from pgstats.ask import asker, verbose
from pgstats.ask.connection import Connection, psycopg2
from pgstats.errors import AskError
from pgstats.model import PGBOUNCER, POSTGRES, Poll, Target
from pgstats.scratch import Bouncer, Cluster, Scratch
from tests.program import gauges, pgstats
from tests.test_run import wait_for
from tests.versions import VERSIONS, scratch_of

SLOTS = 6

#: Languages of PostgreSQL's own catalogues of messages; the last one is none.
LANGUAGES = ["de", "ja", "zh_CN", "tlh"]
MORE_LANGUAGES = ["es", "fr", "it", "ka", "ko", "ru", "sv", "uk"]


@pytest.fixture(
    params=[*LANGUAGES, *(pytest.param(one, marks=pytest.mark.full) for one in MORE_LANGUAGES)]
)
def language(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What servers speak that are started from now on, where their catalogues are installed."""
    monkeypatch.setenv("LANGUAGE", request.param)
    return str(request.param)


@pytest.fixture
def abroad(language: str, scratch: Scratch) -> Iterator[Cluster]:
    """A small cluster that speaks a language."""
    settings = {"max_connections": SLOTS, "lc_messages": "C.UTF-8"}
    with Cluster(scratch, settings, name=f"full-{language}") as cluster:
        cluster.psql(
            "CREATE ROLE plain LOGIN; CREATE ROLE one LOGIN CONNECTION LIMIT 0;"
            "CREATE DATABASE one CONNECTION LIMIT 0"
        )
        yield cluster


def refusal(dsn: str) -> AskError:
    with pytest.raises(AskError) as caught:
        Connection(POSTGRES, dsn, {}, time.monotonic() + 30).close()
    return caught.value


@contextmanager
def filled(cluster: Cluster, user: str = "postgres") -> Iterator[None]:
    """All slots that this user may have are taken."""
    with ExitStack() as stack:
        try:
            while True:
                stack.enter_context(closing(psycopg2.connect(cluster.dsn(user=user))))
        except psycopg2.OperationalError:
            yield


def test_a_refusal_means_the_same_in_every_language(abroad: Cluster, language: str) -> None:
    missing = refusal(abroad.dsn("nowhere"))
    if language != "tlh" and "does not exist" in str(missing):
        pytest.skip("this PostgreSQL came without its catalogues of messages")
    said = [refusal(abroad.dsn(user="one")), refusal(abroad.dsn("one", "plain"))]
    with filled(abroad, "plain"):
        said.append(refusal(abroad.dsn(user="plain")))
    with filled(abroad):
        said += [refusal(abroad.dsn(user="plain")), refusal(abroad.dsn())]
    assert {error.reason for error in said} == {"too_many_connections"}, [*map(str, said)]
    assert not any("53300" in str(e) or "LOCATION" in str(e) for e in said), [*map(str, said)]
    assert missing.reason == "wrong_database"
    assert refusal(abroad.dsn(user="nobody")).reason == "auth"


def test_an_encoding_that_is_not_ours_hides_no_reason() -> None:
    """Before login a server speaks the encoding of its own locale."""
    words = "接続数が多すぎます".encode("euc_jp")
    body = b"SFATAL\0VFATAL\0C53300\0M" + words + b"\0Fproc.c\0L357\0RInitProcess\0\0"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            visitor, _ = listener.accept()
            with visitor:
                visitor.recv(1024)
                visitor.sendall(b"E" + struct.pack("!I", len(body) + 4) + body)

        threading.Thread(target=refuse, daemon=True).start()
        port = listener.getsockname()[1]
        error = refusal(f"host=127.0.0.1 port={port} user=me sslmode=disable gssencmode=disable")
    assert error.reason == "too_many_connections", str(error)


def test_without_the_switch_of_libpq_english_is_still_understood(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbose, "_SWITCH", None)
    settings = {"max_connections": SLOTS}
    with Cluster(scratch, settings, name="full-plain") as cluster, filled(cluster):
        assert refusal(cluster.dsn()).reason == "too_many_connections"


@pytest.fixture(scope="module")
def small(scratch: Scratch) -> Iterator[Cluster]:
    """A cluster of few slots with two databases and a role that watches."""
    with Cluster(scratch, {"max_connections": SLOTS, "log_connections": "on"}, name="full") as one:
        one.psql("CREATE ROLE watch LOGIN; GRANT pg_monitor TO watch")
        for name in ("a", "b", "c"):
            one.psql(f"CREATE DATABASE {name}")
        yield one


def group(poll: Poll, name: str) -> Sequence[Sequence[object]]:
    return next(frame.rows for frame in poll.frames if frame.query.group == name)


def test_a_kept_connection_reports_from_inside_a_full_server(small: Cluster) -> None:
    target = Target(POSTGRES, "main", small.dsn(user="watch"), timeout=20)
    with closing(asker(target)) as one:
        assert one.poll().ok
        with filled(small):
            tried = small.log.read_text().count("connection received")
            poll = one.poll()
            tried = small.log.read_text().count("connection received") - tried
        assert poll.up
        assert {failure.reason for failure in poll.failures} == {"too_many_connections"}
        assert len(poll.failures) == tried == 2, "no more is tried than shows that all are full"
        assert group(poll, "connections")
        assert [row[0] for row in group(poll, "database")], "all that needs one connection is told"
        assert one.poll().ok, "and all again when there is room"


def test_who_comes_new_to_a_full_server_is_down_and_all_else_ships(
    small: Cluster, bouncer: Bouncer
) -> None:
    front = bouncer.dsn("pgbouncer", "stats")
    with filled(small):
        done = pgstats(
            "once", "--dry-run", "--postgres", small.dsn(user="watch"), "--pgbouncer", front
        )
    found = gauges(done.stdout)
    assert done.returncode == 1
    up = {name.split(".")[1]: value for name, value in found.items() if name.endswith(".up")}
    assert up == {"postgres": 0, "pgbouncer": 1}
    (reason,) = [name for name, value in found.items() if ".down." in name and value == 1]
    assert reason.startswith("pgstats.postgres.")
    assert reason.endswith(".down.too_many_connections.count")
    assert "pg_use_reserved_connections" in done.stderr
    assert any(".lists.used_clients" in name for name in found)


def test_pgbouncer_without_room_for_clients_is_polled_in_full(
    scratch: Scratch, cluster: Cluster
) -> None:
    settings = {"max_client_conn": 3, "default_pool_size": 5}
    with (
        Bouncer(
            scratch,
            {"*": cluster.address},
            stats_users=["stats"],
            settings=settings,
            name="full-front",
        ) as bouncer,
        ExitStack() as stack,
    ):
        for _ in range(3):
            stack.enter_context(closing(psycopg2.connect(bouncer.dsn("postgres"))))
        with pytest.raises(psycopg2.OperationalError, match="no more connections allowed"):
            psycopg2.connect(bouncer.dsn("postgres"))
        for host in (bouncer.host, "127.0.0.1"):
            dsn = bouncer.dsn("pgbouncer", "stats", host=host)
            with closing(asker(Target(PGBOUNCER, "front", dsn))) as one:
                poll = one.poll()
            assert poll.ok, poll.problems()
            assert {f.query.group for f in poll.frames} >= {"stats", "pools", "lists", "databases"}


def test_pgbouncer_out_of_descriptors_is_down_in_time(scratch: Scratch, cluster: Cluster) -> None:
    """Its kernel takes connections that it never hears of."""
    with (
        Bouncer(
            scratch, {"*": cluster.address}, stats_users=["stats"], name="full-descriptors"
        ) as bouncer,
        ExitStack() as stack,
    ):
        fds = Path(f"/proc/{bouncer.pid}/fd")
        limit = len(list(fds.iterdir())) + 2
        scratch.run(["prlimit", f"--nofile={limit}:{limit}", "--pid", str(bouncer.pid)])
        for _ in range(8):
            line = stack.enter_context(socket.socket(socket.AF_UNIX))
            line.connect(str(bouncer.folder / f".s.PGSQL.{bouncer.port}"))
        assert wait_for(lambda: "accept() failed" in bouncer.log.read_text())
        dsn = bouncer.dsn("pgbouncer", "stats")
        with closing(asker(Target(PGBOUNCER, "front", dsn, timeout=1.0))) as one:
            poll = one.poll()
        assert poll.down
        assert (poll.down.reason, poll.down.stage) == ("timeout", "connect")
        assert "out of file descriptors" in poll.down.remedy


@pytest.mark.full
@pytest.mark.parametrize("major", VERSIONS)
def test_every_version_says_so(major: str) -> None:
    """From 16 on some slots are reserved for those who are granted them."""
    with scratch_of(major) as other:
        reserved = {"reserved_connections": 1} if int(major) >= 16 else {}
        with Cluster(other, {"max_connections": SLOTS} | reserved) as cluster:
            cluster.psql("CREATE ROLE watch LOGIN; CREATE ROLE plain LOGIN")
            cluster.psql("GRANT pg_monitor TO watch")
            if reserved:
                cluster.psql("GRANT pg_use_reserved_connections TO watch")
            with filled(cluster, "plain"):
                assert refusal(cluster.dsn(user="plain")).reason == "too_many_connections"
                target = Target(POSTGRES, "main", cluster.dsn(user="watch"), timeout=20)
                with closing(asker(target)) as one:
                    poll = one.poll()
                assert poll.up == bool(reserved), poll.problems()
            with filled(cluster):
                assert refusal(cluster.dsn(user="watch")).reason == "too_many_connections"
