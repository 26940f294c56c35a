"""`pgstats why` at a terminal, in a pipe and as JSON: names, words, colour, what was not seen."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
import pytest

from pgstats.scratch import Cluster, Scratch
from tests.program import pgstats
from tests.why import (
    EAGER,
    ROWS,
    Document,
    accused,
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

OPTIONS = ("--no-state", "--watch", "400ms")
#: Autovacuum comes to nobody while a test runs.
CALM = {**EAGER, "autovacuum_naptime": "5min"}


@pytest.fixture(scope="module")
def server(scratch: Scratch) -> Iterator[Cluster]:
    with watched(scratch, "why-command", CALM) as cluster:
        cluster.psql("CREATE DATABASE appdb")
        yield cluster


@pytest.fixture
def table(server: Cluster) -> Iterator[str]:
    """A table of another database than the DSN's."""
    with churning(server, "appdb", "elsewhere") as name:
        yield name


@contextmanager
def holding(server: Cluster, **settings: object) -> Iterator[int]:
    """A session that is idle in transaction, after which all rows are rewritten."""
    with session(server, "INSERT INTO elsewhere VALUES (1)", dbname="appdb", **settings) as one:
        rewrite(server)
        yield pid(one)


def rewrite(server: Cluster) -> None:
    before = dead(server, "churned", "appdb")
    server.psql("UPDATE churned SET v = v + 1", "appdb")
    until(lambda: dead(server, "churned", "appdb") >= before + ROWS)


def text(server: Cluster, *arguments: str, user: str = "watcher") -> str:
    done = pgstats("why", *arguments, "--postgres", server.dsn(user=user), *OPTIONS)
    assert done.stderr == ""
    return done.stdout


def commands(report: str) -> list[str]:
    return [line.strip() for line in report.splitlines() if line.startswith("     ")]


# ---- for a person


def test_the_report_says_it_in_one_sentence_and_stays_within_80_columns(
    server: Cluster, table: str
) -> None:
    with holding(server, application_name="invoice-worker") as culprit:
        found = text(server, table)
    lines = found.splitlines()
    first = " ".join(found.split("\n\n")[0].split())
    assert re.fullmatch(
        r"appdb\.public\.churned: up to 2,000 dead rows cannot be removed because invoice-worker "
        rf"\(user postgres\) has been idle in transaction for \d+ s \(pid {culprit}\)\.",
        first,
    )
    assert f"     SELECT pg_terminate_backend({culprit});" in lines
    assert all(len(line) <= 80 for line in lines)
    assert found.isprintable() or set(found) - {"\n"} == set(found.replace("\n", ""))
    assert "\x1b" not in found


def test_the_command_is_one_line_however_long_the_names(server: Cluster) -> None:
    name = "n" * 63
    server.psql(f"CREATE SCHEMA {name}; CREATE TABLE {name}.{name} (v int)", "appdb")
    server.psql(f"ALTER TABLE {name}.{name} SET (autovacuum_enabled = off)", "appdb")
    server.psql(f"INSERT INTO {name}.{name} SELECT generate_series(1, 500)", "appdb")
    try:
        server.psql(f"DELETE FROM {name}.{name}", "appdb")
        until(lambda: dead(server, f"{name}.{name}", "appdb") == 500)
        found = text(server, f"{name}.{name}")
        command = f"     ALTER TABLE {name}.{name} RESET (autovacuum_enabled);"
        assert command in found.splitlines()
    finally:
        server.psql(f"DROP SCHEMA {name} CASCADE", "appdb")


def test_a_terminal_gets_colour_and_progress(server: Cluster, table: str) -> None:
    with holding(server):
        shown = at_a_terminal(server, table)
        plain = at_a_terminal(server, table, NO_COLOR="1")
    assert "look 1 of 2; watching for 0.4 s" in shown
    assert "\x1b[31m" in shown
    assert "look 2 of 2" in plain
    assert "\x1b[31m" not in plain


