"""The units under a systemd that is PID 1: a container over this machine's own files.

Nothing of it stays: what it writes is in memory. It needs root and systemd-nspawn.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pgstats.scratch import Bouncer, Cluster, Scratch
from tests.conftest import _copy_program, _reachable_python
from tests.receivers.sink import SinkProcess
from tests.test_run import wait_for

pytestmark = pytest.mark.full

UNITS = Path(__file__).parents[1] / "systemd"
PROGRAM = """#!{python} -I
import sys
sys.path.insert(0, "/opt/pgstats/lib")
from pgstats.cli import main
main()
"""
#: Not needed, slow, or in the way of whoever runs the container.
MASKED = "systemd-networkd systemd-resolved systemd-timesyncd systemd-logind systemd-udevd getty"
LONG = 60.0


class Machine:
    """A running systemd, and how to ask it."""

    def __init__(self, root: Path, servers: Path) -> None:
        self.root = root
        name = f"pgstats-{os.getpid()}"
        options = ["--register=no", "--keep-unit", "--private-network", f"--machine={name}"]
        options += [f"--bind={servers}:/srv/servers", "--console=pipe"]
        self.process = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "-b", "-D", str(root), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert wait_for(self._up, LONG), "systemd did not start"

    def _up(self) -> bool:
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid), "-x", "systemd"], capture_output=True, text=True
        ).stdout.split()
        if not found:
            return False
        self.leader = int(found[0])
        return self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a program inside."""
        inside = ["nsenter", "-t", str(self.leader), "-a", *argv]
        environ = {"PATH": "/opt/pgstats/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        return subprocess.run(inside, capture_output=True, text=True, timeout=LONG, env=environ)

    def systemctl(self, *words: str) -> str:
        """Have systemd do something, which it must do."""
        done = self.run("systemctl", *words)
        journal = self.run("journalctl", "--no-pager", "-n", "30").stdout
        assert done.returncode == 0, done.stderr + journal
        return done.stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """What systemd knows of a unit."""
        return self.systemctl("show", unit, f"--property={name}", "--value")

    def journal(self, *more: str) -> str:
        """What the daemon has told."""
        found = self.run("journalctl", "-u", "pgstats", "-o", "cat", "--no-pager", *more)
        return found.stdout

    def drop_in(self, unit: str, text: str) -> None:
        """Change a unit as an administrator would."""
        folder = self.root / "etc/systemd/system" / f"{unit}.d"
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(text)
        self.systemctl("daemon-reload")

    def end(self) -> None:
        """Power off."""
        os.kill(self.leader, signal.SIGRTMIN + 4)
        try:
            self.process.wait(LONG)
        except subprocess.TimeoutExpired:
            self.process.kill()


@pytest.fixture(scope="module")
def sink(scratch: Scratch) -> Iterator[SinkProcess]:
    with SinkProcess(scratch, "pid1-sink") as sink:
        yield sink


@pytest.fixture(scope="module")
def machine(
    scratch: Scratch,
    cluster: Cluster,
    bouncer: Bouncer,
    sink: SinkProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Machine]:
    if os.geteuid() or not shutil.which("systemd-nspawn"):
        pytest.skip("takes root and systemd-nspawn (package systemd-container)")
    for server in (cluster, bouncer, sink):
        server.folder.chmod(0o711)
    (sink.folder / "datagram").chmod(0o777)
    base = tmp_path_factory.mktemp("pid1")
    with ExitStack() as stack:
        _mount(stack, base, ["-t", "tmpfs", "tmpfs"])
        for name in ("upper", "work", "root"):
            (base / name).mkdir()
        layers = f"lowerdir=/,upperdir={base}/upper,workdir={base}/work"
        _mount(stack, base / "root", ["-t", "overlay", "overlay", "-o", layers])
        _furnish(base / "root", cluster, bouncer)
        one = Machine(base / "root", scratch.path)
        stack.callback(one.end)
        yield one


def _mount(stack: ExitStack, place: Path, what: list[str]) -> None:
    done = subprocess.run(["mount", *what, str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr}")
    stack.callback(subprocess.run, ["umount", "--lazy", str(place)])


def _furnish(root: Path, cluster: Cluster, bouncer: Bouncer) -> None:
    """Install pgstats as the README says, and take away what a container does not need."""
    (root / "etc/machine-id").write_text("")
    units = root / "etc/systemd/system"
    for wants in ("multi-user.target.wants", "timers.target.wants"):
        shutil.rmtree(units / wants, ignore_errors=True)
    for name in MASKED.split():
        for unit in (f"{name}.service", f"{name}.target", f"{name}.socket"):
            (units / unit).unlink(missing_ok=True)
            (units / unit).symlink_to("/dev/null")
    for file in UNITS.glob("*.*"):
        if file.is_file():
            shutil.copy(file, units)
    lib, program = root / "opt/pgstats/lib", root / "opt/pgstats/bin/pgstats"
    lib.mkdir(parents=True)
    program.parent.mkdir()
    _copy_program(lib)
    program.write_text(PROGRAM.format(python=_reachable_python()))
    program.chmod(0o755)
    write(root, configuration(cluster, bouncer))


def configuration(cluster: Cluster, bouncer: Bouncer) -> str:
    """Both servers, over their sockets."""
    return (
        'interval = "1s"\n[statsd]\nurl = "unixgram:///srv/servers/pid1-sink/datagram"\n'
        '[[postgres]]\nname = "main"\n'
        f'dsn = "host=/srv/servers/{cluster.name} port={cluster.port} user=postgres"\n'
        '[[pgbouncer]]\nname = "front"\n'
        f'dsn = "host=/srv/servers/{bouncer.name} port={bouncer.port} user=stats"\n'
    )


def write(root: Path, text: str) -> None:
    """Write the configuration where the units look for it."""
    file = root / "etc/pgstats/pgstats.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(0o644)


PATH = "[Service]\nEnvironment=PATH=/opt/pgstats/bin:/usr/bin\n"


@pytest.fixture
def daemon(machine: Machine, cluster: Cluster, bouncer: Bouncer) -> Iterator[Machine]:
    """The service, started as shipped, but for where pgstats is."""
    write(machine.root, configuration(cluster, bouncer))
    machine.drop_in("pgstats.service", PATH)
    machine.systemctl("start", "pgstats")
    yield machine
    machine.run("systemctl", "stop", "pgstats")
    machine.run("systemctl", "reset-failed", "pgstats")


def test_the_daemon_runs_in_its_cage(daemon: Machine, sink: SinkProcess) -> None:
    assert wait_for(lambda: "2/2 targets ok" in daemon.show("pgstats", "StatusText"), LONG)
    sink.forget()
    wanted = {"pgstats.postgres.main.up": 1, "pgstats.pgbouncer.front.up": 1}
    assert wait_for(lambda: wanted.items() <= sink.gauges().items(), LONG)
    assert daemon.show("pgstats", "DynamicUser") == "yes"
    done = daemon.run("pgstats", "status", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [one["ok"] for one in json.loads(done.stdout)["targets"]] == [True, True]
    daemon.systemctl("stop", "pgstats")
    assert daemon.show("pgstats", "Result") == "success"
    assert daemon.show("pgstats", "ExecMainStatus") == "0"
    assert daemon.run("pgstats", "status").returncode == 69


def test_reload_and_the_priorities_of_the_journal(daemon: Machine) -> None:
    pid = daemon.show("pgstats", "MainPID")
    daemon.systemctl("reload", "pgstats")
    assert wait_for(lambda: "reloaded: 2 targets" in daemon.journal(), LONG)
    write(daemon.root, "nonsense = 1\n")
    daemon.systemctl("reload", "pgstats")
    assert wait_for(lambda: "nonsense" in daemon.journal("-p", "err"), LONG)
    assert "the old configuration stays in force" in daemon.journal("-p", "warning")
    assert "reloaded: 2 targets" not in daemon.journal("-p", "warning")
    assert wait_for(lambda: "2/2 targets ok" in daemon.show("pgstats", "StatusText"), LONG)
    assert (daemon.show("pgstats", "MainPID"), daemon.show("pgstats", "NRestarts")) == (pid, "0")


def test_no_secret_shows_in_what_systemd_tells(
    daemon: Machine, cluster: Cluster, bouncer: Bouncer
) -> None:
    """The processes of the unit with their arguments, its status, properties and journal."""
    more = (
        f'[[pgbouncer]]\nname = "refused"\ndsn = "host=/srv/servers/{bouncer.name} '
        f'port={bouncer.port} user=nobody password=s3cr3t"\n'
    )
    write(daemon.root, configuration(cluster, bouncer) + more)
    daemon.systemctl("reload", "pgstats")
    assert wait_for(lambda: "2/3 targets ok" in daemon.show("pgstats", "StatusText"), LONG)
    told = daemon.systemctl("status", "--full", "--no-pager", "pgstats")
    assert "pgstats run" in told
    assert "refused" in told
    assert "s3cr3t" not in told + daemon.systemctl("show", "pgstats") + daemon.journal()


def test_the_watchdog_restarts_what_stands_still(daemon: Machine) -> None:
    daemon.drop_in("pgstats.service", PATH + "WatchdogSec=4s\nRestartSec=100ms\n")
    daemon.systemctl("restart", "pgstats")
    assert wait_for(lambda: "2/2 targets ok" in daemon.show("pgstats", "StatusText"), LONG)
    time.sleep(6)
    assert daemon.show("pgstats", "NRestarts") == "0", "fed while polls end"
    daemon.run("kill", "-STOP", daemon.show("pgstats", "MainPID"))
    assert wait_for(lambda: daemon.show("pgstats", "NRestarts") == "1", LONG)
    assert "Watchdog timeout" in daemon.journal()
    assert wait_for(lambda: "2/2 targets ok" in daemon.show("pgstats", "StatusText"), LONG)
    assert daemon.run("pgstats", "status").returncode == 0, "the socket is the new one's"


def test_a_faulty_configuration_is_not_started_again_and_again(daemon: Machine) -> None:
    write(daemon.root, "nonsense = 1\n")
    daemon.drop_in("pgstats.service", PATH + "RestartSec=100ms\n")
    assert daemon.run("systemctl", "restart", "pgstats").returncode != 0
    time.sleep(2)
    assert daemon.show("pgstats", "NRestarts") == "0"
    assert daemon.show("pgstats", "ExecMainStatus") == "78"


def test_the_user_of_the_servers_may_run_it(daemon: Machine, sink: SinkProcess) -> None:
    text = (UNITS / "pgstats.service.d" / "postgres-user.conf.example").read_text()
    assert "DynamicUser=no" in text
    daemon.drop_in("pgstats.service", f"{text}\n{PATH}")
    daemon.systemctl("restart", "pgstats")
    sink.forget()
    assert wait_for(lambda: sink.gauges().get("pgstats.postgres.main.up") == 1, LONG)
    daemon.systemctl("stop", "pgstats")
    assert daemon.show("pgstats", "Result") == "success"


def test_the_timer_polls_again_and_again(
    machine: Machine, cluster: Cluster, bouncer: Bouncer, sink: SinkProcess
) -> None:
    write(machine.root, configuration(cluster, bouncer))
    machine.drop_in("pgstats-once.service", PATH)
    often = "[Timer]\nOnCalendar=\nOnCalendar=*:*:*\nAccuracySec=100ms\n"
    machine.drop_in("pgstats-once.timer", often)
    machine.systemctl("start", "pgstats-once.timer")
    for _ in range(3):
        sink.forget()
        assert wait_for(lambda: sink.gauges().get("pgstats.pgbouncer.front.up") == 1, LONG)
    machine.systemctl("stop", "pgstats-once.timer")
    assert wait_for(lambda: machine.show("pgstats-once", "ActiveState") == "inactive", LONG)
    assert machine.show("pgstats-once", "Result") == "success"
