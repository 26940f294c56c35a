"""The horizon, the causes and vacuums in vain as gauges of every poll."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgstats import why
from pgstats.ask import pages
from pgstats.catalogue.postgres.horizon import VAIN
from pgstats.model import POSTGRES, Target
from pgstats.scratch import Cluster, Scratch
from tests.program import gauges, pgstats
from tests.test_ask_postgres import poll
from tests.why import churn, churning, dead, session, until, value, watched


@pytest.fixture(scope="module")
def server(scratch: Scratch) -> Iterator[Cluster]:
    with watched(scratch, "why-gauges") as cluster:
        cluster.psql("CREATE TABLE elsewhere (i int)")
        yield cluster


@pytest.fixture
def table(server: Cluster) -> Iterator[str]:
    with churning(server) as name:
        yield name


def shown(server: Cluster, user: str = "watcher") -> dict[str, float]:
    """What a single look ships, names without their beginning."""
    done = pgstats("once", "--postgres", server.dsn(user=user), "--dry-run", "--no-state")
    return short(done.stdout)


def short(text: str) -> dict[str, float]:
    return {
        name.split(".", 3)[3]: number
        for name, number in gauges(text).items()
        if name.count(".") > 2
    }


def ages(found: dict[str, float]) -> dict[str, float]:
    """The holders that hold something, and since how many transactions."""
    return {
        name.split(".")[1]: number
        for name, number in found.items()
        if name.startswith("horizon.") and name.endswith("age_xids") and number
    }


def test_nobody_holds_and_every_kind_is_zero(server: Cluster) -> None:
    found = shown(server)
    kinds = ("backend", "prepared", "slot_xmin", "slot_catalog_xmin", "standby", "oldest")
    for kind in kinds:
        assert found[f"horizon.{kind}.age_xids"] == found[f"horizon.{kind}.age_seconds"] == 0
    assert {found[n] for n in found if n.startswith("why.")} == {0}


def test_each_kind_is_under_its_own_name(server: Cluster) -> None:
    server.psql("BEGIN; INSERT INTO elsewhere VALUES (1); PREPARE TRANSACTION 'kept'")
    try:
        assert set(ages(shown(server))) == {"prepared", "oldest"}
        with session(server, "INSERT INTO elsewhere VALUES (1)"):
            server.psql("INSERT INTO elsewhere VALUES (1)")
            before = value(server, "SELECT age(transaction) FROM pg_prepared_xacts")
            found = shown(server)
            after = value(server, "SELECT age(transaction) FROM pg_prepared_xacts")
            assert set(ages(found)) == {"backend", "prepared", "oldest"}
            assert float(before) <= found["horizon.prepared.age_xids"] <= float(after)
            assert found["horizon.oldest.age_xids"] == found["horizon.prepared.age_xids"]
            assert 0 < found["horizon.backend.age_seconds"] < 60
    finally:
        server.psql("ROLLBACK PREPARED 'kept'")
    assert not ages(shown(server))


def test_a_logical_slot(server: Cluster) -> None:
    server.psql("SELECT pg_create_logical_replication_slot('unread', 'pgoutput')")
    try:
        server.psql("CREATE TABLE away (i int); DROP TABLE away")
        before = value(server, "SELECT age(catalog_xmin) FROM pg_replication_slots")
        found = ages(shown(server))
        after = value(server, "SELECT age(catalog_xmin) FROM pg_replication_slots")
        assert set(found) == {"slot_catalog_xmin", "oldest"}
        assert float(before) <= found["slot_catalog_xmin"] == found["oldest"] <= float(after)
    finally:
        server.psql("SELECT pg_drop_replication_slot('unread')")


def test_where_rights_hide_the_start_no_seconds_are_sent(server: Cluster) -> None:
    with session(server, "INSERT INTO elsewhere VALUES (1)"):
        server.psql("INSERT INTO elsewhere VALUES (1)")
        found = shown(server, "blind")
        assert found["horizon.backend.age_xids"] > 0
        assert "horizon.backend.age_seconds" not in found
        assert found["horizon.prepared.age_seconds"] == 0


def test_a_slot_without_a_time_is_as_old_as_it_was_first_seen(
    server: Cluster, tmp_path: Path
) -> None:
    if int(server.psql("SHOW server_version_num")) >= 170000:
        pytest.skip("from 17 on the server tells")
    server.psql("SELECT pg_create_logical_replication_slot('unread', 'pgoutput')")
    try:
        state = tmp_path / "state"
        for _ in range(2):
            remembered(server, state)
        found = remembered(server, state)
        assert found["horizon.slot_catalog_xmin.age_seconds"] > 0
    finally:
        server.psql("SELECT pg_drop_replication_slot('unread')")


def remembered(server: Cluster, state: Path) -> dict[str, float]:
    """What a one-shot run ships that remembers the ones before it."""
    dsn = server.dsn(user="watcher")
    run = ("once", "--postgres", dsn, "--state", str(state))
    shown = pgstats(*run, "--dry-run")
    pgstats(*run, "--statsd", "udp://127.0.0.1:9")
    return short(shown.stdout)


def test_a_vacuum_in_vain_is_counted_until_one_helps(
    server: Cluster, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all tables are shown, which come in pages."""
    state = tmp_path / "state"
    name = "database.postgres.tables_vacuumed_in_vain"
    monkeypatch.setattr(pages, "PAGE", 1)
    every = Target(POSTGRES, "main", server.dsn(), databases=("postgres",), tables=None)
    memory: dict[str, Any] = {}
    with session(server, "INSERT INTO elsewhere VALUES (1)"):
        churn(server, table)
        assert name not in remembered(server, state)
        assert in_vain(every, memory) == []
        before = vacuums(server)
        until(lambda: vacuums(server) > before)
        assert remembered(server, state)[name] == 1
        assert in_vain(every, memory) == [("postgres", 1)]
    until(lambda: dead(server, table) == 0)
    assert remembered(server, state)[name] == 0
    assert in_vain(every, memory) == [("postgres", 0)]
    known = memory["vacuums"]["postgres"]
    assert {table, "elsewhere"} <= set(known["public"])
    server.psql("ALTER TABLE elsewhere RENAME TO gone")
    in_vain(every, memory)
    assert "elsewhere" not in known["public"]
    server.psql("ALTER TABLE gone RENAME TO elsewhere")


def in_vain(target: Target, memory: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The rows of the gauge after another poll."""
    found = poll(target)
    assert found.ok, found.problems()
    return [row for frame in why.frames(found, memory) if frame.query is VAIN for row in frame.rows]


def vacuums(server: Cluster) -> int:
    sql = "SELECT autovacuum_count FROM pg_stat_all_tables WHERE relname = 'churned'"
    return int(server.psql(sql))
