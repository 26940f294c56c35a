"""What those who may create things in a database can do to whoever polls it, and the reverse."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from pgstats.ask import asker
from pgstats.model import POSTGRES, Target
from pgstats.scratch import Bouncer, Cluster, Scratch
from tests.program import gauges, pgstats

#: A twin of every function and view of pg_catalog, in public: each tells the log that it was used.
TRAP = """
SET search_path = pg_catalog;
DO $trap$
DECLARE one record; made int := 0;
BEGIN
  FOR one IN
    SELECT p.oid, p.proname, p.prokind, pg_get_function_identity_arguments(p.oid) AS arguments,
           format_type(p.prorettype, NULL) AS result, p.proretset
    FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f'
      AND p.proname ~ '^(pg_|current_|has_|count|lower|age|date_part|extract|quote_|format|now'
                      '|clock_|array_|string_|inet_|host|textsend|regexp|split)'
  LOOP
    BEGIN
      EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s%s LANGUAGE plpgsql AS '
                     '$f$BEGIN RAISE WARNING ''caught %s''; RETURN%s; END$f$',
                     one.proname, one.arguments, CASE WHEN one.proretset THEN 'SETOF ' ELSE '' END,
                     one.result, one.proname, CASE WHEN one.proretset THEN '' ELSE ' NULL' END);
      made := made + 1;
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
  FOR one IN SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('v', 'r') LOOP
    BEGIN
      EXECUTE format('CREATE VIEW public.%I AS SELECT * FROM pg_catalog.%I'
                     ' WHERE public.caught(%L)', one.relname, one.relname, one.relname);
      made := made + 1;
    EXCEPTION WHEN invalid_table_definition THEN NULL;  -- no view may have anyarray
    END;
  END LOOP;
  RAISE NOTICE '% traps', made;
