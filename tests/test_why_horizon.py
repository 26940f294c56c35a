"""Everybody who can hold the horizon, made for real and found by `pgstats why`."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras
import pytest

from pgstats.scratch import Cluster, Scratch
from tests.test_why_gauges import ages, shown
from tests.why import (
    EAGER,
    ROWS,
    Document,
    accused,
    churn,
    churning,
    dead,
    only,
    pid,
    session,
    stuck,
    until,
    watched,
    why,
    why_each,
)


@pytest.fixture(scope="module")
def server(scratch: Scratch) -> Iterator[Cluster]:
    with watched(scratch, "why-horizon") as cluster:
        cluster.psql("CREATE DATABASE other")
        yield cluster


@pytest.fixture
def table(server: Cluster) -> Iterator[str]:
    """A table in a cluster where nobody holds anything."""
    with churning(server, "postgres", "elsewhere") as name:
        yield name


def freed(server: Cluster, table: str) -> None:
    """The culprit has gone: autovacuum removes the rows, and nobody is accused any more."""
    until(lambda: dead(server, table) == 0)
    assert why(server, f"postgres.public.{table}", watch="0")["verdict"] == "clear"


def held(server: Cluster, table: str) -> Document:
    """Dead rows come, the server cannot remove them, and why says so."""
    churn(server, table)
    assert stuck(server, table) == ROWS
    return why(server, f"postgres.public.{table}")


def test_idle_in_transaction_after_a_write_shows_no_backend_xmin(
    server: Cluster, table: str
) -> None:
    with session(server, "INSERT INTO elsewhere VALUES (1)") as culprit:
        found = only(held(server, table), "horizon.idle_in_xact")
        assert found["evidence"]["pid"] == pid(culprit)
        assert "backend_xmin" not in found["evidence"]
        assert found["evidence"]["backend_xid"] == found["evidence"]["hold"] == found["xid"]
        assert found["severity"] == "critical"
        assert found["tables"] == ["postgres.public.churned"]
        assert found["frees"] == {"alone_rows": ROWS, "next_holder": None}
        command = found["remedy"][0]["command"]
        assert command == f"SELECT pg_terminate_backend({pid(culprit)});"
        server.psql(command)
        freed(server, table)


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(
            ["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1 FROM elsewhere"],
            id="repeatable read",
        ),
        pytest.param(["DECLARE c CURSOR FOR SELECT * FROM elsewhere"], id="open cursor"),
        pytest.param(
            ["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT pg_export_snapshot()"],
            id="exported snapshot",
        ),
    ],
)
def test_idle_in_transaction_with_a_snapshot(
    server: Cluster, table: str, statements: list[str]
) -> None:
    with session(server, *statements) as culprit:
        found = only(held(server, table), "horizon.idle_in_xact")
        assert found["evidence"]["pid"] == pid(culprit)
        assert "backend_xid" not in found["evidence"]
    freed(server, table)


def test_a_prepared_transaction_has_no_process(server: Cluster, table: str) -> None:
    server.psql("BEGIN; INSERT INTO elsewhere VALUES (1); PREPARE TRANSACTION 'it''s odd'")
    try:
        found = only(held(server, table), "horizon.prepared_xact")
        assert found["evidence"]["gid"] == "it's odd"
        assert found["evidence"]["owner"] == "postgres"
        assert found["remedy"][0]["where"].endswith("database postgres")
    finally:
        server.psql(found["remedy"][0]["command"])
    freed(server, table)


@pytest.mark.parametrize("statement", ["SELECT pg_sleep(60)", "COPY elsewhere FROM STDIN"])
def test_a_statement_that_runs_for_long(server: Cluster, table: str, statement: str) -> None:
    """COPY without input is active as well: no timeout for idle transactions ends it."""
    with running(server, statement) as culprit:
        found = only(held(server, table), "horizon.active_query")
        assert found["evidence"]["pid"] == culprit
        assert ("sends no more" in found["summary"]) == ("COPY" in statement)
        server.psql(found["remedy"][0]["command"])
    freed(server, table)


def test_a_client_that_does_not_read_its_result(server: Cluster, table: str) -> None:
    with running(server, "SELECT repeat('x', 1000) FROM generate_series(1, 100000)") as culprit:
        until(lambda: waits(server, culprit) == "ClientWrite")
        found = only(held(server, table), "horizon.active_query")
        assert found["evidence"]["pid"] == culprit
        assert "does not read" in found["summary"]


def test_a_dump_is_a_warning(server: Cluster, table: str) -> None:
    statements = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1 FROM elsewhere")
    with (
        session(server, *statements, application_name="pg_dump"),
        running(server, "SELECT pg_sleep(60)", application_name="pg_dump"),
    ):
        found = held(server, table)
        worst = {cause["id"]: cause["severity"] for cause in found["causes"]}
        assert worst["horizon.active_query"] == "warning"


def test_behind_a_blocked_statement_is_who_blocks_it(server: Cluster, table: str) -> None:
    """The blocker holds neither a transaction id nor a snapshot."""
    with (
        session(server, "LOCK TABLE elsewhere IN EXCLUSIVE MODE") as blocker,
        running(server, "INSERT INTO elsewhere VALUES (1)") as culprit,
    ):
        until(lambda: waits(server, culprit) == "relation")
        found = only(held(server, table), "horizon.active_query")
        assert found["evidence"]["pid"] == culprit
        assert found["evidence"]["blockers"] == [pid(blocker)]
        assert found["remedy"][0]["command"] == f"SELECT pg_terminate_backend({pid(blocker)});"
        server.psql(found["remedy"][0]["command"])
        until(lambda: waits(server, culprit) != "relation")
    freed(server, table)


def test_behind_a_blocked_statement_may_be_a_prepared_transaction(
    server: Cluster, table: str
) -> None:
    """Its process id is 0: the lock tells which one."""
    server.psql("BEGIN; LOCK TABLE elsewhere; PREPARE TRANSACTION 'locks'")
    try:
        with running(server, "SELECT * FROM elsewhere") as culprit:
            until(lambda: waits(server, culprit) == "relation")
            found = held(server, table)
            one = cause(found, "horizon.active_query")
            assert one["evidence"]["blockers"] == ["locks"]
            assert one["remedy"][0]["command"] == "ROLLBACK PREPARED 'locks';"
    finally:
        server.psql("ROLLBACK PREPARED 'locks'")
    freed(server, table)


def test_a_parallel_worker_stands_for_its_leader(server: Cluster, table: str) -> None:
    settings = "-c debug_parallel_query=on" if major(server) >= 16 else "-c force_parallel_mode=on"
    options = f"{settings} -c parallel_setup_cost=0 -c min_parallel_table_scan_size=0"
    server.psql(
        "CREATE FUNCTION doze() RETURNS void LANGUAGE plpgsql PARALLEL SAFE AS "
        "$$ BEGIN PERFORM pg_sleep(60); END $$"
    )
    statement = "SELECT doze() FROM elsewhere"
    server.psql("INSERT INTO elsewhere VALUES (1)")
    try:
        with running(server, statement, options=options) as culprit:
            workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'"
            until(lambda: server.psql(workers) != "0")
            found = only(held(server, table), "horizon.active_query")
            assert found["evidence"]["pid"] == culprit
    finally:
        server.psql("DROP FUNCTION doze")


def test_a_logical_slot_holds_catalogs_alone(server: Cluster, table: str) -> None:
    server.psql("SELECT pg_create_logical_replication_slot('unread', 'pgoutput')")
    try:
        churn(server, table)
        assert why(server, "postgres.public.churned", watch="0")["verdict"] == "clear"

        def rewritten() -> bool:
            server.psql("".join(f"CREATE TABLE t{n} (i int); DROP TABLE t{n};" for n in range(40)))
            return dead(server, "pg_attribute") > 900

        until(rewritten)
        assert stuck(server, "pg_attribute") > 200
        found = only(why(server, "postgres.pg_catalog.pg_attribute"), "horizon.slot_catalog")
        assert found["evidence"]["slot_name"] == "unread"
        assert found["severity"] == "critical"
        assert found["scope"] == "catalog"
        assert cause(why(server), "horizon.slot_catalog")["severity"] != "info"
        server.psql(found["remedy"][0]["command"])
    finally:
        server.psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    server.psql("VACUUM pg_attribute")


def test_a_logical_slot_holds_a_table_that_acts_as_a_catalog(server: Cluster, table: str) -> None:
    server.psql(f"ALTER TABLE {table} SET (user_catalog_table = true)")
    server.psql("SELECT pg_create_logical_replication_slot('unread', 'pgoutput')")
    try:
        found = only(held(server, table), "horizon.slot_catalog")
        assert found["severity"] == "critical"
        assert found["tables"] == ["postgres.public.churned"]
    finally:
        server.psql("SELECT pg_drop_replication_slot('unread')")
    freed(server, table)


def test_an_apply_worker_that_is_stuck(server: Cluster, table: str) -> None:
    """Its row is locked by a session of the subscriber, which is who has to end."""
    dsn = server.dsn("other").replace("'", "''")
    server.psql(
        "CREATE TABLE fed (i int PRIMARY KEY); CREATE PUBLICATION feed FOR TABLE fed", "other"
    )
    server.psql("SELECT pg_create_logical_replication_slot('feed', 'pgoutput')", "other")
    server.psql("CREATE TABLE fed (i int PRIMARY KEY)")
    options = "slot_name = 'feed', create_slot = false, copy_data = false"
    server.psql(f"CREATE SUBSCRIPTION feed CONNECTION '{dsn}' PUBLICATION feed WITH ({options})")
    try:
        with session(server, "INSERT INTO fed VALUES (1)") as culprit:
            server.psql("INSERT INTO fed VALUES (1)", "other")
            applying = "FROM pg_stat_activity a JOIN pg_stat_subscription s ON s.pid = a.pid"
            until(lambda: server.psql(f"SELECT 1 {applying} AND a.wait_event_type = 'Lock'") == "1")
            worker = int(server.psql(f"SELECT a.pid {applying}"))
            found = held(server, table)
            one = cause(found, "horizon.logical_apply")
            assert one["evidence"]["pid"] == worker
            assert one["evidence"]["subname"] == "feed"
            assert one["evidence"]["blockers"] == [pid(culprit)]
            commands = [remedy["command"] for remedy in one["remedy"]]
            assert commands[0] == f"SELECT pg_terminate_backend({pid(culprit)});"
            assert commands[1] == "ALTER SUBSCRIPTION feed DISABLE;"
            server.psql(commands[1])
            server.psql(commands[0])
        until(lambda: server.psql(f"SELECT count(*) {applying}") == "0")
    finally:
        server.psql("ALTER SUBSCRIPTION feed DISABLE")
        server.psql("ALTER SUBSCRIPTION feed SET (slot_name = NONE)")
        server.psql("DROP SUBSCRIPTION feed; DROP TABLE fed")
        server.psql("DROP PUBLICATION feed; DROP TABLE fed", "other")
        active = "SELECT count(*) FROM pg_replication_slots WHERE active"
        until(lambda: server.psql(active) == "0")
        server.psql("SELECT pg_drop_replication_slot('feed')")
    freed(server, table)


def test_what_waits_for_a_prepared_transaction_is_told(server: Cluster, table: str) -> None:
    """Nobody can make a logical slot while there is one."""
    server.psql("BEGIN; INSERT INTO elsewhere VALUES (1); PREPARE TRANSACTION 'orphan'")
    slot = "SELECT pg_create_logical_replication_slot('late', 'pgoutput')"
    try:
        with running(server, slot) as waiting:
            until(lambda: waits(server, waiting) == "transactionid")
            one = cause(held(server, table), "horizon.prepared_xact")
            assert one["evidence"]["waiting"] == [waiting]
    finally:
        server.psql("ROLLBACK PREPARED 'orphan'")
        server.psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    freed(server, table)


def test_a_walsender_that_exported_a_snapshot(server: Cluster, table: str) -> None:
    """Its transaction has no start."""
    dsn = server.dsn(application_name="exporter")
    factory = psycopg2.extras.LogicalReplicationConnection
    with (
        closing(psycopg2.connect(dsn, connection_factory=factory)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.create_replication_slot("exported", output_plugin="pgoutput")
        one = cause(held(server, table), "horizon.walsender_snapshot")
        assert one["evidence"]["pid"] == pid(connection)
        assert one["tables"] == ["postgres.public.churned"]
        assert one["since"]
    server.psql("SELECT pg_drop_replication_slot('exported')")
    freed(server, table)


def test_a_transaction_of_another_database_is_inherited(server: Cluster, table: str) -> None:
    """It holds nothing here by itself, but every snapshot taken here needs what it needs."""
    with (
        session(server, "CREATE TABLE IF NOT EXISTS away (i int)", dbname="other") as culprit,
        traffic(server),
    ):
        found = held(server, table)
        one = only(found, "horizon.inherited_other_db")
        assert one["evidence"]["pid"] == pid(culprit)
        assert one["evidence"]["datname"] == "other"
        assert one["witnesses"] >= 1
        server.psql(one["remedy"][0]["command"])
        freed(server, table)


def test_a_prepared_transaction_of_another_database_is_inherited(
    server: Cluster, table: str
) -> None:
    server.psql("BEGIN; CREATE TABLE away2 (i int); PREPARE TRANSACTION 'far'", "other")
    with traffic(server):
        one = only(held(server, table), "horizon.inherited_other_db")
        assert one["evidence"]["gid"] == "far"
        assert one["remedy"][0]["where"].endswith("database other")
        server.psql("ROLLBACK PREPARED 'far'", "other")
        freed(server, table)


def test_an_heir_keeps_what_its_owner_has_let_go(server: Cluster, table: str) -> None:
    """Ending the owner alone frees nothing: both are named, each with what ending it gives."""
    snapshot = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1 FROM elsewhere")
    with (
        session(server, "INSERT INTO elsewhere VALUES (1)") as owner,
        session(server, *snapshot) as heir,
    ):
        found = held(server, table)
        both = {one["evidence"]["pid"]: one for one in found["causes"]}
        assert set(both) == {pid(owner), pid(heir)}
        assert [one["frees"]["alone_rows"] for one in both.values()] == [0, 0]
        owner.rollback()
        assert stuck(server, table) == ROWS
        only(why(server, "churned"), "horizon.idle_in_xact")
    freed(server, table)


def test_of_two_holders_the_older_comes_first(server: Cluster, table: str) -> None:
    with session(server, "INSERT INTO elsewhere VALUES (1)") as first:
        churn(server, table)
        with session(server, "INSERT INTO elsewhere VALUES (1)") as second:
            found = why(server, "churned")
            assert [one["evidence"].get("pid") for one in found["causes"]] == [
                pid(first),
                pid(second),
            ]
            assert [one["rank"] for one in found["causes"]] == [1, 2]
            oldest, younger = found["causes"]
            assert oldest["frees"]["alone_rows"] is None
            assert oldest["frees"]["next_holder"].startswith(f"pid {pid(second)}")
            assert younger["frees"]["alone_rows"] == 0
            first.rollback()
            until(lambda: dead(server, table) == 0)
    freed(server, table)


# ---- sessions that another server has opened


@pytest.mark.full
def test_behind_a_foreign_server_is_another_postgresql(server: Cluster, table: str) -> None:
    with foreign(server) as caller, session(caller, "SELECT * FROM afar"):
        found = only(held(server, table), "horizon.idle_in_xact")
        assert found["evidence"]["application_name"] == "postgres_fdw"
        assert found["limits"] == [LOOK_THERE]
    freed(server, table)


def test_the_environment_of_a_postmaster_names_what_it_opens(server: Cluster, table: str) -> None:
    """PGAPPNAME there hides what a session is for: what it says tells it all the same."""
    with foreign(server, PGAPPNAME="warehouse") as caller, session(caller, "SELECT * FROM afar"):
        found = only(held(server, table), "horizon.idle_in_xact")
        assert found["evidence"]["application_name"] == "warehouse"
        assert found["limits"] == [LOOK_THERE]
    freed(server, table)


@pytest.mark.full
def test_the_environment_of_a_postmaster_names_its_subscriptions(
    server: Cluster, table: str
) -> None:
    """A table's first copy, which waits for a session of the subscriber."""
    server.psql("CREATE TABLE fed (i int PRIMARY KEY); CREATE PUBLICATION feed FOR TABLE fed")
    server.psql("INSERT INTO fed VALUES (1)")
    dsn = server.dsn().replace("'", "''")
    copying = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%fed%STDOUT'"
    try:
        with named(server, PGAPPNAME="warehouse") as subscriber:
            subscriber.psql("CREATE TABLE fed (i int PRIMARY KEY)")
            with session(subscriber, "INSERT INTO fed VALUES (1)"):
                subscriber.psql(f"CREATE SUBSCRIPTION feed CONNECTION '{dsn}' PUBLICATION feed")
                until(lambda: server.psql(copying) == "1")
                found = cause(held(server, table), "horizon.walsender_snapshot")
                assert found["evidence"]["application_name"] == "warehouse"
                assert any("A subscriber copies a table" in one for one in found["limits"])
                subscriber.psql("DROP SUBSCRIPTION feed")
    finally:
        server.psql("DROP PUBLICATION feed; DROP TABLE fed")
        active = "SELECT count(*) FROM pg_replication_slots WHERE active"
        until(lambda: server.psql(active) == "0")
        server.psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    freed(server, table)


