"""`pgstats show` on real servers: what it shows, how, and in which order."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgstats.ask import asker, composed, parse_dsn
from pgstats.catalogue import QUERIES
from pgstats.catalogue.hurts import HURTS
from pgstats.cli.viewing import ELSEWHERE, GROUPS, group_of
from pgstats.model import PGBOUNCER, POSTGRES, SELF, Metric, Query, Target
from pgstats.scratch import Bouncer, Cluster
from pgstats.shape import frames
from pgstats.shape.joined import joined, known, values
from tests.program import pgstats
from tests.test_run import config

#: A name that clears the screen, sets the title, turns text around, and is wide.
HOSTILE = "a\x1b[2J\x1b]0;owned\x07\u202e\x9b31m漢字のデータベース😀"


@pytest.fixture(scope="module")
def shop(cluster: Cluster) -> Iterator[Cluster]:
    """A cluster with a database of a hostile name and tables that need vacuum more or less."""
    cluster.psql(f'CREATE DATABASE "{HOSTILE}" TEMPLATE template0')
    for table, threshold in (("calm", 100), ("dull", 50), (HOSTILE, 20)):
        cluster.psql(
            f'CREATE TABLE "{table}" WITH (autovacuum_vacuum_threshold = {threshold}, '
            "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_insert_threshold = -1) "
            "AS SELECT generate_series(1, 1000) AS i",
            HOSTILE,
        )
        cluster.psql(f'DELETE FROM "{table}" WHERE i <= 10', HOSTILE)
    yield cluster
    cluster.psql(f'DROP DATABASE "{HOSTILE}" WITH (FORCE)')


@pytest.fixture(scope="module")
def front(bouncer: Bouncer, shop: Cluster) -> Iterator[Bouncer]:  # noqa: ARG001
    """A PgBouncer with a pool to that database."""
    bouncer.psql("SELECT 1", HOSTILE)
    yield bouncer
    bouncer.console(f'KILL "{HOSTILE}"')
    bouncer.console(f'RESUME "{HOSTILE}"')


def psql_options(server: Bouncer | Cluster, user: str) -> list[str]:
    return ["-H", server.host, "-p", str(server.port), "-U", user]


def rows(output: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(output)["rows"]
    return found


def test_pools_with_the_options_of_psql_and_no_configuration(front: Bouncer) -> None:
    done = pgstats("show", "pools", *psql_options(front, "stats"))
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split()[:3] == ["database", "user", "maxwait_seconds"]
    assert any(line.startswith(r"a\x1b[2J\x1b]0;owned\x07\u202e\x9b31m漢字の") for line in lines)
    assert "\x1b" not in done.stdout


def test_it_says_what_the_console_says(front: Bouncer) -> None:
    shown = rows(pgstats("show", "pools", *psql_options(front, "stats"), "--format", "json").stdout)
    said = [line.split("|") for line in front.console("SHOW POOLS").splitlines()]
    pools = {(row["database"], row["user"]): row for row in shown}
    for database, user, active, *_ in said:
        if database != "pgbouncer":
            assert pools[database, user]["cl_active"] == int(active)
    assert len(pools) == len(said) - 1


@pytest.mark.parametrize("form", ["json", "ndjson", "csv"])
def test_the_worst_come_first(form: str, shop: Cluster, tmp_path: Path) -> None:
    file = config(tmp_path, "udp://127.0.0.1:9", ("postgres", "main", shop.dsn()))
    done = pgstats("show", "tables", "--config", file, "--format", form)
    assert (done.returncode, done.stderr) == (0, "")
    if form == "json":
        found = rows(done.stdout)
    elif form == "ndjson":
        found = [json.loads(line) for line in done.stdout.splitlines()]
    else:
        found = list(csv.DictReader(io.StringIO(done.stdout)))
    tables = [row["table"] for row in found if row["database"] == HOSTILE]
    assert tables == [HOSTILE, "dull", "calm", "_other"]
    assert {row["target"] for row in found} == {"main"}
    ratios = [float(row["vacuum_trigger_ratio"] or 0) for row in found if row["table"] in tables]
    assert ratios == sorted(ratios, reverse=True)


def test_csv_has_the_columns_of_the_catalogue(front: Bouncer) -> None:
    done = pgstats("show", "pools", *psql_options(front, "stats"), "--format", "csv")
    (head, *_) = csv.reader(io.StringIO(done.stdout))
    known = [m.name for q in QUERIES if group_of(q) == "pools" for m in q.metrics]
    assert head[:4] == ["time", "target", "database", "user"]
    assert set(head[4:]) == set(known)


def test_every_target_of_the_configuration(front: Bouncer, shop: Cluster, tmp_path: Path) -> None:
    console = front.dsn("pgbouncer", "stats")
    targets = [
        ("pgbouncer", "front", console),
        ("pgbouncer", "gone", "host=/nowhere user=stats"),
        ("postgres", "main", shop.dsn()),
    ]
    file = config(tmp_path, "udp://127.0.0.1:9", *targets)
    done = pgstats("show", "up", "--config", file)
    head, up, *_ = (line.split() for line in done.stdout.splitlines())
    assert (head, up) == (["up", "front", "gone", "main"], ["up", "1", "0", "1"])
    assert done.returncode == 1
    assert done.stderr.startswith("gone: connect: ")
    alone = pgstats("show", "pools", "--config", file, "--target", "fr*", "--format", "json")
    assert (alone.returncode, {row["target"] for row in rows(alone.stdout)}) == (0, {"front"})
    down = pgstats("show", "pools", "--config", file, "--target", "gone")
    assert (down.returncode, down.stdout) == (69, "")
    nobody = pgstats("show", "pools", "--config", file, "--target", "main")
    assert (nobody.returncode, nobody.stdout) == (78, "")
    assert "no PgBouncer matches main; there are front, gone" in nobody.stderr
    assert "\x1b" not in done.stdout + alone.stdout


def test_what_is_asked_at_request_alone_is_asked(front: Bouncer) -> None:
    done = pgstats("show", "mem", *psql_options(front, "stats"), "--format", "json")
    assert "user_cache" in {row["cache"] for row in rows(done.stdout)}


def test_nothing_is_remembered(front: Bouncer, tmp_path: Path) -> None:
    env = {"STATE_DIRECTORY": str(tmp_path)}
    assert pgstats("show", "stats", *psql_options(front, "stats"), env=env).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_own_questions_are_groups_too(shop: Cluster, tmp_path: Path) -> None:
    file = config(tmp_path, "udp://127.0.0.1:9", ("postgres", "main", shop.dsn()))
    with Path(file).open("a") as out:
        out.write('\n[[query]]\nname = "mine"\nsql = "SELECT 7 AS lucky"\nmetrics = ["lucky"]\n')
    done = pgstats("show", "mine", "--config", file)
    assert done.stdout.splitlines() == ["mine   main", "lucky     7"]


def test_a_group_that_is_not_there() -> None:
    done = pgstats("show", "pool", "-H", "/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no group pool; did you mean pools?" in done.stderr


def test_without_a_group_all_are_listed() -> None:
    listed = [line.split() for line in pgstats("show").stdout.splitlines()]
    assert {words[0] for words in listed} == {group_of(q) for q in QUERIES} - set(ELSEWHERE)
    assert ["pools", "pgbouncer", "by", "maxwait_seconds"] in listed


@pytest.mark.parametrize(
    ("group", "options", "wanted"),
    [
        ("pools", [], {"port": "6432"}),
        ("pools", ["-p", "7000"], {"port": "7000"}),
        ("tables", ["-H", "db"], {"host": "db"}),
        (
            "tables",
            ["-d", "host=x dbname=y", "-U", "me"],
            {"host": "x", "dbname": "y", "user": "me"},
        ),
        (
            "tables",
            ["-d", "postgresql://me@x:7/y"],
            {"host": "x", "port": "7", "user": "me", "dbname": "y"},
        ),
    ],
)
def test_whom_the_options_name(group: str, options: list[str], wanted: dict[str, str]) -> None:
    """Seen in what the configuration would be; nobody is asked."""
    done = subprocess.run(
        [sys.executable, "-c", WHOM, group, *options],
        capture_output=True,
        text=True,
        env={"HOME": tempfile.gettempdir()},
    )
    assert parse_dsn(done.stdout.strip()) == wanted, done.stderr


WHOM = """
import sys
from pgstats.cli import show, viewing
def told(targets):
    print(targets[0].dsn)
    raise SystemExit
