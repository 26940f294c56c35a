"""`pgstats once` on real servers: what arrives, what a broken target costs, exit codes."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pgstats.model import REASONS
from pgstats.scratch import Bouncer, Cluster, Scratch, free_port
from tests.node_statsd import NodeStatsd
from tests.program import gauges, pgstats

SECRET = "s3cr3t:'\\pass word"


@pytest.fixture(scope="module")
def guarded(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, where the role `locked` must give a password."""
    quoted = SECRET.replace("'", "''")
    cluster.psql(f"CREATE ROLE locked LOGIN PASSWORD '{quoted}'")
    file = cluster.data / "pg_hba.conf"
    before = file.read_text()
    file.write_text(f"host all locked 127.0.0.1/32 scram-sha-256\n{before}")
    cluster.reload()
    yield cluster
    file.write_text(before)
    cluster.reload()
    cluster.psql("DROP ROLE locked")


@pytest.fixture(scope="module")
def fixed(scratch: Scratch, cluster: Cluster) -> Iterator[Bouncer]:
    """A PgBouncer whose databases neither come nor go, as those behind ``*`` do."""
    databases = {"postgres": cluster.address}
    with Bouncer(scratch, databases, stats_users=["stats"], name="fixed") as bouncer:
        yield bouncer


@pytest.fixture(scope="module")
def locked_bouncer(scratch: Scratch, cluster: Cluster) -> Iterator[Bouncer]:
    """A PgBouncer that asks for passwords."""
    users = {"stats": "right", "someone": "right"}
    with Bouncer(
        scratch,
        {"*": cluster.address},
        users=users,
        stats_users=["stats"],
        auth_type="md5",
        name="locked",
    ) as bouncer:
        yield bouncer


def config(folder: Path, *targets: str, statsd: str = "udp://127.0.0.1:9") -> str:
    path = folder / "pgstats.toml"
    path.write_text("\n".join([f'[statsd]\nurl = "{statsd}"', *targets]))
    return str(path)


def target(family: str, name: str, dsn: str, more: str = "") -> str:
    return f"[[{family}]]\nname = {json.dumps(name)}\ndsn = {json.dumps(dsn)}\n{more}"


