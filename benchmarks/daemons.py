"""`pgstats run` as it runs: memory, many targets, cadence, idle; and what arrives."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from benchmarks import meter
from benchmarks.case import Goal, Result
from benchmarks.lab import PGSTATS, PYTHON, ROOT, Lab
from benchmarks.meter import Cost
from benchmarks.sinks import Counter
from pgstats.scratch import Cluster
from pgstats.ship import wire

_FOUR = "import psycopg2, click, statsd, schedule"
_STATEMENT = re.compile(r"^([0-9.]+) .*(?:statement|execute)")


@contextmanager
def running(lab: Lab, config: Path) -> Iterator[int]:
    """The daemon; gives its process."""
    argv: list[str | Path] = [PGSTATS, "run", "--no-state", "--quiet", "--config", config]
    log = (lab.scratch.path / "run.log").open("ab")
    process = subprocess.Popen(argv, cwd="/", env=meter.environment(), stderr=log)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def idle(lab: Lab) -> Result:
    """Between two cycles, and the memory of that."""
    dsn = lab.tables(1)
    four = meter.run([PYTHON, "-c", _FOUR])
    config = lab.write(
        "idle.toml", _config(lab, f'interval = "1h"\n{_postgres("main", dsn, "t1")}')
    )
    seconds = 5 if lab.quick else 20
    with running(lab, config) as pid:
        time.sleep(3)
        before = meter.cpu(pid)
        time.sleep(seconds)
        spent = (meter.cpu(pid) - before) / seconds
        memory = meter.status(pid, "VmHWM")
    goals = (
        Goal("idle between cycles: CPU a second", spent, 1, "ms"),
        Goal("memory, idle, against the four packages imported", memory / four.peak, 1.3),
    )
    return Result({f"python -c '{_FOUR}'": four, "pgstats run": Cost(spent, peak=memory)}, goals)


def _config(lab: Lab, text: str) -> str:
    top, _, rest = text.partition("[[")
    return f'{top}[statsd]\nurl = "{lab.sink.url}"\n[[{rest}'


def _postgres(name: str, dsn: str, database: str, more: str = "") -> str:
    return f'[[postgres]]\nname = "{name}"\ndsn = """{dsn}"""\ndatabases = ["{database}"]\n{more}'


def memory(lab: Lab) -> Result:
    """10,000 tables, all of them shipped, beside an idle daemon."""
    small, large = lab.tables(1), lab.tables(10000)
    peaks = []
    for dsn, name, seconds in ((small, "t1", 4), (large, "t10000", 8 if lab.quick else 20)):
        target = _postgres("main", dsn, name, 'tables = "all"\n')
        config = lab.write(f"memory-{name}.toml", _config(lab, f'interval = "2s"\n{target}'))
        with running(lab, config) as pid:
            time.sleep(seconds)
            peaks.append(meter.status(pid, "VmHWM"))
    goal = Goal("memory, 10,000 tables all shipped, more than idle", peaks[1] - peaks[0], 12, "MiB")
    return Result({"1 table": Cost(0, peak=peaks[0]), "10,000": Cost(0, peak=peaks[1])}, (goal,))


def many(lab: Lab) -> Result:
    """Many targets at 10 s: four in five are PgBouncers, the others small databases."""
    count, seconds = (100, 10) if lab.quick else (500, 40)
    small = count // 5
    for number in range(small):
        lab.cluster.psql(f"CREATE DATABASE small{number}; ")
    front = lab.pools(1)
    targets = [
        f'[[pgbouncer]]\nname = "front{n}"\ndsn = """{front.dsn("pgbouncer", "stats")}"""\n'
        for n in range(count - small)
    ] + [_postgres(f"small{n}", lab.cluster.dsn(f"small{n}"), f"small{n}") for n in range(small)]
    config = lab.write("many.toml", _config(lab, f'interval = "10s"\n{"".join(targets)}'))
    lab.sink.skipped = 0
    with running(lab, config) as pid:
        time.sleep(15)  # everything has been polled once
        before, asked, polls = meter.cpu(pid), meter.tree(lab.cluster.pid), lab.sink.polls
        time.sleep(seconds)
        polls = lab.sink.polls - polls
        spent = (meter.cpu(pid) - before) / seconds
        server = (meter.tree(lab.cluster.pid) - asked) / seconds
        made = max(polls * 10 / seconds / count, 0.01)
        peak = meter.status(pid, "VmHWM")
    goals = (
        Goal(
            f"{count} targets at 10 s: share of one core, were all made", spent / 10 / made, 25, "%"
        ),
        Goal(f"{count} targets at 10 s: late polls", lab.sink.skipped, 0, ""),
        Goal(f"{count} targets at 10 s: polls made", made, 0.98, "x", True),
    )
    return Result(
        {f"pgstats run, {count} targets, a second": Cost(spent, server, peak=peak)}, goals
    )


def cadence(lab: Lab) -> Result:
    """Cycles of 1 s with 200 ms of work: the server's log tells when each began."""
    cycles = 10 if lab.quick else 60
    settings = {"log_statement": "all", "log_line_prefix": "%n "}
    with Cluster(lab.scratch, settings, name="cadence") as cluster:
        question = '[[query]]\nname = "work"\nsql = "SELECT 1 AS n FROM pg_catalog.pg_sleep(0.2)"\n'
        target = _postgres("main", cluster.dsn(), "postgres") + question + 'metrics = ["n"]\n'
        config = lab.write("cadence.toml", _config(lab, f'interval = "1s"\n{target}'))
        with running(lab, config):
            time.sleep(cycles + 4)
        found = map(_STATEMENT.match, cluster.log.read_text().splitlines())
        moments = [float(one[1]) for one in found if one]
    starts = [b for a, b in pairwise(moments) if b - a > 0.3][:cycles]
    if len(starts) < cycles:
        raise SystemExit(f"cadence: {len(starts)} cycles of {cycles} seen")
    off = [1000 * (at - starts[0] - k) for k, at in enumerate(starts)]
    late = Goal("cadence: a cycle's start against the grid", max(map(abs, off)), 50, "ms")
    drift = Goal("cadence: drift of the last from the first", abs(off[-1]), 50, "ms")
    return Result(goals=(late, drift))


def delivery(lab: Lab) -> Result:
    """What arrives of 2,000 and 20,000 gauges, with the defaults, at readers with theirs."""
    sys.path.insert(0, str(ROOT))
    from tests.node_statsd import NodeStatsd  # noqa: PLC0415

    program = ROOT / ".cache" / "node_modules" / "statsd" / "stats.js"
    goals = []
    with NodeStatsd(lab.scratch, program, name="bench_statsd") as statsd:
        for count in (2000, 20000):
            text = "".join(f"pgstats.bench.gauge.{n:06d}:{n}|g\n" for n in range(count))
            with Counter(buffer=0) as reader:
                wire(reader.url).ship(text, 60)
                got = reader.settled()
            goals.append(_arrived("a reader", got, count))
            statsd.forget()
            wire(statsd.udp).ship(text, 60)
            time.sleep(1)
            goals.append(_arrived("the statsd of npm", len(statsd.gauges()), count))
    return Result(goals=tuple(goals))


def _arrived(whom: str, got: int, count: int) -> Goal:
    return Goal(f"{count:,} gauges that arrive at {whom}", 100 * got / count, 100, "%", least=True)