def test_maintenance_is_a_warning(server: Cluster, table: str) -> None:
    server.psql(
        "INSERT INTO elsewhere VALUES (1);"
        "CREATE FUNCTION doze(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS "
        "$$ BEGIN PERFORM pg_sleep(60); RETURN i; END $$"
    )
    with running(server, "CREATE INDEX late ON elsewhere (doze(i))") as culprit:
        until(lambda: server.psql("SELECT count(*) FROM pg_stat_progress_create_index") == "1")
        one = only(held(server, table), "horizon.maintenance")
        assert one["evidence"]["pid"] == culprit
        assert one["evidence"]["command"] == "CREATE INDEX"
        assert one["severity"] == "warning"
    server.psql("SET lock_timeout = '20s'; DROP FUNCTION doze CASCADE")
    freed(server, table)


def test_a_role_without_rights_says_so(server: Cluster, table: str) -> None:
    """The state of others is NULL for it; their transactions are not."""
    with session(server, "INSERT INTO elsewhere VALUES (1)") as culprit:
        churn(server, table)
        found = why(server, "churned", user="blind")
        one = only(found, "horizon.unknown_state")
        assert one["evidence"]["pid"] == pid(culprit)
        assert one["remedy"][0]["command"] == "GRANT pg_monitor TO blind;"
        assert any("pg_monitor" in (limit["grant"] or "") for limit in found["limits"])
    until(lambda: dead(server, table) == 0)
    assert why(server, "churned", user="blind")["verdict"] == "unknown"