END $trap$
"""
CAUGHT = """
CREATE FUNCTION public.caught(what text) RETURNS bool LANGUAGE plpgsql AS
$f$BEGIN RAISE WARNING 'caught %', what; RETURN true; END$f$;
CREATE FUNCTION public.same(a oid, b oid) RETURNS bool LANGUAGE plpgsql AS
$f$BEGIN RAISE WARNING 'caught ='; RETURN true; END$f$;
CREATE OPERATOR public.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = public.same);
CREATE FUNCTION public.same(a name, b name) RETURNS bool LANGUAGE plpgsql AS
$f$BEGIN RAISE WARNING 'caught ='; RETURN true; END$f$;
CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = name, FUNCTION = public.same);
"""

COMMANDS = {
    "once": ["once", "--dry-run"],
    "why": ["why", "--watch", "200ms", "--json", "--no-state"],
    "check": ["check"],
}


def also(*names: str) -> list[object]:
    """Cases that only the full run tries."""
    return [pytest.param(name, marks=pytest.mark.full) for name in names]


@pytest.fixture(scope="module")
def hostile(scratch: Scratch) -> Iterator[Cluster]:
    """A cluster whose database ``shop`` belongs to somebody who means harm; its log is JSON."""
    settings = {
        "log_statement": "all",
        "log_destination": "jsonlog",
        "logging_collector": "on",
        "track_activity_query_size": "100kB",
        "max_prepared_transactions": 2,
    }
    with Cluster(scratch, settings, name="hostile") as cluster:
        cluster.psql("CREATE ROLE watch LOGIN; GRANT pg_monitor TO watch; CREATE ROLE evil LOGIN")
        cluster.psql("CREATE DATABASE shop OWNER evil")
        cluster.psql("ALTER DATABASE shop SET search_path = public, pg_catalog", user="evil")
        cluster.psql(CAUGHT, "shop", "evil")
        cluster.psql(TRAP, "shop", "evil")
        cluster.psql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC", "shop", "evil")
        cluster.psql('CREATE TABLE "x; DROP TABLE y; --" AS SELECT 1 AS i', "shop", "evil")
        yield cluster


def said(cluster: Cluster) -> list[dict[str, str]]:
    """All that the log holds."""
    lines = [
        line
        for file in sorted((cluster.data / "log").glob("*.json"))
        for line in file.read_text(errors="replace").splitlines()
    ]
    return [json.loads(line) for line in lines]


def caught(cluster: Cluster) -> list[str]:
    """The traps that pgstats has met."""
    return [
        line["message"]
        for line in said(cluster)
        if line.get("message", "").startswith("caught") and line.get("user") == "watch"
    ]


def test_the_traps_are_set(hostile: Cluster) -> None:
    sql = "SELECT count(*), pg_is_in_recovery() FROM pg_stat_activity WHERE datid = 1::oid"
    hostile.psql(sql, "shop", "watch")
    assert {"caught pg_stat_activity", "caught =", "caught pg_is_in_recovery"} <= set(
        caught(hostile)
    )


@pytest.mark.parametrize("home", ["shop", *also("postgres")])
@pytest.mark.parametrize("command", ["once", "why", *also("check")])
def test_nothing_of_others_is_ever_run(command: str, home: str, hostile: Cluster) -> None:
    before = len(caught(hostile))
    done = pgstats(*COMMANDS[command], "--postgres", hostile.dsn(home, "watch"))
    assert caught(hostile)[before:] == []
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1), done.stderr  # 1: check finds no statsd
    if command == "once":
        assert done.returncode == 0, done.stderr
        shown = [name for name in gauges(done.stdout) if ".tables.shop.public." in name]
        assert [name for name in shown if "DROP_TABLE" in name], shown


def test_a_query_of_sixty_kilobytes_is_no_reason_to_fail(hostile: Cluster) -> None:
    with closing(psycopg2.connect(hostile.dsn("postgres", "evil"))) as culprit:
        long = "ü\x1b[31m;" * 8000
        culprit.cursor().execute(f"SELECT 1 /* {long} */")
        for arguments in COMMANDS.values():
            done = pgstats(*arguments, "--postgres", hostile.dsn("postgres", "watch"))
            assert done.returncode in (0, 1), done.stderr
            assert "\x1b" not in done.stdout + done.stderr


def statements(hostile: Cluster, *arguments: str) -> list[tuple[str, str]]:
    """Database and text of all that a run of pgstats sends."""
    before = len(said(hostile))
    done = pgstats(*arguments, "--postgres", hostile.dsn("postgres", "watch"))
    assert done.returncode in (0, 1), done.stderr
    return [
        (line["dbname"], line["message"].removeprefix("statement: "))
        for line in said(hostile)[before:]
        if line.get("user") == "watch" and line.get("message", "").startswith("statement: ")
    ]


#: How a statement begins that reads, or that guards a session.
HARMLESS = re.compile(r"(SELECT|WITH|SHOW|SET|BEGIN|ROLLBACK)\b")

LOCKS = """
SELECT DISTINCT mode, coalesce(relation, 0) >= 16384 AS own FROM pg_catalog.pg_locks
WHERE pid = pg_catalog.pg_backend_pid() AND locktype <> 'virtualxid'
"""


@pytest.mark.parametrize("command", ["once", *also("why", "check")])
def test_a_run_takes_no_lock_but_access_share_on_catalogs(command: str, hostile: Cluster) -> None:
    """Each statement that was sent is sent again, in a transaction that is looked at."""
    sent = statements(hostile, *COMMANDS[command])
    assert len(sent) > 5
    assert [sql for _, sql in sent if not HARMLESS.match(sql.strip())] == []
    locks: set[tuple[str, bool]] = set()
    for database, sql in dict.fromkeys(sent):
        if not sql.strip().startswith(("SELECT", "WITH")):
            continue
        with closing(psycopg2.connect(hostile.dsn(database, "watch"))) as session:
            cursor = session.cursor()
            cursor.execute("SET search_path = ''; SET default_transaction_read_only = on")
            session.commit()
            cursor.execute(sql)
            cursor.execute(LOCKS)
            found = set(cursor.fetchall())
        assert found <= {("AccessShareLock", False)}, sql
        locks |= found
    assert locks, "what is looked at are locks"


def test_a_poll_writes_no_line_into_a_usual_log(cluster: Cluster) -> None:
    with closing(asker(Target(POSTGRES, "main", cluster.dsn()))) as one:
        before = cluster.log.read_text()
        polls = [one.poll() for _ in range(3)]
        after = cluster.log.read_text()
    assert [poll.up for poll in polls] == [True] * 3
    ours = [line for line in after[len(before) :].splitlines() if "checkpoint" not in line]
    assert ours == []


SECRET = "s3cr3t-0f-the-test"


@pytest.mark.parametrize("way", ["dsn", *also("uri", "file", "environment", "command")])
def test_a_secret_shows_nowhere(
    way: str, tmp_path: Path, bouncer: Bouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the login fails or not, in no output, file or argument."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    port = bouncer.port
    dsn, more = f"host=127.0.0.1 port={port} user=stats", ""
    if way == "dsn":
        dsn += f" password={SECRET}"
    elif way == "uri":
        dsn = f"postgresql://stats:{SECRET}@127.0.0.1:{port}/pgbouncer"
    elif way == "file":
        more = f'password_file = "{file}"\n'
    elif way == "command":
        more = f'password_command = "cat {file}"\n'
    else:
        monkeypatch.setenv("PGPASSWORD", SECRET)
    config = tmp_path / "pgstats.toml"
    config.write_text(
        f'state = "{tmp_path}/state"\n[statsd]\nurl = "udp://127.0.0.1:9"\n'
        f"[[pgbouncer]]\nname = \"good\"\ndsn = '{dsn}'\n{more}"
        f"[[pgbouncer]]\nname = \"bad\"\ndsn = '{dsn} user=nobody'\n{more}"
        if way != "uri"
        else f'state = "{tmp_path}/state"\n[[pgbouncer]]\nname = "good"\ndsn = "{dsn}"\n'
    )
    seen = ""
    environ = {"PGPASSWORD": SECRET} if way == "environment" else {}
    for words in (
        ["once", "--verbose"],
        ["once", "--dry-run"],
        ["once", "--json"],
        ["check"],
        ["check", "--show-config"],
    ):
        done = pgstats(*words, "--config", str(config), env=environ)
        assert done.returncode in (0, 1, 69), done.stderr
        seen += done.stdout + done.stderr
    state = tmp_path / "state"
    seen += state.read_text(errors="replace") if state.exists() else ""
    assert SECRET not in seen


def test_a_secret_is_handed_to_no_child(tmp_path: Path, bouncer: Bouncer) -> None:
    """What a password_command is started with, and what `ps` shows of pgstats itself."""
    seen, script = tmp_path / "seen", tmp_path / "script"
    script.write_text(
        f"cat /proc/self/cmdline /proc/self/environ /proc/$PPID/cmdline > {seen}; echo {SECRET}"
    )
    config = tmp_path / "pgstats.toml"
    dsn = f"host=127.0.0.1 port={bouncer.port} user=stats"
    config.write_text(
        f"[[pgbouncer]]\nname = \"one\"\ndsn = '{dsn} password={SECRET}'\n"
        f"[[pgbouncer]]\nname = \"two\"\ndsn = '{dsn}'\npassword_command = 'sh {script}'\n"
    )
    done = pgstats("once", "--dry-run", "--no-state", "--config", str(config))
    assert done.returncode == 0, done.stderr
    assert b"pgstats" in seen.read_bytes()
    assert SECRET.encode() not in seen.read_bytes()
