"""The trigger ratio is above 1 exactly where the server's own autovacuum goes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import psycopg2
import pytest

from pgstats.catalogue.postgres.heaps import READ, SETTINGS, heaps
from pgstats.catalogue.postgres.tables import choice, named, rest, select
from pgstats.scratch import Cluster, Scratch
from tests.why import until

SPENT = 110_000
SHARED = 10_100
#: Name, columns, options, what happens to 1,000 rows that were analyzed, and whether it is due.
CASES: dict[str, tuple[str, str, bool]] = {
    # Threshold 50 + 0.2 x 1,000: it takes more than that.
    "at_threshold": ("", "DELETE FROM {} WHERE i <= 250", False),
    "above_threshold": ("", "DELETE FROM {} WHERE i <= 251", True),
    "own_base": ("autovacuum_vacuum_threshold = 400", "DELETE FROM {} WHERE i <= 600", False),
    "own_base_above": ("autovacuum_vacuum_threshold = 400", "DELETE FROM {} WHERE i <= 601", True),
    "own_scale": ("autovacuum_vacuum_scale_factor = 1e-2", "DELETE FROM {} WHERE i <= 60", False),
    "own_scale_above": (
        "autovacuum_vacuum_scale_factor = .01",
        "DELETE FROM {} WHERE i < 62",
        True,
    ),
    "nothing": ("", "SELECT FROM {}", False),
    **{
        f"spelled_{word}": (
            f"autovacuum_enabled = {word}",
            "DELETE FROM {}",
            word in ("true", "on"),
        )
        for word in ("off", "false", "no", "0", "true", "on")
    },
    # Inserts: 1,000 + 0.2 x 1,000.
    "inserts": ("", "INSERT INTO {} SELECT generate_series(1, 1200)", False),
    "inserts_above": ("", "INSERT INTO {} SELECT generate_series(1, 1201)", True),
    "inserts_off": (
        "autovacuum_vacuum_insert_threshold = -1",
        "INSERT INTO {} SELECT generate_series(1, 5000)",
        False,
    ),
    "inserts_own": (
        "autovacuum_vacuum_insert_threshold = 0, autovacuum_vacuum_insert_scale_factor = 0.5",
        "INSERT INTO {} SELECT generate_series(1, 501)",
        True,
    ),
    # A vacuum against wraparound comes whatever the options say.
    "old_and_off": (
        "autovacuum_enabled = off, autovacuum_freeze_max_age = 100000",
        "SELECT FROM {}",
        True,
    ),
    "old_mxids_and_off": (
        "autovacuum_enabled = off, autovacuum_multixact_freeze_max_age = 10000",
        "SELECT FROM {}",
        True,
    ),
    # Of option and setting the smaller one holds.
    "not_yet_old": (
        "autovacuum_enabled = off, autovacuum_freeze_max_age = 2000000000",
        "SELECT FROM {}",
        False,
    ),
}
#: What is summed up, or the largest, over all rows of an answer.
SUMMED = (
    "tables",
    "n_live_tup",
    "n_dead_tup",
    "n_ins_since_vacuum",
    "tables_over_trigger",
    "tables_disabled",
    "tables_never_vacuumed",
    "tables_without_stats",
    "n_dead_tup_toast",
    "size_estimate_bytes",
    "worst_vacuum_trigger_ratio",
    "worst_freeze_ratio",
)
#: Two lockers of one row are a multixact: a transaction and a part of itself will do.
_SHARE = f"""CREATE TABLE shared AS SELECT 1 AS i;
DO $$ BEGIN
  FOR n IN 1..{SHARED} LOOP
    PERFORM FROM shared FOR SHARE;
    BEGIN PERFORM FROM shared FOR UPDATE; EXCEPTION WHEN division_by_zero THEN NULL; END;
    COMMIT;
  END LOOP;