def at_a_terminal(server: Cluster, *arguments: str, **env: str) -> str:
    """What a terminal is sent."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "pgstats", "why", *arguments]
    argv += ["--postgres", server.dsn(user="watcher"), *OPTIONS]
    try:
        child = subprocess.Popen(argv, stdout=theirs, stderr=theirs, env=os.environ | env)
    finally:
        os.close(theirs)
    found = b""
    try:
        while piece := os.read(ours, 65536):
            found += piece
    except OSError:  # nobody writes any more
        pass
    os.close(ours)
    assert child.wait(30) == 1
    return found.decode()


def test_nothing_that_somebody_named_reaches_the_terminal_as_it_is(server: Cluster) -> None:
    """Escape sequences, braces, quotes and line ends in names and statements."""
    name = '"{0}\n\x1b]0;title\x07\x9b31m\u202e"'
    server.psql(
        f"CREATE TABLE {name} (v int) WITH (autovacuum_enabled = off);"
        f"INSERT INTO {name} SELECT generate_series(1, 500)",
        "appdb",
    )
    statement = "SELECT 1 FROM pg_class /* {pid} \x1b[2J \x9b2J \u202e */"
    snapshot = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
    try:
        with session(server, "CREATE TABLE other (i int)", dbname="appdb") as one:
            one.cursor().execute("PREPARE TRANSACTION %s", ("{gid}'\n\x1b[5m\\",))
        with session(server, snapshot, statement, dbname="appdb", application_name="{app}"):
            server.psql(f"DELETE FROM {name}", "appdb")
            until(lambda: server.psql(_DEAD, "appdb") == "500")
            found = text(server)
            document = why(server)
        assert not {c for c in found if not c.isprintable()} - {"\n"}
        assert "{pid} \\u001b[2J \\u009b2J \\u202e" in " ".join(found.split())
        for one in document["causes"]:  # what is to be pasted does what it says
            if one["id"] in ("vacuum.disabled_table", "horizon.prepared_xact"):
                assert one["remedy"][0]["command"].isprintable()
                server.psql(one["remedy"][0]["command"], "appdb")
        assert server.psql("SELECT count(*) FROM pg_prepared_xacts") == "0"
        options = "SELECT count(*) FROM pg_class WHERE reloptions IS NOT NULL AND relkind = 'r'"
        assert server.psql(options, "appdb") == "0"
    finally:
        server.psql(f"DROP TABLE {name}", "appdb")


_DEAD = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname LIKE '{0}%'"


# ---- names


@pytest.fixture
def odd(server: Cluster) -> Iterator[None]:
    server.psql(
        'CREATE SCHEMA "My Schema"; CREATE TABLE "My Schema"."Odd.Na""me" (v int);'
        "CREATE TABLE parted (i int, v text) PARTITION BY RANGE (i);"
        "CREATE TABLE leaf PARTITION OF parted FOR VALUES FROM (0) TO (9);"
        "CREATE TABLE middle PARTITION OF parted FOR VALUES FROM (9) TO (99) "
        "PARTITION BY RANGE (i);"
        "CREATE TABLE deep PARTITION OF middle FOR VALUES FROM (9) TO (99)",
        "appdb",
    )
    yield
    server.psql('DROP SCHEMA "My Schema" CASCADE; DROP TABLE parted', "appdb")


@pytest.mark.usefixtures("table", "odd")
def test_a_name_is_meant_as_one_types_it(server: Cluster) -> None:
    odd = 'appdb.My Schema."Odd.Na""me"'
    for typed, meant in {
        "appdb.public.churned": "appdb.public.churned",
        "public.churned": "appdb.public.churned",
        "appdb.churned": "appdb.public.churned",
        "churned": "appdb.public.churned",
        "CHURNED": "appdb.public.churned",
        'appdb.public."churned"': "appdb.public.churned",
        'appdb."My Schema"."Odd.Na""me"': odd,
        '"Odd.Na""me"': odd,
        odd: odd,  # as it is told it can be asked for
    }.items():
        assert why(server, typed, watch="0")["asked"] == meant, typed


@pytest.mark.usefixtures("odd")
def test_leaves_and_toast_are_looked_at_with_their_table(server: Cluster) -> None:
    heaps = {heap["heap"] for heap in why(server, "parted", watch="0")["heaps"]}
    toasts = {
        "pg_toast."
        + server.psql(f"SELECT reltoastrelid::regclass FROM pg_class WHERE {it}", "appdb")
        for it in ("relname = 'leaf'", "relname = 'deep'")
    }
    assert heaps == {"public.leaf", "public.deep"} | {one[9:] for one in toasts}
    toast = next(iter(toasts))[9:]
    owner = {heap["table"] for heap in why(server, toast, watch="0")["heaps"]}
    assert len(owner) == 1
    assert owner < {"appdb.public.leaf", "appdb.public.deep"}


@pytest.mark.usefixtures("table", "odd")
def test_an_unknown_name_is_told_with_the_nearest(server: Cluster) -> None:
    server.psql("CREATE DATABASE locked CONNECTION LIMIT 0")
    try:
        for typed, near in {
            "appdb.public.churnd": "appdb.public.churned",
            "churnd": "appdb.public.churned",
            "nosuch.public.churned": "appdb.public.churned",
            "odd.name": 'appdb.My Schema."Odd.Na""me"',
        }.items():
            done = pgstats("why", typed, "--postgres", server.dsn(user="watcher"), *OPTIONS)
            assert (done.returncode, done.stdout) == (2, "")
            assert f"there is no table {typed}; did you mean {near}?" in done.stderr
    finally:
        server.psql("DROP DATABASE locked")


def test_a_name_that_several_databases_have_is_refused(server: Cluster) -> None:
    """None of them goes before another, but for that of the DSN."""
    make, drop = "CREATE TABLE twice (i int)", "DROP TABLE twice"
    server.psql("CREATE DATABASE shop")
    try:
        for database in ("appdb", "shop"):
            server.psql(make, database)
        done = pgstats("why", "twice", "--postgres", server.dsn(user="watcher"), *OPTIONS)
        assert (done.returncode, done.stdout) == (2, "")
        both = (
            "there are several tables twice; did you mean appdb.public.twice or shop.public.twice?"
        )
        assert both in done.stderr
        assert why(server, "shop.twice", watch="0")["asked"] == "shop.public.twice"
        server.psql(make)
        assert why(server, "twice", watch="0")["asked"] == "postgres.public.twice"
        server.psql(drop)
    finally:
        server.psql("DROP DATABASE shop")
        server.psql(drop, "appdb")


# ---- one look


def test_one_look_says_what_another_would_tell(server: Cluster, table: str) -> None:
    assert why(server, table, watch="0")["verdict"] == "clear"
    with holding(server) as culprit:
        found = why(server, table, watch="0")
        assert found["verdict"] == "unknown"
        said = [limit["what"] for limit in found["limits"]]
        assert any(f"whether pid {culprit} goes on holding" in one for one in said)
        assert any("whether vacuum comes to appdb.public.churned" in one for one in said)
        watched = why(server, table)
        only(watched, "horizon.idle_in_xact")
        assert watched["limits"] == []


def test_how_many_rows_are_stuck_and_how_sure_that_is(server: Cluster, table: str) -> None:
    """Before any vacuum at most all; after one about all; exactly as many as it just left."""
    with holding(server):
        assert quality(why(server, table)) == (ROWS, "at_most")
        assert stuck(server, table, "appdb") == ROWS
        once = why(server, table, watch="0")  # a vacuum in vain is proof enough
        only(once, "horizon.idle_in_xact")
        assert quality(once) == (ROWS, "about")
        rewrite(server)
        with vacuuming(server):
            found = why(server, table, watch="2s")
        assert quality(found) == (2 * ROWS, "exact")
        assert found["heaps"][0]["signature"] == "vacuumed_in_vain"
    assert stuck(server, table, "appdb") == 0


def quality(found: Document) -> tuple[int, str]:
    (heap,) = found["heaps"]
    return heap["stuck"]["rows"], heap["stuck"]["quality"]


@contextmanager
def vacuuming(server: Cluster) -> Iterator[None]:
    """Somebody who vacuums by hand again and again."""
    argv = ["psql", "-qX", server.dsn("appdb")]
    loop = "VACUUM churned \\watch 0.2\n"
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as psql:
        assert psql.stdin
        psql.stdin.write(loop.encode())
        psql.stdin.flush()
        try:
            yield
        finally:
            psql.terminate()


# ---- several causes, and who is no cause


def test_what_ending_each_alone_would_free(server: Cluster, table: str) -> None:
    server.psql(f"ALTER TABLE {table} SET (autovacuum_enabled = off)", "appdb")
    with holding(server) as culprit:
        found = why(server, table)
    assert accused(found) == ["horizon.idle_in_xact", "vacuum.disabled_table"]
    first, second = (one["frees"] for one in found["causes"])
    assert first == {"alone_rows": 0, "next_holder": "vacuum.disabled_table"}
    assert second == {"alone_rows": 0, "next_holder": f"pid {culprit}"}
    alone = only(why(server, table), "vacuum.disabled_table")
    assert alone["frees"] == {"alone_rows": ROWS, "next_holder": None}


def test_who_is_in_the_way_of_one_table_is_not_in_the_way_of_another(
    server: Cluster, table: str
) -> None:
    """Ending the holder frees the rows of the one, though nobody vacuums the other."""
    server.psql(
        "CREATE TABLE kept (i int) WITH (autovacuum_enabled = off);"
        f"INSERT INTO kept SELECT generate_series(1, {ROWS})",
        "appdb",
    )
    try:
        with holding(server) as culprit:
            server.psql("DELETE FROM kept", "appdb")
            until(lambda: dead(server, "kept", "appdb") == ROWS)
            until(lambda: dead(server, table, "appdb") == ROWS)
            found = why(server)
            told = text(server)
        frees = {one["id"]: one["frees"] for one in found["causes"]}
        assert frees["horizon.idle_in_xact"] == {
            "alone_rows": None,
            "next_holder": "vacuum.disabled_table",
        }
        assert frees["vacuum.disabled_table"] == {
            "alone_rows": 0,
            "next_holder": f"pid {culprit}",
        }
        flat = " ".join(told.split())
        assert "Ending it frees a part; vacuum.disabled_table is in the way of the rest." in flat
    finally:
        server.psql("DROP TABLE kept", "appdb")


def test_the_innocent_are_named_with_the_reason(server: Cluster, table: str) -> None:
    read = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1 FROM pg_class")
    with (
        session(server, f"LOCK TABLE {table} IN ACCESS SHARE MODE", dbname="appdb") as idle,
        session(server, *read, dbname="postgres") as abroad,
    ):
        found = why(server, table)
        assert found["verdict"] == "clear"
        why_not = {one["who"]: one["why"] for one in found["innocent"]}
        assert "neither a transaction id nor a snapshot" in why_not[f"pid {pid(idle)}"]
        assert "its database is postgres" in why_not[f"pid {pid(abroad)}"]


def test_a_catalog_that_all_databases_share(server: Cluster) -> None:
    """There a snapshot of another database counts, and it is a line of information."""
    read = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1 FROM pg_class")
    with session(server, *read, dbname="appdb") as reader:
        server.psql("".join(f"CREATE ROLE r{n}; DROP ROLE r{n};" for n in range(150)))
        until(lambda: dead(server, "pg_authid") > 100)
        assert stuck(server, "pg_authid") > 100
        found = why(server, "pg_authid")
        one = next(one for one in found["causes"] if one["id"] == "horizon.shared_catalog")
        assert one["evidence"]["pid"] == pid(reader)
        assert (one["severity"], one["scope"]) == ("info", "shared")
        assert one["tables"] == ["postgres.pg_catalog.pg_authid"]
    server.psql("VACUUM pg_authid")


# ---- rights


def test_without_any_right_nothing_reads_as_clear(server: Cluster, table: str) -> None:
    found = why(server, table, user="blind")
    assert found["verdict"] == "unknown"
    assert [limit["grant"] for limit in found["limits"]] == ["GRANT pg_monitor TO blind;"]
    done = pgstats("why", table, "--postgres", server.dsn(user="blind"), *OPTIONS)
    assert "it cannot be told whether" in done.stdout
    assert "\n  GRANT pg_monitor TO blind;\n" in done.stdout
    server.psql("GRANT pg_monitor TO blind")
    try:
        assert why(server, table, user="blind")["verdict"] == "clear"
    finally:
        server.psql("REVOKE pg_monitor FROM blind")


def test_who_cannot_see_workers_accuses_nobody_of_their_absence(
    server: Cluster, table: str, tmp_path: Path
) -> None:
    """A poll long ago found the table over its threshold; those who see call that failing."""
    rewrite(server)
    server.settings["autovacuum_naptime"] = 1
    state = tmp_path / "state"
    poll = ("once", "--state", str(state), "--statsd", "udp://127.0.0.1:9")
    for user in ("watcher", "blind"):
        pgstats(*poll, "--postgres", server.dsn(user=user))
    found, _ = run(
        table,
        "--postgres",
        server.dsn(user="blind"),
        "--state",
        str(state),
        "--json",
        "--watch",
        "0",
    )
    assert accused(found) == []
    assert found["verdict"] == "unknown"


def test_polls_know_since_when_a_partition_is_over_its_threshold(
    server: Cluster, tmp_path: Path
) -> None:
    """Each by itself, whatever its name, and no longer than since its last vacuum."""
    state = tmp_path / "state"
    server.psql(
        'CREATE TABLE parted (i int, v int) PARTITION BY LIST (i); CREATE TABLE "Leaf.1" PARTITION '
        "OF parted FOR VALUES IN (1); CREATE TABLE leaf_2 PARTITION OF parted FOR VALUES IN (2);"
        "INSERT INTO parted SELECT 1 + i % 2, 0 FROM generate_series(1, 4000) i; VACUUM ANALYZE",
        "appdb",
    )

    def churn(leaf: str) -> None:
        server.psql(f"UPDATE {leaf} SET v = v + 1", "appdb")
        until(lambda: dead(server, leaf, "appdb") == 2000)
        pgstats("once", *own, "--statsd", "udp://127.0.0.1:9")

    def over_since(leaf: str) -> float:
        found, _ = run(leaf, *own, "--json", "--watch", "0")
        return float(next(one["evidence"]["over_since"] for one in found["causes"]))

    def now() -> float:
        return float(server.psql("SELECT extract(epoch FROM clock_timestamp())"))

    own = ("--postgres", server.dsn(user="watcher"), "--state", str(state))
    try:
        churn('"Leaf.1"')
        first = now()
        churn("leaf_2")
        second = now()
        assert over_since('"Leaf.1"') < first < over_since("leaf_2") < second
        server.psql('VACUUM "Leaf.1"; UPDATE "Leaf.1" SET v = 0', "appdb")
        until(lambda: dead(server, '"Leaf.1"', "appdb") == 2000)
        assert second < over_since('"Leaf.1"') < now()
    finally:
        server.psql("DROP TABLE parted", "appdb")


# ---- several clusters


def test_of_several_clusters_one_is_down(server: Cluster, table: str, tmp_path: Path) -> None:
    gone = f"host={tmp_path} port=1 user=watcher dbname=postgres"
    done = pgstats(
        "why", "--postgres", server.dsn(user="watcher"), "--postgres", gone, *OPTIONS, "--json"
    )
    assert done.returncode == 69
    assert "Traceback" not in done.stderr
    here, there = json.loads(done.stdout)
    assert (here["verdict"], there["verdict"]) == ("clear", "unknown")
    assert [limit["what"] for limit in there["limits"]] == ["the server"]
    with holding(server):
        both = ("--postgres", server.dsn(user="watcher"), "--postgres", gone)
        done = pgstats("why", table, *both, *OPTIONS)
    assert done.returncode == 1
    assert f"== {tmp_path.name} ==" in done.stdout


def test_a_table_of_one_of_several_clusters(server: Cluster, cluster: Cluster, table: str) -> None:
    both = ("--postgres", server.dsn(user="watcher"), "--postgres", cluster.dsn())
    done = pgstats("why", table, *both, *OPTIONS)
    assert done.returncode == 0
    assert "there is no table churned" in done.stderr
    assert done.stdout.startswith("appdb.public.churned: nothing keeps")
    done = pgstats("why", "nowhere", *both, *OPTIONS)
    assert done.returncode == 2


def test_a_server_that_ends_while_it_is_watched(scratch: Scratch) -> None:
    with Cluster(scratch, CALM, name="why-ends") as server:
        argv = [sys.executable, "-m", "pgstats", "why", "--postgres", server.dsn(), "--no-state"]
        with subprocess.Popen(
            [*argv, "--watch", "5s"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            until(lambda: server.psql(_OURS) != "0")
            server.kill()
            out, err = child.communicate(timeout=60)
    assert child.returncode == 69
    assert "it cannot be told" in out or "it could not be asked" in out  # as far as it had come
    assert "Traceback" not in err


_OURS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgstats'"


@pytest.mark.usefixtures("table")
def test_it_never_becomes_what_it_hunts(server: Cluster) -> None:
    """No transaction is open between looks, and there are two connections at most."""
    argv = [sys.executable, "-m", "pgstats", "why", "--postgres", server.dsn(user="watcher")]
    own = "FROM pg_stat_activity WHERE application_name = 'pgstats'"
    with (
        subprocess.Popen([*argv, "--no-state", "--watch", "3s"], stdout=subprocess.DEVNULL) as one,
        closing(psycopg2.connect(server.dsn())) as watching,
        watching.cursor() as cursor,
    ):
        watching.autocommit = True
        seen = set()
        while one.poll() is None:
            cursor.execute(
                f"SELECT (SELECT count(*) {own}), (SELECT count(*) {own} AND state <> 'active' "
                "AND (state <> 'idle' OR backend_xmin IS NOT NULL OR backend_xid IS NOT NULL))"
            )
            seen |= set(cursor.fetchall())
    assert one.returncode == 0
    assert max(count for count, _ in seen) in (1, 2)
    assert {held for _, held in seen} == {0}


# ---- the document


def test_the_keys_are_those_that_are_promised(server: Cluster, table: str) -> None:
    with holding(server):
        found = why(server, table)
    assert set(found) == {
        *("verdict", "target", "asked", "server", "heaps", "causes", "innocent", "limits"),
    }
    assert set(found["server"]) == {"version", "in_recovery"}
    (heap,) = found["heaps"]
    assert set(heap) >= {
        *("heap", "n_dead_tup", "threshold", "last_autovacuum", "autovacuum_count"),
        *("signature", "stuck"),
    }
    (one,) = found["causes"]
    assert set(one) == {
        *("id", "severity", "rank", "summary", "root", "since", "since_known", "xid", "xid_age"),
        *("scope", "witnesses", "tables", "frees", "evidence", "remedy", "prevention"),
        "limits",
    }
    assert set(one["remedy"][0]) == {"command", "where", "needs"}
    assert set(one["frees"]) == {"alone_rows", "next_holder"}


def test_interrupted_it_says_nothing(server: Cluster) -> None:
    argv = [sys.executable, "-m", "pgstats", "why", "--postgres", server.dsn(), "--no-state"]
    with subprocess.Popen(
        [*argv, "--watch", "60s"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        until(lambda: server.psql(_OURS) != "0")
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    assert (child.returncode, out, err.strip()) == (130, "", "")
    until(lambda: server.psql(_OURS) == "0")
