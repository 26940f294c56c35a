"""The private servers come up, do as they are told, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pgstats import scratch as module
from pgstats.errors import ScratchError
from pgstats.scratch import Bouncer, Cluster, Scratch, conninfo, find_binaries

if TYPE_CHECKING:
    from tests.conftest import User
    from tests.node_statsd import NodeStatsd


def until(fact: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something to come true."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def running(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def servers() -> Iterator[tuple[Scratch, Cluster, Bouncer]]:
    """Servers of one test's own."""
    with Scratch() as scratch:
        cluster = Cluster(scratch).start()
        yield scratch, cluster, Bouncer(scratch, {"*": cluster.address}).start()


# ---- the cluster


def test_psql_prints_bare_rows(cluster: Cluster) -> None:
    assert cluster.psql("SELECT 1, NULL, 'a b'; SELECT 2") == "1||a b\n2"


def test_psql_stops_at_the_first_error(cluster: Cluster) -> None:
    with pytest.raises(ScratchError, match="division by zero"):
        cluster.psql("SELECT 1/0; CREATE DATABASE never_made")
    assert cluster.psql("SELECT count(*) FROM pg_database WHERE datname = 'never_made'") == "0"


def test_settings_are_ours_and_can_be_changed(scratch: Scratch) -> None:
    with Cluster(scratch, {"max_connections": 17}, name="settings") as cluster:
        assert cluster.psql("SHOW max_connections; SHOW fsync") == "17\noff"
        cluster.settings["work_mem"] = "5MB"
        cluster.reload()
        until(lambda: cluster.psql("SHOW work_mem") == "5MB")
        cluster.settings["max_connections"] = "18"
        cluster.restart()
        assert cluster.psql("SHOW max_connections") == "18"


def test_both_ways_in(cluster: Cluster, scratch: Scratch) -> None:
    psql = scratch.binaries.postgres / "psql"
    ask: list[str | Path] = [psql, "-XAtc", "SELECT inet_server_port()", "-d"]
    assert scratch.run([*ask, cluster.dsn(host="127.0.0.1")]) == f"{cluster.port}\n"
    assert scratch.run([*ask, cluster.dsn()]) == "\n"


