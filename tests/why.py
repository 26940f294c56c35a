"""Makes causes for real, asks `pgstats why`, and lets VACUUM itself say whether rows are stuck."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import psycopg2

from pgstats.scratch import Cluster, Scratch
from tests.program import pgstats

Document = dict[str, Any]

#: Rows of the table that is rewritten.
ROWS = 2000

#: Settings of a cluster in which autovacuum acts within seconds.
EAGER: dict[str, object] = {
    "autovacuum_naptime": "1s",
    "autovacuum_vacuum_insert_threshold": -1,  # no vacuum comes unasked for
    "autovacuum_max_workers": 2,
    "max_prepared_transactions": 5,
    "max_connections": 60,
    "wal_level": "logical",
    "max_wal_senders": 8,
    "max_replication_slots": 8,
}


@contextmanager
def watched(
    scratch: Scratch, name: str, settings: Mapping[str, object] = EAGER
) -> Iterator[Cluster]:
    """A cluster with a role that sees everything, and one that sees what anybody may."""
    with Cluster(scratch, settings, name=name) as cluster:
        cluster.psql("CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher")
        cluster.psql("CREATE ROLE blind LOGIN")
        yield cluster


@contextmanager
def churning(server: Cluster, dbname: str = "postgres", *more: str) -> Iterator[str]:
    """A table to rewrite, and ``more`` of one column that sessions can write to."""
    others = "".join(f"CREATE TABLE {name} (i int);" for name in more)
    server.psql(
        f"CREATE TABLE churned (id int, v int); {others}"
        f"INSERT INTO churned SELECT i, 0 FROM generate_series(1, {ROWS}) i",
        dbname,
    )
    server.psql("VACUUM ANALYZE churned", dbname)
    yield "churned"
    names = ", ".join(("churned", *more))
    server.psql(f"SET lock_timeout = '20s'; DROP TABLE {names}", dbname)


def why(
    cluster: Cluster, table: str = "", *more: str, watch: str = "400ms", user: str = "watcher"
) -> Document:
    """The verdict of a role that has pg_monitor and nothing else; its exit code must fit."""
    arguments = [table] if table else []
    options = ["--postgres", cluster.dsn(user=user), "--watch", watch, "--no-state", "--json"]
    found: Document
    found, code = run(*arguments, *options, *more)
    assert code == {"clear": 0, "held": 1, "unknown": 69}[found["verdict"]]
    return found


def why_each(*clusters: Cluster, table: str = "") -> list[Document]:
    """The verdicts on clusters that are asked together."""
    dsns = [word for one in clusters for word in ("--postgres", one.dsn(user="watcher"))]
    asked = [table] if table else []
    found, _ = run(*asked, *dsns, "--watch", "400ms", "--no-state", "--json")
    return list(found)


def run(*arguments: str) -> tuple[Any, int]:
    """What the command prints, which must be JSON and nothing else, and its exit code."""
    done = pgstats("why", *arguments)
    assert done.stderr == "", done.stderr
    return json.loads(done.stdout), done.returncode


def accused(found: Document) -> list[str]:
    """The causes that are more than a line of information, in their order."""
    return [cause["id"] for cause in found["causes"] if cause["severity"] != "info"]


def only(found: Document, cause_id: str) -> Document:
    """The one cause that is accused, which must be this one."""
    assert accused(found) == [cause_id], json.dumps(found, indent=1)
    return next(cause for cause in found["causes"] if cause["id"] == cause_id)


@contextmanager
def session(cluster: Cluster, *statements: str, **settings: Any) -> Iterator[Any]:
    """A connection that has run some statements in one transaction, and stays as it is."""
    options = {"application_name": "culprit", **settings}
    with closing(psycopg2.connect(cluster.dsn(**options))) as connection:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        yield connection


def pid(connection: Any) -> int:
    return int(connection.info.backend_pid)


def stuck(cluster: Cluster, table: str, dbname: str = "postgres") -> int:
    """How many dead rows VACUUM (VERBOSE) could not remove: the server's own word."""
    with closing(psycopg2.connect(cluster.dsn(dbname))) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"VACUUM (VERBOSE) {table}")
        text = "".join(connection.notices)
    told = re.findall(r"(\d+) (?:are dead but not yet removable|dead row versions cannot)", text)
    assert told, text
    return int(told[0])


def until(true: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something holds; it is an error when it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "this did not come about in time"
        time.sleep(0.05)


def value(cluster: Cluster, sql: str, dbname: str = "postgres") -> str:
    return cluster.psql(sql, dbname)


def dead(cluster: Cluster, table: str, dbname: str = "postgres") -> int:
    """Dead rows as the server counts them."""
    text = cluster.psql(
        f"SELECT n_dead_tup FROM pg_stat_all_tables WHERE relid = '{table}'::regclass", dbname
    )
    return int(text or 0)


def churn(cluster: Cluster, table: str, rows: int = ROWS, dbname: str = "postgres") -> None:
    """Rewrite all rows of a table, and wait until the server has counted that.

    Not until there are dead ones: autovacuum may be there first.
    """
    updates = f"SELECT n_tup_upd FROM pg_stat_all_tables WHERE relid = '{table}'::regclass"
    before = int(cluster.psql(updates, dbname) or 0)
    cluster.psql(f"UPDATE {table} SET v = v + 1", dbname)
    until(lambda: int(cluster.psql(updates, dbname) or 0) >= before + rows)