@pytest.mark.full
def test_to_a_role_without_rights_a_vacuum_that_waits_may_be_something_else(
    server: Cluster, table: str
) -> None:
    """ANALYZE waits for the same lock, and does hold the horizon: pg_locks does not tell which."""
    for statement in ("VACUUM elsewhere", "ANALYZE elsewhere"):
        with (
            session(server, "LOCK TABLE elsewhere IN SHARE UPDATE EXCLUSIVE MODE") as blocker,
            running(server, statement) as waiting,
        ):
            until(lambda waiting=waiting: waits(server, waiting) == "relation")  # type: ignore[misc]
            churn(server, table)
            found = why(server, "churned", user="blind")
            one = next(o for o in found["causes"] if o["evidence"].get("pid") == waiting)
            assert one["id"] == "horizon.unknown_state"
            assert any("pg_monitor would tell which" in text for text in one["limits"])
            seen = why(server, "churned")
            assert accused(seen) == ([] if "VACUUM" in statement else ["horizon.active_query"])
            blocker.rollback()
        freed(server, table)


def test_a_session_that_hides_its_state(server: Cluster, table: str) -> None:
    with session(
        server, "INSERT INTO elsewhere VALUES (1)", options="-c track_activities=off"
    ) as culprit:
        one = only(held(server, table), "horizon.unknown_state")
        assert one["evidence"]["pid"] == pid(culprit)
        commands = [remedy["command"] for remedy in one["remedy"]]
        assert commands[1] == "ALTER ROLE postgres RESET track_activities;"


