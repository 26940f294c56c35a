"""No false all-clear: whatever becomes of the server, its statistics or the role, no wrong zero."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg2
import pytest

from pgstats.ask.postgres import PostgresAsker
from pgstats.model import POSTGRES, Poll, Target
from pgstats.scratch import Cluster, Scratch
from tests.program import gauges, pgstats
from tests.test_ask_postgres import column
from tests.test_why_horizon import Standby
from tests.why import until

LIVE, DEAD = 800, 200
WELL = {"analyzed": DEAD, "never": DEAD, "empty": 0, "_other": 0}


@pytest.fixture
def own(scratch: Scratch) -> Iterator[Cluster]:
    """For tests that break it."""
    with filled(scratch) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def sound(scratch: Scratch) -> Iterator[Cluster]:
    """For tests that leave it as it was."""
    with filled(scratch) as cluster:
        cluster.psql("CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher")
        cluster.psql("CREATE ROLE plain LOGIN")
        cluster.psql("CREATE ROLE distant LOGIN NOINHERIT; GRANT pg_monitor TO distant")
        cluster.psql("CREATE DATABASE second")
        yield cluster


@contextmanager
def filled(scratch: Scratch) -> Iterator[Cluster]:
    """A cluster with tables that have dead rows, whether they were analyzed or not."""
    settings = {"autovacuum": "off", "max_connections": 12, "max_wal_senders": 3}
    with Cluster(scratch, settings, name="clear") as cluster:
        cluster.restart()  # before 15 the first start looks like a loss
        cluster.psql("CREATE TABLE empty (i int)")
        for name in ("analyzed", "never"):
            cluster.psql(f"CREATE TABLE {name} AS SELECT generate_series(1, {LIVE + DEAD}) i")
        cluster.psql("ANALYZE analyzed")
        for name in ("analyzed", "never"):
            cluster.psql(f"DELETE FROM {name} WHERE i <= {DEAD}")
        until(lambda: counted(cluster) == f"{DEAD}|{DEAD}")
        yield cluster


def grown(cluster: Cluster) -> None:
    """Wait until the cluster is so old that what begins now was not begun with it."""
    sql = """SELECT clock_timestamp() - greatest(to_timestamp(system_identifier >> 32), stats_reset)
                    > interval '11 seconds' FROM pg_control_system(), pg_stat_bgwriter"""
    until(lambda: cluster.psql(sql) == "t")


def counted(cluster: Cluster) -> str:
    """What the server has counted of both tables."""
    sql = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname <> 'empty' ORDER BY relname"
    return cluster.psql(sql).replace("\n", "|")


def look(cluster: Cluster, user: str = "postgres", **more: object) -> Poll:
    one = Target(POSTGRES, "main", cluster.dsn(user=user), timeout=6.0, **more)  # type: ignore[arg-type]
    with closing(PostgresAsker(one)) as asks:
        return asks.poll()


def dead(found: Poll) -> dict[str, float]:
    """The dead rows of each table as they are sent: unknown ones are not."""
    tables = column(found, "tables", "n_dead_tup").items()
    return {table: number for (_, _, table), number in tables if number is not None}


def number(found: Poll, group: str, metric: str) -> float | None:
    """A number of the server, or of the database postgres."""
    values = column(found, group, metric)
    return values[("postgres",) if group == "database" else ()]


def test_while_all_is_well(sound: Cluster) -> None:
    """And what the other tests break: here everything is told."""
    found = look(sound)
    assert dead(found) == WELL
    assert number(found, "database", "n_dead_tup") == 2 * DEAD
    assert number(found, "database", "tables_without_stats") == 0
    assert number(found, "server", "rights_ok") == 1


def test_a_crash(own: Cluster) -> None:
    """An immediate stop loses what was counted: the server says 0 of all tables."""
    own.stop("immediate")
    own.start()
    assert counted(own) == "0|0", "that is what everybody else would send"
    found = look(own)
    assert found.ok, found.problems()
    assert dead(found) == {"_other": 0}
    assert number(found, "database", "n_dead_tup") is None
    assert number(found, "database", "tables_without_stats") == 3
    age = number(found, "server", "stats_age_seconds")
    assert age is not None
    assert age <= (number(found, "server", "uptime_seconds") or 0)
    ratios = column(found, "tables", "dead_ratio")
    assert {ratios["postgres", "public", name] for name in ("analyzed", "never")} == {None}
    # What comes later is not all there is.
    own.psql(f"DELETE FROM never WHERE i <= {DEAD + 1}")
    until(lambda: counted(own) == "0|1")
    assert dead(look(own)) == {"_other": 0}
    # A vacuum or an analyze counts anew.
    own.psql("ANALYZE analyzed, never; VACUUM never")
    until(lambda: counted(own) == f"{DEAD}|0")
    assert dead(look(own)) == {"analyzed": DEAD, "never": 0, "_other": 0}
    own.psql("INSERT INTO empty SELECT generate_series(1, 5)")
    until(lambda: dead(look(own)).get("empty") == 0)


def test_a_reset_of_the_statistics(own: Cluster) -> None:
    if int(own.psql("SHOW server_version_num")) < 150000:
        grown(own)  # before, the stamp could be that of the beginning, too
    own.psql("SELECT pg_stat_reset()")
    until(lambda: counted(own) == "0|0")
    found = look(own)
    assert dead(found) == {"_other": 0}
    assert number(found, "database", "n_dead_tup") is None
    age = number(found, "database", "stats_age_seconds")
    assert age is not None
    assert 0 <= age < 60


def test_a_reset_of_one_table(own: Cluster) -> None:
    """Before 15 its stamp is all there is: everything else is still counted."""
    if int(own.psql("SHOW server_version_num")) < 150000:
        grown(own)
    own.psql("SELECT pg_stat_reset_single_table_counters('never'::regclass)")
    until(lambda: counted(own) == f"{DEAD}|0")
    assert dead(look(own)) == {"analyzed": DEAD, "_other": 0}


@pytest.mark.full
def test_a_crash_is_not_forgotten(own: Cluster) -> None:
    """A clean restart keeps the statistics that a crash has begun: they are no more for it."""
    grown(own)
    own.stop("immediate")
    own.start()
    own.restart()
    assert counted(own) == "0|0"
    assert dead(look(own)) == {"_other": 0}


@pytest.mark.full
def test_a_role_that_may_not_see_when_the_cluster_was_made(own: Cluster) -> None:
    """What nothing was counted of is unknown then; all else is as ever."""
    own.psql("CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher")
    own.psql("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    found = look(own, "watcher")
    assert found.ok, found.problems()
    assert dead(found) == {"analyzed": DEAD, "never": DEAD, "_other": 0}


def test_a_promotion(own: Cluster) -> None:
    copy = Standby(own, None, "promoted")
    for file in (copy.data / "pg_stat").iterdir():  # what a base backup leaves out as well
        file.unlink()
    with copy:
        now = own.psql("SELECT pg_current_wal_lsn()")
        until(lambda: copy.psql(f"SELECT pg_last_wal_replay_lsn() >= '{now}'") == "t")
        one = Target(POSTGRES, "main", copy.dsn(), timeout=6.0)
        with closing(PostgresAsker(one)) as asks:
            before = asks.poll()
            copy.psql("SELECT pg_promote()")
            until(lambda: copy.psql("SELECT pg_is_in_recovery()") == "f")
            after = asks.poll()
    assert before.ok, before.problems()
    assert number(before, "server", "in_recovery") == 1
    assert dead(before) == {}, "a standby counts none"
    assert after.ok, after.problems()
    assert number(after, "server", "in_recovery") == 0
    assert "analyzed" not in dead(after)
    assert number(after, "database", "n_dead_tup") is None
    assert before.identity != after.identity, "its totals are no continuation"


def test_a_table_that_is_being_altered(sound: Cluster) -> None:
    """Whoever holds an ACCESS EXCLUSIVE lock, or waits for one, stops no poll."""
    with ExitStack() as stack:
        holder, reader, waiter = (
            stack.enter_context(closing(psycopg2.connect(sound.dsn()))) for _ in range(3)
        )
        holder.cursor().execute("ALTER TABLE analyzed ADD j int")
        reader.cursor().execute("SELECT count(*) FROM never")
        pid = waiter.info.backend_pid
        # The statement is only begun: nobody waits for its end, which never comes.
        waiter.autocommit = True
        begun = psycopg2.connect(sound.dsn(), async_=1)
        wait_for(begun)
        begun.cursor().execute("ALTER TABLE never ADD j int")
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
        until(lambda: sound.psql(waits) == "1")
        found = look(sound)
        assert found.ok, found.problems()
        assert dead(found) == WELL
        assert number(found, "lock_waits", "exclusive_waiting") == 1
        assert sound.psql(f"SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted") == "0"
        begun.close()


def wait_for(connection: psycopg2.extensions.connection) -> None:
    """Wait until an asynchronous connection is there."""
    until(lambda: connection.poll() == psycopg2.extensions.POLL_OK)


@contextmanager
def taken(dsn: str) -> Iterator[None]:
    """All connections that the role can have."""
    with ExitStack() as stack:
        try:
            while True:
                stack.enter_context(closing(psycopg2.connect(dsn)))
        except psycopg2.OperationalError as error:
            assert "remaining connection slots" in str(error)  # noqa: PT017
        yield


def test_a_full_server(sound: Cluster, tmp_path: Path) -> None:
    """SQLSTATE 53300: down for that reason, within the timeout, and over when there is room."""
    dsn = sound.dsn(user="watcher")
    run = ("once", "--postgres", dsn, "--dry-run", "--state", str(tmp_path / "state"))
    with taken(dsn):
        full = pgstats(*run)
    sent = {name.split(".", 3)[3]: value for name, value in gauges(full.stdout).items()}
    assert full.returncode == 69
    assert "Traceback" not in full.stderr
    assert "remaining connection slots" in full.stderr
    assert sent["up"] == 0
    assert sent["down.too_many_connections.count"] == 1
    assert not [name for name in sent if name.startswith(("tables.", "database.", "horizon."))]
    until(lambda: pgstats(*run).returncode == 0)


def test_a_server_that_fills_up_between_polls_costs_the_databases_alone(sound: Cluster) -> None:
    """The kept connection still answers; the walk ends at the first database that is full."""
    dsn = sound.dsn(user="watcher")
    with closing(PostgresAsker(Target(POSTGRES, "main", dsn, timeout=6.0))) as asks:
        assert asks.poll().ok
        with taken(dsn):
            full = asks.poll()
    assert full.up
    assert [one.reason for one in full.failures] == ["too_many_connections"]
    assert number(full, "connections", "free") == 0
    assert dead(full)["never"] == DEAD


@pytest.mark.parametrize("role", ["plain", "distant", "watcher"])
def test_rights_are_those_that_hold_now(sound: Cluster, role: str) -> None:
    """A member that does not inherit sees no more than an outsider: neither is sent a zero."""
    others = "SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'"
    until(lambda: sound.psql(others) == "0")
    with closing(psycopg2.connect(sound.dsn())) as other:
        other.cursor().execute("SELECT 1")
        found = look(sound, role)
    allowed = role == "watcher"
    if role == "distant" and int(sound.psql("SHOW server_version_num")) < 150000:
        assert number(found, "server", "rights_ok") == 0
        return  # such a member saw more then, in some views and not in others
    assert found.ok, found.problems()
    assert number(found, "server", "rights_ok") == int(allowed)
    assert dead(found)["never"] == DEAD, "which any role may see"
    for metric in ("oldest_transaction_seconds", "oldest_idle_in_transaction_seconds"):
        age = number(found, "activity", metric)
        assert (age is not None and age > 0) == allowed
    assert (number(found, "server", "stats_age_seconds") is not None) == allowed
    states = column(found, "sessions", "count")
    assert states["idle_in_transaction",] == (1 if allowed else None)
    assert states["masked",] == (0 if allowed else 1)


def test_counting_that_is_off_is_told(own: Cluster) -> None:
    own.settings["track_counts"] = "off"
    own.reload()
    until(lambda: own.psql("SHOW track_counts") == "off")
    found = look(own)
    assert number(found, "server", "track_counts") == 0
    assert dead(found) == {"_other": 0}
    assert number(found, "database", "n_dead_tup") is None
