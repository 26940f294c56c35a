"""The questions about the whole cluster, each with what it asks about made for real."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import psycopg2
import pytest
from psycopg2.extras import PhysicalReplicationConnection

from pgstats.ask import asker
from pgstats.ask.session import Session
from pgstats.catalogue.postgres import CLUSTER, locks, replication, sessions, vacuum
from pgstats.model import OTHER, POSTGRES, Poll, Query, Target
from pgstats.scratch import Cluster, Scratch

Numbers = dict[str, Any]


@pytest.fixture(scope="module")
def own(scratch: Scratch) -> Cluster:
    """A cluster where slots, prepared transactions and slow vacuums can be had."""
    settings = {
        "max_prepared_transactions": 5,
        "max_connections": 20,
        "wal_level": "logical",
        "autovacuum": "off",
        "max_wal_size": "2GB",
    }
    return Cluster(scratch, settings, name="questions").start()


def answer(cluster: Cluster, query: Query, user: str = "postgres") -> dict[Any, Numbers]:
    """The numbers of a question by its label, of one without labels by None."""
    target = Target(POSTGRES, "main", cluster.dsn(user=user))
    with closing(Session(target, time.monotonic() + 20)) as session:
        frame = session.answer(query, Poll(target), {"databases": ["postgres"]})
    width = len(frame.query.labels)
    names = [metric.name for metric in frame.metrics]
    return {
        (row[0] if width else None): dict(zip(names, row[width:], strict=True))
        for row in frame.rows
    }


def one(cluster: Cluster, query: Query, user: str = "postgres") -> Numbers:
    """The numbers of a question that has one row."""
    return answer(cluster, query, user)[None]


def eventually(what: Callable[[], object]) -> None:
    """Wait until something holds."""
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


@contextmanager
def session(cluster: Cluster, *statements: str, **more: Any) -> Iterator[Any]:
    """A session that has sent those statements, in a transaction that stays open."""
    with closing(psycopg2.connect(cluster.dsn(**more))) as connection:
        for sql in statements:
            connection.cursor().execute(sql)
        yield connection
    gone = f"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {connection.info.backend_pid}"
    eventually(lambda: cluster.psql(gone) == "t")


@contextmanager
def at_work(cluster: Cluster, *statements: str) -> Iterator[None]:
    """A session whose last statement goes on until it is cancelled."""
    with closing(psycopg2.connect(cluster.dsn())) as connection:
        connection.autocommit = True
        pid = connection.info.backend_pid

        def work() -> None:
            try:
                for sql in statements:
                    connection.cursor().execute(sql)
            except psycopg2.Error:
                pass

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            cluster.psql(f"SELECT pg_cancel_backend({pid})")
            thread.join()


@contextmanager
def role(cluster: Cluster, *rights: str) -> Iterator[str]:
    cluster.psql("CREATE ROLE looker LOGIN")
    for right in rights:
        cluster.psql(f"GRANT {right} TO looker")
    yield "looker"
    cluster.psql("DROP ROLE looker")


def test_every_question_is_asked_in_a_poll(own: Cluster) -> None:
    with closing(asker(Target(POSTGRES, "main", own.dsn()))) as asks:
        poll = asks.poll()
    assert poll.ok, poll.problems()
    groups = {frame.query.group for frame in poll.frames}
    assert groups >= {query.group for query in CLUSTER}


# ---- slots, prepared transactions, standbys


def test_a_slot_appears_with_what_it_keeps_and_goes(own: Cluster) -> None:
    own.psql("SELECT pg_create_physical_replication_slot('keeper', true)")
    slot = answer(own, replication.SLOTS)["keeper"]
    before = own.psql("SELECT pg_current_wal_lsn() - restart_lsn FROM pg_replication_slots")
    assert slot["retained_bytes"] <= float(before)
    own.psql("SELECT pg_switch_wal(); CHECKPOINT; SELECT pg_switch_wal()")
    more = answer(own, replication.SLOTS)["keeper"]["retained_bytes"]
    assert more - slot["retained_bytes"] > 4 << 20
    assert one(own, replication.REPLICATION) == {
        "slots": 1,
        "inactive_slots": 1,
        "invalid_slots": 0,
        "max_retained_bytes": pytest.approx(more, abs=1 << 20),
        "max_slot_wal_keep_size_bytes": None,
        "standbys": 0,
    }
    assert (slot["active"], slot["wal_status"], slot["invalid"]) == (0, 1, 0)
    assert (slot["xmin_age_xids"], slot["safe_wal_size_bytes"]) == (0, None)
    own.psql("SELECT pg_drop_replication_slot('keeper')")
    assert answer(own, replication.SLOTS) == {}
    assert one(own, replication.REPLICATION)["max_retained_bytes"] == 0


def test_a_slot_that_falls_behind_is_overdue_and_then_lost(own: Cluster) -> None:
    own.psql("SELECT pg_create_physical_replication_slot('late', true)")
    own.settings["max_slot_wal_keep_size"] = "16MB"
    own.reload()
    try:
        assert answer(own, replication.SLOTS)["late"]["safe_wal_size_bytes"] > 0
        assert one(own, replication.REPLICATION)["max_slot_wal_keep_size_bytes"] == 16 << 20
        for _ in range(4):
            own.psql("SELECT txid_current(), pg_switch_wal()")
        overdue = answer(own, replication.SLOTS)["late"]
        own.psql("CHECKPOINT")
        lost = answer(own, replication.SLOTS)["late"]
        count = one(own, replication.REPLICATION)["invalid_slots"]
    finally:
        del own.settings["max_slot_wal_keep_size"]
        own.reload()
        own.psql("SELECT pg_drop_replication_slot('late')")
    assert (overdue["wal_status"], overdue["invalid"]) == (3, 0)
    assert overdue["safe_wal_size_bytes"] < 0
    assert (lost["wal_status"], lost["invalid"], count) == (4, 1, 1)
    assert (lost["retained_bytes"], lost["safe_wal_size_bytes"]) == (0, 0)


def test_a_logical_slot_holds_the_catalogs(own: Cluster) -> None:
    own.psql("SELECT pg_create_logical_replication_slot('changes', 'test_decoding')")
    before = answer(own, replication.SLOTS)["changes"]["catalog_xmin_age_xids"]
    for _ in range(5):
        own.psql("SELECT txid_current()")
    after = answer(own, replication.SLOTS)["changes"]
    own.psql("SELECT pg_drop_replication_slot('changes')")
    assert after["catalog_xmin_age_xids"] == before + 5
    assert after["xmin_age_xids"] == 0


def test_temporary_slots_share_a_name_and_many_are_folded(own: Cluster) -> None:
    create = "SELECT pg_create_physical_replication_slot('{}', true, {})"
    names = ("a", "b", "c")
    for name in names:
        own.psql(create.format(name, "false"))
    with session(own, create.format("t1", "true"), create.format("t2", "true")):
        every = answer(own, replication.SLOTS)
        few = answer(own, replication.SLOTS._replace(budget=2))
    for name in names:
        own.psql(f"SELECT pg_drop_replication_slot('{name}')")
    assert set(every) == {*names, "_temporary"}
    assert every["_temporary"]["active"] == 1
    assert set(few) == {"_temporary", "a", OTHER}
    kept = [every[name]["retained_bytes"] for name in ("b", "c")]
    assert few[OTHER]["retained_bytes"] >= max(kept)


def test_a_prepared_transaction_has_an_age(own: Cluster) -> None:
    nothing = one(own, replication.PREPARED)
    own.psql("BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'forgotten'")
    for _ in range(4):
        own.psql("SELECT txid_current()")
    found = one(own, replication.PREPARED)
    own.psql("ROLLBACK PREPARED 'forgotten'")
    assert nothing == one(own, replication.PREPARED)
    assert [*nothing.values()] == [0, 0, 0, 5]
    assert (found["count"], found["oldest_age_xids"]) == (1, 5)
    assert 0 < found["oldest_age_seconds"] < 60
    assert found["max_prepared_transactions"] == 5


class Standby(Cluster):
    """A copy of a cluster that follows it through a slot."""

    def __init__(self, primary: Cluster) -> None:
        super().__init__(primary.scratch, primary.settings, name="follower")
        shutil.rmtree(self.data)
        self.settings |= {
            "port": self.port,
            "unix_socket_directories": self.host,
            "primary_conninfo": f"{primary.address} user=postgres application_name=follower",
            "primary_slot_name": "follower",
            "hot_standby_feedback": "on",
            "wal_receiver_status_interval": 1,
        }
        binary = primary.scratch.binaries.postgres / "pg_basebackup"
        options = ["--checkpoint=fast", "--slot=follower", "--create-slot"]
        primary.scratch.run([binary, "-D", self.data, "-d", primary.dsn(), *options])
        primary.scratch.run(["touch", self.data / "standby.signal"])


def test_a_standby_is_seen_from_both_sides(own: Cluster) -> None:
    with Standby(own) as standby:
        eventually(lambda: answer(own, replication.STANDBYS).get("follower", {}).get("streaming"))
        eventually(lambda: answer(own, replication.SLOTS)["follower"]["xmin_age_xids"] is not None)
        own.psql("CREATE TABLE followed AS SELECT 1 AS i; DROP TABLE followed")

        def caught_up() -> bool:
            numbers = answer(own, replication.STANDBYS)["follower"]
            late = (numbers["replay_lag_bytes"], numbers["replay_lag_seconds"])
            return numbers["count"] == 1 and late == (0, 0)

        eventually(caught_up)
        assert answer(own, replication.SLOTS)["follower"]["active"] == 1
        assert one(own, replication.REPLICATION)["standbys"] == 1
        assert answer(own, sessions.BACKENDS)["walsender"]["count"] == 1

        standby.psql("SELECT pg_wal_replay_pause()")
        own.psql("CREATE TABLE followed AS SELECT generate_series(1, 1000) AS i")
        own.psql("DROP TABLE followed")
        eventually(lambda: answer(own, replication.STANDBYS)["follower"]["replay_lag_bytes"] > 5e4)
        with role(own):
            hidden = answer(own, replication.STANDBYS, "looker")["follower"]
        assert hidden.pop("count") == 1
        assert set(hidden.values()) == {None}
        standby.psql("SELECT pg_wal_replay_resume()")

        standby.psql("SELECT pg_create_physical_replication_slot('cascade', true)")
        with closing(asker(Target(POSTGRES, "main", standby.dsn()))) as asks:
            poll = asks.poll()
        there = answer(standby, replication.SLOTS)["cascade"]
    assert poll.ok, poll.problems()
    assert "prepared" not in {frame.query.group for frame in poll.frames}
    assert there["retained_bytes"] is not None
    eventually(lambda: answer(own, replication.STANDBYS) == {})
    eventually(lambda: answer(own, replication.SLOTS)["follower"]["active"] == 0)
    own.psql("SELECT pg_drop_replication_slot('follower')")


# ---- sessions


def test_sessions_are_counted_by_state(own: Cluster) -> None:
    def counts() -> Numbers:
        return {
            state: numbers["count"] for state, numbers in answer(own, sessions.SESSIONS).items()
        }

    nothing = dict.fromkeys(
        (
            *("active", "idle", "idle_in_transaction", "idle_in_transaction_aborted"),
            *("fastpath_function_call", "starting", "disabled", "masked"),
        ),
        0,
    )
    eventually(lambda: counts() == nothing)
    with ExitStack() as stack:
        stack.enter_context(session(own))
        stack.enter_context(session(own, "SELECT 1"))
        broken = stack.enter_context(session(own))
        with pytest.raises(psycopg2.Error):
            broken.cursor().execute("SELECT 1 / 0")
        stack.enter_context(session(own, "SELECT 1", options="-c track_activities=off"))
        stack.enter_context(at_work(own, "SELECT pg_sleep(600)"))
        eventually(lambda: counts()["active"])
        assert counts() == nothing | {
            "active": 1,
            "idle": 1,
            "idle_in_transaction": 1,
            "idle_in_transaction_aborted": 1,
            "disabled": 1,
        }
        waits = {kind: numbers["count"] for kind, numbers in answer(own, sessions.WAITS).items()}
        assert waits.pop("Timeout") == 1
        assert set(waits.values()) == {0}
    eventually(lambda: counts() == nothing)


def test_the_oldest_of_each_kind_has_its_age(own: Cluster) -> None:
    assert set(one(own, sessions.ACTIVITY).values()) == {0}
    with session(own, "SELECT 1") as idle, at_work(own, "SELECT pg_sleep(600)"):
        seen = f"""SELECT extract(epoch FROM clock_timestamp() - {{}})
                     FROM pg_stat_activity WHERE pid = {idle.info.backend_pid}"""
        eventually(lambda: one(own, sessions.ACTIVITY)["oldest_active_query_seconds"])
        least = float(own.psql(seen.format("xact_start")))
        found = one(own, sessions.ACTIVITY)
        most = float(own.psql(seen.format("xact_start")))
        longest = float(own.psql(seen.format("state_change")))
        assert least <= found["oldest_transaction_seconds"] <= most
        assert 0 < found["oldest_idle_in_transaction_seconds"] <= longest
        assert 0 < found["oldest_active_query_seconds"] <= most
        with session(own, "SELECT 1", options="-c track_activities=off"):
            assert set(one(own, sessions.ACTIVITY).values()) == {None}
    assert set(one(own, sessions.ACTIVITY).values()) == {0}


def test_what_a_role_may_not_see_is_never_a_zero(own: Cluster) -> None:
    with role(own), session(own, "SELECT 1"):
        states = answer(own, sessions.SESSIONS, "looker")
        assert states.pop("masked") == {"count": 1}
        assert states
        for query in (sessions.SESSIONS, sessions.BACKENDS, sessions.WAITS):
            found = answer(own, query, "looker")
            found.pop("masked", None)
            assert {numbers["count"] for numbers in found.values()} == {None}
        assert set(one(own, sessions.ACTIVITY, "looker").values()) == {None}
        connections = one(own, sessions.CONNECTIONS, "looker")
        assert connections["usable"] == 17
        assert (connections["used"], connections["free"]) == (None, None)
        assert connections["utilization"] is None
        at_vacuum = one(own, vacuum.VACUUM, "looker")
        assert at_vacuum.pop("autovacuum_max_workers") == 3
        assert set(at_vacuum.values()) == {None}
        own.psql("GRANT pg_monitor TO looker")
        for query in (sessions.ACTIVITY, sessions.CONNECTIONS, vacuum.VACUUM):
            assert None not in one(own, query, "looker").values()
        assert answer(own, sessions.SESSIONS, "looker")["masked"] == {"count": 0}
        assert answer(own, sessions.BACKENDS, "looker")["checkpointer"] == {"count": 1}


def test_a_role_that_is_alone_knows_all_the_same(own: Cluster) -> None:
    with role(own):
        assert set(one(own, sessions.ACTIVITY, "looker").values()) == {0}
        assert answer(own, sessions.SESSIONS, "looker")["idle"] == {"count": 0}
        assert one(own, sessions.CONNECTIONS, "looker")["used"] == 1


def test_the_free_connections_are_those_that_can_be_had(own: Cluster) -> None:
    with ExitStack() as stack, role(own):
        walsender = psycopg2.connect(own.dsn(), connection_factory=PhysicalReplicationConnection)
        stack.enter_context(closing(walsender))
        found = one(own, sessions.CONNECTIONS)
        assert (found["usable"], found["superuser_reserved_connections"]) == (17, 3)
        assert (found["used"], found["free"]) == (1, 16)
        # The session that asked is gone; all that were free can be taken, and its own.
        taken = [psycopg2.connect(own.dsn(user="looker")) for _ in range(found["free"] + 1)]
        with pytest.raises(psycopg2.OperationalError, match="remaining connection slots"):
            psycopg2.connect(own.dsn(user="looker"))
        full = one(own, sessions.CONNECTIONS)
        for connection in taken:
            connection.close()
        eventually(lambda: one(own, sessions.CONNECTIONS)["free"] == 16)
    assert (full["used"], full["free"]) == (18, 0)
    assert full["utilization"] == pytest.approx(18 / 17)


# ---- locks


def test_who_waits_for_a_lock_is_counted_with_the_blocker(own: Cluster) -> None:
    own.psql("CREATE TABLE wanted (i int)")
    nothing = one(own, locks.LOCK_WAITS)
    assert set(nothing.values()) == {0}
    with session(own, "LOCK TABLE wanted IN ACCESS SHARE MODE"), ExitStack() as stack:
        stack.enter_context(at_work(own, "LOCK TABLE wanted", "SELECT pg_sleep(600)"))
        stack.enter_context(at_work(own, "ALTER TABLE wanted ADD j int"))
        eventually(lambda: one(own, locks.LOCK_WAITS)["exclusive_waiting"] == 1)
        stack.enter_context(at_work(own, "SELECT * FROM wanted"))
        eventually(lambda: one(own, locks.LOCK_WAITS)["waiting"] == 2)
        eventually(lambda: one(own, locks.LOCK_WAITS)["longest_wait_seconds"] > 0)
        found = one(own, locks.LOCK_WAITS)
        modes = answer(own, locks.LOCKS)
    assert (found["blockers"], found["exclusive_waiting"], found["waiting_long"]) == (1, 1, 0)
    assert modes["AccessExclusiveLock"] == {"granted": 0, "waiting": 1}
    assert modes["AccessShareLock"]["waiting"] == 1
    assert one(own, locks.LOCK_WAITS) == nothing
    own.psql("DROP TABLE wanted")


def test_a_prepared_transaction_blocks_too(own: Cluster) -> None:
    own.psql("CREATE TABLE wanted (i int)")
    own.psql("BEGIN; LOCK TABLE wanted; PREPARE TRANSACTION 'holder'")
    with at_work(own, "SELECT * FROM wanted"):
        eventually(lambda: one(own, locks.LOCK_WAITS)["waiting"] == 1)
        assert one(own, locks.LOCK_WAITS)["blockers"] == 1
        assert answer(own, locks.LOCKS)["AccessExclusiveLock"]["granted"] == 1
        own.psql("ROLLBACK PREPARED 'holder'")
        eventually(lambda: one(own, locks.LOCK_WAITS)["waiting"] == 0)
    own.psql("DROP TABLE wanted")


# ---- vacuum

_SLOW = ("SET vacuum_cost_delay = 100", "SET vacuum_cost_limit = 1")


def test_a_manual_vacuum_shows_how_far_it_is(own: Cluster) -> None:
    own.psql("CREATE TABLE big AS SELECT i, repeat('x', 500) AS t FROM generate_series(1, 20000) i")
    own.psql("CREATE INDEX ON big (i)")
    own.psql("DELETE FROM big WHERE i % 3 = 0")
    assert answer(own, vacuum.PROGRESS) == {}
    with at_work(own, *_SLOW, "VACUUM (PARALLEL 0) big"):
        eventually(lambda: answer(own, vacuum.PHASES)["scanning_heap"]["count"] == 1)
        eventually(lambda: (answer(own, vacuum.PROGRESS)["postgres"]["scanned_ratio"] or 0) > 0)
        found = answer(own, vacuum.PROGRESS)["postgres"]
        blocks = float(own.psql("SELECT heap_blks_total FROM pg_stat_progress_vacuum"))
        at_vacuum = one(own, vacuum.VACUUM)
        eventually(lambda: answer(own, vacuum.PROGRESS)["postgres"]["dead_tuple_memory_ratio"])
        with role(own):
            hidden = answer(own, vacuum.PROGRESS, "looker")["postgres"]
            phases = answer(own, vacuum.PHASES, "looker")
    assert found["vacuums"] == 1
    assert found["heap_blks_total"] == blocks > 1000
    assert 0 < found["scanned_ratio"] < 1
    assert found["max_index_vacuum_count"] == 0
    assert at_vacuum["manual_vacuums"] == 1
    assert at_vacuum["autovacuum_workers"] == at_vacuum["wraparound_workers"] == 0
    assert at_vacuum["oldest_vacuum_seconds"] > 0
    assert hidden.pop("vacuums") == 1
    assert set(hidden.values()) == {None}
    assert {numbers["count"] for numbers in phases.values()} == {None}
    assert answer(own, vacuum.PROGRESS) == {}
    assert {numbers["count"] for numbers in answer(own, vacuum.PHASES).values()} == {0}
    assert one(own, vacuum.VACUUM)["manual_vacuums"] == 0
    own.psql("DROP TABLE big")


def test_an_autovacuum_against_wraparound_is_known_as_such(own: Cluster) -> None:
    own.psql(
        "CREATE TABLE old WITH (autovacuum_freeze_max_age = 100000,"
        " autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1) AS"
        " SELECT i, repeat('x', 500) AS t FROM generate_series(1, 20000) i"
    )
    age = one(own, vacuum.WRAPAROUND)["xid_age_xids"]
    own.psql("DO $$ BEGIN FOR n IN 1..100100 LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$")
    older = one(own, vacuum.WRAPAROUND)
    changed = {"autovacuum": "on", "autovacuum_naptime": 1, "autovacuum_vacuum_cost_limit": 400}
    before = own.settings
    own.settings = before | changed
    own.reload()
    try:
        eventually(lambda: one(own, vacuum.VACUUM)["wraparound_workers"] == 1)
        found = one(own, vacuum.VACUUM)
        settings = one(own, vacuum.SETTINGS)
        backends = answer(own, sessions.BACKENDS)
    finally:
        own.settings = before
        own.reload()
        own.psql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type LIKE 'autovacuum%'"
        )
        own.psql("DROP TABLE old")
    assert older["xid_age_xids"] - age >= 100100
    assert older["xid_freeze_ratio"] == pytest.approx(older["xid_age_xids"] / 200_000_000)
    assert older["xid_limit_ratio"] == pytest.approx(older["xid_age_xids"] / 2**31)
    assert found["autovacuum_workers"] >= 1
    assert found["worker_utilization"] == pytest.approx(found["autovacuum_workers"] / 3)
    assert found["manual_vacuums"] == 0
    assert backends["autovacuum_worker"]["count"] >= 1
    assert (settings["autovacuum"], settings["autovacuum_naptime_seconds"]) == (1, 1)
    assert settings["autovacuum_vacuum_cost_limit"] == 400
    eventually(lambda: one(own, vacuum.VACUUM)["autovacuum_workers"] == 0)
    eventually(lambda: one(own, vacuum.SETTINGS)["autovacuum"] == 0)
    assert one(own, vacuum.SETTINGS)["autovacuum_vacuum_cost_limit"] == 200