def test_a_setting_that_defers_cleanup(server: Cluster, table: str) -> None:
    if major(server) >= 16:
        pytest.skip("gone in 16")
    server.settings["vacuum_defer_cleanup_age"] = 1000000
    server.reload()
    try:
        one = only(held(server, table), "horizon.vacuum_defer_cleanup_age")
        assert one["evidence"]["setting"] == "1000000"
    finally:
        del server.settings["vacuum_defer_cleanup_age"]
        server.reload()
    freed(server, table)


# ---- standbys


@pytest.mark.parametrize("slot", [None, "used"], ids=["without a slot", "through a slot"])
def test_a_standby_with_feedback(server: Cluster, table: str, slot: str | None) -> None:
    with standby(server, slot) as other, session(other, *SNAPSHOT) as culprit:
        fed_back(server, other, culprit)
        found = only(held(server, table), "horizon.standby_feedback")
        assert found["evidence"]["application_name"] == "standby"
        assert "slot_name" in found["evidence"] or slot is None
        server.psql("INSERT INTO elsewhere VALUES (1)")
        assert set(ages(shown(server))) == {"slot_xmin" if slot else "standby", "oldest"}
        here, there = why_each(server, other, table="churned")
        one = cause(here, "horizon.standby_feedback")
        assert one["evidence"]["standby_pid"] == pid(culprit)
        assert there["verdict"] == "unknown"
        assert not accused(there)
        asleep = cause(there, "vacuum.standby")
        assert asleep["evidence"]["sender_port"] == server.port
        assert any(f":{server.port}" in limit["why"] for limit in there["limits"])
        assert one["remedy"][0]["command"] == f"SELECT pg_terminate_backend({pid(culprit)});"
    if slot:
        server.psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    freed(server, table)


