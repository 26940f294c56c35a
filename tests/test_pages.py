"""All tables come in pages, and say what one statement says: each row and each sum, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from pgstats.ask import pages
from pgstats.ask.answer import Columns, Rows
from pgstats.ask.postgres import PostgresAsker
from pgstats.catalogue.postgres.tables import NEED, NEEDS, TABLES, TOTALS
from pgstats.model import POSTGRES, Poll, Target
from pgstats.scratch import Bouncer, Cluster, Scratch
from tests.test_ask_postgres import column, poll
from tests.why import until

#: Partitions older and younger than their root, one level and two; and whatever else holds rows.
_MADE = """
CREATE TABLE older (i int, v text);
CREATE TABLE oldest_leaf (i int, v text);
CREATE TABLE hidden (i int, v text);
CREATE TABLE plain (i int, v text);
CREATE TABLE parted (i int, v text) PARTITION BY RANGE (i);
CREATE TABLE barren (i int) PARTITION BY RANGE (i);
CREATE TABLE sub (i int, v text) PARTITION BY RANGE (i);
ALTER TABLE parted ATTACH PARTITION older FOR VALUES FROM (0) TO (1000);
ALTER TABLE sub ATTACH PARTITION oldest_leaf FOR VALUES FROM (1000) TO (2000);
ALTER TABLE parted ATTACH PARTITION sub FOR VALUES FROM (1000) TO (3000);
CREATE TABLE younger PARTITION OF sub FOR VALUES FROM (2000) TO (3000);
CREATE TABLE hidden_leaf PARTITION OF parted FOR VALUES FROM (3000) TO (4000);
CREATE UNLOGGED TABLE unlogged (i int, v text);
CREATE TABLE off (i int, v text) WITH (autovacuum_enabled = off, toast.autovacuum_enabled = on);
CREATE TABLE never (i int);
CREATE SCHEMA other;
CREATE TABLE other.plain (i int, v text);
"""
_FILLED = (
    *("parted", "hidden", "plain", "unlogged", "off", "other.plain"),
    *("older", "oldest_leaf", "younger", "hidden_leaf"),
)
_FILL = """INSERT INTO {0} SELECT i, string_agg(md5(i::text || n), '')
  FROM generate_series({1}, {2}) i, generate_series(1, 200) n GROUP BY i"""
#: Whether the last session has told all it did, and how much is known.
_COUNTS = """SELECT max(n_dead_tup) FILTER (WHERE relname = 'mine') = 100, sum(n_dead_tup)
  FROM pg_stat_user_tables"""


@pytest.fixture(scope="module")
def server(scratch: Scratch) -> Iterator[Cluster]:
    """One of which nothing changes by itself."""
    with Cluster(scratch, {"autovacuum": "off"}, name="paged") as cluster:
        cluster.psql(_MADE)
        low = {"parted": 0, "older": 0, "oldest_leaf": 1000, "younger": 2000}
        cluster.psql(
            ";".join(
                _FILL.format(name, low.get(name, 3000) + 10 * at, low.get(name, 3000) + 15 * at)
                for at, name in enumerate(_FILLED)
            )
        )
        cluster.psql("CREATE MATERIALIZED VIEW seen AS SELECT * FROM plain")
        cluster.psql("VACUUM FULL plain")  # its TOAST is younger now than all others
        cluster.psql("ANALYZE plain, off, seen, parted")
        cluster.psql(
            ";".join(f"UPDATE {name} SET v = v || 'more' WHERE i % 3 <> 0" for name in _FILLED)
        )
        with closing(psycopg2.connect(cluster.dsn())) as owner:
            owner.autocommit = True
            owner.cursor().execute("CREATE TEMP TABLE mine AS SELECT generate_series(1, 100) i")
            owner.cursor().execute("DELETE FROM mine")
            last = [""]

            def settled() -> bool:
                owner.cursor().execute("SELECT")  # before 15 who is idle tells nothing more
                before, last[0] = last[0], cluster.psql(_COUNTS)
                return last[0].startswith("t") and before == last[0]

            until(settled)
            yield cluster


def one(cluster: Cluster, **more: object) -> Target:
    known: dict[str, Any] = {"databases": ("postgres",), "tables": None, "timeout": 20.0}
    return Target(POSTGRES, "main", cluster.dsn(), **known | more)


def told(found: Poll) -> dict[tuple[str, ...], Any]:
    """All that a poll says of tables, but for ages: those of time change with it."""
    assert found.ok, found.problems()
    said: dict[tuple[str, ...], Any] = {("over",): {k: set(v) for k, v in found.over.items()}}
    said["folded",] = found.counts["tables_folded"]
    for frame in found.frames:
        if frame.query in (TABLES, NEED, TOTALS, NEEDS):
            width = len(frame.query.labels)
            for row in frame.rows:
                key = tuple(map(str, row[:width]))
                for metric, value in zip(frame.metrics, row[width:], strict=True):
                    if not metric.name.endswith("_age_seconds"):
                        assert (*key, metric.name) not in said, "twice"
                        said[*key, metric.name] = value
    return said


@pytest.mark.parametrize(
    "excluded", [(), ("hidden*",), ("!public.plain", "!seen", "!parted"), ("*",)], ids=" ".join
)
def test_pages_say_what_one_statement_says(
    server: Cluster, monkeypatch: pytest.MonkeyPatch, excluded: tuple[str, ...]
) -> None:
    whole = told(poll(one(server, tables=1000, exclude_tables=excluded)))
    if not excluded:
        assert whole["postgres", "public", "parted", "n_dead_tup"] > 0
        assert whole["postgres", "public", "plain", "toast_n_dead_tup"] > 0
        assert whole["postgres", "n_dead_tup_catalogs"] is not None
        assert whole["folded",] == 1, "the temporary one"
        assert len(whole["over",]["postgres"]) > 1
    for size in (2, 7, 100000):
        monkeypatch.setattr(pages, "PAGE", size)
        paged = told(poll(one(server, exclude_tables=excluded)))
        assert paged == whole, size


def test_where_nothing_is_counted_pages_know_nothing(
    server: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.settings["track_counts"] = "off"
    server.reload()
    try:
        until(lambda: server.psql("SHOW track_counts") == "off")
        for excluded in ((), ("hidden*",), ("*",)):
            whole = told(poll(one(server, tables=1000, exclude_tables=excluded)))
            assert whole["postgres", "n_dead_tup"] is None
            monkeypatch.setattr(pages, "PAGE", 2)
            assert told(poll(one(server, exclude_tables=excluded))) == whole
    finally:
        server.settings["track_counts"] = "on"
        server.reload()
        until(lambda: server.psql("SHOW track_counts") == "on")


def test_behind_a_pool_each_page_may_be_of_another_connection(
    server: Cluster, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = told(poll(one(server, tables=1000)))
    monkeypatch.setattr(pages, "PAGE", 20)
    with Bouncer(scratch, {"*": server.address}, name="turns") as bouncer:
        pooled = Target(
            POSTGRES, "main", bouncer.dsn("postgres"), pooled=True, tables=None, timeout=20.0
        )
        assert told(poll(pooled)) == whole


def test_an_empty_database_has_sums(server: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    server.psql("CREATE DATABASE empty")
    empty = {"databases": ("empty",)}
    whole = told(poll(one(server, tables=1000, **empty)))
    assert whole["empty", "tables"] == whole["empty", "n_dead_tup"] == 0
    for size in (2, 100000):
        monkeypatch.setattr(pages, "PAGE", size)
        assert told(poll(one(server, **empty))) == whole


def test_a_small_database_is_asked_once(server: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = between_pages(monkeypatch, lambda *_: None)
    assert poll(one(server)).ok
    assert asked == [1]


def between_pages(
    monkeypatch: pytest.MonkeyPatch, happens: Callable[[int, Rows], object]
) -> list[int]:
    """Let something happen after each page, by its number and rows; notes the numbers."""
    seen: list[int] = []
    small = pages._small

    def spied(columns: Columns, rows: Rows) -> Any:
        seen.append(len(seen) + 1)
        happens(len(seen), rows)
        return small(columns, rows)

    monkeypatch.setattr(pages, "_small", spied)
    return seen


def test_what_comes_and_goes_between_pages_counts_once(
    server: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the new one is a partition of a root that was asked before."""
    server.psql("CREATE DATABASE moving")
    server.psql(
        "CREATE TABLE root (i int) PARTITION BY LIST (i);"
        "CREATE TABLE leaf PARTITION OF root FOR VALUES IN (1);"
        "CREATE TABLE first (i int); CREATE TABLE second (i int); CREATE TABLE last (i int)",
        "moving",
    )

    def moved(number: int, rows: Rows) -> None:
        if number == 1:
            server.psql("CREATE TABLE soon (i int); CREATE TABLE new (i int)", "moving")
        if "root" in rows[0]:
            server.psql("CREATE TABLE late PARTITION OF root FOR VALUES IN (2)", "moving")
            server.psql("DROP TABLE first, last", "moving")

    between_pages(monkeypatch, moved)
    monkeypatch.setattr(pages, "PAGE", 1)
    said = told(poll(one(server, databases=("moving",))))
    shown = {key[2] for key in said if key[-1] == "n_dead_tup" and len(key) == 4}
    assert shown == {"root", "second", "soon", "new", "_other"}
    assert said["moving", "tables"] == 4, "leaf for root, and three others"


