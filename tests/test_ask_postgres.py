"""Asking a real PostgreSQL: the guards, the walk over databases, what goes missing meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from pgstats.ask import asker
from pgstats.ask.globs import chosen, pattern
from pgstats.ask.postgres import PostgresAsker
from pgstats.ask.session import Session
from pgstats.ask.witness import ALWAYS, sample
from pgstats.catalogue.postgres.heaps import READ, SETTINGS
from pgstats.catalogue.postgres.tables import select
from pgstats.errors import AskError
from pgstats.model import OTHER, POSTGRES, Frame, Poll, Target
from pgstats.scratch import Bouncer, Cluster, Scratch

SQL = "SELECT name, setting FROM pg_settings"


def target(cluster: Cluster, **more: object) -> Target:
    return Target(POSTGRES, "main", cluster.dsn(), **more)  # type: ignore[arg-type]


def poll(one: Target) -> Poll:
    asks = asker(one)
    try:
        return asks.poll()
    finally:
        asks.close()


def frames(found: Poll, group: str, metric: str) -> list[Frame]:
    return [
        f for f in found.frames if f.query.group == group and metric in [m.name for m in f.metrics]
    ]


def column(found: Poll, group: str, metric: str) -> dict[tuple[str, ...], float]:
    """One metric of a group by its labels."""
    values = {}
    for frame in frames(found, group, metric):
        width = len(frame.query.labels)
        at = width + [m.name for m in frame.metrics].index(metric)
        values.update({tuple(map(str, row[:width])): row[at] for row in frame.rows})
    return values


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """A database of its own for a test."""
    name = f"own{time.monotonic_ns()}"
    cluster.psql(f"CREATE DATABASE {name} TEMPLATE template0")  # which nobody else is in
    yield name
    cluster.psql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def test_a_session_is_guarded_by_the_server(cluster: Cluster) -> None:
    session = Session(target(cluster, timeout=4.0), time.monotonic() + 4)
    settings: dict[str, str] = dict(session.ask(SQL)[1])
    (pid,) = session.ask("SELECT pg_backend_pid()")[1][0]
    state = cluster.psql(
        "SELECT application_name, state, backend_xmin IS NULL"
        f" FROM pg_stat_activity WHERE pid = {pid}"
    )
    session.close()
    assert settings["search_path"] == ""
    assert settings["default_transaction_read_only"] == "on"
    assert settings["lock_timeout"] == "250"
    assert settings["statement_timeout"] == "3000"
    assert settings["idle_in_transaction_session_timeout"] == "4000"
    assert settings["stats_fetch_consistency"] == "none"
    assert (settings["jit"], settings["max_parallel_workers_per_gather"]) == ("off", "0")
    assert state.strip() == "pgstats|idle|t", "no transaction stays open between statements"


def test_settings_of_the_dsn_are_kept(cluster: Cluster) -> None:
    one = Target(
        POSTGRES, "main", cluster.dsn(options="-c extra_float_digits=2", application_name="me")
    )
    session = Session(one, time.monotonic() + 8)
    settings: dict[str, str] = dict(session.ask(SQL)[1])
    session.close()
    assert settings["extra_float_digits"] == "2"
    assert settings["lock_timeout"] == "250"
    assert settings["application_name"] == "me"


def test_target_session_attrs_means_what_it_means_to_psql(cluster: Cluster) -> None:
    dsn = cluster.dsn(target_session_attrs="read-write")
    session = Session(Target(POSTGRES, "main", dsn), time.monotonic() + 8)
    settings: dict[str, str] = dict(session.ask(SQL)[1])
    session.close()
    assert settings["transaction_read_only"] == "on"
    refused = poll(Target(POSTGRES, "main", cluster.dsn(target_session_attrs="read-only")))
    assert refused.down


def test_a_database_without_connect_is_counted_and_named(cluster: Cluster, database: str) -> None:
    cluster.psql(f"REVOKE CONNECT ON DATABASE {database} FROM public")
    cluster.psql("CREATE ROLE outsider LOGIN")
    found = poll(Target(POSTGRES, "main", cluster.dsn("postgres", "outsider")))
    cluster.psql("DROP ROLE outsider")
    assert found.ok
    assert found.counts["databases_refused"] == 1
    assert found.refused == {database: "the role has no CONNECT privilege"}


def test_every_database_is_walked_and_summed(cluster: Cluster, database: str) -> None:
    cluster.psql("CREATE TABLE t AS SELECT generate_series(1, 30) i", database)
    cluster.psql("CREATE TABLE u AS SELECT generate_series(1, 12) i", database)
    found = poll(target(cluster))
    assert found.ok
    assert column(found, "database", "n_live_tup")[database,] == 42
    assert column(found, "database", "tables")[database,] == 2
    assert column(found, "tables", "n_live_tup")[database, "public", "t"] == 30
    assert "postgres" in {labels[0] for labels in column(found, "database", "tables")}
    assert "template1" not in {labels[0] for labels in column(found, "database", "xact_commit")}


@pytest.mark.parametrize(
    ("tables", "named", "rest"), [(0, 0, 60), (1, 1, 20), (2, 2, 10), (None, 3, 0)]
)
def test_the_budget_keeps_the_tables_that_need_vacuum_most(
    cluster: Cluster, database: str, tables: int | None, named: int, rest: float
) -> None:
    for name, dead in (("much", 40), ("more", 10), ("few", 10)):
        options = "autovacuum_enabled = off"
        if name == "more":  # as many dead rows as `few`, but its threshold is lower
            options += ", autovacuum_vacuum_threshold = 20"
        cluster.psql(
            f"CREATE TABLE {name} WITH ({options}) AS SELECT generate_series(1, 100) i", database
        )
        cluster.psql(f"DELETE FROM {name} WHERE i <= {dead}", database)
    found = poll(target(cluster, tables=tables, databases=(database,)))
    dead_rows = column(found, "tables", "n_dead_tup")
    assert dead_rows.pop((database, "_other", "_other")) == rest
    names = {table for _, _, table in dead_rows}
    assert len(names) == named
    assert names <= {"much", "more", "few"}
    if tables == 1:
        assert names == {"much"}
    if tables == 2:
        assert names == {"much", "more"}
    assert column(found, "database", "n_dead_tup")[database,] == 60
    assert found.counts["tables_folded"] == 3 - named


def test_excluded_and_temporary_tables_count_but_have_no_name(
    cluster: Cluster, database: str
) -> None:
    for name in ("keep", "audit_1", "audit_2"):
        cluster.psql(f"CREATE TABLE {name} AS SELECT 1 AS i", database)
    with closing(psycopg2.connect(cluster.dsn(database))) as other:
        other.cursor().execute("CREATE TEMP TABLE fleeting AS SELECT 1 AS i")
        other.commit()
        found = poll(target(cluster, databases=(database,), exclude_tables=("public.audit_*",)))
    names = {labels[2] for labels in column(found, "tables", "n_live_tup")}
    assert names == {"keep", "_other"}
    assert column(found, "database", "tables")[database,] == 4


def test_the_folded_row_is_told_apart_from_a_table_of_that_name(
    cluster: Cluster, database: str
) -> None:
    cluster.psql("CREATE SCHEMA _other; CREATE TABLE _other._other (i int)", database)
    found = poll(target(cluster, databases=(database,)))
    (frame,) = frames(found, "tables", "n_dead_tup")
    assert [row[1:3] for row in frame.rows] == [("_other", "_other"), (OTHER, OTHER)]


def test_a_kept_connection_that_was_cut_is_replaced(cluster: Cluster) -> None:
    asks = PostgresAsker(target(cluster))
    assert asks.poll().ok
    cluster.psql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgstats'"
    )
    found = asks.poll()
    asks.close()
    assert found.ok


def test_the_kept_connection_is_kept(cluster: Cluster) -> None:
    asks = PostgresAsker(target(cluster, databases=("postgres",)))
    who = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgstats'"
    asks.poll()
    first = cluster.psql(who)
    asks.poll()
    second = cluster.psql(who)
    asks.close()
    assert first == second != ""


def test_a_view_that_cannot_be_read_fails_alone(cluster: Cluster) -> None:
    """So does one that somebody has locked."""
    name = f"blind{time.monotonic_ns()}"
    cluster.psql(f"CREATE ROLE {name} LOGIN; REVOKE SELECT ON pg_replication_slots FROM PUBLIC")
    one = Target(POSTGRES, "main", cluster.dsn(user=name))
    try:
        with closing(Session(one, time.monotonic() + 30)) as session:
            found = sample(session)
            with closing(psycopg2.connect(cluster.dsn())) as owner:
                owner.cursor().execute("LOCK pg_db_role_setting IN ACCESS EXCLUSIVE MODE")
                later = sample(session)
    finally:
        cluster.psql(f"GRANT SELECT ON pg_replication_slots TO PUBLIC; DROP ROLE {name}")
    assert {view: fault.reason for view, fault in found.missing.items()} == {"slots": "not_allowed"}
    assert set(found.views) == {view.name for view in ALWAYS} - {"slots"}
    assert found.server["role"] == name
    assert set(later.missing) == {"slots", "role_settings"}
    assert later.missing["role_settings"].reason == "timeout"


def prepared(asks: PostgresAsker) -> int:
    return int(asks.session().ask("SELECT count(*) FROM pg_prepared_statements")[1][0][0])


def test_what_every_poll_asks_is_prepared_by_the_third(cluster: Cluster, database: str) -> None:
    """Runs of one or two pay nothing for it; with other parameters it is prepared anew."""
    asks = PostgresAsker(target(cluster))
    with closing(asks):
        for _ in range(2):
            assert asks.poll().ok
            assert not prepared(asks)
        for _ in range(3):
            assert asks.poll().ok
        several = prepared(asks)
        (pid,) = asks.session().ask("SELECT pg_backend_pid()")[1][0]
        assert asks.poll().ok
        last = cluster.psql(f"SELECT query FROM pg_stat_activity WHERE pid = {pid}")
        assert last.startswith('EXECUTE "pgstats ')
        cluster.psql(f"ALTER DATABASE {database} RENAME TO {database}_2")
        for _ in range(4):
            assert (found := asks.poll()).ok
        cluster.psql(f"ALTER DATABASE {database}_2 RENAME TO {database}")
        assert (f"{database}_2",) in column(found, "database", "numbackends")
        assert 20 < several <= prepared(asks) <= several + 1, "and the last ones are let go of"


def test_prepared_statements_that_are_lost_cost_no_answer(cluster: Cluster, database: str) -> None:
    """As where something that nobody told us of pools the connections."""
    asks = PostgresAsker(target(cluster))
    with closing(asks):
        for _ in range(4):
            whole = asks.poll()
        assert prepared(asks)
        asks.session().ask("SELECT 1; DEALLOCATE ALL", again=False)
        cluster.psql(f"ALTER DATABASE {database} RENAME TO {database}_2")
        found = asks.poll()
        cluster.psql(f"ALTER DATABASE {database}_2 RENAME TO {database}")
        assert found.ok, "with another list of databases"
        for _ in range(2):
            assert (found := asks.poll()).ok
            assert [f.query.group for f in found.frames] == [f.query.group for f in whole.frames]
        assert not prepared(asks)


def test_no_two_connections_call_a_statement_the_same(cluster: Cluster) -> None:
    """Behind a pool that nobody told us of one would else execute the other's."""
    with (
        closing(Session(target(cluster), time.monotonic() + 30)) as one,
        closing(Session(target(cluster), time.monotonic() + 30)) as other,
    ):
        names = [
            [session.ask("SELECT name FROM pg_prepared_statements", None, "x") for _ in range(3)]
            for session in (one, other)
        ]
        first, second = (found[-1][1] for found in names)
    assert len({*first, *second}) == 2