def test_the_slot_of_a_standby_that_is_gone(server: Cluster, table: str) -> None:
    with standby(server, "abandoned") as other, session(other, *SNAPSHOT) as reader:
        fed_back(server, other, reader)
        churn(server, table)
        other.kill()
    until(lambda: server.psql("SELECT active FROM pg_replication_slots") == "f")
    assert stuck(server, table) == ROWS
    found = only(why(server, "churned"), "horizon.slot_physical")
    assert found["evidence"]["slot_name"] == "abandoned"
    assert found["scope"] == "all_dbs"
    server.psql(found["remedy"][0]["command"])
    freed(server, table)


def test_a_slot_on_the_standby_holds_the_primary(server: Cluster, table: str) -> None:
    """There is no query on the standby at all."""
    with standby(server, None) as other:
        other.psql("SELECT pg_create_physical_replication_slot('stale', true)")
        with standby(other, "stale", name="leaf") as leaf, session(leaf, *SNAPSHOT) as reader:
            fed_back(other, leaf, reader)
            leaf.kill()
        churn(server, table)
        here, _ = why_each(server, other, table="churned")
        one = cause(here, "horizon.standby_feedback")
        assert one["evidence"]["standby_slot_name"] == "stale"
        assert one["remedy"][0]["command"] == "SELECT pg_drop_replication_slot('stale');"
        other.psql(one["remedy"][0]["command"])
        freed(server, table)


