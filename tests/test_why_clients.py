"""The culprit behind one PgBouncer and behind two: named with its own address and port."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pgstats.scratch import Bouncer, Cluster, Scratch
from tests.program import pgstats
from tests.test_readme import TEXT
from tests.why import EAGER, Document, churn, dead, run, until

ROWS = 2000


@pytest.fixture(scope="module")
def server(scratch: Scratch) -> Iterator[Cluster]:
    with Cluster(scratch, EAGER, name="why-clients") as cluster:
        cluster.psql("CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher")
        cluster.psql("CREATE ROLE billing LOGIN SUPERUSER")
        yield cluster


@pytest.fixture(scope="module")
def inner(scratch: Scratch, server: Cluster) -> Iterator[Bouncer]:
    """In front of PostgreSQL, over TCP."""
    databases = {"shop": f"host=127.0.0.1 port={server.port} dbname=postgres"}
    with Bouncer(
        scratch, databases, stats_users=["stats"], users=USERS, name="why-inner"
    ) as bouncer:
        yield bouncer


@pytest.fixture(scope="module")
def outer(scratch: Scratch, inner: Bouncer) -> Iterator[Bouncer]:
    """In front of the other PgBouncer."""
    databases = {"front": f"host=127.0.0.1 port={inner.port} dbname=shop"}
    with Bouncer(
        scratch, databases, stats_users=["stats"], users=USERS, name="why-outer"
    ) as bouncer:
        yield bouncer


USERS = {"stats": "", "billing": ""}


@pytest.fixture
def table(server: Cluster) -> Iterator[str]:
    server.psql(
        "CREATE TABLE churned (id int, v int); CREATE TABLE elsewhere (i int);"
        f"INSERT INTO churned SELECT i, 0 FROM generate_series(1, {ROWS}) i"
    )
    server.psql("VACUUM ANALYZE churned")
    yield "churned"
    server.psql("SET lock_timeout = '20s'; DROP TABLE churned, elsewhere")


@contextmanager
def application(bouncer: Bouncer, dbname: str, statement: str) -> Iterator[Any]:
    """A client of a pooler in the middle of a transaction."""
    dsn = bouncer.dsn(dbname, "billing", host="127.0.0.1", application_name="invoice-worker")
    with closing(psycopg2.connect(dsn)) as connection:
        connection.cursor().execute(statement)
        yield connection


def port(connection: Any) -> int:
    """The application's own port, as its socket says."""
    with socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as own:
        return int(own.getsockname()[1])


def why(server: Cluster, *bouncers: Bouncer) -> Document:
    """The verdict of one who knows these consoles."""
    consoles = [word for one in bouncers for word in ("--pgbouncer", one.dsn("pgbouncer", "stats"))]
    asked = ["churned", "--postgres", server.dsn(user="watcher"), *consoles]
    found, code = run(*asked, "--watch", "400ms", "--no-state", "--json")
    assert code == 1
    return found  # type: ignore[no-any-return]


def names(client: Document) -> Sequence[str]:
    return [step["database"] for step in client["via"]]


def test_idle_in_transaction_behind_one(server: Cluster, inner: Bouncer, table: str) -> None:
    with application(inner, "shop", "INSERT INTO elsewhere VALUES (1)") as culprit:
        churn(server, table)
        (cause,) = why(server, inner)["causes"]
        assert cause["id"] == "horizon.idle_in_xact"
        client = cause["client"]
        assert (client["addr"], client["port"]) == ("127.0.0.1", port(culprit))
        assert client["application_name"] == "invoice-worker"
        assert client["user"] == "billing"
        assert client["proof"] == "socket"
        assert names(client) == ["shop"]
        assert cause["summary"].startswith(f"invoice-worker at 127.0.0.1:{port(culprit)}")
    until(lambda: dead(server, table) == 0)


def test_idle_in_transaction_behind_two(
    server: Cluster, inner: Bouncer, outer: Bouncer, table: str
) -> None:
    with application(outer, "front", "INSERT INTO elsewhere VALUES (1)") as culprit:
        churn(server, table)
        client = why(server, inner, outer)["causes"][0]["client"]
        assert (client["addr"], client["port"]) == ("127.0.0.1", port(culprit))
        assert names(client) == ["shop", "front"]
    until(lambda: dead(server, table) == 0)


def test_the_example_of_the_readme(scratch: Scratch, server: Cluster, tmp_path: Path) -> None:
    """As it stands there, but for numbers, times and addresses."""
    server.psql("CREATE DATABASE appdb")
    server.psql(
        "CREATE TABLE invoices (id int, total numeric); CREATE TABLE orders (id int, v int);"
        f"INSERT INTO orders SELECT i, 0 FROM generate_series(1, {ROWS}) i",
        "appdb",
    )
    server.psql("VACUUM ANALYZE orders", "appdb")
    databases = {"appdb": f"host=127.0.0.1 port={server.port}"}
    more: dict[str, Any] = {"stats_users": ["stats"], "users": USERS, "name": "why-readme"}
    with Bouncer(scratch, databases, **more) as front:
        config = tmp_path / "pgstats.toml"
        config.write_text(
            f'[[pgbouncer]]\nname = "front"\ndsn = "{front.dsn("pgbouncer", "stats")}"\n'
            f'[[postgres]]\nname = "main"\ndsn = "{server.dsn(user="watcher")}"\n'
        )
        with application(front, "appdb", "INSERT INTO invoices VALUES (4711, 99.5)"):
            churn(server, "orders", ROWS, "appdb")
            done = pgstats("why", "orders", "--config", str(config), "--no-state", "--watch", "4s")
    (example,) = re.findall(r"```console\n\$ pgstats why orders\n([^`]*)```", TEXT)
    same_host = "   Traced to 127.0.0.1: a pooler runs there, this may be one too.\n"
    assert gist(done.stdout.replace(same_host, "")) == gist(example)


def gist(text: str) -> str:
    """A report as one line, without the numbers."""
    line = re.sub(r"\d+ (d|h|min|s)( \d+ (h|min|s))?\b", "TIME", " ".join(text.split()))
    return re.sub(r"\d[\d.,:]*", "N", line)


def test_a_lock_behind_a_pooler(server: Cluster, inner: Bouncer, table: str) -> None:
    lock = f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE"
    with application(inner, "shop", lock) as culprit:
        churn(server, table)
        (cause,) = why(server, inner)["causes"]
        assert cause["id"] == "vacuum.lock_held"
        assert cause["client"]["port"] == port(culprit)
        assert cause["summary"].startswith(
            f"invoice-worker at 127.0.0.1:{port(culprit)} has a lock"
        )
    until(lambda: dead(server, table) == 0)


def test_a_console_that_does_not_answer_is_a_limit(
    server: Cluster, inner: Bouncer, table: str, tmp_path: Path
) -> None:
    with application(inner, "shop", "INSERT INTO elsewhere VALUES (1)"):
        churn(server, table)
        asked = ["churned", "--postgres", server.dsn(user="watcher")]
        gone = f"host={tmp_path} port=1 dbname=pgbouncer"
        found, code = run(*asked, "--pgbouncer", gone, "--watch", "400ms", "--no-state", "--json")
        assert code == 1
        assert "client" not in found["causes"][0]
        assert any("PgBouncer" in limit["what"] for limit in found["limits"])
    until(lambda: dead(server, table) == 0)
