"""What an old transaction id does to vacuum: other databases starve, workers wait, indexes wait."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from pgstats.scratch import Cluster, Scratch
from tests.why import EAGER, Document, accused, churn, dead, pid, session, until, why

ROWS = 2000
#: Least that the server takes for autovacuum_freeze_max_age, and somewhat more to be spent.
LIMIT = 100_000
SPENT = 120_000
COUNT = itertools.count()


@pytest.fixture
def server(scratch: Scratch) -> Iterator[Cluster]:
    """Each test ages a cluster of its own."""
    own = {"autovacuum_freeze_max_age": LIMIT, "autovacuum_multixact_freeze_max_age": LIMIT}
    with Cluster(scratch, {**EAGER, **own}, name=f"why-age{next(COUNT)}") as cluster:
        cluster.psql("CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher")
        cluster.psql("CREATE DATABASE other")
        cluster.psql(
            "CREATE TABLE churned (id int, v int); CREATE TABLE elsewhere (i int);"
            f"INSERT INTO churned SELECT i, 0 FROM generate_series(1, {ROWS}) i"
        )
        cluster.psql("VACUUM ANALYZE churned")
        yield cluster


def spend(cluster: Cluster, count: int = SPENT) -> None:
    """Use up transaction ids."""
    cluster.psql(
        f"DO $$ BEGIN FOR n IN 1..{count} LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$"
    )


def cause(found: Document, cause_id: str) -> Document:
    return next(one for one in found["causes"] if one["id"] == cause_id)


def test_one_database_gets_every_worker(server: Cluster) -> None:
    """The others get none, though nothing holds their rows."""
    server.psql("CREATE TABLE starved AS SELECT i, 0 AS v FROM generate_series(1, 2000) i", "other")
    server.psql("VACUUM ANALYZE starved", "other")
    server.psql("BEGIN; INSERT INTO elsewhere VALUES (1); PREPARE TRANSACTION 'ancient'")
    spend(server)
    found: Document = {}

    def starving() -> bool:  # a worker may have been under way already
        churn(server, "starved", dbname="other")
        found.update(why(server, "other.public.starved", watch="2s"))
        return "vacuum.starved_by_wraparound" in accused(found)

    until(starving, 120)
    one = cause(found, "vacuum.starved_by_wraparound")
    assert one["evidence"]["datname"] != "other"
    assert one["evidence"]["xid_age"] > LIMIT
    assert one["severity"] == "critical"
    server.psql("ROLLBACK PREPARED 'ancient'")
    until(lambda: dead(server, "starved", "other") == 0, 60)


def test_a_vacuum_against_wraparound_waits_for_its_lock(server: Cluster) -> None:
    with session(server, "LOCK TABLE churned IN SHARE UPDATE EXCLUSIVE MODE") as culprit:
        spend(server)
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND query LIKE '%to prevent wraparound%'"
        )
        until(lambda: server.psql(waiting) != "0")
        one = cause(why(server, "churned"), "vacuum.wraparound_waits")
        assert one["evidence"]["blockers"] == [pid(culprit)]
        assert one["remedy"][0]["command"] == f"SELECT pg_terminate_backend({pid(culprit)});"
        server.psql(one["remedy"][0]["command"])
        until(lambda: server.psql(waiting) == "0")


def test_a_table_so_old_that_vacuum_only_freezes(server: Cluster) -> None:
    if int(server.psql("SHOW server_version_num")) < 140000:
        pytest.skip("there is no failsafe before 14")
    server.settings["vacuum_failsafe_age"] = LIMIT
    server.reload()
    server.psql("BEGIN; INSERT INTO elsewhere VALUES (1); PREPARE TRANSACTION 'ancient'")
    spend(server)
    churn(server, "churned")
    found = why(server, "churned")
    assert accused(found)[0] == "horizon.prepared_xact"
    one = cause(found, "vacuum.failsafe")
    assert one["evidence"]["xid_age"] > one["evidence"]["vacuum_failsafe_age"] >= LIMIT
    assert one["remedy"][0]["command"] == "VACUUM FREEZE public.churned;"


def test_a_worker_with_too_little_memory(server: Cluster) -> None:
    if int(server.psql("SHOW server_version_num")) >= 170000:
        pytest.skip("from 17 on dead rows need hardly any memory")
    server.settings |= {"autovacuum_work_mem": "1MB"}
    server.reload()
    options = "autovacuum_vacuum_cost_delay = 50, autovacuum_vacuum_cost_limit = 300"
    server.psql(
        f"CREATE TABLE large (i int) WITH ({options}); CREATE INDEX ON large (i);"
        "INSERT INTO large SELECT generate_series(1, 600000)"
    )
    server.psql("DELETE FROM large")
    passes = "SELECT max(index_vacuum_count) > 1 FROM pg_stat_progress_vacuum"
    until(lambda: server.psql(passes) == "t", 90)
    one = cause(why(server, "large", watch="0"), "vacuum.many_index_passes")
    assert one["evidence"]["index_vacuum_count"] > 1
    assert one["severity"] == "info"
