"""`pgstats status` and the daemons that it asks."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pgstats.daemon.desk import doors, visit
from pgstats.errors import DeskError
from pgstats.scratch import Bouncer, Cluster, free_port
from tests.node_statsd import NodeStatsd
from tests.program import pgstats
from tests.test_run import config, running, wait_for


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder of the test's own."""
    folder = tmp_path / "run"
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder))
    return folder / "status.sock"


@pytest.fixture
def console(bouncer: Bouncer) -> tuple[str, str, str]:
    return "pgbouncer", "front", bouncer.dsn("pgbouncer", "stats")


def asked() -> dict[str, Any]:
    """The answer, {} while there is none."""
    try:
        found: dict[str, Any] = json.loads(visit(os.environ))
    except DeskError:
        return {}
    return found


def standing(name: str) -> dict[str, Any]:
    return next((one for one in asked().get("targets", ()) if one["name"] == name), {})


def test_all_is_told_of_each_target_and_of_the_shipping(
    tmp_path: Path, console: tuple[str, str, str], cluster: Cluster, node_statsd: NodeStatsd
) -> None:
    gone = f"host=127.0.0.1 port={free_port()} user=me password=s3cr3t"
    targets = (console, ("postgres", "main", cluster.dsn()), ("postgres", "gone", gone))
    file = config(tmp_path, node_statsd.udp, *targets, interval="60s")
    with running(tmp_path, file) as daemon:
        assert wait_for(lambda: all(standing(t[1]).get("ok") is not None for t in targets))
        done = pgstats("status", "--json")
        found = json.loads(done.stdout)
        assert (done.returncode, done.stderr, found["pid"]) == (1, "", daemon.pid)
        front, main, dead = found["targets"]
        for well in (front, main):
            assert (well["ok"], well["last_error"], well["last_error_age_seconds"]) == (
                True,
                "",
                None,
            )
            assert 0 <= well["last_success_age_seconds"] < 60
            assert 0 < well["next_poll_in_seconds"] <= 60
            assert well["seconds"] > 0
            assert (well["skipped_runs"], well["running_seconds"]) == (0, None)
        assert (dead["ok"], dead["last_success_age_seconds"]) == (False, None)
        assert "Connection refused" in dead["last_error"]
        assert "is PostgreSQL running" in dead["last_error"]
        assert wait_for(lambda: asked()["statsd"]["lines"] > 0)
        assert found["statsd"]["fault"] == ""
        table = pgstats("status")
        assert table.returncode == 1
        assert "s3cr3t" not in table.stdout + done.stdout
        rows = [line.split() for line in table.stdout.splitlines()]
        assert [row[:2] for row in rows[:4]] == [
            ["target", "state"],
            ["front", "ok"],
            ["main", "ok"],
            ["gone", "failing"],
        ]
        assert "lines shipped, 0 dropped" in table.stdout


def test_what_was_dropped_is_told_and_counts_as_failing(
    tmp_path: Path, console: tuple[str, str, str]
) -> None:
    port = free_port()
    file = config(tmp_path, f"tcp://127.0.0.1:{port}", console, interval="300ms")
    with running(tmp_path, file):
        assert wait_for(lambda: asked().get("statsd", {}).get("dropped_by_reason"))
        done = pgstats("status")
    assert done.returncode == 1
    assert "dropped (" in done.stdout
    assert "refused" in done.stdout


