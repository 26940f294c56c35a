"""Programs from their start to their end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import meter
from benchmarks.case import Goal, Result
from benchmarks.lab import PGSTATS, PYTHON, Lab
from benchmarks.meter import Cost

_PROGRAMS = Path(__file__).parent / "programs"
_SELECT_1 = """import sys, psycopg2
cursor = psycopg2.connect(sys.argv[1]).cursor()
cursor.execute("SELECT 1")
cursor.fetchall()"""
_FETCH = """import sys, pathlib, psycopg2
connection = psycopg2.connect(sys.argv[1])
cursor = connection.cursor()
cursor.execute("SET stats_fetch_consistency = none; SET jit = off; SET search_path = ''")
cursor.execute(pathlib.Path(sys.argv[2]).read_text())
cursor.fetchall()"""
_COMPLETION = {
    "_PGSTATS_COMPLETE": "bash_complete",
    "COMP_WORDS": "pgstats on",
    "COMP_CWORD": "1",
}
#: Numbers of a table that the view shows as well: what the script ships.
VIEW = """\\echo schema table n_live_tup n_dead_tup n_mod_since_analyze n_ins_since_vacuum \
vacuum_count autovacuum_count analyze_count autoanalyze_count seq_scan n_tup_ins
SELECT schemaname, relname, n_live_tup, n_dead_tup, n_mod_since_analyze, n_ins_since_vacuum,
       vacuum_count, autovacuum_count, analyze_count, autoanalyze_count, seq_scan, n_tup_ins
  FROM pg_stat_user_tables;
"""


def commands(lab: Lab) -> Result:
    """What neither polls nor ships."""
    work = {
        "python -c 'import click'": lambda: meter.run([PYTHON, "-c", "import click"]),
        "pgstats --version": lambda: meter.run([PGSTATS, "--version"]),
        "pgstats --help": lambda: meter.run([PGSTATS, "--help"]),
        "completion": lambda: meter.run([PGSTATS], _COMPLETION),
    }
    found = meter.alternately(work, 5 if lab.quick else 21)
    floor, *ours = found
    goals = [
        Goal(f"{name}: CPU against import click", _cpu_ratio(found, name, floor), 1.15)
        for name in ours
    ]
    return Result({name: meter.median(costs) for name, costs in found.items()}, tuple(goals))


def _cpu_ratio(found: dict[str, list[Cost]], ours: str, theirs: str) -> float:
    return meter.ratio(found[ours], found[theirs], lambda cost: cost.client)


def once_small(lab: Lab) -> Result:
    """A database with one table, as a cron job polls it."""
    dsn = lab.tables(1)
    once: list[str | Path] = [
        PGSTATS,
        "once",
        "--no-state",
        "--statsd",
        lab.sink.url,
        "--postgres",
        dsn,
    ]
    script = lab.write("view.sql", VIEW)
    bash: list[str | Path] = ["bash", _PROGRAMS / "script.sh", dsn, str(lab.sink.port), script]
    work = {
        "python: psycopg2, connect, select 1": partial(
            _once, lab, [PYTHON, "-c", _SELECT_1, dsn], 0
        ),
        "pgstats once": partial(_once, lab, once, None),
        "psql | awk script": partial(_once, lab, bash, None),
    }
    found = meter.alternately(work, 5 if lab.quick else 21)
    goal = Goal(
        "once, 1 table: CPU against python, psycopg2, select 1",
        _cpu_ratio(found, "pgstats once", "python: psycopg2, connect, select 1"),
        1.8,
    )
    return Result({name: meter.median(costs) for name, costs in found.items()}, (goal,))


def once_large(lab: Lab) -> Result:
    """10,000 tables, all of them shipped."""
    dsn = lab.tables(10000)
    config = lab.write(
        "all.toml",
        f'[statsd]\nurl = "{lab.sink.url}"\nrate = 0\n[[postgres]]\nname = "main"\n'
        f'dsn = """{dsn}"""\ndatabases = ["t10000"]\ntables = "all"\ntimeout = "60s"\n',
    )
    text = lab.write("all.sql", lab.every_table())
    script = lab.write("view.sql", VIEW)
    bash: list[str | Path] = ["bash", _PROGRAMS / "script.sh", dsn, str(lab.sink.port), script]
    work = {
        "python: fetch of the same rows": partial(_once, lab, [PYTHON, "-c", _FETCH, dsn, text], 0),
        "pgstats once": partial(
            _once, lab, [PGSTATS, "once", "--no-state", "--config", config], None
        ),
        "psql | awk script": partial(_once, lab, bash, None),
    }
    found = meter.alternately(work, 2 if lab.quick else 7)
    ours, script_costs = found["pgstats once"], found["psql | awk script"]
    goals = (
        Goal(
            "once, 10,000 tables all shipped: CPU against python and a fetch of the same rows",
            _cpu_ratio(found, "pgstats once", "python: fetch of the same rows"),
            1.5,
        ),
        Goal(
            "once, 10,000 tables all shipped: CPU per gauge against the script",
            meter.ratio(ours, script_costs, lambda cost: cost.client / cost.gauges),
            0.4,
        ),
    )
    return Result({name: meter.median(costs) for name, costs in found.items()}, goals)


def _once(lab: Lab, argv: Sequence[str | Path], gauges: int | None) -> Cost:
    """A program that asks the cluster, and ships to the sink unless it is said to ship nothing."""
    asked, lines = meter.tree(lab.cluster.pid), lab.sink.lines
    cost = meter.run(argv)
    server = meter.tree(lab.cluster.pid) - asked
    if gauges is None:
        gauges = lab.sink.settled() - lines
    return cost._replace(server=server, gauges=gauges)
