"""What `pgstats why` tells only of large tables, or after minutes: `./dev test-full`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import pytest

from pgstats.scratch import Cluster, Scratch
from tests.program import pgstats
from tests.why import (
    EAGER,
    ROWS,
    accused,
    churn,
    churning,
    dead,
    only,
    pid,
    run,
    session,
    stuck,
    until,
    watched,
    why,
)

pytestmark = pytest.mark.full

MINUTE = 60
SNAPSHOT = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1 FROM elsewhere")


@contextmanager
def filled(scratch: Scratch, **settings: object) -> Iterator[Cluster]:
    own = {**EAGER, **settings}
    with watched(scratch, "why-slow", own) as cluster, churning(cluster, "postgres", "elsewhere"):
        yield cluster


def wait(cluster: Cluster, seconds: int) -> None:
    """Wait until the server's own clock is so much later."""
    end = cluster.psql(f"SELECT clock_timestamp() + interval '{seconds} seconds'")
    until(lambda: cluster.psql(f"SELECT clock_timestamp() > '{end}'") == "t", seconds + 60)


def test_the_threshold_of_a_large_table_is_a_warning(scratch: Scratch) -> None:
    """A gigabyte of pages that hold one row each."""
    with filled(scratch) as server:
        server.psql(
            "CREATE UNLOGGED TABLE large (id int, v text STORAGE PLAIN) WITH (fillfactor = 10)"
            if int(server.psql("SHOW server_version_num")) >= 160000
            else "CREATE UNLOGGED TABLE large (id int, v text) WITH (fillfactor = 10);"
            "ALTER TABLE large ALTER v SET STORAGE PLAIN"
        )
        rows = (1 << 30) // 8192 + 100
        server.psql(
            f"INSERT INTO large SELECT i, repeat('x', 900) FROM generate_series(1, {rows}) i"
        )
        server.psql("ANALYZE large; DELETE FROM large WHERE id <= 1000")
        until(lambda: dead(server, "large") == 1000)
        (usual,) = why(server, "large")["causes"]
        assert (usual["id"], usual["severity"]) == ("vacuum.threshold_not_reached", "info")
        server.psql("ALTER TABLE large SET (autovacuum_vacuum_scale_factor = 0.3)")
        one = only(why(server, "large"), "vacuum.threshold_not_reached")
        assert one["severity"] == "warning"
        assert one["evidence"]["source"] == "reloptions"
        server.psql(one["remedy"][0]["command"])
        (after,) = why(server, "large")["causes"]
        assert after["severity"] == "info", "what is proposed is enough"


def test_a_snapshot_that_is_too_old_holds_no_more(scratch: Scratch) -> None:
    with filled(scratch, old_snapshot_threshold="1min") as server:
        if int(server.psql("SHOW server_version_num")) >= 170000:
            pytest.skip("gone in 17")
        with session(server, *SNAPSHOT) as reader:
            churn(server, "churned", ROWS)
            one = only(why(server, "churned"), "horizon.idle_in_xact")
            assert one["evidence"]["pid"] == pid(reader)
            assert stuck(server, "churned") == ROWS
            until(lambda: dead(server, "churned") == 0, 5 * MINUTE)
            wait(server, 3 * MINUTE)
            found = why(server, "churned")
            assert found["verdict"] == "clear"
            assert {
                "who": f"pid {pid(reader)}",
                "why": "old_snapshot_threshold has taken its snapshot away",
            } in found["innocent"]


@contextmanager
def no_callback() -> Iterator[None]:
    """Psycopg2 without what pgstats sets for its deadlines, where others have imported that."""
    before = psycopg2.extensions.get_wait_callback()
    psycopg2.extensions.set_wait_callback(None)
    try:
        yield
    finally:
        psycopg2.extensions.set_wait_callback(before)


def test_a_logical_slot_that_is_read_and_does_not_move(scratch: Scratch, tmp_path: Path) -> None:
    """What a moment shows is said; what polls have seen for a minute is a warning."""
    factory = psycopg2.extras.LogicalReplicationConnection
    with filled(scratch, wal_sender_timeout=0) as server:  # nobody answers
        own = ("--postgres", server.dsn(user="watcher"), "--state", str(tmp_path / "state"))
        with (
            no_callback(),
            closing(psycopg2.connect(server.dsn(), connection_factory=factory)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.create_replication_slot("feed", output_plugin="test_decoding")
            cursor.start_replication("feed")
            until(lambda: server.psql("SELECT active FROM pg_replication_slots") == "t")
            server.psql("CREATE TABLE more (i int)")
            pgstats("once", *own, "--statsd", "udp://127.0.0.1:9")
            fresh = run(*own, "--watch", "400ms", "--json")[0]
            assert accused(fresh) == []
            assert [one["id"] for one in fresh["causes"]] == ["horizon.slot_catalog"]
            wait(server, MINUTE)
            one = only(run(*own, "--watch", "400ms", "--json")[0], "horizon.slot_catalog")
            assert one["severity"] == "warning"
            assert one["evidence"]["active"] is True
