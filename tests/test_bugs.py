"""A bug in pgstats costs what it must and nothing else: it is planted, then everything is run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgstats.model import Failure
from pgstats.scratch import Bouncer, Cluster
from tests.node_statsd import NodeStatsd
from tests.program import gauges
from tests.test_run import wait_for

#: Runs pgstats with one of its functions broken, where an expression over its arguments is true.
PLANT = """
import importlib, sys
module = importlib.import_module(sys.argv[1])
name, when = sys.argv[2:4]
sound = getattr(module, name)
def broken(*args, **more):
    if eval(when):
        raise KeyError("s3" + "cr3t")  # from Python 3.13 on a traceback shows these lines, too
    return sound(*args, **more)
setattr(module, name, broken)
del sys.argv[1:4]
from pgstats.cli import main
main()
"""


@dataclass(frozen=True)
class Bug:
    """Where it is, when it strikes, and what is left of the target that it strikes."""

    module: str
    name: str
    when: str
    up: int = 1
    pools: bool = True
    rates: bool = True


BUGS = {
    "query": Bug(
        "pgstats.ask.pgbouncer",
        "frame",
        "args[0].group == 'pools' and more['target'] == 'struck'",
        pools=False,
    ),
    "poll": Bug(
        "pgstats.ask.pgbouncer",
        "connect",
        "args[0].name == 'struck'",
        up=0,
        pools=False,
        rates=False,
    ),
    "shape": Bug(
        "pgstats.shape.derived", "_saturation", "args[0].target.name == 'struck'", rates=False
    ),
    "retire": Bug("pgstats.shape", "retired", "args[0][-1].rows[0][0] == 'struck'"),
    "spell": Bug(
        "pgstats.spell",
        "_around",
        "args[2].group == 'pools' and args[3] == 'struck'",
        pools=False,
        rates=False,
    ),
}


def planted(bug: Bug, *arguments: str) -> list[str]:
    return [sys.executable, "-c", PLANT, bug.module, bug.name, bug.when, *arguments]


def run(bug: Bug, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(planted(bug, *arguments), capture_output=True, text=True, timeout=60)


@pytest.fixture
def file(tmp_path: Path, bouncer: Bouncer, cluster: Cluster, node_statsd: NodeStatsd) -> str:
    """Three targets: the first one will be struck."""
    bouncer.psql("SELECT 1", "postgres")  # makes a pool
    path = tmp_path / "pgstats.toml"
    console = json.dumps(bouncer.dsn("pgbouncer", "stats"))
    path.write_text(
        f'interval = "500ms"\nstate = "{tmp_path}/state"\n[statsd]\nurl = "{node_statsd.udp}"\n'
        f'[[pgbouncer]]\nname = "struck"\ndsn = {console}\n'
        f'[[pgbouncer]]\nname = "sound"\ndsn = {console}\n'
        f'[[postgres]]\nname = "main"\ndsn = {json.dumps(cluster.dsn())}\n'
    )
    return str(path)


def judge(found: dict[str, float], bug: Bug) -> None:
    """What has to arrive: the truth about the struck target, and all about the others."""
    struck = "pgstats.pgbouncer.struck"
    assert found[f"{struck}.up"] == bug.up
    assert found[f"{struck}.down.other.count"] == 1 - bug.up
    assert found["pgstats.self.poll.struck.ok"] == 0
    assert found["pgstats.self.poll.struck.failed_queries"] == 1
    assert any(name.startswith(f"{struck}.pools.") for name in found) == bug.pools
    assert (f"{struck}.lists.client_utilization" in found) == bug.rates
    for other in ("pgbouncer.sound", "postgres.main"):
        assert found[f"pgstats.{other}.up"] == 1
    assert found["pgstats.self.poll.sound.ok"] == found["pgstats.self.poll.main.ok"] == 1
    assert any(name.startswith("pgstats.pgbouncer.sound.pools.") for name in found)
    assert "pgstats.pgbouncer.sound.lists.client_utilization" in found
    assert any(name.startswith("pgstats.postgres.main.database.") for name in found)


@pytest.mark.parametrize("case", BUGS)
def test_once_ships_all_it_can_and_ends_with_70(
    case: str, file: str, node_statsd: NodeStatsd
) -> None:
    done = run(BUGS[case], "once", "--no-state", "--config", file)
    assert (done.returncode, done.stdout) == (70, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("struck: ")
    assert "a bug in pgstats: KeyError at " in line
    assert "s3cr3t" not in line
    judge(node_statsd.gauges(), BUGS[case])


@pytest.mark.parametrize("case", ["query", "shape"])
def test_a_dry_run_tells_the_same_and_shows_the_traceback_to_who_asks(case: str, file: str) -> None:
    done = run(BUGS[case], "once", "--dry-run", "--config", file, "--verbose")
    assert done.returncode == 70
    judge(gauges(done.stdout), BUGS[case])
    assert "Traceback (most recent call last):" in done.stderr
    assert "\nKeyError\n" in done.stderr
    assert "s3cr3t" not in done.stderr


def test_one_target_alone_is_no_other_case(file: str, bouncer: Bouncer) -> None:
    dsn = bouncer.dsn("pgbouncer", "stats")
    bug = Bug("pgstats.ask.pgbouncer", "connect", "True")
    done = run(bug, "once", "--dry-run", "--config", file, "--pgbouncer", dsn)
    assert done.returncode == 70
    assert len(done.stderr.splitlines()) == 1
    assert [v for name, v in gauges(done.stdout).items() if name.endswith(".up")] == [0]


def test_json_ends_with_70_too(file: str) -> None:
    done = run(BUGS["query"], "once", "--json", "--config", file)
    assert done.returncode == 70
    struck, *others = json.loads(done.stdout)["targets"]
    assert [failure["stage"] for failure in struck["failures"]] == ["SHOW POOLS"]
    assert [other["failures"] for other in others] == [[], []]


@pytest.mark.parametrize(
    "bug",
    [
        BUGS["query"],
        BUGS["poll"],
        Bug("pgstats.ask.proof", "_pooler", "args[0].target.name == 'struck'"),
    ],
)
@pytest.mark.parametrize("verbose", [(), ("--verbose",)])
def test_check_looks_at_the_other_targets_all_the_same(
    bug: Bug, verbose: tuple[str, ...], file: str
) -> None:
    done = run(bug, "check", "--config", file, *verbose)
    assert done.returncode == 70
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    assert line.startswith("failed struck: ")
    assert "a bug in pgstats: KeyError" in line
    assert "s3cr3t" not in done.stdout
    assert ("Traceback" in done.stderr) == bool(verbose)
    for sound in ("sound: PgBouncer", "main: PostgreSQL", "statsd: udp://"):
        assert f"ok     {sound}" in done.stdout


@contextmanager
def daemon(bug: Bug, file: str, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`pgstats run` with a bug, and its log."""
    log = Path(file).with_name("log")
    with log.open("wb") as out:
        process = subprocess.Popen(
            planted(bug, "run", "--config", file, *options), stdout=out, stderr=out
        )
        try:
            yield process, log
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("case", BUGS)
def test_the_daemon_goes_on_and_ships_the_same(
    case: str, file: str, node_statsd: NodeStatsd
) -> None:
    ready = "pgstats.self.poll.struck.ok"
    with daemon(BUGS[case], file, "--verbose") as (process, log):
        for _ in range(3):
            node_statsd.forget()
            assert wait_for(
                lambda: {ready, "pgstats.postgres.main.up"} <= set(node_statsd.gauges())
            )
        assert wait_for(lambda: "pgstats.self.poll.sound.ok" in node_statsd.gauges())
        judge(node_statsd.gauges(), BUGS[case])
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    told = [line for line in log.read_text().splitlines() if "a bug in pgstats" in line]
    assert len(told) == 1, "once, not at every poll"
    assert "struck: " in told[0]
    assert log.read_text().count("Traceback") == 1
    assert "s3cr3t" not in log.read_text()