@pytest.mark.full
@pytest.mark.parametrize("slot", [None, "used"], ids=["without a slot", "through a slot"])
def test_a_standby_of_a_standby(server: Cluster, table: str, slot: str | None) -> None:
    """Through both the session is named; who asks one alone is told of the other."""
    with (
        standby(server, slot, "middle") as middle,
        standby(middle, slot, "leaf") as leaf,
        session(leaf, *SNAPSHOT) as culprit,
    ):
        fed_back(middle, leaf, culprit)
        fed_back(server, leaf, culprit)
        one = only(held(server, table), "horizon.standby_feedback")
        assert one["evidence"]["application_name"] == "middle"
        one = cause(why_each(server, middle)[0], "horizon.standby_feedback")
        (text,) = (limit for limit in one["limits"] if "only hands on" in limit)
        assert text.endswith("ask that one as well.")
        assert ("slot used" if slot else "leaf") in text
        one = cause(why_each(server, middle, leaf)[0], "horizon.standby_feedback")
        assert one["evidence"]["standby_pid"] == pid(culprit)
        assert one["root"].startswith(f"pid {pid(culprit)} of ")
        remedy = one["remedy"][0]
        assert remedy["command"] == f"SELECT pg_terminate_backend({pid(culprit)});"
        assert remedy["where"] == leaf.name
        leaf.psql(remedy["command"])
        freed(server, table)
    if slot:
        server.psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


