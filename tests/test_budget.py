"""Which tables have a name of their own, and what becomes of the others: none is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pgstats.ask import tables
from pgstats.ask.postgres import PostgresAsker
from pgstats.catalogue.postgres.tables import STAY
from pgstats.model import POSTGRES, Poll, Target
from pgstats.scratch import Cluster
from tests.program import gauges, pgstats
from tests.test_ask_postgres import column, database, poll
from tests.why import until

__all__ = ["database"]

REST = ("_other", "_other")

#: What is asked where those that were chosen before stay.
STAYING = ("of_roots", "rest")


def target(cluster: Cluster, shop: str, **more: object) -> Target:
    return Target(POSTGRES, "main", cluster.dsn(), databases=(shop,), **more)  # type: ignore[arg-type]


def shown(found: Poll, metric: str = "n_dead_tup") -> dict[tuple[str, ...], float]:
    """A metric by schema and table."""
    return {labels[1:]: value for labels, value in column(found, "tables", metric).items()}


def fill(cluster: Cluster, shop: str, **dead: int) -> None:
    """Tables with so many dead rows of 10,000, of which 100 + 20 % trigger a vacuum."""
    for name, rows in dead.items():
        cluster.psql(
            f"CREATE TABLE {name} WITH (autovacuum_enabled = off) AS"
            " SELECT generate_series(1, 10000) i;"
            f"ANALYZE {name}; DELETE FROM {name} WHERE i <= {rows}",
            shop,
        )
    count = "SELECT sum(n_dead_tup) FROM pg_stat_user_tables"
    until(lambda: cluster.psql(count, shop) == str(sum(dead.values())))


def more_dead(cluster: Cluster, shop: str, table: str, rows: int) -> None:
    cluster.psql(f"DELETE FROM {table} WHERE i <= {rows}", shop)
    count = f"SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = '{table}'"
    until(lambda: cluster.psql(count, shop) == str(rows))


def names(found: Poll) -> set[str]:
    return {table for _, table in shown(found)} - {"_other"}


def test_who_is_shown_stays_unless_another_needs_it_clearly_more(
    cluster: Cluster, database: str
) -> None:
    fill(cluster, database, first=1000, second=900)
    with closing(PostgresAsker(target(cluster, database, tables=1))) as asks:
        assert names(asks.poll()) == {"first"}
        more_dead(cluster, database, "second", int(1000 * STAY) - 50)
        assert names(asks.poll()) == {"first"}, "a little more is no reason"
        fresh = poll(target(cluster, database, tables=1))
        assert names(fresh) == {"second"}, "who knows no better takes the first of the list"
        # Another process goes on where this one was.
        memo = json.loads(json.dumps(asks.poll().memo))
        with closing(PostgresAsker(target(cluster, database, tables=1), memo)) as other:
            assert names(other.poll()) == {"first"}
        more_dead(cluster, database, "second", int(1000 * STAY) + 50)
        found = asks.poll()
    assert names(found) == {"second"}
    assert shown(found)[REST] == 1000
    assert column(found, "database", "n_dead_tup")[database,] == 1000 + int(1000 * STAY) + 50


def test_of_many_tables_those_who_stay_are_asked_for_at_once(
    cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the answer is what it would be otherwise: the others are gone through if need be."""
    ways = []

    def spied(way: str, sql: Callable[..., str], *of: Any, **more: Any) -> str:
        ways.append(way)
        return sql(*of, **more)

    monkeypatch.setattr(tables, "FEW", 2)
    for name in ("select", "choice", "of_roots", "rest"):
        monkeypatch.setattr(tables, name, partial(spied, name, getattr(tables, name)))
    fill(cluster, database, first=1000, second=900, third=10, fourth=0)
    cluster.psql(
        "CREATE TABLE parted (i int) PARTITION BY RANGE (i);"
        "CREATE TABLE leaf PARTITION OF parted FOR VALUES FROM (0) TO (500)"
        " WITH (autovacuum_enabled = off);"
        "CREATE TABLE rest PARTITION OF parted DEFAULT WITH (autovacuum_enabled = off);"
        "INSERT INTO parted SELECT generate_series(1, 9999)",
        database,
    )

    def same(asks: PostgresAsker, *expected: str) -> None:
        """Whoever has not seen many tables yet, and remembers the same, says the same."""
        memo = json.loads(json.dumps(asks.poll().memo)) | {"large": {database: False}}
        ways.clear()
        found = asks.poll()
        mine = [*ways]
        with closing(PostgresAsker(asks.target, memo)) as other:
            told = other.poll()
        assert ways == [*mine, "select"]
        assert mine == [*expected]
        for metric in ("n_dead_tup", "n_live_tup", "vacuum_trigger_ratio", "size_estimate_bytes"):
            assert shown(found, metric) == shown(told, metric)
        for metric in ("tables", "n_dead_tup", "tables_folded", "worst_freeze_ratio"):
            assert column(found, "database", metric) == column(told, "database", metric)

    with closing(PostgresAsker(target(cluster, database, tables=2))) as asks:
        asks.poll()
        same(asks, *STAYING)
        assert names(asks.poll()) == {"first", "second"}
        ways.clear()
        more_dead(cluster, database, "fourth", 5000)
        assert names(asks.poll()) == {"fourth", "first"}
        assert ways == [*STAYING, "choice", *STAYING]
        same(asks, *STAYING)
        cluster.psql("DELETE FROM parted WHERE i < 480", database)
        count = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'leaf'"
        until(lambda: cluster.psql(count, database) == "479")
        assert names(asks.poll()) == {"parted", "fourth"}, "of its partitions the neediest"
        same(asks, *STAYING)
        ways.clear()
        cluster.psql("DROP TABLE fourth", database)
        assert names(asks.poll()) == {"parted", "first"}
        assert ways == [*STAYING, "choice", *STAYING]
    with closing(PostgresAsker(target(cluster, database, tables=0))) as asks:
        asks.poll()
        assert shown(asks.poll()) == {REST: 1000 + 900 + 10 + 479}