@pytest.mark.parametrize("how", [["-v"], ["-qv"], ["--verbose"], "PGSTATS_VERBOSE", []])
def test_a_bug_anywhere_shows_its_traceback_to_who_asks(how: list[str] | str, file: str) -> None:
    bug = Bug("pgstats.cli.once", "configured", "True")
    more = {how: "1"} if isinstance(how, str) else {}
    options = [] if isinstance(how, str) else how
    done = subprocess.run(
        planted(bug, "once", "--config", file, *options),
        capture_output=True,
        text=True,
        env=os.environ | more,
    )
    assert done.returncode == 70
    assert ("Traceback" in done.stderr) == bool(how)
    assert "s3cr3t" not in done.stderr
    assert "a bug in pgstats" in done.stderr


def test_a_traceback_tells_what_led_to_it_and_no_message() -> None:
    """Neither of the exception itself nor of those before it."""
    secret = "s3cr3t"

    def fails() -> None:
        try:
            int(secret)
        except ValueError as error:
            raise RuntimeError(f"invalid dsn: password={secret}") from error

    with pytest.raises(RuntimeError) as caught:
        fails()
    told = Failure.bug("step", caught.value).trace
    assert told.count("Traceback") == 2
    assert (
        told.index("\nValueError\n") < told.index("which led to") < told.index("\nRuntimeError\n")
    )
    assert secret not in told


@pytest.mark.parametrize("error", [OSError(24, "Too many open files", "/a.py"), MemoryError()])
def test_a_machine_that_gives_no_more_is_no_bug(error: Exception) -> None:
    told = Failure.bug("shape", error)
    assert told.trace == ""
    assert "bug" not in str(told)
    assert "LimitNOFILE" in told.remedy


def test_a_bug_in_the_account_costs_the_account(file: str, node_statsd: NodeStatsd) -> None:
    bug, done = Bug("pgstats.shape", "shipping", "True"), "pgstats.self.job.main.succeeded"
    with daemon(bug, file, "--verbose") as (process, log):
        for _ in range(3):
            node_statsd.forget()
            assert wait_for(lambda: "pgstats.self.poll.main.ok" in node_statsd.gauges())
            assert wait_for(lambda: node_statsd.counters().get(done, 0) > 0)
        assert not [name for name in node_statsd.gauges() if ".self.ship." in name]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    told = [line for line in log.read_text().splitlines() if "a bug in pgstats" in line]
    assert len(told) == 1, "once, not at every poll"
    assert log.read_text().count("Traceback") == 1
    assert "s3cr3t" not in log.read_text()
