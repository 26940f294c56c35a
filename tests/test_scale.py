"""Ten thousand tables in one database, two hundred databases in one cluster: `./dev test-full`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest

from pgstats.ask import pages, session, tables
from pgstats.ask.postgres import PostgresAsker
from pgstats.model import POSTGRES, Poll, Target
from pgstats.scratch import Cluster, Scratch
from tests.test_ask_postgres import column
from tests.why import until

pytestmark = pytest.mark.full

DATABASES = 200
PLAIN, ROOTS, LEAVES = 5000, 100, 50
BUDGET = 50

_TABLES = f"""DO $$ BEGIN
  FOR n IN 1..{PLAIN} LOOP
    EXECUTE 'CREATE TABLE plain' || n || ' (i int PRIMARY KEY)';
    IF n % 500 = 0 THEN COMMIT; END IF;
  END LOOP;
  FOR r IN 1..{ROOTS} LOOP
    EXECUTE 'CREATE TABLE parted' || r || ' (i int) PARTITION BY LIST (i)';
    FOR n IN 1..{LEAVES} LOOP
      EXECUTE 'CREATE TABLE parted' || r || '_' || n || ' PARTITION OF parted' || r
           || ' FOR VALUES IN (' || n || ')';
    END LOOP;
    COMMIT;
  END LOOP;
END $$"""

#: One in ten has rows, most of them dead, each another number.
_ROWS = f"""DO $$ BEGIN
  FOR n IN 1..{PLAIN} BY 10 LOOP
    EXECUTE 'INSERT INTO plain' || n || ' SELECT generate_series(1, 100)';
    EXECUTE 'DELETE FROM plain' || n || ' WHERE i <= ' || n % 97;
    IF n % 500 = 1 THEN COMMIT; END IF;
  END LOOP;
  FOR r IN 1..{ROOTS} BY 10 LOOP
    EXECUTE 'INSERT INTO parted' || r || ' SELECT 1 + n % {LEAVES} FROM generate_series(1, 1000) n';
    EXECUTE 'DELETE FROM parted' || r || ' WHERE i <= ' || r % {LEAVES};
    COMMIT;
  END LOOP;
END $$"""


@pytest.fixture(scope="module")
def crowd(scratch: Scratch) -> Iterator[Cluster]:
    settings = {
        "autovacuum": "off",
        "max_connections": 10,
        "max_locks_per_transaction": 1000,
        "full_page_writes": "off",
        "max_wal_size": "4GB",
        "log_connections": "on",
        "log_disconnections": "on",
        "log_line_prefix": "%p ",
        "log_temp_files": 0,
    }
    with Cluster(scratch, settings, name="crowd") as cluster:
        cluster.psql("CREATE DATABASE large")
        with closing(psycopg2.connect(cluster.dsn("large"))) as connection:
            connection.autocommit = True
            for sql in (_TABLES, _ROWS):  # which takes longer than psql is given
                connection.cursor().execute(sql)
        for n in range(DATABASES - 2):
            cluster.psql(f"CREATE DATABASE small{n:03}")
            cluster.psql(f"CREATE TABLE t AS SELECT generate_series(1, {n + 1}) i", f"small{n:03}")
        yield cluster


def truth(cluster: Cluster, database: str) -> list[float]:
    """Tables, live and dead rows, as psql sums them up."""
    sql = """SELECT count(*), coalesce(sum(n_live_tup), 0), coalesce(sum(n_dead_tup), 0)
               FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = relid AND relkind <> 'p'"""
    return [float(number) for number in cluster.psql(sql, database).split("|")]


def sums(found: Poll, database: str) -> list[float]:
    names = ("tables", "n_live_tup", "n_dead_tup")
    return [column(found, "database", name)[database,] for name in names]


def of(found: Poll, database: str, metric: str) -> dict[str, float]:
    """A metric of the tables shown of a database."""
    return {
        labels[2]: value
        for labels, value in column(found, "tables", metric).items()
        if labels[0] == database and value is not None
    }


def most_at_once(log: str) -> int:
    """The most connections of pgstats that were open together, by the server's log."""
    there: set[str] = set()
    most = 0
    for pid, text in re.findall(r"^(\d+) LOG:  (.*)$", log, re.MULTILINE):
        if text.startswith("connection authorized") and "application_name=pgstats" in text:
            there.add(pid)
        elif text.startswith("disconnection"):
            there.discard(pid)
        most = max(most, len(there))
    return most


