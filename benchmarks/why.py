"""What `pgstats why` costs the server: 500 sessions, 1,000 tables, half of them due for vacuum.

python -m benchmarks.why

CPU time of all processes of PostgreSQL during a run, less what they take without one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg2

from pgstats.scratch import Cluster, Scratch

SESSIONS, TABLES, WATCH, LIMIT = 500, 1000, 10.0, 1.0
SETTINGS = {"max_connections": SESSIONS + 20, "autovacuum": "off", "max_locks_per_transaction": 256}
_TICKS = os.sysconf("SC_CLK_TCK")


def seconds(postmaster: int) -> float:
    """CPU time of a server's processes, those that have ended included."""
    ticks = sum(_times(postmaster)[:4])
    tasks = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    return (ticks + sum(sum(_times(int(pid))[:2]) for pid in tasks)) / _TICKS


def _times(pid: int) -> list[int]:
    """User and system time of a process, then of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(field) for field in fields[11:15]]


def fill(server: Cluster) -> None:
    """Tables with an index each and, in every other one, too many dead rows."""
    for first in range(0, TABLES, 100):
        server.psql(
            "".join(
                f"CREATE TABLE t{n} (i int PRIMARY KEY, v text);"
                f"INSERT INTO t{n} SELECT g, 'x' FROM generate_series(1, 200) g;"
                + (f"DELETE FROM t{n} WHERE i > 50;" if n % 2 else "")
                for n in range(first, first + 100)
            )
        )
    server.psql("ANALYZE")


def main() -> None:
    """Print what a run costs with many idle sessions, and with as many that hold something."""
    with (
        Scratch() as scratch,
        Cluster(scratch, SETTINGS, name="why") as server,
        ExitStack() as all_,
    ):
        fill(server)
        for busy in (False, True):
            for _ in range(SESSIONS // 2):
                one = all_.enter_context(closing(psycopg2.connect(server.dsn())))
                one.autocommit = not busy
                one.cursor().execute("SELECT txid_current()")
            kind = "half of them idle in transaction" if busy else "idle"
            report(server, f"{SESSIONS // 2 * (busy + 1)} sessions, {kind}")


def report(server: Cluster, what: str) -> None:
    """Run it once, and the same time without it."""
    begun = seconds(server.pid)
    time.sleep(WATCH)
    idle = seconds(server.pid) - begun
    argv = [sys.executable, "-m", "pgstats", "why", "--postgres", server.dsn(), "--no-state"]
    begun, now = seconds(server.pid), time.monotonic()
    done = subprocess.run(
        [*argv, "--watch", f"{WATCH:g}s", "--json"], stdout=subprocess.PIPE, check=False
    )
    spent, took = seconds(server.pid) - begun - idle, time.monotonic() - now
    found = json.loads(done.stdout)
    print(
        f"{what}: {spent:.2f} s of the server's CPU, {took:.1f} s in all, verdict "
        f"{found['verdict']}, {len(found['heaps'])} heaps, {len(found['causes'])} causes"
    )
    if spent >= LIMIT:
        sys.exit(f"more than {LIMIT} s")


if __name__ == "__main__":
    main()
