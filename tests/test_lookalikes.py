"""Consoles that answer otherwise than any PgBouncer that was recorded: each costs its own answers.

What lacks what a question needs is that question's failure; what merely lacks a number is silent.
"""

from __future__ import annotations

import pytest

from pgstats.ask import asker
from pgstats.ask.burst import Burst
from pgstats.ask.proof import prove
from pgstats.model import PGBOUNCER, Poll, Target
from pgstats.scratch import Cluster
from pgstats.shape import derived
from tests.console import NUMERIC, TEXT, WHOLE, Answer, console, table
from tests.program import gauges, pgstats
from tests.test_derived import values

#: A console that answers like PgBouncer 1.18.
SOUND: dict[str, Answer] = {
    "SHOW STATS": table("database total_xact_count total_query_count", "shop 5 7"),
    "SHOW POOLS": table(
        "database user cl_active cl_waiting sv_active sv_idle maxwait maxwait_us",
        "shop me 3 0 2 1 0 0",
    ),
    "SHOW LISTS": table("list items", "used_clients 4", "pools 1", kind=WHOLE),
    "SHOW DATABASES": table("name pool_size paused", "shop 20 0", kind=WHOLE),
    "SHOW CONFIG": table("key value", "max_client_conn 100"),
}


def poll(answers: dict[str, Answer], burst: Burst | None = None) -> tuple[Poll, dict[str, float]]:
    """A poll of such a console, and all its numbers, the derived ones included."""
    with console(answers) as one:
        found = asker(Target(PGBOUNCER, "front", one.dsn), burst).poll()
    return found, values([*found.frames, *derived(found, {}, 1.0)])


def test_the_sound_one_is_read_whole() -> None:
    found, numbers = poll(SOUND)
    assert found.ok, found.problems()
    assert numbers["pools.shop.me.cl_active"] == 3
    assert numbers["pools.shop.me.pool_utilization"] == 0.1
    assert numbers["lists.client_utilization"] == 0.04


@pytest.mark.parametrize(
    ("word", "value"),
    [("1.5", 1.5), ("7.0", 7), ("9007199254740993", 9007199254740993), ("NaN", None)],
)
def test_numeric_is_whole_or_fractional_or_unknown(word: str, value: float | None) -> None:
    stats = table("database total_xact_count total_query_count", f"shop {word} 7")
    found, numbers = poll(SOUND | {"SHOW STATS": stats})
    assert found.ok, found.problems()
    assert numbers.get("stats.shop.total_xact_count") == value
    assert numbers["stats.shop.total_query_count"] == 7
    assert numbers["pools.shop.me.cl_active"] == 3, "what is asked after that is read as well"


@pytest.mark.parametrize("kind", [WHOLE, NUMERIC])
def test_what_is_no_number_is_a_failure_of_that_question(kind: int) -> None:
    bad = ([("database", TEXT), ("total_xact_count", kind)], [["shop", "many"]])
    found, numbers = poll(SOUND | {"SHOW STATS": bad})
    (failure,) = found.failures
    assert (failure.stage, failure.reason, failure.trace) == ("SHOW STATS", "other", "")
    assert "no number" in failure.message
    assert numbers["pools.shop.me.cl_active"] == 3


