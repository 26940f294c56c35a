"""`pgstats nagios`: its thresholds, and its answers from real servers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgstats.catalogue import QUERIES
from pgstats.catalogue.limits import LIMITS
from pgstats.cli.threshold import Threshold, contradict, threshold
from pgstats.cli.viewing import group_of
from pgstats.scratch import Bouncer, Cluster
from tests.program import pgstats
from tests.test_run import config

ODD = "a|b'c=d\x1b[2J\n"


@pytest.mark.parametrize(
    ("text", "value", "limit", "unit", "crossed"),
    [
        ("10", 9.9, None, "", False),
        ("10", 10, None, "", True),
        ("80%", 79, 100, "", False),
        ("80%", 80, 100, "", True),
        ("80%", 500, 0, "", False),
        ("80%", 500, None, "", False),
        ("80%", 0.8, None, "ratio", True),
        ("80%", 0.79, None, "ratio", False),
        ("-5", 94, 100, "", False),
        ("-5", 95, 100, "", True),
        ("-5", 95, 0, "", False),
        ("1:", 1, None, "", False),
        ("1:", 0, None, "", True),
        ("0.5", 0.5, None, "seconds", True),
    ],
)
def test_thresholds(text: str, value: float, limit: float | None, unit: str, crossed: bool) -> None:
    found = threshold(text)
    assert found
    assert found.crossed(value, limit, unit) is crossed


@pytest.mark.parametrize("text", ["", "x", "-5%", "-5:", "5%%", "%", "1e3", "--5"])
def test_what_is_no_threshold(text: str) -> None:
    assert threshold(text) is None


@pytest.mark.parametrize(
    ("warning", "critical", "wrong"),
    [
        *(("1", "2", False), ("2", "1", True), ("1%", "2%", False), ("-5", "-2", False)),
        *(("-2", "-5", True), ("5:", "2:", False), ("2:", "5:", True), ("90", "5%", False)),
    ],
)
def test_warnings_come_first(warning: str, critical: str, wrong: bool) -> None:
    first, second = threshold(warning), threshold(critical)
    assert isinstance(first, Threshold)
    assert isinstance(second, Threshold)
    assert contradict(first, second) is wrong


def test_limits_are_metrics_whose_rows_fit() -> None:
    labels = {}
    for query in QUERIES:
        for metric in query.metrics:
            labels[group_of(query), metric.name] = set(query.labels)
    for place, limit in LIMITS.items():
        assert labels[limit] <= labels[place], place


@pytest.fixture(scope="module")
def odd(bouncer: Bouncer, cluster: Cluster) -> Iterator[Bouncer]:
    """A pool to a database whose name would break a line of perfdata."""
    quoted = ODD.replace('"', '""')
    cluster.psql(f'CREATE DATABASE "{quoted}" TEMPLATE template0')
    bouncer.psql("SELECT 1", ODD)
    yield bouncer
    bouncer.console(f'KILL "{quoted}"')
    bouncer.console(f'RESUME "{quoted}"')
    cluster.psql(f'DROP DATABASE "{quoted}" WITH (FORCE)')


def asked(server: Bouncer | Cluster, user: str) -> list[str]:
    return ["-H", server.host, "-p", str(server.port), "-U", user]


PERFDATA = re.compile(r"('(?:[^']|'')+')=(-?[\d.e+-]+)(s|us|ms|B|c)?(;[\d.:]*(;[\d.:]*)?)?")


def judge(output: str) -> list[tuple[str, float]]:
    """The numbers of the perfdata, which nothing else may be in."""
    first = output.splitlines()[0]
    text, bar, data = first.partition(" | ")
    assert bar
    assert "|" not in text
    found = PERFDATA.findall(data)
    assert PERFDATA.sub("", data).strip() == ""
    return [(name, float(value)) for name, value, *_ in found]


def test_perfdata_of_odd_names(odd: Bouncer) -> None:
    words = ["pools.maxwait_seconds", "-w", "1", "-c", "5", *asked(odd, "stats")]
    done = pgstats("nagios", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("PGSTATS OK: pools.maxwait_seconds is 0 at ")
    names = [name for name, _ in judge(done.stdout)]
    assert any("a_b''c_d\\x1b[2J" in name for name in names)
    assert done.stdout.isprintable() or done.stdout[:-1].isprintable()
    assert "=0s;1;5" in done.stdout


def test_states_of_real_numbers(cluster: Cluster) -> None:
    server = asked(cluster, "postgres")
    usable = int(cluster.psql("SHOW max_connections")) - 3

    def state(*words: str) -> int:
        return pgstats("nagios", *words, *server).returncode

    assert state("connections.used", "-w", "95%", "-c", "99%") == 0
    assert state("connections.used", "-w", "0%", "-c", "99%") == 1
    assert state("connections.used", "-w", "0%", "-c", str(-usable)) == 2
    assert state("connections.used", "-c", "-1") == 0
    assert state("connections.utilization", "-w", "0%") == 1
    assert state("postgres.up", "-c", "1:") == 0
    assert state("sessions.count", "--where", "state=active", "-c", "1:") in (0, 2)


def test_the_worst_target_counts(cluster: Cluster, tmp_path: Path) -> None:
    down = ("postgres", "gone", "host=/nowhere user=x")
    file = config(tmp_path, "udp://127.0.0.1:9", ("postgres", "main", cluster.dsn()), down)
    done = pgstats("nagios", "connections.used", "-w", "1000", "--config", file)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith("PGSTATS CRITICAL: gone: connect: /nowhere")
    assert [name for name, _ in judge(done.stdout)] == ["'main'"]
    alone = ["--config", file, "--target", "main"]
    assert pgstats("nagios", "connections.used", "-w", "1000", *alone).returncode == 0


def test_what_is_not_known(cluster: Cluster) -> None:
    words = ["tables.n_dead_tup", "-w", "1", "--where", "table=nosuch"]
    done = pgstats("nagios", *words, *asked(cluster, "postgres"))
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == "PGSTATS UNKNOWN: postgres: no row is known\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pools.cl_actve"], "there is no metric pools.cl_actve; did you mean pools.cl_active?"),
        (["pools.cl_active", "-w", "5%"], "pools.cl_active has no limit that 5% could refer to"),
        (["pools.cl_active", "-w", "x"], "x is none of N, N%, -N and N:"),
        (["pools.cl_active", "-w", "5", "-c", "3"], "a warning at 5 comes after 3"),
        (["pools.cl_active", "--where", "tabel=x"], "LABEL=GLOB, of database, target, user"),
        (["pools.cl_active", "--nonsense"], "No such option"),
        (["postgres.pools.cl_active"], "there is no metric postgres.pools.cl_active"),
        (["pools.cl_active", "--config", "/nowhere/at/all"], "cannot be read"),
        ([], "Missing argument 'NAME'"),
    ],
)
def test_wrong_use_is_unknown_and_told_where_nagios_looks(words: list[str], told: str) -> None:
    done = pgstats("nagios", *words)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("PGSTATS UNKNOWN: ")
    assert told in done.stdout
