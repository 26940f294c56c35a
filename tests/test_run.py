"""`pgstats run` as a process on real servers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pgstats.daemon import Rest
from pgstats.scratch import Bouncer, Cluster, Scratch, free_port
from pgstats.sink import Sink
from pgstats.spell import DIALECTS
from tests.console import console
from tests.node_statsd import NodeStatsd
from tests.program import pgstats
from tests.receivers.sink import SinkProcess
from tests.test_connection import alive


@contextmanager
def running(folder: Path, file: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon, its log in a file; ended hard if it does not end by itself."""
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "pgstats", "run", "--config", file, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield daemon
        finally:
            daemon.kill()
            daemon.wait()


def config(folder: Path, statsd: str, *targets: tuple[str, str, str], interval: str = "1s") -> str:
    path = folder / "pgstats.toml"
    lines = [f'interval = "{interval}"\nstate = "{folder}/state"\n[statsd]\nurl = "{statsd}"']
    lines += [
        f"[[{family}]]\nname = {json.dumps(name)}\ndsn = {json.dumps(dsn)}"
        for family, name, dsn in targets
    ]
    path.write_text("\n".join(lines))
    return str(path)


def wait_for(fact: Callable[[], object], seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if fact():
            return True
        time.sleep(0.05)
    return False


def test_it_polls_until_a_signal_and_logs_changes_of_state(
    tmp_path: Path, cluster: Cluster, bouncer: Bouncer, node_statsd: NodeStatsd
) -> None:
    gone = f"host=127.0.0.1 port={free_port()} user=me password=s3cr3t"
    file = config(
        tmp_path,
        node_statsd.udp,
        ("pgbouncer", "front", bouncer.dsn("pgbouncer", "stats")),
        ("postgres", "main", cluster.dsn()),
        ("postgres", "gone", gone),
    )
    with running(tmp_path, file) as daemon:
        assert wait_for(lambda: "pgstats.postgres.main.up" in node_statsd.gauges())
        node_statsd.forget()
        assert wait_for(lambda: "pgstats.postgres.main.up" in node_statsd.gauges())  # and again
        assert wait_for(lambda: "pgstats.pgbouncer.front.up" in node_statsd.gauges())
        time.sleep(2)
        started = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(5) == 0
        assert time.monotonic() - started < 2
    log = (tmp_path / "log").read_text()
    assert len(re.findall("gone: connect: ", log)) == 1, "once, not at every poll"
    assert "s3cr3t" not in log
    assert "Traceback" not in log
    assert node_statsd.gauges()["pgstats.postgres.gone.up"] == 0


def test_a_target_that_hangs_delays_no_other(
    tmp_path: Path, bouncer: Bouncer, node_statsd: NodeStatsd
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        file = config(
            tmp_path,
            node_statsd.udp,
            ("postgres", "stuck", f"host=127.0.0.1 port={deaf.getsockname()[1]} user=me"),
            ("pgbouncer", "front", bouncer.dsn("pgbouncer", "stats")),
            interval="500ms",
        )
        with running(tmp_path, file) as daemon:
            for _ in range(4):
                node_statsd.forget()
                assert wait_for(lambda: node_statsd.gauges().get("pgstats.pgbouncer.front.up") == 1)
            assert wait_for(
                lambda: node_statsd.gauges().get("pgstats.postgres.stuck.down.timeout.count") == 1
            )
            daemon.send_signal(signal.SIGINT)
            assert daemon.wait(5) == 0


def test_reload_takes_a_good_file_and_refuses_a_bad_one(
    tmp_path: Path, bouncer: Bouncer, node_statsd: NodeStatsd
) -> None:
    dsn = bouncer.dsn("pgbouncer", "stats")
    file = config(tmp_path, node_statsd.udp, ("pgbouncer", "one", dsn), interval="500ms")
    with running(tmp_path, file) as daemon:
        assert wait_for(lambda: "pgstats.pgbouncer.one.up" in node_statsd.gauges())
        good = config(tmp_path, node_statsd.udp, ("pgbouncer", "two", dsn), interval="500ms")
        daemon.send_signal(signal.SIGHUP)
        assert wait_for(lambda: "pgstats.pgbouncer.two.up" in node_statsd.gauges())
        Path(good).write_text("nonsense = 1\n")
        daemon.send_signal(signal.SIGHUP)
        assert wait_for(lambda: "nonsense" in (tmp_path / "log").read_text())
        node_statsd.forget()
        assert wait_for(lambda: "pgstats.pgbouncer.two.up" in node_statsd.gauges())


def test_jobs_are_measured(tmp_path: Path, bouncer: Bouncer, node_statsd: NodeStatsd) -> None:
    dsn = bouncer.dsn("pgbouncer", "stats")
    gone = f"host=127.0.0.1 port={free_port()} user=me"
    targets = ("pgbouncer", "measured", dsn), ("postgres", "unmeasured", gone)
    file = config(tmp_path, node_statsd.tcp, *targets, interval="300ms")

    def runs(target: str, what: str) -> float:
        return node_statsd.counters().get(f"pgstats.self.job.{target}.{what}", 0)

    outcomes = (("measured", "succeeded", "failed"), ("unmeasured", "failed", "succeeded"))
    with running(tmp_path, file) as daemon:
        for wanted in (3, 6):
            for target, outcome, _ in outcomes:
                assert wait_for(lambda t=target, o=outcome, n=wanted: runs(t, o) >= n)  # type: ignore[misc]
            reload(daemon, tmp_path / "log")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(5) == 0
    for target, outcome, other in outcomes:
        assert wait_for(lambda t=target, o=outcome: runs(t, "started") == runs(t, o))  # type: ignore[misc]
        assert runs(target, other) == 0
        times = node_statsd.timers()[f"pgstats.self.job.{target}.duration"]
        assert len(times) == runs(target, outcome)
        assert min(times) > 0


@pytest.mark.parametrize(("count", "interval"), [(1, "1s"), (9, "250ms")])
def test_polls_are_accounted_for_within_a_moment_and_many_of_them_together(
    count: int, interval: str, tmp_path: Path, bouncer: Bouncer
) -> None:
    dsn = bouncer.dsn("pgbouncer", "stats")
    targets = [("pgbouncer", f"front{n}", dsn) for n in range(count)]
    found: list[str] = []

    def seen(name: str) -> int:
        return sum(name in line for line in found)

    with Sink() as sink, running(tmp_path, config(tmp_path, sink.url, *targets, interval=interval)):
        until = time.monotonic() + 60
        while time.monotonic() < until and seen(".up:") < 4 * count**2:
            found += sink.receive(0.1)
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            found += sink.receive(0.1)
    polls, accounts = seen(".up:"), seen(".self.ship.lines:")
    assert accounts == polls == 4 if count == 1 else 4 < accounts < polls / 3


@pytest.mark.parametrize("dialect", [name for name in DIALECTS if name != "plain"])
def test_jobs_are_measured_in_the_dialect_of_the_polls(
    dialect: str, tmp_path: Path, bouncer: Bouncer
) -> None:
    dsn = bouncer.dsn("pgbouncer", "stats")
    with Sink().start() as sink:
        file = config(tmp_path, sink.url, ("pgbouncer", "front", dsn), interval="300ms")
        with Path(file).open("a") as more:
            more.write('\ntags = { env = "test" }\n')
        wanted = {
            (f"ours.self.job.{name}", (("env", "test"), ("target", "front")))
            for name in ("started", "succeeded", "duration")
        }
        with running(tmp_path, file, "--dialect", dialect, "--prefix", "ours"):
            assert sink.wait(lambda: wanted <= sink.values.keys(), 20), sink.values
        assert sink.bad_lines == 0


def reload(daemon: subprocess.Popen[bytes], log: Path) -> None:
    """Have the file read again, and wait until that is done."""
    before = log.read_text().count("reloaded: ")
    daemon.send_signal(signal.SIGHUP)
    assert wait_for(lambda: log.read_text().count("reloaded: ") > before)


def test_a_reload_never_asks_a_target_twice_at_once(
    tmp_path: Path, node_statsd: NodeStatsd
) -> None:
    with console({}) as hanging:
        hanging.pause.set()
        file = config(tmp_path, node_statsd.udp, ("pgbouncer", "front", hanging.dsn), interval="2s")
        with running(tmp_path, file) as daemon:
            assert wait_for(lambda: hanging.asked)
            for _ in range(4):
                reload(daemon, tmp_path / "log")
            assert wait_for(lambda: len(hanging.asked) > 2)
        assert hanging.most == 1


def test_a_reload_leaves_one_connection_to_postgresql(
    tmp_path: Path, cluster: Cluster, node_statsd: NodeStatsd
) -> None:
    dsn = f"{cluster.dsn()} application_name=reloaded"
    file = config(tmp_path, node_statsd.udp, ("postgres", "main", dsn), interval="300ms")
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'reloaded'"
    with running(tmp_path, file) as daemon:
        for _ in range(4):
            node_statsd.forget()
            assert wait_for(lambda: "pgstats.postgres.main.up" in node_statsd.gauges())
            reload(daemon, tmp_path / "log")
        assert wait_for(lambda: cluster.psql(count).strip() == "1")


def test_counts_since_the_start_outlive_a_reload(
    tmp_path: Path, bouncer: Bouncer, node_statsd: NodeStatsd
) -> None:
    target = ("pgbouncer", "front", bouncer.dsn("pgbouncer", "stats"))
    file = config(tmp_path, node_statsd.udp, target, interval="300ms")
    own = [f"pgstats.self.ship.{name}" for name in ("lines", "packets", "bytes", "skipped_values")]
    with running(tmp_path, file) as daemon:
        assert wait_for(lambda: node_statsd.gauges().get(own[1], 0) > 12)
        for url in (node_statsd.udp, node_statsd.tcp):
            before = node_statsd.gauges()
            config(tmp_path, url, target, interval="300ms")
            reload(daemon, tmp_path / "log")
            node_statsd.forget()
            assert wait_for(lambda: node_statsd.gauges().keys() >= set(own))
            after = node_statsd.gauges()
            assert [name for name in own if after[name] < before[name]] == []


def test_databases_that_mean_nothing_are_told_once(
    tmp_path: Path, cluster: Cluster, node_statsd: NodeStatsd
) -> None:
    file = config(tmp_path, node_statsd.udp, ("postgres", "main", cluster.dsn()), interval="300ms")
    with Path(file).open("a") as more:
        more.write('\ndatabases = ["appbd"]\n')
    with running(tmp_path, file):
        for _ in range(3):
            node_statsd.forget()
            assert wait_for(lambda: node_statsd.gauges().get("pgstats.postgres.main.up") == 1)
    log = (tmp_path / "log").read_text()
    assert log.count("is meant by databases = appbd") == 1


def test_a_server_that_comes_back_is_polled_again(
    tmp_path: Path, cluster: Cluster, node_statsd: NodeStatsd
) -> None:
    with Bouncer(
        cluster.scratch, {"*": cluster.address}, stats_users=["stats"], name="comeback"
    ) as bouncer:
        dsn = bouncer.dsn("pgbouncer", "stats")
        file = config(tmp_path, node_statsd.udp, ("pgbouncer", "front", dsn), interval="500ms")
        up = "pgstats.pgbouncer.front.up"
        with running(tmp_path, file):
            assert wait_for(lambda: node_statsd.gauges().get(up) == 1)
            bouncer.stop()
            assert wait_for(lambda: node_statsd.gauges().get(up) == 0)
            bouncer.start()
            assert wait_for(lambda: node_statsd.gauges().get(up) == 1)
    log = (tmp_path / "log").read_text()
    assert "front: connect: " in log
    assert "front: well again after" in log


def test_it_never_holds_a_console_connection(
    tmp_path: Path, bouncer: Bouncer, node_statsd: NodeStatsd
) -> None:
    dsn = bouncer.dsn("pgbouncer", "stats")
    file = config(tmp_path, node_statsd.udp, ("pgbouncer", "front", dsn), interval="2s")
    with running(tmp_path, file):
        assert wait_for(lambda: "pgstats.pgbouncer.front.up" in node_statsd.gauges())
        time.sleep(0.5)
        clients = bouncer.console("SHOW CLIENTS", "stats")
    assert "|pgstats" not in clients


def test_one_state_one_run(tmp_path: Path, bouncer: Bouncer, node_statsd: NodeStatsd) -> None:
    dsn = bouncer.dsn("pgbouncer", "stats")
    file = config(tmp_path, node_statsd.udp, ("pgbouncer", "front", dsn))
    with running(tmp_path, file) as daemon:
        assert wait_for(lambda: "pgstats.pgbouncer.front.up" in node_statsd.gauges())
        done = pgstats("once", "--config", file)
        assert done.returncode == 75
        assert str(daemon.pid) in done.stderr
        assert pgstats("once", "--config", file, "--no-state").returncode == 0


def test_systemd_is_told(tmp_path: Path, bouncer: Bouncer, node_statsd: NodeStatsd) -> None:
    dsn = bouncer.dsn("pgbouncer", "stats")
    file = config(tmp_path, node_statsd.udp, ("pgbouncer", "front", dsn), interval="500ms")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(20)
        os.environ["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        try:
            with running(tmp_path, file):
                said = ""
                while "READY=1" not in said or "1/1 targets ok" not in said:
                    said += notify.recv(4096).decode() + "\n"
        finally:
            del os.environ["NOTIFY_SOCKET"]
    assert re.search(r"STATUS=1/1 targets ok, \d+ ms", said)


def test_a_dead_target_is_asked_ever_less_often_and_reported_all_the_same(
    tmp_path: Path, scratch: Scratch
) -> None:
    asked: list[socket.socket] = []

    def turn_away(door: socket.socket) -> None:
        with suppress(OSError):
            while True:
                visitor, _ = door.accept()
                asked.append(visitor)
                visitor.close()

    with SinkProcess(scratch, "rest-sink") as sink, socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=turn_away, args=(door,), daemon=True).start()
        dsn = f"host=127.0.0.1 port={door.getsockname()[1]} user=me sslmode=disable"
        file = config(tmp_path, sink.url, ("postgres", "dead", dsn), interval="100ms")
        told = "pgstats.postgres.dead.up:0|g"
        with running(tmp_path, file) as daemon:
            assert wait_for(lambda: sink.log.read_text().count(told) > 60, 60)
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(10) == 0
        reported = sink.log.read_text().count(told)
    assert 3 < len(asked) < reported / 3
    assert (tmp_path / "log").read_text().count("dead: ") == 1


def test_rests_grow_are_drawn_and_end() -> None:
    for draw, least in ((lambda low, high: low, 0.5), (lambda low, high: high, 1.0)):  # noqa: ARG005
        rest = Rest(10.0, draw)
        lengths = []
        for _ in range(8):
            rest.note(up=False, now=100.0)
            lengths.append(max(0.0, rest.until - 100.0))
        assert lengths == [n * least for n in (0, 0, 20, 40, 60, 60, 60, 60)]
        rest.note(up=True, now=200.0)
        assert rest.until == 0.0
        rest.note(up=False, now=300.0)
        assert rest.until == 0.0, "a restart is no death"
    drawn = set()
    for _ in range(5):
        rest = Rest(10.0)
        for _ in range(3):
            rest.note(up=False, now=0.0)
        drawn.add(rest.until)
    assert len(drawn) == 5


def test_a_password_command_ends_with_the_daemon(tmp_path: Path, node_statsd: NodeStatsd) -> None:
    target = ("postgres", "main", f"host=127.0.0.1 port={free_port()} user=me")
    file = config(tmp_path, node_statsd.udp, target, interval="60s")
    pid = tmp_path / "pid"
    with Path(file).open("a") as more:
        more.write(f"""\npassword_command = "sh -c 'echo $$ > {pid}; sleep 57'"\n""")
    with running(tmp_path, file) as daemon:
        assert wait_for(lambda: pid.exists() and pid.read_text())
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(10) == 0
    group = int(pid.read_text())
    assert wait_for(lambda: alive(group) == [])