def test_the_callers_environment_does_not_matter(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c nonsense=1")
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    assert cluster.psql("SELECT 1") == "1"


def test_conninfo_quotes(cluster: Cluster) -> None:
    name = "it's a \\ name"
    dsn = conninfo(host=cluster.host, port=cluster.port, user="postgres", application_name=name)
    psql = cluster.scratch.binaries.postgres / "psql"
    assert cluster.scratch.run([psql, "-XAtc", "SHOW application_name", "-d", dsn]) == f"{name}\n"


def test_servers_are_not_root_and_hear_no_ctrl_c(cluster: Cluster, bouncer: Bouncer) -> None:
    for pid in (cluster.pid, bouncer.pid):
        assert Path(f"/proc/{pid}").stat().st_uid != 0
        assert os.getsid(pid) == pid


def test_a_server_that_cannot_start_shows_its_log(scratch: Scratch) -> None:
    with pytest.raises(ScratchError, match="unrecognized configuration parameter"):
        Cluster(scratch, {"no_such_setting": 1}, name="broken").start()


def test_stop_modes_and_a_crash(servers: tuple[Scratch, Cluster, Bouncer]) -> None:
    _, cluster, _ = servers
    for mode in ("smart", "fast", "immediate"):
        cluster.stop(mode)
        assert f"received {mode} shutdown request" in cluster.tail(40)
        with pytest.raises(ScratchError, match="not running"):
            _ = cluster.pid
        cluster.start()
    identifier = (cluster.data / "postmaster.pid").read_text().splitlines()[6].split()[1]
    assert identifier in _shared_memory()
    cluster.kill()
    until(lambda: identifier not in _shared_memory())
    cluster.start()
    assert cluster.psql("SELECT 1") == "1"


def _shared_memory() -> list[str]:
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()
    return [line.split()[1] for line in lines]


# ---- PgBouncer


def test_bouncer_pools(bouncer: Bouncer) -> None:
    assert bouncer.psql("SELECT current_database(), current_user", "named") == "postgres|postgres"
    assert bouncer.psql("SELECT current_database()", "template1") == "template1"
    assert bouncer.console("SHOW VERSION").startswith("PgBouncer ")


def test_console_users(bouncer: Bouncer) -> None:
    assert "named|postgres|" in _listed(bouncer)
    assert bouncer.console("RELOAD", "pgadmin") == ""
    with pytest.raises(ScratchError, match="admin access needed"):
        bouncer.console("RELOAD", "stats")
    with pytest.raises(ScratchError, match="not allowed"):
        bouncer.console("SHOW POOLS", "postgres")


def _listed(bouncer: Bouncer) -> str:
    bouncer.psql("SELECT 1", "named")
    return bouncer.console("SHOW POOLS", "stats")


@pytest.mark.parametrize("auth_type", ["plain", "md5", "scram-sha-256"])
def test_bouncer_asks_passwords(scratch: Scratch, cluster: Cluster, auth_type: str) -> None:
    secret = 'it\'s "so" secret'
    with Bouncer(
        scratch,
        {"*": cluster.address},
        users={"postgres": secret},
        auth_type=auth_type,
        name=f"auth-{auth_type}",
    ) as bouncer:
        assert bouncer.psql("SELECT 1", "postgres", password=secret) == "1"
        with pytest.raises(ScratchError, match="fail"):
            bouncer.psql("SELECT 1", "postgres", password="wrong")


def test_bouncer_reload_and_restart(servers: tuple[Scratch, Cluster, Bouncer]) -> None:
    _, cluster, bouncer = servers
    bouncer.databases["other"] = f"{cluster.address} {conninfo(dbname='template1')}"
    bouncer.settings["default_pool_size"] = 3
    bouncer.reload()
    assert bouncer.psql("SELECT current_database()", "other") == "template1"
    port, pid = bouncer.port, bouncer.pid
    bouncer.restart()
    assert (bouncer.port, bouncer.pid == pid) == (port, False)
    assert "default_pool_size|3|" in bouncer.console("SHOW CONFIG")


# ---- finding the programs


def test_find_binaries_follows_the_environment(tmp_path: Path) -> None:
    found = find_binaries()
    for program in ("postgres", "initdb", "psql"):
        (tmp_path / program).symlink_to(found.postgres / program)
    assert find_binaries({"PGSTATS_PG_BIN": str(tmp_path)}).postgres == tmp_path
    with pytest.raises(ScratchError, match=r"PGSTATS_PG_BIN=/nowhere does not hold postgres"):
        find_binaries({"PGSTATS_PG_BIN": "/nowhere"})


def test_missing_binaries_come_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POSTGRES_FOLDERS", ())
    monkeypatch.setattr(module, "_SYSTEM_FOLDERS", "")
    with pytest.raises(ScratchError) as caught:
        find_binaries({"PATH": "/nowhere"})
    assert "PostgreSQL's server (postgres, initdb, psql) and pgbouncer" in str(caught.value)
    assert "apt-get install postgresql pgbouncer" in str(caught.value)


def test_a_newer_postgres_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("9.6", "15", "18"):
        folder = tmp_path / version / "bin"
        folder.mkdir(parents=True)
        for program in ("postgres", "initdb", "psql"):
            (folder / program).symlink_to("/bin/true")
    monkeypatch.setattr(module, "_POSTGRES_FOLDERS", (f"{str(tmp_path)[1:]}/*/bin",))
    assert find_binaries({}).postgres == tmp_path / "18" / "bin"


def test_a_program_that_cannot_run_is_told(scratch: Scratch) -> None:
    with pytest.raises(ScratchError, match="cannot run /nowhere/x: No such file"):
        scratch.launch(["/nowhere/x"], output=scratch.path / "log")
    with pytest.raises(ScratchError, match="cannot run /nowhere/x: No such file"):
        scratch.run(["/nowhere/x"])


# ---- the end


def test_close_leaves_nothing(servers: tuple[Scratch, Cluster, Bouncer]) -> None:
    scratch, cluster, bouncer = servers
    helper = scratch.launch(["sleep", "600"], output=scratch.path / "sleep.log")
    bouncer.signal(signal.SIGSTOP)
    pids = [cluster.pid, bouncer.pid, helper.pid]
    scratch.close()
    assert not scratch.path.exists()
    assert not any(running(pid) for pid in pids)
    assert not any(listening(port) for port in (cluster.port, bouncer.port))
    scratch.close()  # the fixture does it again, which must not hurt


def test_an_error_inside_leaves_nothing() -> None:
    seen: list[Scratch] = []
    with pytest.raises(ScratchError, match="no_such_setting"):
        _fail_inside(seen)
    assert not seen[0].path.exists()


def _fail_inside(seen: list[Scratch]) -> None:
    with Scratch() as scratch:
        seen.append(scratch)
        cluster = Cluster(scratch).start()
        Cluster(scratch, {"no_such_setting": cluster.pid}, name="second").start()


PARENT = """
import json, os, time
from pgstats.scratch import Scratch, Cluster, Bouncer
scratch = Scratch()
cluster = Cluster(scratch).start()
bouncer = Bouncer(scratch, {"*": cluster.address}).start()
helper = scratch.launch(["sleep", "600"], output=scratch.path / "log", ours=True)
print(json.dumps({
    "pids": [cluster.pid, bouncer.pid, helper.pid],
    "ports": [cluster.port, bouncer.port],
    "path": str(scratch.path),
    "owners": [os.stat(f"/proc/{pid}").st_uid for pid in (cluster.pid, bouncer.pid)],
    "answers": [cluster.psql("SELECT 1"), bouncer.psql("SELECT 2", "postgres")],
}), flush=True)
time.sleep(600)
"""


def test_when_we_are_killed_all_goes(user: User) -> None:
    parent = user.start("-c", PARENT)
    assert parent.stdout
    assert parent.stderr
    line = parent.stdout.readline()
    assert line, parent.stderr.read()
    report: dict[str, Any] = json.loads(line)
    assert report["answers"] == ["1", "2"]
    assert 0 not in report["owners"]
    parent.send_signal(signal.SIGKILL)
    parent.communicate(timeout=60)
    until(lambda: not any(running(pid) for pid in report["pids"]))
    until(lambda: not Path(report["path"]).exists())
    assert not any(listening(port) for port in report["ports"])


# ---- the statsd of npm


def test_node_statsd_reads_back(node_statsd: NodeStatsd) -> None:
    lines = ["a.b:0|g\na.b:-7|g", "plain:5|g", "exp:1e21|g", "small:0.0000001|g", "with-dash:2|g"]
    lines += [f"many.{number}:{number}|g" for number in range(500)]
    with socket.create_connection(("127.0.0.1", node_statsd.port)) as connection:
        connection.sendall(("\n".join(lines) + "\n").encode())
    with socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.sendto(b"over.udp:1.5|g", ("127.0.0.1", node_statsd.port))
    expected = {"a.b": -7, "plain": 5, "exp": 1e21, "small": 1e-7, "with-dash": 2, "over.udp": 1.5}
    expected |= {f"many.{number}": number for number in range(500)}
    until(lambda: node_statsd.gauges().items() >= expected.items())
    node_statsd.forget()
    assert not node_statsd.gauges()
    assert node_statsd.counters()["statsd.bad_lines_seen"] == 0