DOUBLE: Answer = ([("database", TEXT), ("x", NUMERIC), ("x", NUMERIC)], [["shop", "1", "2"]])
UNFIT = {
    "no database": ("SHOW STATS", table("total_xact_count", "5"), "no column database"),
    "no user": ("SHOW POOLS", table("database cl_active", "shop 3"), "no column user"),
    "no name": ("SHOW DATABASES", table("database pool_size", "shop 2"), "no column name"),
    "no list": ("SHOW LISTS", table("what items", "pools 2"), "no column list"),
    "no value": ("SHOW CONFIG", table("key current", "pool_mode 2"), "no column value"),
    "the same name twice": ("SHOW STATS", DOUBLE, "the same name"),
    "no table": ("SHOW STATS", table(""), "no table"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_an_answer_without_what_it_needs_fails_alone(case: str) -> None:
    sql, bad, said = UNFIT[case]
    found, numbers = poll(SOUND | {sql: bad})
    assert found.up
    (failure,) = found.failures
    assert (failure.stage, failure.reason, failure.trace) == (sql, "other", "")
    assert said in failure.message
    groups = {name.partition(".")[0] for name in numbers}
    mine = sql.removeprefix("SHOW ").lower()
    assert {"stats", "pools", "lists", "databases", "config"} - groups == {mine}


SPARSE = {
    "no maxwait": table("database user cl_active cl_waiting sv_active", "shop me 3 1 2"),
    "maxwait unknown": table(
        "database user cl_active cl_waiting sv_active maxwait", "shop me 3 1 2 ~"
    ),
    "no servers": table("database user cl_active cl_waiting maxwait", "shop me 3 1 0"),
    "servers unknown": table(
        "database user cl_active cl_waiting sv_active maxwait", "shop me 3 1 ~ 0"
    ),
    "no clients": table("database user sv_active maxwait", "shop me 2 0"),
    "clients unknown": table(
        "database user cl_active cl_waiting sv_active maxwait", "shop me ~ ~ 2 0"
    ),
    "nothing": table("database user", "shop me"),
    "nobody": table("database user cl_active cl_waiting sv_active maxwait"),
}


@pytest.mark.parametrize("case", SPARSE)
def test_missing_and_unknown_numbers_are_silent(case: str) -> None:
    found, numbers = poll(SOUND | {"SHOW POOLS": SPARSE[case]}, Burst(2, 0.01))
    assert found.ok, found.problems()
    mine = {name for name in numbers if name.startswith("pools.")}
    metrics = {name.rpartition(".")[2] for name in mine}
    assert ("pool_utilization" in metrics) == (
        case in ("no maxwait", "maxwait unknown") or "clients" in case
    )
    assert ("waiting_for_seconds" in metrics) == ("maxwait" in case or "servers" in case)
    assert ("maxwait_seconds" in metrics) == ("maxwait_max_seconds" in metrics)
    assert ("sv_active" in metrics) == ("sv_active_p95" in metrics)
    assert ("cl_waiting" in metrics) == ("cl_waiting_min" in metrics)


@pytest.mark.parametrize(
    ("sql", "answer"),
    [
        ("SHOW LISTS", table("list items", "used_clients ~", "pools 1")),
        ("SHOW LISTS", table("list items", "pools 1")),
        ("SHOW CONFIG", table("key value", "max_client_conn ~")),
        ("SHOW CONFIG", table("key value", "max_client_conn 0")),
        ("SHOW CONFIG", table("key value")),
    ],
)
def test_saturation_needs_both_its_numbers(sql: str, answer: Answer) -> None:
    found, numbers = poll(SOUND | {sql: answer})
    assert found.ok, found.problems()
    assert "lists.client_utilization" not in numbers


def test_an_empty_configuration_is_no_bug_of_check() -> None:
    with console(SOUND | {"SHOW CONFIG": table("key value")}) as one:
        findings = prove(Target(PGBOUNCER, "front", one.dsn))
    assert [finding.status for finding in findings] == ["ok"]


def test_a_lookalike_costs_its_own_answers_and_exit_1(cluster: Cluster) -> None:
    """Two look-alikes beside a real server, asked side by side."""
    broken = SOUND | {"SHOW POOLS": table("cl_active", "3"), "SHOW STATS": table("x", "NaN")}
    with console(broken) as one, console(SOUND) as other:
        done = pgstats(
            *("once", "--dry-run", "--no-state", "--postgres", cluster.dsn()),
            *("--pgbouncer", one.dsn, "--pgbouncer", other.dsn),
        )
        proof = pgstats("check", "--pgbouncer", one.dsn, "--pgbouncer", other.dsn)
    found = gauges(done.stdout)
    mine = f"pgstats.pgbouncer.127_0_0_1_{one.port}"
    assert done.returncode == 1, done.stderr
    assert [line.partition(": ")[2] for line in sorted(done.stderr.splitlines())] == [
        "SHOW POOLS: the answer has no column database (is this a PgBouncer? leave the question "
        "out with collect = [...])",
        "SHOW STATS: the answer has no column database (is this a PgBouncer? leave the question "
        "out with collect = [...])",
    ]
    assert found[f"{mine}.up"] == 1
    assert found[f"{mine}.lists.used_clients"] == 4
    assert found[f"pgstats.self.poll.127_0_0_1_{one.port}.failed_queries"] == 2
    assert found[f"pgstats.pgbouncer.127_0_0_1_{other.port}.pools.shop.me.cl_active"] == 3
    assert {value for name, value in found.items() if name.endswith(".up")} == {1}
    assert proof.returncode == 1
    assert "the answer has no column database" in proof.stdout
    assert f"127_0_0_1_{other.port}: PgBouncer 1.18.0 answered" in proof.stdout