END $$;
DROP TABLE shared"""


@pytest.fixture(scope="module")
def server(scratch: Scratch) -> Iterator[Cluster]:
    """Autovacuum is on, and sleeps until it is woken."""
    settings: dict[str, object] = {
        "autovacuum_naptime": "1h",
        "autovacuum_max_workers": 1,
        "log_autovacuum_min_duration": 0,
        "log_min_messages": "debug3",
        "max_connections": 20,
    }
    with Cluster(scratch, settings, name="trigger") as cluster:
        cluster.psql("CREATE FUNCTION nothing() RETURNS void LANGUAGE sql AS 'SELECT'")
        yield cluster


def make(cluster: Cluster) -> dict[str, bool]:
    """All tables, and whether the server is expected to vacuum each of their heaps."""
    expected = {}
    for name, (options, change, due) in CASES.items():
        clause = f"WITH ({options})" if options else ""
        cluster.psql(f"CREATE TABLE {name} (i int) {clause}")
        cluster.psql(f"INSERT INTO {name} SELECT generate_series(1, 1000)")
        cluster.psql(f"VACUUM ANALYZE {name}")
        cluster.psql(change.format(name))
        expected[name] = due
    return expected | others(cluster)


def others(cluster: Cluster) -> dict[str, bool]:
    """TOAST tables with options of their own and without, a partition, a view, one never seen."""
    wide = "ALTER TABLE {0} ALTER v SET STORAGE EXTERNAL; INSERT INTO {0} SELECT repeat('x', 5000) "
    wide += "FROM generate_series(1, 200)"
    options = {
        "toast_plain": "",
        "toast_of_its_table": "autovacuum_vacuum_threshold = 5000",
        "toast_on_its_own": "autovacuum_vacuum_threshold = 5000, toast.autovacuum_enabled = on",
        "toast_off": "toast.autovacuum_enabled = off",
    }
    expected = {}
    for name, clause in options.items():
        cluster.psql(f"CREATE TABLE {name} (v text) {f'WITH ({clause})' if clause else ''}")
        cluster.psql(wide.format(name))
        cluster.psql(f"VACUUM ANALYZE {name}")
        cluster.psql(f"UPDATE {name} SET v = v || 'y'")
        toast = cluster.psql(
            f"SELECT t.relname FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid "
            f"WHERE c.relname = '{name}'"
        )
        expected[toast] = name in ("toast_plain", "toast_on_its_own")
        expected[name] = name in ("toast_plain", "toast_off")
    cluster.psql(
        "CREATE TABLE parted (i int) PARTITION BY RANGE (i);"
        "CREATE TABLE leaf PARTITION OF parted FOR VALUES FROM (0) TO (5000);"
        "INSERT INTO parted SELECT generate_series(1, 1000)"
    )
    cluster.psql("VACUUM ANALYZE leaf")
    cluster.psql("DELETE FROM parted WHERE i < 500")
    cluster.psql("CREATE TABLE never (i int); INSERT INTO never SELECT generate_series(1, 51)")
    cluster.psql("DELETE FROM never")
    cluster.psql("CREATE UNLOGGED TABLE unlogged AS SELECT generate_series(1, 1000) i")
    cluster.psql("VACUUM ANALYZE unlogged")
    cluster.psql("DELETE FROM unlogged")
    cluster.psql("CREATE MATERIALIZED VIEW seen AS SELECT i FROM at_threshold")
    cluster.psql("CREATE UNIQUE INDEX ON seen (i)")
    cluster.psql("VACUUM ANALYZE seen")
    return expected | {"leaf": True, "never": True, "unlogged": True, "seen": False}


def newest(cluster: Cluster) -> dict[str, bool]:
    """What only 18 has: a cap, and inserts measured by what is not frozen."""
    for name, clause in {"capped": "100", "uncapped": "-1"}.items():
        cluster.psql(
            f"CREATE TABLE {name} (i int) WITH (autovacuum_vacuum_max_threshold = {clause})"
        )
        cluster.psql(f"INSERT INTO {name} SELECT generate_series(1, 1000)")
        cluster.psql(f"VACUUM ANALYZE {name}")
        cluster.psql(f"DELETE FROM {name} WHERE i <= 101")
    cluster.psql("CREATE TABLE frozen (i int)")
    cluster.psql("INSERT INTO frozen SELECT generate_series(1, 20000)")
    cluster.psql("VACUUM (FREEZE, ANALYZE) frozen")
    cluster.psql("INSERT INTO frozen SELECT generate_series(1, 1500)")
    return {"capped": True, "uncapped": False, "frozen": True}


def ratios(cluster: Cluster) -> dict[str, float | None]:
    """The ratio of every heap that the test has made."""
    version = int(cluster.psql("SHOW server_version_num"))
    sql = (
        f"WITH RECURSIVE {heaps(version)} SELECT name, ratio FROM heap "
        "WHERE owner_schema NOT IN ('pg_catalog', 'information_schema')"
    )
    with closing(psycopg2.connect(cluster.dsn())) as connection:
        cursor = connection.cursor()
        cursor.execute(sql, settings(cursor))
        return dict(cursor.fetchall())


def settings(cursor: Any) -> dict[str, Any]:
    """What autovacuum goes by."""
    cursor.execute(f"SELECT {READ}")
    return dict(zip(SETTINGS, *cursor, strict=True))


def test_the_ratio_is_the_servers_decision(server: Cluster) -> None:
    expected = make(server)
    if int(server.psql("SHOW server_version_num")) >= 180000:
        expected |= newest(server)
    server.psql(
        f"DO $$ BEGIN FOR n IN 1..{SPENT} LOOP PERFORM txid_current(); COMMIT; END LOOP; END $$"
    )
    server.psql(_SHARE)
    until(lambda: settled(server))
    with closing(psycopg2.connect(server.dsn())) as owner:
        owner.autocommit = True
        cursor = owner.cursor()
        cursor.execute("CREATE TEMP TABLE mine AS SELECT generate_series(1, 1000) i")
        cursor.execute("DELETE FROM mine")
        found = ratios(server)
        assert found.pop("mine") is None
        due = {name: ratio is not None and ratio > 1 for name, ratio in found.items()}
        mine = {name: due[name] for name in expected}
        assert mine == expected
        same_whatever_the_way(server)
        server.settings["autovacuum_naptime"] = "1s"
        server.reload()
        until(lambda: {n for n, is_due in due.items() if is_due} <= visited(server), 60)
        assert visited(server) - {n for n, is_due in due.items() if is_due} == set()


def same_whatever_the_way(server: Cluster) -> None:
    """The answer of all tables does not depend on how it is come by, nor on how many have names."""
    server.psql("VACUUM pg_attribute")  # time that is spent on a catalog counts for no table
    whole = of_few(server, 1000)
    assert {table for _, table in whole} > {"parted", "toast_on_its_own", "_other"}
    totals = [total(whole, name) for name in SUMMED]
    for number in (0, 1, 7, 1000):
        few = of_few(server, number)
        members = [row["root"] for row in few.values() if row["root"] is not None]
        assert [total(few, name) for name in SUMMED] == totals
        assert of_many(server, number) == few
        assert of_many(server, number, members) == of_few(server, number, members)


def total(rows: dict[tuple[str, str], dict[str, Any]], name: str) -> float:
    values = [row[name] or 0 for row in rows.values()]
    return max(values) if name.startswith("worst") else sum(values)


Table = dict[str, Any]


def of_few(
    server: Cluster, number: int, members: Sequence[int] = ()
) -> dict[tuple[str, str], Table]:
    """By the one statement: all but what changes with time, by schema and table."""
    asked = {"tables": number, "members": list(members)}
    return by_name(answer(server, partial(select, globs=False), asked))


def of_many(
    server: Cluster, number: int, members: Sequence[int] = ()
) -> dict[tuple[str, str], Table]:
    """The same by the three; who is to stay need not be chosen."""
    if not number:
        return by_name(answer(server, partial(rest, globs=False, named=False), {}))
    asked: dict[str, Any] = {"tables": number, "members": list(members)}
    if not members:
        roots = answer(server, partial(choice, globs=False), asked)
        asked["members"] = [row["root"] for row in roots]
    rows = answer(server, partial(named, globs=False), asked)
    asked["heaps"] = [oid for row in rows for oid in row.pop("heaps")]
    return by_name([*rows, *answer(server, partial(rest, globs=False), asked)])


def by_name(rows: Sequence[Table]) -> dict[tuple[str, str], Table]:
    gone = [name for name in rows[0] if name.endswith("_age_seconds")] + ["need"]
    return {
        (row["schema"] or "_other", row["table"] or "_other"): {
            name: value for name, value in row.items() if name not in gone
        }
        for row in rows
    }


def answer(server: Cluster, sql: Callable[[int], str], asked: dict[str, Any]) -> list[Table]:
    version = int(server.psql("SHOW server_version_num"))
    with closing(psycopg2.connect(server.dsn())) as connection:
        cursor = connection.cursor()
        cursor.execute(sql(version), asked | settings(cursor))
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]


def settled(server: Cluster) -> bool:
    """Whether the server has counted everything."""
    counts = dict(
        line.split("|")
        for line in server.psql(
            "SELECT relname, n_dead_tup FROM pg_stat_user_tables "
            "WHERE relname IN ('at_threshold', 'never', 'unlogged')"
        ).splitlines()
    )
    return counts == {"at_threshold": "250", "never": "51", "unlogged": "1000"}


def visited(server: Cluster) -> set[str]:
    """The heaps of users that autovacuum has vacuumed, by the server's log."""
    text = server.log.read_text(errors="replace")
    made = set(ratios(server))
    lines = re.findall(r'automatic [a-z ]*vacuum [a-z ]*of table "postgres\.\w+\.(\w+)"', text)
    lines += re.findall(r'automatic vacuum of table "postgres\.\w+\.(\w+)"', text)
    return {name for name in lines if name in made}
