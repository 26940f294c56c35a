"""Whatever keeps vacuum away or makes it useless, made for real and found by `pgstats why`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
import pytest

from pgstats.scratch import Cluster, Scratch
from tests.why import (
    ROWS,
    Document,
    accused,
    churn,
    churning,
    dead,
    only,
    pid,
    session,
    until,
    watched,
    why,
)


@pytest.fixture(scope="module")
def server(scratch: Scratch) -> Iterator[Cluster]:
    with watched(scratch, "why-vacuum") as cluster:
        cluster.psql("CREATE DATABASE other")
        yield cluster


@pytest.fixture
def table(server: Cluster) -> Iterator[str]:
    with churning(server) as name:
        yield name


@contextmanager
def configured(server: Cluster, **settings: object) -> Iterator[None]:
    """The server with other settings for a while."""
    before = dict(server.settings)
    server.settings |= settings
    server.reload()
    for name, value in settings.items():
        until(lambda name=name, value=value: _shows(server, name, value))  # type: ignore[misc]
    try:
        yield
    finally:
        server.settings = before
        server.reload()


def _shows(server: Cluster, name: str, value: object) -> bool:
    return server.psql(f"SHOW {name}") == str(value)


def vacuums(server: Cluster, table: str = "churned") -> int:
    sql = f"SELECT vacuum_count + autovacuum_count FROM pg_stat_all_tables WHERE relid = '{table}'"
    return int(server.psql(f"{sql}::regclass"))


def informed(found: Document, cause_id: str) -> Document:
    """A cause that is a line of information and leaves the verdict clear."""
    assert found["verdict"] == "clear"
    return next(one for one in found["causes"] if one["id"] == cause_id)


def test_autovacuum_off_for_all(server: Cluster, table: str) -> None:
    with configured(server, autovacuum="off"):
        churn(server, table)
        one = only(why(server, table), "vacuum.disabled_global")
        assert one["evidence"]["setting"] == "off"
        assert one["evidence"]["sourcefile"].endswith(".conf")
        assert one["evidence"]["sourceline"] > 0
        assert one["tables"] == ["postgres.public.churned"]
        assert one["remedy"][0]["command"].startswith("ALTER SYSTEM RESET autovacuum;")
    until(lambda: dead(server, table) == 0)
    assert why(server, table)["verdict"] == "clear"


@pytest.mark.parametrize("spelling", ["off", "false", "0", "no"])
def test_autovacuum_off_for_the_table(server: Cluster, table: str, spelling: str) -> None:
    server.psql(f"ALTER TABLE {table} SET (autovacuum_enabled = {spelling})")
    churn(server, table)
    one = only(why(server, table), "vacuum.disabled_table")
    assert one["evidence"]["n_dead_tup"] == ROWS
    assert one["evidence"]["reloptions"] == [f"autovacuum_enabled={spelling}"]
    server.psql(one["remedy"][0]["command"])
    until(lambda: dead(server, table) == 0)


def test_autovacuum_off_for_the_toast(server: Cluster) -> None:
    """The table has few dead rows; those of its TOAST are in no view of user tables."""
    server.psql(
        "CREATE TABLE fat (id int, v text) WITH (toast.autovacuum_enabled = off);"
        "ALTER TABLE fat ALTER v SET STORAGE EXTERNAL;"
        "INSERT INTO fat SELECT i, repeat('x', 9000) FROM generate_series(1, 400) i"
    )
    try:
        server.psql("UPDATE fat SET v = v || 'y'")
        toast = server.psql("SELECT reltoastrelid::regclass FROM pg_class WHERE relname = 'fat'")
        until(lambda: dead(server, toast) >= 400)
        until(lambda: dead(server, "fat") == 0)
        one = only(why(server, "fat"), "vacuum.disabled_table")
        assert one["evidence"]["heap"] == toast
        assert one["tables"] == ["postgres.public.fat"]
        command = one["remedy"][0]["command"]
        assert command == "ALTER TABLE public.fat RESET (toast.autovacuum_enabled);"
        server.psql(command)
        until(lambda: dead(server, toast) == 0)
    finally:
        server.psql("DROP TABLE fat")


def test_the_toast_follows_its_table(server: Cluster) -> None:
    server.psql(
        "CREATE TABLE fat (id int, v text) WITH (autovacuum_enabled = off);"
        "ALTER TABLE fat ALTER v SET STORAGE EXTERNAL;"
        "INSERT INTO fat SELECT i, repeat('x', 9000) FROM generate_series(1, 400) i"
    )
    try:
        server.psql("UPDATE fat SET v = v || 'y'")
        toast = server.psql("SELECT reltoastrelid::regclass FROM pg_class WHERE relname = 'fat'")
        until(lambda: dead(server, toast) >= 400)
        found = why(server, "fat")
        heaps = [one["evidence"]["heap"] for one in found["causes"] if one["severity"] != "info"]
        assert set(accused(found)) == {"vacuum.disabled_table"}
        assert set(heaps) == {"public.fat", toast}
        commands = {one["remedy"][0]["command"] for one in found["causes"]}
        assert commands == {"ALTER TABLE public.fat RESET (autovacuum_enabled);"}
    finally:
        server.psql("DROP TABLE fat")


def test_rows_that_nobody_counts(server: Cluster, table: str) -> None:
    server.psql(
        "CREATE ROLE uncounted SUPERUSER LOGIN; ALTER ROLE uncounted SET track_counts = off"
    )
    try:
        with closing(psycopg2.connect(server.dsn(user="uncounted"))) as connection:
            connection.autocommit = True
            connection.cursor().execute(f"UPDATE {table} SET v = v + 1")
        one = only(why(server, table), "vacuum.track_counts_off")
        assert one["evidence"]["role"] == "uncounted"
        assert one["remedy"][0]["command"] == "ALTER ROLE uncounted RESET track_counts;"
        server.psql(one["remedy"][0]["command"])
        assert why(server, table)["verdict"] == "clear"
    finally:
        server.psql("DROP ROLE uncounted")


def test_counting_is_off_for_the_server(server: Cluster, table: str) -> None:
    with configured(server, track_counts="off"):
        server.psql(f"UPDATE {table} SET v = v + 1")
        assert "vacuum.track_counts_off" in accused(why(server, table))


def test_a_threshold_that_is_not_reached(server: Cluster, table: str) -> None:
    server.psql(f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 5)")
    churn(server, table)
    one = informed(why(server, table), "vacuum.threshold_not_reached")
    assert one["evidence"]["threshold"] == 5 * ROWS + 50
    assert one["evidence"]["source"] == "reloptions"
    assert "autovacuum_vacuum_threshold = 1000" in one["remedy"][0]["command"]


def test_a_threshold_that_is_proposed_would_be_passed(server: Cluster, table: str) -> None:
    server.psql(f"UPDATE {table} SET v = v + 1 WHERE id <= 10")
    until(lambda: dead(server, table) == 10)
    one = informed(why(server, table), "vacuum.threshold_not_reached")
    assert one["remedy"][0]["command"] == f"VACUUM public.{table};"


def test_all_workers_are_busy_elsewhere(server: Cluster, table: str) -> None:
    with slow(server, "busy1"), slow(server, "busy2"):
        until(lambda: working(server) == 2)
        churn(server, table)
        one = only(why(server, table), "vacuum.workers_saturated")
        assert one["evidence"]["workers"] == 2
        assert len(one["evidence"]["busy"]) == 2


def test_a_worker_that_sleeps_most_of_the_time(server: Cluster) -> None:
    with slow(server, "crawling"):
        until(lambda: working(server) == 1)
        one = only(why(server, "crawling", watch="2s"), "vacuum.throttled")
        worker = server.psql("SELECT pid FROM pg_stat_progress_vacuum")
        assert one["evidence"]["pid"] == int(worker)
        assert one["evidence"]["heap_blks_total"] > 0
        assert one["evidence"]["source"] == "reloptions"


def test_a_lock_that_a_forgotten_session_has(server: Cluster, table: str) -> None:
    with session(server, f"LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE") as culprit:
        with closing(psycopg2.connect(server.dsn())) as other:
            other.autocommit = True
            other.cursor().execute(f"UPDATE {table} SET v = v + 1")
        until(lambda: dead(server, table) == ROWS)
        one = only(why(server, table), "vacuum.lock_held")
        assert one["evidence"]["pid"] == pid(culprit)
        assert one["evidence"]["mode"] == "ShareUpdateExclusiveLock"
        assert vacuums(server) == 1
        server.psql(one["remedy"][0]["command"])
        until(lambda: dead(server, table) == 0)


def test_a_lock_that_a_prepared_transaction_has(server: Cluster, table: str) -> None:
    churn(server, table, rows=0)
    server.psql(
        f"BEGIN; LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE; PREPARE TRANSACTION 'lock'"
    )
    try:
        churn(server, table)
        found = why(server, table)
        one = next(one for one in found["causes"] if one["id"] == "vacuum.lock_held")
        assert one["evidence"]["gid"] == "lock"
        assert one["remedy"][0]["command"] == "ROLLBACK PREPARED 'lock';"
        server.restart()  # from now on its locks have no session's number any more
        until(lambda: dead(server, table) >= ROWS)
        one = next(o for o in why(server, table)["causes"] if o["id"] == "vacuum.lock_held")
        assert one["evidence"]["gid"] == "lock"
        assert one["frees"]["alone_rows"] == one["evidence"]["n_dead_tup"]
    finally:
        server.psql("ROLLBACK PREPARED 'lock'")
    until(lambda: dead(server, table) == 0)


def test_requests_for_locks_cancel_every_vacuum(server: Cluster) -> None:
    with slow(server, "cancelled"), requests(server, "cancelled"):
        before = vacuums(server, "cancelled")
        one = only(why(server, "cancelled", watch="10s"), "vacuum.cancelled_by_locks")
        assert len(one["evidence"]["workers"]) > 1
        assert vacuums(server, "cancelled") == before


def test_a_page_that_a_cursor_pins(server: Cluster) -> None:
    server.psql(
        "CREATE TABLE pinned (id int PRIMARY KEY, v int) WITH (autovacuum_enabled = off);"
        "INSERT INTO pinned SELECT i, 0 FROM generate_series(1, 2000) i"
    )
    server.psql("VACUUM ANALYZE pinned")
    server.psql("DELETE FROM pinned WHERE id % 2 = 0")
    try:
        with session(
            server,
            "SET enable_seqscan = off",
            "SET enable_bitmapscan = off",
            "DECLARE c CURSOR FOR SELECT id FROM pinned ORDER BY id",
            "FETCH 10 FROM c",
        ) as culprit:
            server.psql("ALTER TABLE pinned RESET (autovacuum_enabled)")
            until(lambda: waiting(server) == "BufferPin")
            found = why(server, "pinned")
            one = next(one for one in found["causes"] if one["id"] == "vacuum.buffer_pin")
            assert one["evidence"]["suspects"] == [pid(culprit)]
            assert one["remedy"][0]["command"] == f"SELECT pg_terminate_backend({pid(culprit)});"
    finally:
        server.psql("DROP TABLE pinned")


def test_an_index_that_fails(server: Cluster, table: str) -> None:
    server.psql(
        "CREATE FUNCTION fails(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS "
        "$$ BEGIN IF pg_backend_pid() IN (SELECT pid FROM pg_catalog.pg_stat_activity WHERE "
        "backend_type = 'autovacuum worker') THEN RAISE 'broken'; END IF; RETURN i; END $$;"
        f"CREATE INDEX broken ON {table} USING brin (fails(v))"
        " WITH (pages_per_range = 1, autosummarize = off)"
    )
    try:

        def counted() -> bool:  # up to 14 a busy machine loses counts
            server.psql(
                f"INSERT INTO {table} SELECT i, 0 FROM generate_series(1, 40000) i;"
                f"DELETE FROM {table} WHERE id % 2 = 0"
            )  # at once: each failure leaves one page range behind as if done
            return dead(server, table) > 0

        until(counted)
        before = vacuums(server)
        one = only(why(server, table, watch="12s"), "vacuum.failing")
        assert one["severity"] == "critical"
        assert vacuums(server) == before
        assert one["remedy"][0]["command"] == "VACUUM (VERBOSE) public.churned;"
    finally:
        server.psql("DROP FUNCTION fails CASCADE")


def test_vacuum_that_leaves_indexes_out(server: Cluster, table: str) -> None:
    server.psql(f"CREATE INDEX ON {table} (v)")
    server.psql(f"ALTER TABLE {table} SET (vacuum_index_cleanup = off)")
    with configured(server, autovacuum_naptime="5min"):  # one more vacuum counts none as dead
        churn(server, table)
        server.psql(f"VACUUM ANALYZE {table}")
        until(lambda: dead(server, table) >= ROWS)
        one = only(why(server, table), "vacuum.index_cleanup_off")
        if int(server.psql("SHOW server_version_num")) >= 150000:
            server.psql(f"VACUUM {table}")  # it counts none of them, as the next ANALYZE will
            assert dead(server, table) == 0
            informed(why(server, table), "vacuum.index_cleanup_off")
        for remedy in one["remedy"]:
            server.psql(remedy["command"])
        server.psql(f"ANALYZE {table}")
        until(lambda: dead(server, table) == 0)


def test_lost_statistics(server: Cluster, table: str) -> None:
    server.psql("SELECT pg_stat_reset()")
    one = only(why(server, table), "vacuum.stats_lost")
    assert one["evidence"]["reltuples"] == ROWS
    assert one["evidence"]["database_stats_reset"]
    server.psql(one["remedy"][0]["command"])
    assert why(server, table)["verdict"] == "clear"


def test_a_crash_loses_statistics(server: Cluster, table: str) -> None:
    server.stop("immediate")
    server.start()
    one = only(why(server, table), "vacuum.stats_lost")
    assert one["severity"] == "warning"


def test_a_temporary_table(server: Cluster) -> None:
    with closing(psycopg2.connect(server.dsn())) as owner:
        owner.autocommit = True
        cursor = owner.cursor()
        cursor.execute("CREATE TEMP TABLE mine AS SELECT generate_series(1, 2000) v")
        cursor.execute("ANALYZE mine")
        cursor.execute("DELETE FROM mine")

        def counted() -> bool:
            cursor.execute("SELECT 1")  # up to 14 an idle session keeps its counters to itself
            return "vacuum.temp_table" in accused(why(server, watch="0"))

        until(counted)
        only(why(server), "vacuum.temp_table")
        cursor.execute("VACUUM mine")


def test_a_long_naptime(server: Cluster, table: str) -> None:
    with configured(server, autovacuum_naptime="20min"):
        churn(server, table)
        one = only(why(server, table), "vacuum.naptime")
        assert one["evidence"]["setting"] == "1200"


def test_bloat_without_dead_rows(server: Cluster) -> None:
    server.psql(
        "CREATE TABLE bloated AS SELECT i, repeat('x', 500) AS v FROM generate_series(1, 20000) i"
    )
    server.psql("DELETE FROM bloated WHERE i < 19990")
    server.psql("VACUUM ANALYZE bloated")
    try:
        one = informed(why(server, "bloated"), "bloat.free_space")
        assert one["evidence"]["free_percent"] > 90
    finally:
        server.psql("DROP TABLE bloated")


def test_a_healthy_churning_table_is_clear(server: Cluster, table: str) -> None:
    churn(server, table)
    until(lambda: dead(server, table) == 0)
    found = why(server, table)
    assert found["verdict"] == "clear"
    assert found["causes"] == []


# ---- helpers


@contextmanager
def slow(server: Cluster, name: str) -> Iterator[None]:
    """A table at which an autovacuum worker takes minutes."""
    options = "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1"
    server.psql(
        f"CREATE TABLE {name} (i int, v text) WITH ({options});"
        f"INSERT INTO {name} SELECT i, repeat('x', 200) FROM generate_series(1, 20000) i"
    )
    try:
        server.psql(f"DELETE FROM {name} WHERE i % 2 = 0")
        until(lambda: server.psql(_WORKERS.format(name)) != "0", 60)
        yield
    finally:
        server.psql(f"ALTER TABLE {name} SET (autovacuum_enabled = off)")
        server.psql(f"DROP TABLE {name}")


_WORKERS = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'autovacuum: VACUUM%{}%'"


def working(server: Cluster) -> int:
    return int(server.psql("SELECT count(*) FROM pg_stat_progress_vacuum"))


def waiting(server: Cluster) -> str:
    return server.psql(
        "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'autovacuum worker' LIMIT 1"
    )


@contextmanager
def requests(server: Cluster, table: str) -> Iterator[None]:
    """Somebody who asks for a lock on a table again and again."""
    stop = threading.Event()

    def work() -> None:
        with closing(psycopg2.connect(server.dsn(application_name="migration"))) as connection:
            connection.autocommit = True
            while not stop.is_set():
                connection.cursor().execute(f"ANALYZE {table}")
                time.sleep(0.2)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