def test_a_page_that_fails_takes_all_along(
    server: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(number: int, _: Rows) -> None:
        if number == 3:
            server.psql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'pgstats'"
            )

    seen = between_pages(monkeypatch, cut)
    monkeypatch.setattr(pages, "PAGE", 1)
    with closing(PostgresAsker(one(server))) as asks:
        found = asks.poll()
        assert seen == [1, 2, 3]
        assert ["tables in database postgres" in str(failure) for failure in found.failures] == [
            True
        ]
        assert not [f for f in found.frames if f.query in (TABLES, NEED, TOTALS, NEEDS)]
        assert (found.over, found.counts["tables_folded"]) == ({}, 0)
        monkeypatch.undo()
        assert column(asks.poll(), "database", "tables")["postgres",] > 10


@pytest.mark.parametrize("size", [2, 100000])
def test_the_heaps_of_each_table_are_told_where_they_are_measured(
    server: Cluster, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(pages, "PAGE", size)
    found = poll(one(server, sizes=60.0))
    assert found.ok, found.problems()
    sizes = column(found, "tables", "size_bytes")
    assert sizes["postgres", "public", "parted"] == float(
        server.psql(
            "SELECT sum(pg_table_size(oid)) FROM pg_class"
            " WHERE relname IN ('older', 'oldest_leaf', 'younger', 'hidden_leaf')"
        )
    )