# ---- the innocent


@pytest.mark.usefixtures("table")
def test_a_running_and_a_waiting_vacuum_are_innocent(server: Cluster) -> None:
    left_alone = "WITH (autovacuum_enabled = off)"  # else little may be left for the slow one
    many = "generate_series(1, 400000)"
    server.psql(f"CREATE TABLE slow {left_alone} AS SELECT i, 0 AS v FROM {many} i")
    server.psql("DELETE FROM slow WHERE i % 2 = 0")
    delay = "-c vacuum_cost_delay=100 -c vacuum_cost_limit=1"
    try:
        with running(server, "VACUUM slow", options=delay) as first:
            at_work = f"SELECT count(*) FROM pg_stat_progress_vacuum WHERE pid = {first}"
            until(lambda: server.psql(at_work) != "0")
            with running(server, "/* tidy */ VACUUM (VERBOSE) slow") as second:
                until(lambda: waits(server, second) == "relation")
                found = why(server, "churned")
                assert found["verdict"] == "clear"
                told = {one["who"] for one in found["innocent"]}
                assert {f"pid {first}", f"pid {second}"} <= told
    finally:
        server.psql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'culprit'"
        )
        server.psql("DROP TABLE slow")


def test_who_holds_nothing_here_is_not_accused(server: Cluster, table: str) -> None:
    """A reader of another database, idle sessions with locks or temporary tables, old errors."""
    with (
        session(server, *SNAPSHOT, dbname="other"),
        session(server, "SELECT pg_advisory_lock(1)") as locker,
        session(server, "CREATE TEMP TABLE mine (i int)") as owner,
        session(server, "SELECT 1 FROM elsewhere"),
    ):
        locker.commit()
        owner.commit()
        churn(server, table)
        until(lambda: dead(server, table) == 0)
        assert why(server, "postgres.public.churned")["verdict"] == "clear"
        assert accused(why(server)) == []


def test_a_lost_slot_holds_nothing(server: Cluster, table: str) -> None:
    with standby(server, "lost") as other, session(other, *SNAPSHOT) as reader:
        fed_back(server, other, reader)
        other.kill()
    server.settings["max_slot_wal_keep_size"] = "1MB"
    server.reload()
    try:
        until(lambda: server.psql("SELECT active FROM pg_replication_slots") == "f")
        for _ in range(4):
            server.psql("SELECT pg_switch_wal(); CREATE TABLE w (i int); DROP TABLE w")
            server.psql("CHECKPOINT")
        until(lambda: server.psql("SELECT wal_status FROM pg_replication_slots") == "lost")
        churn(server, table)
        found = why(server, "churned")
        assert found["verdict"] == "clear"
        assert "slot lost" in {one["who"] for one in found["innocent"]}
    finally:
        server.psql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        del server.settings["max_slot_wal_keep_size"]
        server.reload()
    freed(server, table)


@pytest.mark.usefixtures("table")
def test_pgstats_does_not_accuse_its_own_polls(server: Cluster) -> None:
    found = why(server, "churned")
    assert found["causes"] == []


# ---- helpers

LOOK_THERE = "A session of the PostgreSQL at that address is behind it: look there."


class Named(Cluster):
    """A cluster whose postmaster has something in its environment."""

    environment: Sequence[str] = ()

    def command(self) -> Sequence[str | Path]:
        return ["/usr/bin/env", *self.environment, *super().command()]


@contextmanager
def named(server: Cluster, **environment: str) -> Iterator[Cluster]:
    other = Named(server.scratch, EAGER, name="named")
    # Some packages of a server do not find their own libpq, which the extension needs.
    libraries = f"LD_LIBRARY_PATH={server.scratch.binaries.postgres.parent / 'lib'}"
    other.environment = [libraries, *(f"{name}={value}" for name, value in environment.items())]
    with other:
        yield other