@pytest.mark.parametrize("column", ["i", "i, text 'long' AS more"])
def test_of_many_tables_one_that_is_excluded_from_now_on_does_not_stay(
    cluster: Cluster, database: str, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    """Its name is another now; what it has of TOAST changes nothing about that."""
    monkeypatch.setattr(tables, "FEW", 2)
    for name in ("first", "second", "third"):
        cluster.psql(
            f"CREATE TABLE {name} WITH (autovacuum_enabled = off) AS"
            f" SELECT {column} FROM generate_series(1, 10) i; ANALYZE {name}",
            database,
        )
    one = target(cluster, database, tables=2, exclude_tables=("public.old_*",))
    with closing(PostgresAsker(one)) as asks:
        mine = sorted(names(asks.poll()))
        cluster.psql(f"ALTER TABLE {mine[0]} RENAME TO old_{mine[0]}", database)
        found = asks.poll()
    assert found.problems() == []
    assert names(found) == {"first", "second", "third"} - {mine[0]}


def test_from_cron_membership_does_not_flap_either(
    cluster: Cluster, database: str, tmp_path: Path
) -> None:
    fill(cluster, database, first=1000, second=900)
    path = tmp_path / "pgstats.toml"
    path.write_text(
        f'state = "state"\n[[postgres]]\nname = "main"\ndsn = "{cluster.dsn()}"\n'
        f'databases = ["{database}"]\ntables = 1\n'
    )
    run = ("once", "--config", str(path))
    start = f"pgstats.postgres.main.tables.{database}.public"

    def once() -> dict[str, float]:
        pgstats(*run, "--statsd", "udp://127.0.0.1:9")
        return gauges(pgstats(*run, "--dry-run").stdout)

    assert once()[f"{start}.first.n_dead_tup"] == 1000
    more_dead(cluster, database, "second", int(1000 * STAY) - 50)
    found = once()
    assert found[f"{start}.first.n_dead_tup"] == 1000
    assert f"{start}.second.n_dead_tup" not in found
    more_dead(cluster, database, "second", 3000)
    would = gauges(pgstats(*run, "--dry-run").stdout)
    assert would[f"{start}.second.n_dead_tup"] == 3000
    assert would[f"{start}.first.n_dead_tup"] == 0, "who is folded gets a last value"


def test_partitions_are_one_table_under_the_name_of_the_root(
    cluster: Cluster, database: str
) -> None:
    for sql in (
        "CREATE TABLE sales (i int, t text) PARTITION BY RANGE (i)",
        "CREATE TABLE young PARTITION OF sales FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE old PARTITION OF sales FOR VALUES FROM (100) TO (9999) PARTITION BY LIST (i)",
        "CREATE TABLE older PARTITION OF old FOR VALUES IN (100)",
        "CREATE TABLE oldest PARTITION OF old DEFAULT",
        "INSERT INTO sales SELECT generate_series(0, 999)",
        "CREATE TABLE alone AS SELECT 1 AS i",
        "CREATE TABLE parent (i int); CREATE TABLE child () INHERITS (parent)",
    ):
        cluster.psql(sql, database)
    for leaf in ("young", "older", "oldest"):
        cluster.psql(f"ALTER TABLE {leaf} SET (autovacuum_enabled = off)", database)
    cluster.psql("DELETE FROM sales WHERE i < 100; DELETE FROM sales WHERE i > 989", database)
    count = "SELECT sum(n_dead_tup) FROM pg_stat_user_tables"
    until(lambda: cluster.psql(count, database) == "110")
    found = poll(target(cluster, database))
    assert names(found) == {"sales", "alone", "parent", "child"}, "inheritance is no partitioning"
    assert shown(found)["public", "sales"] == 110
    assert shown(found, "n_live_tup")["public", "sales"] == 890
    ratios = cluster.psql("SELECT max(n_dead_tup / 50.0) FROM pg_stat_user_tables", database)
    assert shown(found, "dead_ratio")["public", "sales"] == pytest.approx(float(ratios))
    assert shown(found, "autovacuum_disabled")["public", "sales"] == 3
    oldest = cluster.psql(
        "SELECT max(age(relfrozenxid)) FROM pg_class WHERE relkind = 'r' AND relispartition",
        database,
    )
    assert shown(found, "xid_age_xids")["public", "sales"] == float(oldest) < 2147483647
    assert column(found, "database", "tables")[database,] == 6, "a parent holds no rows"
    assert column(found, "database", "tables_disabled")[database,] == 3
    assert column(found, "database", "n_dead_tup")[database,] == 110


@pytest.mark.parametrize(
    ("globs", "named"),
    [
        ((), {"orders", "audit_1", "audit_2", "queue"}),
        (("audit_*",), {"orders", "queue"}),
        (("public.*",), {"queue"}),
        (("*", "!orders"), {"orders"}),
        (("!jobs.*",), {"queue"}),
        (("audit_*", "!public.audit_2"), {"orders", "queue", "audit_2"}),
        (("*",), set()),
    ],
)
def test_globs_choose_who_may_have_a_name(
    cluster: Cluster, database: str, globs: tuple[str, ...], named: set[str]
) -> None:
    cluster.psql("CREATE SCHEMA jobs", database)
    for name in ("public.orders", "public.audit_1", "public.audit_2", "jobs.queue"):
        cluster.psql(f"CREATE TABLE {name} AS SELECT 1 AS i", database)
    found = poll(target(cluster, database, exclude_tables=globs))
    assert names(found) == named
    assert column(found, "database", "tables")[database,] == 4
    assert column(found, "database", "tables_folded")[database,] == 4 - len(named)
    assert sum(shown(found, "n_live_tup").values()) == 4


def test_new_and_dropped_databases_are_noticed(cluster: Cluster, database: str) -> None:
    one = Target(POSTGRES, "main", cluster.dsn(), databases=(f"{database}*",))

    def known(found: Poll) -> set[str]:
        return {name for (name,) in column(found, "database", "tables")}

    with closing(PostgresAsker(one)) as asks:
        assert known(asks.poll()) == {database}
        cluster.psql(f"CREATE DATABASE {database}_new TEMPLATE template0")
        assert known(asks.poll()) == {database, f"{database}_new"}
        cluster.psql(f"DROP DATABASE {database}_new")
        assert known(asks.poll()) == {database}
