"""`once --sample`: peaks between two runs of cron are seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest

from pgstats.ask.burst import peaks
from pgstats.catalogue.pgbouncer import POOLS
from pgstats.model import PGBOUNCER, Frame, Target
from pgstats.scratch import Bouncer, Cluster, Scratch
from tests.program import gauges, pgstats


@pytest.fixture
def narrow(scratch: Scratch, cluster: Cluster) -> Iterator[Bouncer]:
    """A PgBouncer whose only pool has one server."""
    with Bouncer(
        scratch,
        {"shop": f"{cluster.address} dbname=postgres"},
        stats_users=["stats"],
        settings={"default_pool_size": 1},
        name="burst",
    ) as bouncer:
        bouncer.psql("SELECT 1", "shop")
        yield bouncer


def test_a_short_queue_is_seen(narrow: Bouncer) -> None:
    """Five clients queue for half a second in the middle of the samples."""

    def work() -> None:
        time.sleep(1.0)
        with closing(psycopg2.connect(narrow.dsn("shop"))) as client:
            client.autocommit = True
            client.cursor().execute("SELECT pg_sleep(0.1)")

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    dsn = narrow.dsn("pgbouncer", "stats")
    done = pgstats(
        *("once", "--dry-run", "--pgbouncer", dsn, "--sample", "40", "--every", "50ms"),
        env={"PGSTATS_PREFIX": "p"},
    )
    for thread in threads:
        thread.join()
    assert (done.returncode, done.stderr) == (0, "")
    (where,) = {name.rsplit(".", 1)[0] for name in gauges(done.stdout) if "cl_waiting_max" in name}
    found = {
        name.removeprefix(f"{where}."): value
        for name, value in gauges(done.stdout).items()
        if name.startswith(where)
    }
    assert found["cl_waiting"] == 0, "the poll itself sees nothing"
    assert found["cl_waiting_min"] == 0
    assert found["cl_waiting_max"] >= 3
    assert 0 < found["cl_waiting_mean"] < found["cl_waiting_max"]
    assert found["sv_active_max"] == 1
    assert found["maxwait_max_seconds"] > 0


def test_the_figures_are_those_of_the_samples() -> None:
    names = {m.name: m for m in POOLS.metrics}
    metrics = (names["cl_waiting"], names["sv_active"], names["maxwait_seconds"])

    def sample(*rows: tuple[object, ...]) -> Frame:
        return Frame.of(POOLS, metrics, rows, "front")

    frame = peaks(
        [
            sample(("a", "u", 1, 5, 0.5)),
            sample(("a", "u", 4, 5, 2.5), ("b", "u", 8, 1, 0.0)),
            sample(("a", "u", 1, 5, 0.0)),
            sample(("a", "u", 2, 1, 0.0)),
        ],
        Target(PGBOUNCER, "front", ""),
    )
    by_pool = {
        row[0]: dict(zip([m.name for m in frame.metrics], row[2:], strict=True))
        for row in frame.rows
    }
    assert by_pool["a"]["cl_waiting_min"] == 1
    assert by_pool["a"]["cl_waiting_mean"] == 2
    assert by_pool["a"]["cl_waiting_max"] == by_pool["a"]["cl_waiting_p95"] == 4
    assert by_pool["a"]["sv_active_min"] == 1
    assert by_pool["a"]["maxwait_mean_seconds"] == 0.75
    assert by_pool["b"]["cl_waiting_min"] == 0, "a pool that was not there had nobody waiting"
    assert by_pool["b"]["cl_waiting_mean"] == 2


def test_what_no_sample_knows_is_left_out() -> None:
    names = {m.name: m for m in POOLS.metrics}
    metrics = (names["cl_waiting"], names["sv_active"])
    rows: list[list[tuple[object, ...]]] = [[("a", "u", 2, None)], [("b", "u", None, 3)]]
    samples = [Frame.of(POOLS, metrics, several, "f") for several in rows]
    frame = peaks(samples, Target(PGBOUNCER, "f", ""))
    found = {
        row[0]: dict(zip([m.name for m in frame.metrics], row[2:], strict=True))
        for row in frame.rows
    }
    assert not any(name.startswith("maxwait") for name in found["a"]), "no sample has the column"
    assert (found["a"]["cl_waiting_min"], found["a"]["cl_waiting_max"]) == (0, 2)
    assert found["a"]["sv_active_max"] == 0, "unknown in the one sample, not there in the other"
    assert found["b"]["cl_waiting_max"] == 0
    alone = peaks(samples[:1], Target(PGBOUNCER, "f", ""))
    assert alone.rows[0][-4:] == (None,) * 4


def test_the_percentile_is_a_value_that_was_seen() -> None:
    names = {m.name: m for m in POOLS.metrics}
    samples = [Frame.of(POOLS, (names["cl_waiting"],), [("a", "u", n)], "f") for n in range(1, 101)]
    frame = peaks(samples, Target(PGBOUNCER, "f", ""))
    values = dict(zip([m.name for m in frame.metrics], frame.rows[0][2:], strict=True))
    assert values["cl_waiting_p95"] == 95


def test_wrong_samples_are_usage_errors() -> None:
    assert pgstats("once", "--sample", "1").returncode == 2
    assert pgstats("once", "--sample", "5", "--every", "soon").returncode == 2
    alone = pgstats("once", "--every", "1s", "--postgres", "host=/x")
    assert (alone.returncode, "--every goes with --sample" in alone.stderr) == (2, True)
    found = pgstats("once", "--dry-run", "--postgres", "host=/x", env={"PGSTATS_EVERY": "1s"})
    assert found.returncode == 69, "what stands in the environment is for whom it concerns"