def test_a_run_that_hangs_shows_with_what_it_skipped(
    tmp_path: Path, console: tuple[str, str, str], node_statsd: NodeStatsd
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        hangs = ("postgres", "deaf", f"host=127.0.0.1 port={deaf.getsockname()[1]} user=me")
        file = config(tmp_path, node_statsd.udp, console, hangs, interval="400ms")
        with Path(file).open("a") as more:
            more.write('\ntimeout = "2s"\n')
        with running(tmp_path, file):
            assert wait_for(lambda: standing("deaf").get("running_seconds") is not None)
            assert wait_for(lambda: standing("deaf").get("skipped_runs", 0) > 0)
            assert wait_for(lambda: standing("deaf").get("ok") is False)
            assert "no answer in time" in standing("deaf")["last_error"]
            assert standing("front")["ok"] is True
        told = (tmp_path / "log").read_text()
        assert told.count("timeout: its timeout of 2 s is longer than its interval of 0.4 s") == 1


def test_the_last_success_and_the_last_error_both_stay(
    tmp_path: Path, cluster: Cluster, node_statsd: NodeStatsd
) -> None:
    with Bouncer(
        cluster.scratch, {"*": cluster.address}, stats_users=["stats"], name="status"
    ) as bouncer:
        target = ("pgbouncer", "front", bouncer.dsn("pgbouncer", "stats"))
        file = config(tmp_path, node_statsd.udp, target, interval="300ms")
        with running(tmp_path, file):
            assert wait_for(lambda: standing("front").get("ok"))
            bouncer.stop()
            assert wait_for(lambda: standing("front")["ok"] is False)
            assert standing("front")["last_success_age_seconds"] > 0
            bouncer.start()
            assert wait_for(lambda: standing("front")["ok"])
            assert "connect: " in standing("front")["last_error"]
            assert pgstats("status").returncode == 0


def test_a_reload_shows_the_new_targets_and_keeps_what_is_known(
    tmp_path: Path, console: tuple[str, str, str], node_statsd: NodeStatsd
) -> None:
    file = config(tmp_path, node_statsd.udp, console, interval="60s")
    with running(tmp_path, file) as daemon:
        assert wait_for(lambda: standing("front").get("ok"))
        config(tmp_path, node_statsd.udp, console, ("pgbouncer", "two", console[2]), interval="60s")
        daemon.send_signal(signal.SIGHUP)
        assert wait_for(lambda: standing("two").get("ok"))
        assert standing("front")["last_success_age_seconds"] is not None


def test_nobody_there() -> None:
    done = pgstats("status")
    assert (done.returncode, done.stdout) == (69, "")
    assert "no daemon answers: " in done.stderr
    assert "No such file" in done.stderr


def test_a_daemon_that_is_stopped_does_not_answer(
    tmp_path: Path, console: tuple[str, str, str], node_statsd: NodeStatsd
) -> None:
    file = config(tmp_path, node_statsd.udp, console)
    with running(tmp_path, file) as daemon:
        assert wait_for(asked)
        daemon.send_signal(signal.SIGSTOP)
        assert pgstats("status").returncode == 69
        daemon.send_signal(signal.SIGCONT)
        assert wait_for(asked)


def test_only_the_owner_may_ask_and_nothing_stays(
    tmp_path: Path, console: tuple[str, str, str], node_statsd: NodeStatsd, runtime: Path
) -> None:
    file = config(tmp_path, node_statsd.udp, console)
    with running(tmp_path, file) as daemon:
        assert wait_for(asked)
        assert stat.S_IMODE(runtime.stat().st_mode) == 0o600
        assert stat.S_IMODE(runtime.parent.stat().st_mode) == 0o700
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(10) == 0
        assert not runtime.exists()
        assert pgstats("status").returncode == 69


def test_the_socket_of_a_killed_daemon_is_replaced(
    tmp_path: Path, console: tuple[str, str, str], node_statsd: NodeStatsd, runtime: Path
) -> None:
    file = config(tmp_path, node_statsd.udp, console)
    with running(tmp_path, file) as first:
        assert wait_for(asked)
        first.kill()
        first.wait()
    assert runtime.exists()
    done = pgstats("status")
    assert (done.returncode, "Connection refused" in done.stderr) == (69, True)
    with running(tmp_path, file) as second:
        assert wait_for(lambda: asked().get("pid") == second.pid)


def test_a_second_daemon_leaves_the_first_its_socket(
    tmp_path: Path, console: tuple[str, str, str], node_statsd: NodeStatsd
) -> None:
    file = config(tmp_path, node_statsd.udp, console)
    (tmp_path / "other").mkdir()
    with running(tmp_path, file) as first:
        assert wait_for(asked)
        with running(tmp_path / "other", file, "--no-state") as second:
            log = tmp_path / "other" / "log"
            assert wait_for(lambda: "another daemon answers at" in log.read_text())
            second.send_signal(signal.SIGTERM)
            assert second.wait(10) == 0
        assert asked()["pid"] == first.pid


@pytest.mark.parametrize("place", ["file", "long"])
def test_no_place_for_a_socket_costs_nothing_else(
    place: str,
    tmp_path: Path,
    console: tuple[str, str, str],
    node_statsd: NodeStatsd,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    folder = {"file": tmp_path / "file", "long": tmp_path / ("x" * 120)}[place]
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(folder))
    file = config(tmp_path, node_statsd.udp, console)
    with running(tmp_path, file):
        assert wait_for(lambda: node_statsd.gauges().get("pgstats.pgbouncer.front.up") == 1)
    assert (tmp_path / "log").read_text().count("`pgstats status` will not see this daemon") == 1


@pytest.fixture
def loiterers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_visitors_who_read_nothing_cost_no_poll(
    tmp_path: Path,
    console: tuple[str, str, str],
    node_statsd: NodeStatsd,
    runtime: Path,
    loiterers: ExitStack,
) -> None:
    """Their document does not fit into the socket, since hundreds of targets have long names."""
    many = [("pgbouncer", f"{'x' * 150}{n}", console[2]) for n in range(600)]
    file = config(tmp_path, node_statsd.udp, console, *many, interval="20s")
    with running(tmp_path, file) as daemon:
        assert wait_for(asked)
        for _ in range(3):
            line = loiterers.enter_context(socket.socket(socket.AF_UNIX))
            line.connect(str(runtime))
        assert wait_for(lambda: standing("front").get("ok"), 60)
        assert len(visit(os.environ)) > 212992, "what a socket's buffer holds"
        before = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(10) == 0
        assert time.monotonic() - before < 8


def test_where_it_is_looked_for() -> None:
    system = Path("/run/pgstats/status.sock")
    assert doors({}) == [system]
    assert doors({"XDG_RUNTIME_DIR": "/u"}) == [Path("/u/pgstats/status.sock"), system]
    assert doors({"XDG_RUNTIME_DIR": "/u", "RUNTIME_DIRECTORY": "/run/a:/run/b"}) == [
        Path("/run/a/status.sock")
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do anything")
def test_a_closed_door_is_told(runtime: Path) -> None:
    runtime.parent.mkdir(mode=0o000)
    done = pgstats("status")
    assert (done.returncode, "Permission denied" in done.stderr) == (69, True)


def test_the_page_explains_every_key(
    tmp_path: Path, console: tuple[str, str, str], node_statsd: NodeStatsd
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "troubles.md").read_text()
    with running(tmp_path, config(tmp_path, node_statsd.udp, console)):
        assert wait_for(asked)
        found = asked()
    keys = {*found, *found["targets"][0], *found["statsd"]} - {"targets", "statsd"}
    assert {key for key in keys if f"{key}`" not in page} == set()
