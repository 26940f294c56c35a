"""Recorded answers of PgBouncer 1.8 to 1.24, through the code that reads the live console."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pgstats.ask import asker
from pgstats.ask.answer import frame
from pgstats.ask.connection import NUMERIC
from pgstats.ask.pgbouncer import wanted
from pgstats.catalogue import COLLECT, pgbouncer
from pgstats.model import OTHER, PGBOUNCER, POSTGRES, Metric, Poll, Query, Target
from pgstats.scratch import Bouncer
from pgstats.shape import derived, spread
from pgstats.shape.growth import Memory
from tests.console import TEXT, console, table
from tests.program import gauges, pgstats
from tests.test_derived import values
from tests.test_operations import recorded

FOLDER = Path(__file__).parent / "data" / "pgbouncer-shows"
VERSIONS = sorted(
    (path.stem for path in FOLDER.glob("*.json")),
    key=lambda name: [int(part) for part in name.split("-")[0].split(".")],
)
ALL = Target(PGBOUNCER, "front", "", collect=COLLECT)


def number_of(version: str) -> int:
    """1.18.0-deb as libpq numbers it: 11800."""
    major, minor, patch = version.partition("-")[0].split(".")
    return int(major) * 10000 + int(minor) * 100 + int(patch)


@cache
def shows(version: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{version}.json").read_text())["shows"]
    return found


def answer(version: str, query: Query) -> tuple[dict[str, bool], list[tuple[Any, ...]]]:
    """The columns and rows as psycopg2 gives them: numeric as Decimal where none was asked."""
    show = shows(version)[query.sql.removeprefix("SHOW ")]
    columns = {c["name"]: c["type_oid"] in NUMERIC for c in show["columns"]}
    kinds = [Decimal if c["type_oid"] == 1700 else lambda value: value for c in show["columns"]]
    rows = [
        tuple(None if v is None else k(v) for k, v in zip(kinds, row, strict=True))
        for row in show["rows"]
    ]
    return columns, rows


CASES = [
    pytest.param(version, query, id=f"{version}-{query.group}")
    for version in VERSIONS
    for query in wanted(ALL, number_of(version))
]


@pytest.mark.parametrize(("version", "query"), CASES)
def test_every_declared_metric_has_the_recorded_value(version: str, query: Query) -> None:
    columns, rows = answer(version, query)
    found, strange = frame(query, number_of(version), columns, rows, target="front")
    assert strange == 0
    expected = [m for m in query.on(number_of(version)) if m.right(number_of(version))]
    if query.pairs:  # a recording may lack a key that is compiled in or out
        key = list(columns).index(query.pairs[0])
        names = {row[key] for row in rows}
        expected = [m for m in expected if names & {m.origin(), *m.formerly}]
    assert found.metrics == tuple(expected)
    if query.budget is None:
        for row, recorded in zip(found.rows, records(query, columns, rows), strict=True):
            for metric, value in zip(expected, row[len(query.labels) :], strict=True):
                assert value == truth(metric, recorded), metric.name


def records(query: Query, columns: dict[str, bool], rows: Sequence[Any]) -> list[dict[str, Any]]:
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    if query.pairs:
        return [{row[query.pairs[0]]: row[query.pairs[1]] for row in named}]
    return named


def truth(metric: Metric, row: dict[str, Any]) -> Any:
    name = next(name for name in (metric.origin(), *metric.formerly) if name in row)
    if metric.words:
        return metric.words.get(str(row[name]))
    if row[name] is None or row[name] == "":
        return None
    return pytest.approx(
        float(row[name]) + sum(float(row[c]) * factor for c, factor in metric.plus.items())
    )


def test_every_since_in_the_catalogue_is_true() -> None:
    """A column is there from the version that the catalogue names on, and not before."""
    for version in VERSIONS:
        for query in wanted(ALL, number_of(version)):
            columns, rows = answer(version, query)
            names = set(columns)
            if query.pairs:
                names = {row[list(columns).index(query.pairs[0])] for row in rows}
            if query.sql in ("SHOW TOTALS", "SHOW CONFIG"):
                continue  # recorded in part, or with keys that depend on how it was built
            for metric in query.metrics:
                there = metric.column == "*" or bool(names & {metric.origin(), *metric.formerly})
                assert there == metric.on(number_of(version)), (version, query.sql, metric.name)


def expected(version: str) -> dict[str, Any]:
    """What a recording says of every metric that stands for one of its numbers."""
    number, found = number_of(version), {}
    for query in wanted(ALL, number):
        if query.budget is not None:
            continue
        columns, rows = answer(version, query)
        for row in records(query, columns, rows):
            labels = [row[column] for column in query.labels.values()]
            if row.get(query.labels.get("database", "")) == pgbouncer.ADMIN:
                continue
            for metric in query.on(number):
                if metric.right(number) and {metric.origin(), *metric.formerly} & row.keys():
                    name = ".".join([query.group, *map(str, labels), metric.name])
                    found[name] = truth(metric, row)
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_console_of_that_version_is_read_whole(version: str) -> None:
    """Over the wire, with every question that pgstats knows."""
    answers = recorded(version)
    with console(answers, version.partition("-")[0]) as one:
        poll = asker(ALL._replace(dsn=one.dsn)).poll()
    assert poll.ok, poll.problems()
    assert poll.counts["unknown_columns"] == 0
    assert set(one.asked) <= answers.keys(), "no command that the version does not have"
    found = values([f for f in poll.frames if f.query.budget is None])
    assert found == expected(version)


def test_a_future_version_costs_no_more_than_what_it_took_away() -> None:
    """Columns renamed, unknown, gone, moved, or numbers as text; a command gone; a new state."""
    answers = recorded("1.24.1")
    del answers["SHOW LISTS"]
    answers["SHOW POOLS"] = table(
        "sv_active zeal maxwait_us user Zeal cl_actives maxwait database", "7 1 5 me 2 3 2 shop"
    )
    answers["SHOW DATABASES"] = table("paused name pool_size", "~ shop 007", kind=TEXT)
    answers["SHOW STATE"] = table("key value", "active perhaps", "resting yes", kind=TEXT)
    answers["SHOW STATS"] = table("database total_query_count", "shop 18446744073709551615")
    with console(answers, "2.0beta1") as one:
        poll = asker(Target(PGBOUNCER, "front", one.dsn)).poll()
    assert poll.version == 20000
    assert [failure.stage for failure in poll.failures] == ["SHOW LISTS"]
    found = values(poll.frames)
    assert {name: found[name] for name in found if not name.startswith("config.")} == {
        "stats.shop.total_query_count": 18446744073709551615,
        "pools.shop.me.sv_active": 7,
        "pools.shop.me.maxwait_seconds": 2.000005,
        "pools.shop.me.zeal": 1,  # and not what else would be called so
        "pools.shop.me.cl_actives": 3,
        "databases.shop.pool_size": 7,
    }
    assert found["config.default_pool_size"] == 4
    assert poll.counts["unknown_columns"] == 4
    assert "state.code" not in values(derived(poll, {}, 1.0))


def test_a_database_that_is_listed_for_each_user_is_one() -> None:
    """As by other poolers: one row does not hide the other, nor is their distance its growth."""
    memory: Memory = {}
    columns = {"database": False, "user": False, "total_query_count": True}
    found: dict[str, float] = {}
    for now in (1.0, 2.0):
        rows = [("shop", "a", 100 + now), ("shop", "b", 5)]
        stats, _ = frame(pgbouncer.STATS, 11800, columns, rows, target="front")
        assert stats.rows == [("shop", 105 + now)]
        found = values(derived(Poll(ALL, frames=[stats], version=11800), memory, now))
    assert found["stats.shop.queries_per_second"] == 1
    columns = {"database": False, "user": False, "sv_active": True, "maxwait": True}
    several = [("shop", "me", 2, 7), ("shop", "me", 3, 4), ("shop", "you", 1, 0)]
    pools, _ = frame(pgbouncer.POOLS, 11800, columns, several, target="front")
    assert pools.rows == [("shop", "me", 5, 7), ("shop", "you", 1, 0)]


def test_memory_above_2_gib_is_no_negative() -> None:
    """As 1.18 said with pkt_buf = 60000000: it has 32 bits, and prints them as if with a sign."""
    columns = dict.fromkeys(("size", "used", "free", "memtotal"), True) | {"name": False}
    rows = [(60000016, 1, 49, -1294966496, "iobuf_cache")]
    found, _ = frame(pgbouncer.MEM, 11800, columns, rows, target="front")
    assert found.rows == [("iobuf_cache", 60000016, 1, 49, 50 * 60000016)]


def test_a_build_that_is_ahead_of_its_number_has_its_counters_too() -> None:
    """What will be 1.26 still calls itself 1.25.2."""
    memory: Memory = {}
    columns = {"database": False, "total_client_login_count": True}
    target = ALL._replace(counters="count")
    for now, count in ((1.0, 3), (2.0, 8)):
        stats, strange = frame(pgbouncer.STATS, 12502, columns, [("shop", count)], target="front")
        found = values(derived(Poll(target, frames=[stats], version=12502), memory, now))
        assert strange == 0
    assert found == {"stats.shop.client_login_count": 5}


@pytest.mark.parametrize("version", VERSIONS)
def test_connections_are_counted_by_what_they_have_in_common(version: str) -> None:
    for query in (pgbouncer.CLIENTS, pgbouncer.SERVERS):
        columns, rows = answer(version, query)
        found, _ = frame(query, number_of(version), columns, rows, target="front")
        at = [m.name for m in found.metrics].index("count") + len(query.labels)
        assert sum(row[at] for row in found.rows) == len(rows)
        assert len({row[: len(query.labels)] for row in found.rows}) == len(found.rows)


def test_connections_beyond_the_budget_are_folded() -> None:
    columns = {"database": False, "user": False, "state": False, "wait": True, "wait_us": True}
    rows = [(f"db{n % 70}", "me", "active", n, 500_000) for n in range(700)]
    found, _ = frame(pgbouncer.CLIENTS, 10800, columns, rows, target="front")
    assert len(found.rows) == 51
    assert found.rows[-1][:4] == (OTHER,) * 4
    assert sum(row[4] for row in found.rows) == 700
    assert max(row[5] for row in found.rows) == 699.5


def test_a_version_nobody_has_recorded() -> None:
    """Unknown columns are counted and passed on, missing ones left out, in any order."""
    columns = {
        "shiny_new": True,
        "maxwait": True,
        "user": False,
        "Odd Näme": True,
        "database": False,
        "cl_active": True,
        "a_text": False,
    }
    rows = [(7, 3, "me", 9, "shop", Decimal(4), "x")]
    found, strange = frame(pgbouncer.POOLS, 20000, columns, rows, target="front")
    assert strange == 3
    assert found.rows == [("shop", "me", 4, 3, 7, 9)]
    names = [m.name for m in found.metrics]
    assert names == ["cl_active", "maxwait_seconds", "shiny_new", "odd_n_me"]


def test_pool_sizes_of_users_are_withheld_where_they_are_wrong() -> None:
    columns, rows = answer("1.24.1", pgbouncer.USERS)
    wrong, strange = frame(pgbouncer.USERS, 12401, columns, rows, target="front")
    right, _ = frame(pgbouncer.USERS, 12600, columns, rows, target="front")
    assert "pool_size" not in [m.name for m in wrong.metrics]
    assert strange == 0
    assert "pool_size" in [m.name for m in right.metrics]


def collecting(tmp_path: Path, dsn: str, *groups: str) -> str:
    path = tmp_path / "pgstats.toml"
    collect = f"collect = {json.dumps(groups)}\n" if groups else ""
    path.write_text(f"[[pgbouncer]]\nname = 'front'\ndsn = \"{dsn}\"\n{collect}")
    return str(path)


def needs_an_old_one(bouncer: Bouncer) -> None:
    version = bouncer.console("SHOW VERSION")
    if number_of(version.removeprefix("PgBouncer ")) >= pgbouncer.STATE.since:
        pytest.skip(f"{version} has an answer to everything")


def test_a_question_that_this_version_has_no_number_for_is_told_and_counted(
    tmp_path: Path, bouncer: Bouncer
) -> None:
    """On the real server: SHOW USERS has numbers from 1.23 on, SHOW PEERS is of 1.19."""
    needs_an_old_one(bouncer)
    file = collecting(tmp_path, bouncer.dsn("pgbouncer", "stats"), "lists", "users", "peers")
    done = pgstats("once", "--dry-run", "--config", file)
    assert done.returncode == 0, "nothing failed"
    assert gauges(done.stdout)["pgstats.self.poll.front.unavailable_queries"] == 2
    for text in ("SHOW USERS has nothing", "came with PgBouncer 1.23", "leave users out"):
        assert text in done.stderr
    assert "SHOW PEERS has nothing to ship here: this is PgBouncer 1.18" in done.stderr
    assert "SHOW LISTS" not in done.stderr
    proven = pgstats("check", "--config", file, "--json")
    notes = [one["message"] for one in json.loads(proven.stdout) if one["status"] == "note"]
    assert [note.split(" has ")[0] for note in notes] == ["SHOW PEERS", "SHOW USERS"]


def test_what_pgstats_asks_by_itself_is_counted_and_not_told(
    tmp_path: Path, bouncer: Bouncer
) -> None:
    """SHOW STATE is among the defaults, and Debian's PgBouncer has none: nobody asked for it."""
    needs_an_old_one(bouncer)
    file = collecting(tmp_path, bouncer.dsn("pgbouncer", "stats"))
    done = pgstats("once", "--dry-run", "--config", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert gauges(done.stdout)["pgstats.self.poll.front.unavailable_queries"] == 1


def test_an_answer_without_any_number_is_told_whatever_the_version(tmp_path: Path) -> None:
    """Of a look-alike, or of a version nobody knows."""
    answers = {"SHOW USERS": table("name pool_mode", "me session", kind=TEXT)}
    with console(answers, "1.30.0") as one:
        file = collecting(tmp_path, f"{one.dsn} dbname=pgbouncer", "users")
        done = pgstats("once", "--dry-run", "--config", file)
    assert gauges(done.stdout)["pgstats.self.poll.front.unavailable_queries"] == 1
    assert "SHOW USERS has nothing to ship here: this is PgBouncer 1.30.0 (leave" in done.stderr


def test_a_group_of_processes_tells_it_once() -> None:
    target = Target(PGBOUNCER, "front", "")
    peers = [
        Poll(target, counts={"unavailable_queries": 1}, notes=["SHOW USERS has nothing"])
        for _ in range(2)
    ]
    whole, *_ = spread(Poll(target, peers=peers, notes=["mind"]))
    assert whole.notes == ["mind", "SHOW USERS has nothing"]
    assert whole.counts["unavailable_queries"] == 1


def test_text_numbers_are_read() -> None:
    columns = {"name": False, "pool_size": False, "current_connections": True}
    rows = [("a", "        7", 1), ("b", "", None)]
    found, _ = frame(pgbouncer.USERS, 12600, columns, rows, target="front")
    assert found.rows == [("a", 7, 1), ("b", None, None)]


def test_labels_in_another_order_are_read_in_that_order() -> None:
    """As after a reload of a file in which somebody has turned them round."""
    metrics = (Metric("waiting", "those that wait"),)
    columns = {"kind": False, "queue": False, "waiting": True}
    for labels in (["kind", "queue"], ["queue", "kind"]):
        query = Query(POSTGRES, "jobs", metrics, "SELECT", labels={name: name for name in labels})
        found, _ = frame(query, 150000, columns, [("mail", "slow", 3)], target="main")
        row = {"kind": "mail", "queue": "slow"}
        assert list(found.query.labels) == labels
        assert found.keys == [tuple(row[name] for name in labels)]


def test_labels_that_come_and_go_are_not_kept() -> None:
    """Python 3.12 keeps for ever what is interned: here 3 MB a round."""
    query = Query(POSTGRES, "jobs", (Metric("n", "how many"),), "SELECT", labels={"job": "job"})
    columns = {"job": False, "n": True}

    def read(start: int) -> None:
        rows = [(f"job {number}", 1) for number in range(start, start + 20_000)]
        assert frame(query, 150000, columns, rows, target="main")[0].height == 20_000

    read(0)
    tracemalloc.start()
    try:
        for number in range(1, 6):
            read(20_000 * number)
        # Python's own table of what is interned may grow once.
        assert tracemalloc.get_traced_memory()[0] < 5_000_000
    finally:
        tracemalloc.stop()