from pgstats.cli import cycle
cycle.poll_all = told
show.command(sys.argv[1:], standalone_mode=False)
"""


def test_a_value_of_psql_is_quoted_as_libpq_wants_it() -> None:
    name = r"it's \ odd"
    assert parse_dsn(composed(name, host="h")) == {"dbname": name, "host": "h"}


def test_watching_ends_in_peace(front: Bouncer) -> None:
    argv = [
        "show",
        "pools",
        *psql_options(front, "stats"),
        "--watch",
        "100ms",
        "--format",
        "ndjson",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "pgstats", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watch:
        assert watch.stdout
        times: set[str] = set()
        while len(times) < 2:
            times.add(json.loads(watch.stdout.readline())["time"])
        watch.terminate()
        _, errors = watch.communicate(timeout=60)
    assert (watch.returncode, errors) == (0, "")


def test_a_fault_is_told_once_while_watching() -> None:
    argv = ["show", "pools", "-H", "/nowhere", "--watch", "50ms"]
    with subprocess.Popen(
        [sys.executable, "-m", "pgstats", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watch:
        assert watch.stdout
        assert [watch.stdout.readline() for _ in range(4)] == ["no rows\n"] * 4
        watch.terminate()
        _, errors = watch.communicate(timeout=60)
    assert watch.returncode == 69
    assert errors.count("connect: ") == 1


def test_a_full_disk_and_a_closed_pipe() -> None:
    for form in ("table", "json", "csv"):
        words = f"{sys.executable} -m pgstats show up -H /nowhere --format {form}"
        full = subprocess.run(
            ["sh", "-c", f"{words} >/dev/full"], capture_output=True, text=True, timeout=60
        )
        assert full.returncode in (1, 69)
        assert "No space left on device" in full.stderr
        assert "Traceback" not in full.stderr
        closed = subprocess.run(
            ["sh", "-c", f"{words} --watch 50ms | head -n 1"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in closed.stderr
        assert "roken" not in closed.stderr


def test_what_hurts_is_in_the_catalogue() -> None:
    for group, names in HURTS.items():
        own = {m.name for q in QUERIES if group_of(q) == group for m in q.metrics}
        assert set(names) <= own, group


def test_every_group_with_rows_says_what_hurts() -> None:
    labelled = {group_of(query) for query in QUERIES if query.labels}
    assert labelled - set(ELSEWHERE) == set(HURTS)


def test_groups_are_those_of_the_catalogue() -> None:
    for query in QUERIES:
        if query.family != SELF:
            assert query.family in GROUPS[group_of(query)]
    assert GROUPS["poll"] == (PGBOUNCER, POSTGRES)


def test_every_group_is_a_table(front: Bouncer, shop: Cluster) -> None:
    """Whatever a poll has can be joined: no two rows have the same labels."""
    for family, dsn in ((PGBOUNCER, front.dsn("pgbouncer", "stats")), (POSTGRES, shop.dsn())):
        collect = tuple(q.group for q in QUERIES if q.family == PGBOUNCER and q.sql)
        poll = asker(Target(family, "it", dsn, collect=collect)).poll()
        assert poll.ok
        for group in GROUPS:
            found = [("it", f) for f in frames(poll) if group_of(f.query) == group]
            table = joined(group, found)
            width = len(table.labels)
            assert len({row[:width] for row in table.rows}) == len(table.rows)
            sent = sum(
                v is not None
                for _, f in found
                for row in f.rows
                for v in row[len(f.query.labels) :]
            )
            assert len(values(table)) == sent
            assert len(values(known(table))) == sent


def test_unknown_stands_below_what_is_known() -> None:
    query = Query(PGBOUNCER, "pools", (Metric("maxwait_seconds", ""),), labels={"database": ""})
    target = Target(PGBOUNCER, "t", "")
    frame = target.frame(query, query.metrics, [("a", None), ("b", 0), ("c", 5), ("d", 5)])
    table = joined("pools", [("t", frame)])
    assert [row[1] for row in table.rows] == ["c", "d", "b", "a"]