def test_all_lines_of_a_poll_arrive_at_statsd(
    tmp_path: Path, cluster: Cluster, bouncer: Bouncer, node_statsd: NodeStatsd
) -> None:
    file = config(
        tmp_path,
        target("pgbouncer", "front", bouncer.dsn("pgbouncer", "stats")),
        target("postgres", "main", cluster.dsn()),
        statsd=node_statsd.udp,
    )
    expected = set(gauges(pgstats("once", "--dry-run", "--config", file).stdout))
    done = pgstats("once", "--no-state", "--config", file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    arrived = node_statsd.gauges()
    assert set(arrived) == expected
    assert arrived["pgstats.pgbouncer.front.up"] == arrived["pgstats.postgres.main.up"] == 1
    assert arrived["pgstats.postgres.main.server.version"] == int(
        cluster.psql("SHOW server_version_num")
    )
    # PgBouncer does not count its DNS queries and says -1: statsd must not take that for a change.
    assert arrived["pgstats.pgbouncer.front.lists.dns_queries"] in (0, -1)
    assert arrived["pgstats.self.ship.errors"] == 0
    sent = arrived["pgstats.self.ship.lines"]
    own = sum(name.startswith("pgstats.self.ship.") for name in arrived)
    assert sent == len(arrived) - own + (arrived["pgstats.pgbouncer.front.lists.dns_queries"] < 0)


BROKEN = {
    "refused": ("postgres", "host=127.0.0.1 port={closed} user=postgres", "refused"),
    "no_socket": ("pgbouncer", "host=/nowhere/at/all port=6432 user=stats", "refused"),
    "dns": ("postgres", "host=no-such-host.invalid user=postgres", "dns"),
    "wrong_password": ("postgres", "{cluster} user=locked password=wr0ngpass", "auth"),
    "console_password": ("pgbouncer", "{locked} user=stats password=wr0ngpass", "auth"),
    "console_user": ("pgbouncer", "{locked} user=someone password=right", "not_allowed"),
    "postgres_as_console": ("pgbouncer", "{cluster} user=postgres", "wrong_database"),
    "pool_as_console": ("pgbouncer", "{bouncer} user=stats dbname=postgres", "wrong_database"),
    "no_database": ("postgres", "{cluster} user=postgres dbname=nosuchdb", "wrong_database"),
    "no_role": ("postgres", "{cluster} user=nosuchrole", "auth"),
    "console_as_postgres": ("postgres", "{bouncer} user=stats dbname=pgbouncer", "wrong_database"),
    "no_tls": ("postgres", "{cluster} user=postgres sslmode=require", "tls"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_target_costs_its_own_gauges_and_nothing_else(
    case: str,
    tmp_path: Path,
    guarded: Cluster,
    fixed: Bouncer,
    locked_bouncer: Bouncer,
    node_statsd: NodeStatsd,
) -> None:
    family, dsn, reason = BROKEN[case]
    addresses = {
        "cluster": f"host=127.0.0.1 port={guarded.port}",
        "bouncer": f"host=127.0.0.1 port={fixed.port}",
        "locked": f"host=127.0.0.1 port={locked_bouncer.port}",
        "closed": free_port(),
    }
    good = (
        target("pgbouncer", "front", fixed.dsn("pgbouncer", "stats")),
        target("postgres", "main", guarded.dsn()),
    )
    bad = target(family, "broken", dsn.format(**addresses))
    sound = config(tmp_path, *good, statsd=node_statsd.udp)
    before = set(gauges(pgstats("once", "--dry-run", "--config", sound).stdout))

    file = config(tmp_path, bad, *good, statsd=node_statsd.udp)
    done = pgstats("once", "--no-state", "--config", file)
    arrived = node_statsd.gauges()
    mine = f"pgstats.{family}.broken."
    # An attempt at the wrong database leaves a pool behind in the PgBouncer polled beside it.
    sound = config(tmp_path, *good, statsd=node_statsd.udp)
    after = set(gauges(pgstats("once", "--dry-run", "--config", sound).stdout))
    assert before <= {n for n in arrived if "broken" not in n} <= after
    assert arrived[f"{mine}up"] == 0
    assert {n: arrived[f"{mine}down.{n}.count"] for n in REASONS} == {
        n: int(n == reason) for n in REASONS
    }
    assert {n for n in arrived if n.startswith(mine)} == {
        f"{mine}up",
        *(f"{mine}down.{n}.count" for n in REASONS),
        *([f"{mine}state.code"] if family == "pgbouncer" else []),
    }
    assert arrived["pgstats.self.poll.broken.ok"] == 0
    assert arrived["pgstats.self.poll.front.ok"] == arrived["pgstats.self.poll.main.ok"] == 1
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("broken: ")
    assert "(" in line, "says what to do"
    assert "Traceback" not in line
    assert "wr0ngpass" not in line


def test_nothing_reachable_is_69_and_up_is_still_shipped(
    tmp_path: Path, node_statsd: NodeStatsd
) -> None:
    bad = target("postgres", "gone", f"host=127.0.0.1 port={free_port()} user=postgres")
    done = pgstats("once", "--no-state", "--config", config(tmp_path, bad, statsd=node_statsd.udp))
    assert done.returncode == 69
    assert node_statsd.gauges()["pgstats.postgres.gone.up"] == 0


def test_nobody_listening_is_69_and_says_so(cluster: Cluster) -> None:
    url = f"udp://127.0.0.1:{free_port()}"
    done = pgstats("once", "--no-state", "--postgres", cluster.dsn(), "--statsd", url)
    assert done.returncode == 69
    (line,) = done.stderr.splitlines()
    assert url in line
    assert "refused" in line


@pytest.mark.parametrize("way", ["password_file", "password_command", "passfile", "environment"])
def test_passwords_from_outside_the_file(
    way: str, tmp_path: Path, guarded: Cluster, node_statsd: NodeStatsd
) -> None:
    escaped = SECRET.replace("\\", "\\\\").replace(":", "\\:")
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "pgpass").write_text(f"127.0.0.1:{guarded.port}:*:locked:{escaped}\n")
    (tmp_path / "pgpass").chmod(0o600)
    dsn = f"host=127.0.0.1 port={guarded.port} user=locked dbname=postgres"
    more, env = {
        "password_file": ('password_file = "secret"', {}),
        "password_command": (f"password_command = \"cat '{tmp_path}/secret'\"", {}),
        "passfile": ("", {"PGPASSFILE": str(tmp_path / "pgpass")}),
        "environment": ("", {"PGPASSWORD": SECRET}),
    }[way]
    file = config(tmp_path, target("postgres", "main", dsn, more), statsd=node_statsd.udp)
    done = pgstats("once", "--no-state", "--config", file, env=env)
    assert (done.returncode, done.stderr) == (0, "")


def test_credentials_of_systemd(tmp_path: Path, guarded: Cluster) -> None:
    """A file named like the target, or a pgpass file that others may read, as newer systemd has."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    escaped = SECRET.replace("\\", "\\\\").replace(":", "\\:")
    (folder / "pgpass").write_text(f"127.0.0.1:{guarded.port}:*:locked:{escaped}\n")
    (folder / "pgpass").chmod(0o440)
    (folder / "main").write_text(SECRET)
    dsn = f"host=127.0.0.1 port={guarded.port} user=locked dbname=postgres"
    file = config(tmp_path, target("postgres", "main", dsn), target("postgres", "other", dsn))
    env = {"CREDENTIALS_DIRECTORY": str(folder)}
    done = pgstats("once", "--dry-run", "--config", file, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert gauges(done.stdout)["pgstats.postgres.other.up"] == 1


@pytest.mark.parametrize(
    ("command", "said"),
    [("false", "exit code 1"), ("/no/such/program x", "No such file"), ("sleep 60", "too long")],
)
def test_a_failing_password_command_is_told_without_its_arguments(
    command: str, said: str, tmp_path: Path, cluster: Cluster
) -> None:
    more = f'password_command = "{command}"\ntimeout = "1s"'
    file = config(tmp_path, target("postgres", "main", cluster.dsn(), more))
    done = pgstats("once", "--dry-run", "--config", file)
    assert done.returncode == 69
    assert said in done.stderr
    reason = "timeout" if said == "too long" else "auth"
    assert gauges(done.stdout)[f"pgstats.postgres.main.down.{reason}.count"] == 1


def test_libpq_environment_names_the_target(cluster: Cluster) -> None:
    env = {"PGHOST": cluster.host, "PGPORT": str(cluster.port), "PGUSER": "postgres"}
    done = pgstats("once", "--dry-run", env=env | {"PGDATABASE": "postgres"})
    assert (done.returncode, done.stderr) == (0, "")
    assert 1 in [v for k, v in gauges(done.stdout).items() if k.endswith(".up")]


def test_service_file_and_uri(tmp_path: Path, cluster: Cluster) -> None:
    service = tmp_path / "services"
    service.write_text(f"[here]\nhost={cluster.host}\nport={cluster.port}\nuser=postgres\n")
    uri = f"postgresql://postgres@127.0.0.1:{cluster.port}/postgres?application_name=mine"
    done = pgstats(
        "once",
        "--dry-run",
        *("--postgres", "service=here dbname=postgres", "--postgres", uri),
        env={"PGSERVICEFILE": str(service)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert gauges(done.stdout)["pgstats.postgres.here.up"] == 1


def test_no_option_reaches_the_console_from_the_environment(bouncer: Bouncer) -> None:
    dsn = bouncer.dsn("pgbouncer", "stats")
    env = {"PGOPTIONS": "-c statement_timeout=1s", "PGDATESTYLE": "ISO"}
    done = pgstats("once", "--dry-run", "--pgbouncer", dsn, env=env)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_run_ends_at_once_and_says_who_holds_the_state(
    tmp_path: Path, cluster: Cluster
) -> None:
    state = tmp_path / "state"
    with (tmp_path / "state.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        done = pgstats("once", "--postgres", cluster.dsn(), "--state", str(state))
        beside = pgstats("once", "--postgres", cluster.dsn(), "--state", str(state), "--dry-run")
    assert done.returncode == 75
    assert str(os.getpid()) in done.stderr
    assert beside.returncode == 0


def test_no_place_for_the_state_is_no_failure(
    tmp_path: Path, cluster: Cluster, node_statsd: NodeStatsd
) -> None:
    (tmp_path / "file").write_text("")
    done = pgstats(
        "once",
        *("--postgres", cluster.dsn(), "--statsd", node_statsd.udp),
        *("--state", str(tmp_path / "file" / "state")),
    )
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"cannot write {tmp_path}/file/state: ")


def test_json_shows_the_same_poll(cluster: Cluster, bouncer: Bouncer) -> None:
    targets = ("--postgres", cluster.dsn(), "--pgbouncer", bouncer.dsn("pgbouncer", "stats"))
    done = pgstats("once", "--json", *targets)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)["targets"]
    assert {(t["family"], t["up"]) for t in found} == {("pgbouncer", 1), ("postgres", 1)}
    groups = {frame["group"] for t in found for frame in t["frames"]}
    assert {"stats", "pools", "lists", "databases", "config", "server", "tables"} <= groups


@pytest.mark.parametrize("size", [200, 1400])
def test_a_dry_run_shows_the_packets(size: int, tmp_path: Path, cluster: Cluster) -> None:
    file = config(tmp_path, target("postgres", "main", cluster.dsn()))
    Path(file).write_text(
        Path(file).read_text().replace("[statsd]", f"[statsd]\nmax_packet={size}")
    )
    arguments = ("once", "--config", file, "--no-state", "--dry-run", "--verbose")
    done = pgstats(*arguments, "--packets")
    heads = re.findall(r"^# packet (\d+): (\d+) lines, (\d+) bytes$", done.stdout, re.MULTILINE)
    packets = [
        text.rstrip("\n") for text in re.split(r"^# .*\n", done.stdout, flags=re.MULTILINE)[1:]
    ]
    found = [(n, text.count("\n") + 1, len(text)) for n, text in enumerate(packets, 1)]
    assert [tuple(map(int, head)) for head in heads] == found
    assert max(len(text) for text in packets) <= size
    # As few as can be: the account of the shipping, which is the last one, goes by itself.
    account = next(n for n, text in enumerate(packets) if text.startswith("pgstats.self.ship."))
    for poll in (packets[:account], packets[account:]):
        for text, after in pairwise(poll):
            assert len(text) + len("\n") + len(after.split("\n")[0]) > size
    plain = pgstats(*arguments)
    assert "#" not in plain.stdout
    assert gauges(plain.stdout).keys() == gauges("\n".join(packets)).keys()


def test_packets_are_those_of_a_dry_run() -> None:
    done = pgstats("once", "--packets", "--postgres", "host=/nowhere user=me")
    assert done.returncode == 2
    assert "--packets goes with --dry-run" in done.stderr


def test_odd_names_are_told_once_for_all_runs(
    tmp_path: Path, cluster: Cluster, node_statsd: NodeStatsd
) -> None:
    """Cron sends a mail for each line."""
    odd = ("odd name", "odd.name")
    for name in odd:
        cluster.psql(f'CREATE DATABASE "{name}" TEMPLATE template0')
    try:
        cluster.psql(f'CREATE TABLE "{"x" * 63}" ()', odd[0])
        again = (
            "once", "--state", f"{tmp_path}/state", "--statsd", node_statsd.udp,
            *("--prefix", "longer_than_most", "--postgres", cluster.dsn()),
        )  # fmt: skip
        first, second = pgstats(*again), pgstats(*again)
        told = first.stderr.splitlines()
        assert (first.returncode, second.returncode, second.stderr) == (0, 0, "")
        assert len(told) == 2, told
        assert re.search(r"database 'odd.name' would read like another: .* \(told once\)$", told[0])
        assert re.search(r"collectd keeps 127 characters of a name; .* \(told once\)$", told[1])
        found = {
            name.split(".")[4] for name in node_statsd.gauges() if ".database.odd_name" in name
        }
        assert len(found) == 2
        assert all(re.fullmatch("odd_name_[0-9a-f]{6}", name) for name in found)
    finally:
        for name in odd:
            cluster.psql(f'DROP DATABASE "{name}"')


def test_configuration_errors_are_78_and_nothing_is_done(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('prefx = "x"\n[[postgres]]\nname = 1\n')
    done = pgstats("once", "--config", str(path))
    assert (done.returncode, done.stdout) == (78, "")
    assert "prefx" in done.stderr
    assert "bad.toml:1" in done.stderr


def test_usage_errors_are_2() -> None:
    assert pgstats("once", "--nonsense").returncode == 2
    assert pgstats("onse").returncode == 2
    assert pgstats().returncode == 2


@pytest.mark.parametrize(
    ("redirection", "arguments", "code"),
    [
        (">&-", ["once", "--config", "FILE"], 0),
        ("2>&-", ["once", "--config", "FILE"], 0),
        ("<&- >&- 2>&-", ["once", "--config", "FILE"], 0),
        (">/dev/full", ["once", "--dry-run", "--config", "FILE"], 1),
        ("2>&-", ["once", "--config", "nowhere"], 78),
        ("2>/dev/full", ["once", "--config", "nowhere"], 78),
        ("2>/dev/full", ["once", "--bogus"], 2),
    ],
)
def test_closed_and_full_streams_change_no_exit_code(
    redirection: str,
    arguments: list[str],
    code: int,
    tmp_path: Path,
    cluster: Cluster,
    node_statsd: NodeStatsd,
) -> None:
    file = config(tmp_path, target("postgres", "main", cluster.dsn()), statsd=node_statsd.udp)
    words = [file if word == "FILE" else word for word in arguments]
    shell = ["bash", "-c", f'"$@" {redirection}', "-", sys.executable, "-m", "pgstats", *words]
    env = os.environ | {"PGSTATS_NO_STATE": "1"}
    done = subprocess.run(shell, capture_output=True, text=True, env=env)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    if code == 0:
        assert node_statsd.gauges()["pgstats.postgres.main.up"] == 1


def test_a_mistyped_command_is_recognised() -> None:
    assert "Did you mean 'once'" in pgstats("onc").stderr


def test_a_dsn_that_is_no_text_is_a_configuration_error() -> None:
    command = [sys.executable.encode(), b"-m", b"pgstats", b"once", b"--postgres", b"dbname=\xff"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 78
    assert "not UTF-8" in done.stderr


def test_a_reader_that_leaves_early_is_no_traceback(cluster: Cluster) -> None:
    """`pgstats once --dry-run | head -1`."""
    command = ["bash", "-c", 'set -o pipefail; "$@" | head -1', "-"]
    program = [sys.executable, "-m", "pgstats", "once", "--dry-run", "--postgres", cluster.dsn()]
    done = subprocess.run([*command, *program], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_a_stopped_server_ends_within_the_timeout(tmp_path: Path, bouncer: Bouncer) -> None:
    """A socket that is listened on by nobody who answers."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        stuck = target("postgres", "stuck", f"host=127.0.0.1 port={port}", 'timeout = "500ms"')
        good = target("pgbouncer", "front", bouncer.dsn("pgbouncer", "stats"))
        done = pgstats("once", "--dry-run", "--config", config(tmp_path, stuck, good), timeout=30)
    found = gauges(done.stdout)
    assert done.returncode == 1
    assert found["pgstats.postgres.stuck.down.timeout.count"] == 1
    assert found["pgstats.pgbouncer.front.up"] == 1
