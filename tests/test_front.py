"""`from_pgbouncer`: a cluster is where its PgBouncer says, with the databases that are there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from pgstats.ask.postgres import PostgresAsker
from pgstats.ask.proof import prove
from pgstats.model import PGBOUNCER, POSTGRES, Poll, Target
from pgstats.scratch import Bouncer, Cluster, Scratch, conninfo, free_port
from tests.program import gauges, pgstats
from tests.test_ask_postgres import column, database, poll

__all__ = ["database"]


def place(cluster: Cluster, **more: object) -> str:
    """Where a database of a PgBouncer leads: over TCP, as most do."""
    return conninfo(host="127.0.0.1", port=cluster.port, **more)


@pytest.fixture
def front(scratch: Scratch, cluster: Cluster, database: str) -> Iterator[Bouncer]:
    """A PgBouncer whose databases have other names than the server's."""
    databases = {
        "orders": place(cluster, dbname=database),
        "again": place(cluster, dbname=database),
    }
    with Bouncer(scratch, databases, stats_users=["stats"], name="fronted") as bouncer:
        yield bouncer


def behind(bouncer: Bouncer, dsn: str = "user=postgres", **more: object) -> Target:
    known = Target(PGBOUNCER, "front", bouncer.dsn("pgbouncer", "stats"))
    return Target(POSTGRES, "main", dsn, front=known, **more)  # type: ignore[arg-type]


def databases(found: Poll) -> set[str]:
    return {name for (name,) in column(found, "database", "tables")}


def test_the_server_is_found_and_polled_directly(
    front: Bouncer, cluster: Cluster, database: str
) -> None:
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 7) i", database)
    with closing(PostgresAsker(behind(front))) as asks:
        found = asks.poll()
        port = "SELECT client_port FROM pg_stat_activity WHERE application_name = 'pgstats'"
        assert int(cluster.psql(port)) > 0, "over TCP, as the PgBouncer does"
        assert front.console("SHOW POOLS").count(database) == 0, "and not through its pools"
    assert found.ok, found.problems()
    assert databases(found) == {database}, "the real name, once, and no other database"
    assert column(found, "tables", "n_live_tup")[database, "public", "t"] == 7


def test_it_follows_where_the_pgbouncer_leads(
    front: Bouncer, database: str, scratch: Scratch
) -> None:
    with Cluster(scratch, name="moved") as other, closing(PostgresAsker(behind(front))) as asks:
        assert databases(asks.poll()) == {database}
        front.databases = {"orders": place(other, dbname="postgres")}
        front.reload()
        moved = asks.poll()
        assert moved.ok, moved.problems()
        assert databases(moved) == {"postgres"}
        front.stop()
        alone = asks.poll()
        assert databases(alone) == {"postgres"}, "the server is where it was"
        (told,) = alone.failures
        assert (told.stage, told.reason) == ("from_pgbouncer front", "refused")
        front.start()
        assert asks.poll().ok


def test_new_databases_are_noticed(front: Bouncer, cluster: Cluster, database: str) -> None:
    with closing(PostgresAsker(behind(front))) as asks:
        assert databases(asks.poll()) == {database}
        front.databases["more"] = place(cluster, dbname="postgres")
        front.reload()
        assert databases(asks.poll()) == {database, "postgres"}


def test_of_several_servers_the_dsn_chooses(
    front: Bouncer, cluster: Cluster, database: str
) -> None:
    nowhere = free_port()
    front.databases["elsewhere"] = f"host=127.0.0.1 port={nowhere} dbname=shop"
    front.reload()
    doubtful = poll(behind(front))
    assert doubtful.down
    assert "leads to several servers: " in doubtful.down.message
    assert f"port={nowhere}" in doubtful.down.message
    found = poll(behind(front, f"user=postgres port={cluster.port}"))
    assert found.ok, found.problems()
    assert databases(found) == {database}
    wrong = poll(behind(front, "user=postgres port=1"))
    assert wrong.down
    assert "none that dsn means" in wrong.down.message


def test_without_a_host_it_is_where_the_pgbouncer_looks(
    scratch: Scratch, cluster: Cluster, database: str
) -> None:
    """A database without host= is reached over the unix socket in unix_socket_dir."""
    bouncer = Bouncer(scratch, {"x": f"port={cluster.port} dbname={database}"}, name="socketed")
    bouncer.settings |= {"unix_socket_dir": cluster.host, "stats_users": "stats, postgres"}
    bouncer.users["stats"] = ""
    bouncer.folder = cluster.folder  # where its socket is
    with bouncer:
        found = poll(behind(bouncer))
    assert found.ok, found.problems()
    assert databases(found) == {database}


@pytest.fixture
def file(front: Bouncer, tmp_path: Path) -> Path:
    """A configuration in which it is asked where the cluster is."""
    path = tmp_path / "pgstats.toml"
    path.write_text(
        f'[[postgres]]\nname = "main"\nfrom_pgbouncer = "front"\ndsn = "user=postgres"\n'
        f'[[pgbouncer]]\nname = "front"\ndsn = "{front.dsn("pgbouncer", "stats")}"\n'
    )
    return path


def test_why_asks_the_server_behind_the_pgbouncer(
    front: Bouncer, database: str, file: Path
) -> None:
    with closing(psycopg2.connect(front.dsn("orders"))) as client:
        client.autocommit = True
        client.cursor().execute("CREATE TABLE asked ()")
    done = pgstats("why", "asked", "--watch", "0", "--no-state", "--config", str(file))
    assert done.stdout.startswith(f"{database}.public.asked: nothing keeps dead rows")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_pgbouncer_that_was_never_there_is_the_reason() -> None:
    front = Target(PGBOUNCER, "front", f"host=127.0.0.1 port={free_port()} user=stats")
    found = poll(Target(POSTGRES, "main", "user=postgres", front=front))
    assert found.down
    assert (found.down.stage, found.down.reason) == ("from_pgbouncer front", "refused")
    told = [one.message for one in prove(found.target) if one.status == "failed"]
    assert len(told) == 1
    assert "from_pgbouncer front" in told[0]


def test_in_a_file(database: str, file: Path) -> None:
    done = pgstats("once", "--dry-run", "--config", str(file))
    assert done.returncode == 0, done.stderr
    assert gauges(done.stdout)[f"pgstats.postgres.main.database.{database}.tables"] == 0
    checked = pgstats("check", "--config", str(file)).stdout
    assert "ok     main: role postgres has the rights of pg_monitor\n" in checked
    assert "ok     main: 1 databases polled\n" in checked
    wrong = file.read_text().replace('from_pgbouncer = "front"', 'from_pgbouncer = "frnt"')
    file.write_text(wrong)
    refused = pgstats("check", "--offline", "--config", str(file))
    assert refused.returncode == 78
    assert '"frnt" is no [[pgbouncer]]; there are front' in refused.stderr