def test_what_cannot_be_prepared_is_asked_as_it_is(cluster: Cluster) -> None:
    session = Session(target(cluster), time.monotonic() + 30)
    with closing(session):
        for _ in range(4):
            assert session.ask("SHOW jit")[1] == [("off",)]
            with pytest.raises(AskError, match="does not exist"):
                session.ask("SELECT no_such_column")


def test_at_most_two_connections_are_open(cluster: Cluster) -> None:
    names = [f"crowd{n}" for n in range(6)]
    for name in names:
        cluster.psql(f"CREATE DATABASE {name} TEMPLATE template0")
    most = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        with closing(psycopg2.connect(cluster.dsn())) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            while not done.is_set():
                cursor.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgstats'"
                )
                most = max(most, (cursor.fetchone() or (0,))[0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    asks = PostgresAsker(target(cluster))
    for _ in range(5):
        assert asks.poll().ok
    asks.close()
    done.set()
    watcher.join()
    for name in names:
        cluster.psql(f"DROP DATABASE {name}")
    assert most == 2


def test_a_table_behind_an_exclusive_lock_is_polled_all_the_same(
    cluster: Cluster, database: str
) -> None:
    cluster.psql("CREATE TABLE locked AS SELECT 1 AS i", database)
    with closing(psycopg2.connect(cluster.dsn(database))) as other:
        other.cursor().execute("LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
        started = time.monotonic()
        found = poll(target(cluster, databases=(database,)))
    assert found.ok
    assert time.monotonic() - started < 4
    assert column(found, "tables", "n_live_tup")[database, "public", "locked"] == 1


def test_behind_a_pool_nothing_leaks_to_the_next_client(
    cluster: Cluster, scratch: Scratch, database: str
) -> None:
    with Bouncer(
        scratch, {"*": cluster.address}, settings={"default_pool_size": 1}, name="pooled"
    ) as bouncer:
        one = Target(POSTGRES, "main", bouncer.dsn(), pooled=True, databases=("postgres", database))
        found = poll(one)
        after = bouncer.psql("SHOW statement_timeout; SHOW search_path", "postgres")
    assert found.ok, found.problems()
    assert found.counts["databases_polled"] == 2
    assert after.split("\n")[:2] == ["0", '"$user", public']


def test_behind_a_pool_each_database_may_have_settings_of_its_own(
    cluster: Cluster, scratch: Scratch, database: str
) -> None:
    """It may have moved to another server."""
    with Cluster(scratch, {"autovacuum_vacuum_threshold": 1234}, name="other") as other:
        other.psql(f"CREATE DATABASE {database}")
        other.psql("CREATE TABLE t (i int)", database)
        where = {"postgres": cluster.address, database: other.address}
        with Bouncer(scratch, where, name="both") as bouncer:
            dsn = bouncer.dsn("postgres")
            found = poll(Target(POSTGRES, "main", dsn, pooled=True, databases=("*", database)))
    assert found.problems() == []
    assert column(found, "tables", "vacuum_threshold")[database, "public", "t"] == 1234


def test_a_database_dropped_meanwhile_is_no_failure(cluster: Cluster, database: str) -> None:
    asks = PostgresAsker(target(cluster))
    asks.poll()
    asks._visit(None, "never_there", found := Poll(asks.target, counts={}))
    asks.close()
    assert found.problems() == []
    assert database


class Standby(Cluster):
    """A copy of a cluster that follows it."""

    def __init__(self, primary: Cluster) -> None:
        settings = {
            "max_prepared_transactions": 5,
            "max_connections": 50,
        }  # not below the primary's
        super().__init__(primary.scratch, settings, name="standby")
        shutil.rmtree(self.data)
        binary = primary.scratch.binaries.postgres / "pg_basebackup"
        options = ["-R", "--checkpoint=fast", "-d", primary.dsn()]
        primary.scratch.run([binary, "-D", self.data, *options])


def test_a_standby_claims_no_dead_rows(cluster: Cluster) -> None:
    """It counts none itself: its zeros would be lies."""
    with Standby(cluster) as standby:
        found = poll(target(standby))
    assert found.ok
    assert column(found, "server", "in_recovery") == {(): 1}
    assert not frames(found, "tables", "n_dead_tup")
    assert not frames(found, "database", "n_dead_tup")
    assert frames(found, "database", "numbackends")


def test_a_rotated_password_is_a_failure_and_over_when_it_is_right_again(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    cluster.psql("CREATE ROLE rotated LOGIN PASSWORD 'one'")
    file = cluster.data / "pg_hba.conf"
    before = file.read_text()
    file.write_text(f"host all rotated 127.0.0.1/32 scram-sha-256\n{before}")
    cluster.reload()
    secret = tmp_path / "secret"
    secret.write_text("one")
    dsn = f"host=127.0.0.1 port={cluster.port} user=rotated dbname=postgres"
    asks = PostgresAsker(
        Target(POSTGRES, "m", dsn, password_file=str(secret), databases=("postgres", database))
    )
    try:
        assert asks.poll().ok
        cluster.psql("ALTER ROLE rotated PASSWORD 'two'")
        wrong = asks.poll()
        secret.write_text("two")
        right = asks.poll()
    finally:
        asks.close()
        file.write_text(before)
        cluster.reload()
        cluster.psql("DROP ROLE rotated")
    assert [problem.reason for problem in wrong.problems()] == ["auth"]
    assert wrong.counts["databases_refused"] == 0
    assert right.ok
    assert right.counts["databases_polled"] == 2


def test_what_an_owner_has_set_for_his_database_does_not_hold(
    cluster: Cluster, database: str
) -> None:
    for setting in (
        "default_transaction_isolation = serializable",
        "default_transaction_deferrable = on",
        "work_mem = '64kB'",
        "statement_timeout = 1",
        "search_path = public",
        "default_transaction_read_only = off",
    ):
        cluster.psql(f"ALTER DATABASE {database} SET {setting}")
    with closing(psycopg2.connect(cluster.dsn(database, options="-c statement_timeout=0"))) as k:
        cursor = k.cursor()
        cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        cursor.execute("CREATE TABLE held AS SELECT 1 AS i")  # a writer that stays open
        started = time.monotonic()
        found = poll(target(cluster, databases=(database,)))
    assert found.ok, found.problems()
    assert time.monotonic() - started < 4
    session = Session(target(cluster), time.monotonic() + 8, database)
    settings: dict[str, str] = dict(session.ask(SQL)[1])
    session.close()
    assert settings["transaction_isolation"] == "read committed"
    assert settings["transaction_deferrable"] == "off"
    assert settings["transaction_read_only"] == "on"


def test_when_time_is_up_no_more_database_is_asked_and_the_next_walk_begins_there(
    cluster: Cluster,
) -> None:
    names = [f"many{n}" for n in range(4)]
    for name in names:
        cluster.psql(f"CREATE DATABASE {name} TEMPLATE template0")
    asks = PostgresAsker(target(cluster, databases=("many*",)))
    assert asks.poll().counts["databases_polled"] == 4
    found = Poll(asks.target, counts=dict.fromkeys(("databases_polled", "tables_folded"), 0))
    asks._until = time.monotonic()
    assert asks._kept
    asks._walk(asks._kept, "postgres", names, found)
    (late,) = found.failures
    asks._first = "many2"
    walked = column(asks.poll(), "database", "tables")
    asks.close()
    for name in names:
        cluster.psql(f"DROP DATABASE {name}")
    assert found.counts["databases_polled"] == 0
    assert (late.reason, late.message) == ("timeout", "no time left for 4 of 4 databases")
    assert [name for (name,) in walked] == ["many2", "many3", "many0", "many1"]


def test_a_kept_connection_that_leads_nowhere_costs_no_poll(cluster: Cluster) -> None:
    asks = PostgresAsker(target(cluster, timeout=3.0, databases=("postgres",)))
    assert asks.poll().ok
    pid = int(cluster.psql("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgstats'"))
    os.kill(pid, signal.SIGSTOP)
    try:
        found = asks.poll()
    finally:
        os.kill(pid, signal.SIGCONT)
        asks.close()
    assert found.ok, found.problems()


def test_databases_that_let_nobody_in_are_not_there(cluster: Cluster, database: str) -> None:
    cluster.psql(f"UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{database}'")
    found = poll(target(cluster))
    cluster.psql(f"UPDATE pg_database SET datconnlimit = -1 WHERE datname = '{database}'")
    assert found.ok, found.problems()
    assert (database,) not in column(found, "database", "tables")


def test_names_that_are_no_utf_8_blind_nobody(cluster: Cluster) -> None:
    cluster.psql("CREATE DATABASE ascii_ok ENCODING 'SQL_ASCII' TEMPLATE template0")
    name = "E'b\\xffd'"
    cluster.psql(
        f"DO $$ BEGIN EXECUTE 'CREATE TABLE ' || quote_ident({name}) || ' (i int)'; END $$",
        "ascii_ok",
    )
    cluster.psql("CREATE TABLE good (i int)", "ascii_ok")
    with closing(psycopg2.connect(cluster.dsn("ascii_ok", client_encoding="SQL_ASCII"))) as k:
        k.autocommit = True
        k.cursor().execute(
            'CREATE DATABASE "bad\udcff" TEMPLATE template0'.encode("ascii", "surrogateescape")
        )
        found = poll(target(cluster, databases=("ascii*", "bad*", "postgres")))
        k.cursor().execute('DROP DATABASE "bad\udcff"'.encode("ascii", "surrogateescape"))
    cluster.psql("DROP DATABASE ascii_ok")
    assert found.ok, found.problems()
    names = {
        labels[2] for labels in column(found, "tables", "n_live_tup") if labels[0] == "ascii_ok"
    }
    assert {"good", "b\xffd"} <= names
    assert found.counts["databases_refused"] == 1
    assert ("postgres",) in column(found, "database", "tables")


def test_behind_a_pool_only_its_own_and_the_named_databases_are_asked(
    cluster: Cluster, scratch: Scratch, database: str
) -> None:
    with Bouncer(scratch, {"*": cluster.address}, name="frugal") as bouncer:
        found = poll(Target(POSTGRES, "main", bouncer.dsn(), pooled=True))
        named = poll(
            Target(POSTGRES, "main", bouncer.dsn(), pooled=True, databases=("*", database))
        )
    assert (found.ok, found.counts["databases_polled"]) == (True, 1)
    assert (named.ok, named.counts["databases_polled"]) == (True, 2)


def test_many_tables_and_little_memory(cluster: Cluster, database: str) -> None:
    """The folded row is found by a join: a list in memory would be searched once per table."""
    cluster.psql(
        "DO $$ BEGIN FOR i IN 1..3000 LOOP EXECUTE 'CREATE TABLE t' || i || ' (i int)';"
        " IF i % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$",
        database,
    )
    session = Session(target(cluster), time.monotonic() + 30, database)
    _, [values] = session.ask(f"SELECT {READ}")
    asked = {"tables": 2000, "members": [], **dict(zip(SETTINGS, values, strict=True))}
    plan = session.ask("EXPLAIN " + select(session.version, globs=False), asked)[1]
    found = poll(target(cluster, tables=None, databases=(database,)))
    session.close()
    assert not [line for (line,) in plan if "NOT (SubPlan" in line or "NOT (hashed" in line]
    assert found.ok
    assert len(column(found, "tables", "n_dead_tup")) == 3001


@pytest.mark.parametrize(
    ("name", "globs", "is_chosen"),
    [
        ("shop", ("*",), True),
        ("scratch_1", ("*", "!scratch_*"), False),
        ("scratch_1", ("!scratch_*",), False),
        ("shop", ("!scratch_*",), True),
        ("shop", ("other", "sh?p"), True),
        ("rdsadmin", ("*",), False),
        ("rdsadmin", ("rdsadmin",), True),
    ],
)
def test_globs_of_databases(name: str, globs: tuple[str, ...], *, is_chosen: bool) -> None:
    assert chosen(name, globs) == is_chosen


@pytest.mark.parametrize(
    ("glob", "name", "matches"),
    [
        ("public.audit_*", "public.audit_1", True),
        ("public.audit_*", "other.audit_1", False),
        ("audit_*", "other.audit_1", True),
        ("a+b", "public.a+b", True),
        ("a+b", "public.aab", False),
        ("x?z", "public.xyz", True),
        ("x[yz]", "public.xz", True),
        ("x[!yz]", "public.xz", False),
        ("it's\\d", "public.it's\\d", True),
    ],
)
def test_globs_of_tables_mean_the_same_to_the_server(
    cluster: Cluster, glob: str, name: str, *, matches: bool
) -> None:
    with closing(psycopg2.connect(cluster.dsn())) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT %s ~ %s", [name, pattern(glob)])
        assert (cursor.fetchone() or ())[0] == matches