def test_all_of_it_within_one_poll(crowd: Cluster) -> None:
    until(lambda: truth(crowd, "large")[2] > 0)
    begin = crowd.log.stat().st_size
    one = Target(POSTGRES, "main", crowd.dsn(), timeout=60.0, tables=BUDGET)
    with closing(PostgresAsker(one)) as asks:
        first, second = asks.poll(), asks.poll()
    log = crowd.log.read_text()[begin:]
    for found in (first, second):
        assert found.ok, found.problems()
        assert found.counts["databases_polled"] == DATABASES
        for database in ("large", "postgres", *(f"small{n:03}" for n in range(DATABASES - 2))):
            assert sums(found, database) == truth(crowd, database), database
        shown = of(found, "large", "n_dead_tup")
        assert len(shown) == BUDGET + 1
        assert sum(shown.values()) == truth(crowd, "large")[2]
        folded = column(found, "database", "tables_folded")["large",]
        assert folded == PLAIN + ROOTS - BUDGET
    assert most_at_once(log) == 2
    # A full walk made a connection to each other database, and kept one.
    assert len(re.findall("connection authorized.*application_name=pgstats", log)) >= 2 * 199


@pytest.mark.parametrize("count", [0, None])
def test_no_table_and_every_table(crowd: Cluster, count: int | None) -> None:
    one = Target(POSTGRES, "main", crowd.dsn(), timeout=60.0, tables=count, databases=("large",))
    with closing(PostgresAsker(one)) as asks:
        found = asks.poll()
    assert found.ok, found.problems()
    shown = of(found, "large", "n_dead_tup")
    assert len(shown) == 1 + (PLAIN + ROOTS if count is None else 0)
    assert sum(shown.values()) == truth(crowd, "large")[2] == sums(found, "large")[2]
    assert sums(found, "large")[0] == PLAIN + ROOTS * LEAVES
    if count is None:
        leaves = crowd.psql(
            "SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE relname LIKE 'parted11\\_%'",
            "large",
        )
        assert shown["parted11"] == float(leaves) > 0


def test_no_poll_writes_a_file(crowd: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even with a quarter of the memory, as four times as many tables would have it."""
    guards = session._guards

    def tight(one: Target) -> dict[str, str]:
        return guards(one) | {"work_mem": "1MB"}

    monkeypatch.setattr(session, "_guards", tight)

    def written(budget: int | None, polls: int) -> bool:
        begin = crowd.log.stat().st_size
        one = Target(
            POSTGRES, "main", crowd.dsn(), timeout=60.0, tables=budget, databases=("large",)
        )
        with closing(PostgresAsker(one)) as asks:
            for _ in range(polls):
                assert asks.poll().ok
        return "temporary file" in crowd.log.read_text()[begin:]

    assert not written(0, 1)
    assert not written(BUDGET, 2)
    monkeypatch.setattr(pages, "PAGE", 50)  # trees, which can all have 50 leaves
    assert not written(None, 1)
    monkeypatch.setattr(tables, "FEW", 10 * PLAIN)
    monkeypatch.setattr(tables, "MANY", "SELECT false")
    assert written(BUDGET, 1), "this is what would be remembered"


#: Asks all tables a few times, in pages of a size, and says how many MiB that took at most.
_PEAK = """
import sys
from pgstats.ask import pages
from pgstats.ask.postgres import PostgresAsker
from pgstats.model import Target
def status(key):
    return int(open("/proc/self/status").read().split(key)[1].split()[0]) / 1024
def poll(tables, times):
    one = Target("postgres", "main", sys.argv[1], timeout=60.0, tables=tables, databases=("large",))
    asks = PostgresAsker(one)
    for _ in range(times):
        assert asks.poll().ok
    asks.close()
pages.PAGE = int(sys.argv[2])
poll(0, 2)
before = status("VmRSS:")
poll(None, 3)
print(status("VmHWM:") - before)
"""


def test_memory_is_that_of_a_page(crowd: Cluster) -> None:
    def peak(page: int) -> float:
        argv = [sys.executable, "-c", _PEAK, crowd.dsn(), str(page)]
        return float(subprocess.run(argv, capture_output=True, timeout=300, check=True).stdout)

    assert peak(100) < 0.7 * peak(10**6)
