"""Polls a PgBouncer with many pools, beside psql asking the same SHOW commands.

python benchmarks/pools.py [POOLS] [ROUNDS]

Prints medians over the rounds, in which both take turns, and their ratio. It starts a private
PostgreSQL and PgBouncer and uses each pool once, which takes a minute for 5,000 of them.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing

import psycopg2

from pgstats.ask import asker
from pgstats.ask.pgbouncer import wanted
from pgstats.model import PGBOUNCER, Target
from pgstats.scratch import Bouncer, Cluster, Scratch


def filled(scratch: Scratch, cluster: Cluster, pools: int) -> Bouncer:
    """A PgBouncer with so many pools, each used once; its servers are closed at once."""
    names = [f"database_{number:05d}" for number in range(pools)]
    bouncer = Bouncer(
        scratch,
        dict.fromkeys(names, f"{cluster.address} dbname=postgres"),
        stats_users=["stats"],
        settings={"server_lifetime": 0},
    ).start()
    for name in names:
        with closing(psycopg2.connect(bouncer.dsn(name))) as client:
            client.autocommit = True
            client.cursor().execute("SELECT 1")
    return bouncer


def timed(work: Callable[[], object], who: int) -> tuple[float, float]:
    """Wall and CPU seconds of some work, by this process or by its children."""
    before, started = resource.getrusage(who), time.monotonic()
    work()
    wall, after = time.monotonic() - started, resource.getrusage(who)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main(pools: int = 5000, rounds: int = 11) -> None:
    """Measure and print."""
    with Scratch() as scratch, Cluster(scratch) as cluster:
        bouncer = filled(scratch, cluster, pools)
        target = Target(PGBOUNCER, "front", bouncer.dsn("pgbouncer", "stats"))
        asks = asker(target)
        version = asks.poll().version
        shows = "".join(f"{query.sql};\n" for query in wanted(target, version))
        script = scratch.write("shows.sql", shows)
        psql = ["psql", "-XAtq", "-f", str(script), target.dsn]
        figures: dict[str, list[tuple[float, float]]] = {"psql": [], "pgstats": []}
        for _ in range(rounds):
            figures["psql"].append(
                timed(
                    lambda: subprocess.run(psql, stdout=subprocess.DEVNULL, check=True),
                    resource.RUSAGE_CHILDREN,
                )
            )
            figures["pgstats"].append(timed(asks.poll, resource.RUSAGE_SELF))
        bouncer.stop()
    print(f"{pools} pools, PgBouncer {version}, {rounds} rounds; medians in ms")
    medians = {
        name: [statistics.median(column) * 1000 for column in zip(*rows, strict=True)]
        for name, rows in figures.items()
    }
    for name, (wall, cpu) in medians.items():
        print(f"{name:8} wall {wall:7.1f}  client cpu {cpu:7.1f}")
    ratios = [
        ours[0] / theirs[0]
        for ours, theirs in zip(figures["pgstats"], figures["psql"], strict=True)
    ]
    print(f"wall, pgstats / psql: {statistics.median(ratios):.2f} (at most 2 is the goal)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