@contextmanager
def foreign(server: Cluster, **environment: str) -> Iterator[Cluster]:
    """A cluster in which the table ``afar`` is the server's ``elsewhere``."""
    there = f"host '{server.host}', port '{server.port}', dbname 'postgres'"
    server.psql("INSERT INTO elsewhere VALUES (1)")
    with named(server, **environment) as caller:
        available = "SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'"
        if caller.psql(available) == "0":
            pytest.skip("this package of PostgreSQL has no postgres_fdw")
        caller.psql(
            f"CREATE EXTENSION postgres_fdw; CREATE SERVER away FOREIGN DATA WRAPPER postgres_fdw "
            f"OPTIONS ({there}); CREATE USER MAPPING FOR postgres SERVER away OPTIONS "
            "(user 'postgres', password_required 'false');"
            "CREATE FOREIGN TABLE afar (i int) SERVER away OPTIONS (table_name 'elsewhere')"
        )
        yield caller


SNAPSHOT = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1 FROM pg_class")


def fed_back(primary: Cluster, standby: Cluster, reader: Any) -> None:
    """Wait until the primary knows what a session on its standby needs."""
    own = standby.psql(f"SELECT backend_xmin FROM pg_stat_activity WHERE pid = {pid(reader)}")
    known = "SELECT xmin FROM pg_replication_slots"
    known += " UNION ALL SELECT backend_xmin FROM pg_stat_replication"
    until(lambda: own in primary.psql(known).split())


def cause(found: Document, cause_id: str) -> Document:
    return next(one for one in found["causes"] if one["id"] == cause_id)


def major(server: Cluster) -> int:
    return int(server.psql("SHOW server_version_num")) // 10000


def waits(server: Cluster, process: int) -> str:
    return server.psql(f"SELECT wait_event FROM pg_stat_activity WHERE pid = {process}")


@contextmanager
def running(server: Cluster, statement: str, **settings: Any) -> Iterator[int]:
    """A session in the middle of a statement; gives its process id."""
    dsn = server.dsn(**{"application_name": "culprit", **settings})
    with closing(psycopg2.connect(dsn, async_=1)) as connection:
        until(lambda: connection.poll() == psycopg2.extensions.POLL_OK)
        connection.cursor().execute(statement)  # nobody reads what comes of it
        process = pid(connection)
        until(lambda: _runs(server, process))
        try:
            yield process
        finally:  # it would not notice that its client has gone
            server.psql(f"SELECT pg_terminate_backend({process})")


def _runs(server: Cluster, process: int) -> bool:
    state = f"SELECT state FROM pg_stat_activity WHERE pid = {process}"
    return server.psql(state) == "active"


@contextmanager
def traffic(server: Cluster) -> Iterator[None]:
    """Short transactions that overlap: at any time somebody has a snapshot."""
    stop = threading.Event()

    def work() -> None:
        with closing(psycopg2.connect(server.dsn())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                while not stop.is_set():
                    cursor.execute("SELECT pg_sleep(0.2)")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for at, thread in enumerate(threads):
        thread.start()
        stop.wait(0.05 * (at + 1))
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def standby(primary: Cluster, slot: str | None, name: str = "standby") -> Iterator[Cluster]:
    """A hot standby with feedback, through a slot or without."""
    found = Standby(primary, slot, name)
    try:
        yield found.start()
    finally:
        found.stop("immediate")


class Standby(Cluster):
    """A copy of a cluster that follows it and tells it what its queries need."""

    _count = itertools.count()

    def __init__(self, primary: Cluster, slot: str | None, name: str) -> None:
        own = {
            "hot_standby_feedback": "on",
            "wal_receiver_status_interval": "1s",
            "primary_conninfo": primary.dsn(application_name=name),
            "primary_slot_name": slot or "",
        }
        super().__init__(primary.scratch, {**EAGER, **own}, name=f"{name}{next(self._count)}")
        if slot:
            primary.psql(_MAKE_SLOT.format(slot))
        self._copy(primary)

    def _copy(self, primary: Cluster) -> None:
        """A copy at rest: not every package of a server has pg_basebackup."""
        shutil.rmtree(self.data)
        primary.stop()
        primary.scratch.run(["cp", "-a", primary.data, self.data])
        primary.start()
        for slot in (self.data / "pg_replslot").iterdir():
            shutil.rmtree(slot)
        primary.scratch.run(["touch", self.data / "standby.signal"])


_MAKE_SLOT = """SELECT pg_create_physical_replication_slot('{0}', true)
 WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{0}')"""
