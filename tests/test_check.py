"""`pgstats check` on real servers: what it proves, and the remedy it names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgstats.scratch import Bouncer, Cluster, free_port
from tests.node_statsd import NodeStatsd
from tests.program import pgstats


@pytest.fixture(scope="module")
def roles(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with a role that may monitor, one that may not, and a closed database."""
    cluster.psql("CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher")
    cluster.psql("CREATE ROLE plain LOGIN")
    cluster.psql("CREATE ROLE distant LOGIN NOINHERIT; GRANT pg_monitor TO distant")
    cluster.psql("CREATE DATABASE closed TEMPLATE template0")
    cluster.psql("REVOKE CONNECT ON DATABASE closed FROM public")
    file = cluster.data / "pg_hba.conf"
    before = file.read_text()
    cluster.psql("CREATE DATABASE rejected TEMPLATE template0")
    file.write_text(f"local rejected all reject\n{before}")
    cluster.reload()
    yield cluster
    file.write_text(before)
    cluster.reload()
    for database in ("closed", "rejected"):
        cluster.psql(f"DROP DATABASE {database}")
    for role in ("watcher", "plain", "distant"):
        cluster.psql(f"DROP ROLE {role}")


def test_all_is_proven(roles: Cluster, bouncer: Bouncer, node_statsd: NodeStatsd) -> None:
    done = pgstats(
        "check",
        *("--pgbouncer", bouncer.dsn("pgbouncer", "stats")),
        *("--postgres", roles.dsn("postgres", "watcher")),
        *("--statsd", node_statsd.udp),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "PgBouncer 1." in done.stdout
    assert "PostgreSQL 15." in done.stdout
    assert "watcher has the rights of pg_monitor" in done.stdout
    assert "failed" not in done.stdout


@pytest.mark.parametrize("role", ["plain", "distant"])
def test_missing_rights_name_the_grant(roles: Cluster, role: str, node_statsd: NodeStatsd) -> None:
    """A member that does not inherit has the rights no more than an outsider."""
    done = pgstats("check", "--postgres", roles.dsn("postgres", role), "--statsd", node_statsd.udp)
    assert done.returncode == 1
    assert f'GRANT pg_monitor TO "{role}";' in done.stdout


def test_a_database_that_lets_nobody_in_is_a_note_and_no_failure(
    roles: Cluster, node_statsd: NodeStatsd
) -> None:
    dsn = roles.dsn("postgres", "watcher")
    done = pgstats("check", "--json", "--postgres", dsn, "--statsd", node_statsd.udp)
    assert done.returncode == 0
    notes = [f["message"] for f in json.loads(done.stdout) if f["status"] == "note"]
    closed, rejected = sorted(notes)
    assert closed.startswith("database closed does not let watcher in and is left out: ")
    assert rejected.startswith("database rejected does not let watcher in and is left out: ")
    once = pgstats("once", "--dry-run", "--postgres", dsn)
    assert (once.returncode, once.stderr) == (0, "")
    assert ".databases_refused:2|g" in once.stdout
    assert ".tables.rejected." not in once.stdout
    assert ".tables.closed." not in once.stdout


def test_each_failure_has_a_remedy(cluster: Cluster, bouncer: Bouncer) -> None:
    closed = free_port()
    done = pgstats(
        "check",
        *("--json", "--pgbouncer", bouncer.dsn("postgres", "stats")),
        *("--pgbouncer", bouncer.dsn("pgbouncer", "postgres")),
        *("--postgres", f"host=127.0.0.1 port={closed} user=postgres"),
        *("--postgres", bouncer.dsn("pgbouncer", "stats")),
        *("--statsd", f"udp://127.0.0.1:{closed}"),
    )
    assert done.returncode == 1
    findings = json.loads(done.stdout)
    assert [f["status"] for f in findings] == ["failed"] * 5
    remedies = [f["remedy"] for f in findings]
    assert "dbname=pgbouncer" in remedies[0]
    assert "stats_users" in remedies[1]
    assert "is PostgreSQL running" in remedies[2]
    assert "pooled = true" in remedies[3]
    assert "--statsd" in remedies[4]
    assert cluster.psql("SELECT 1").strip() == "1"


def test_offline_connects_nowhere() -> None:
    done = pgstats("check", "--offline", "--postgres", "host=192.0.2.1 user=me")
    assert (done.returncode, done.stderr) == (0, "")
    assert "valid, 1 target" in done.stdout


def test_offline_tells_faults() -> None:
    done = pgstats("check", "--offline", "--postgres", "hots=there user=me")
    assert done.returncode == 78
    assert 'did you mean "host"' in done.stderr


@pytest.mark.parametrize("offline", [("--offline",), ()])
def test_what_is_wrong_with_the_configuration_is_json_for_who_asks(
    offline: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "pgstats.toml"
    path.write_text('intervall = "1s"\n[[postgres]]\ndsn = "hots=there"\n')
    done = pgstats("check", *offline, "--json", "--config", str(path))
    assert (done.returncode, done.stderr) == (78, "")
    findings = json.loads(done.stdout)
    assert {(f["target"], f["status"]) for f in findings} == {("configuration", "failed")}
    assert [word for f in findings for word in ("interval", "host") if word in f["message"]]
    assert len(findings) == 2


def test_a_timeout_longer_than_the_interval_is_noted(tmp_path: Path) -> None:
    """The runs that it makes the daemon skip are counted: it is allowed."""
    path = tmp_path / "pgstats.toml"
    path.write_text(
        'interval = "5s"\n[[postgres]]\nname = "main"\ndsn = "host=192.0.2.1"\ntimeout = "6s"\n'
    )
    done = pgstats("check", "--offline", "--json", "--config", str(path))
    assert done.returncode == 0
    valid, note = json.loads(done.stdout)
    assert valid["status"] == "ok"
    assert valid["message"].endswith("valid, 1 target")
    assert (note["target"], note["status"]) == ("main", "note")
    assert note["message"].startswith("its timeout of 6 s is longer than its interval of 5 s")
    path.write_text(path.read_text().replace("6s", "5s"))
    assert "note" not in pgstats("check", "--offline", "--config", str(path)).stdout


def test_show_config_masks_secrets() -> None:
    dsn = "host=here user=me password=hunter2"
    done = pgstats("check", "--show-config", "--postgres", dsn, env={"PGSTATS_PREFIX": "ours"})
    assert done.returncode == 0
    assert "hunter2" not in done.stdout + done.stderr
    assert "PGSTATS_PREFIX" in done.stdout
    assert "--postgres" in done.stdout


def test_so_reuseport_over_tcp_is_noted(bouncer: Bouncer, node_statsd: NodeStatsd) -> None:
    with Bouncer(
        bouncer.scratch,
        {},
        stats_users=["stats"],
        settings={"so_reuseport": 1},
        name="shared",
    ) as shared:
        tcp = f"host=127.0.0.1 port={shared.port} user=stats"
        over_tcp = pgstats("check", "--pgbouncer", tcp, "--statsd", node_statsd.udp)
        local = pgstats(
            "check", "--pgbouncer", shared.dsn("pgbouncer", "stats"), "--statsd", node_statsd.udp
        )
    assert "so_reuseport" in over_tcp.stdout
    assert "so_reuseport" not in local.stdout


def test_databases_that_mean_nothing_are_told(
    tmp_path: Path, cluster: Cluster, node_statsd: NodeStatsd
) -> None:
    path = tmp_path / "pgstats.toml"
    path.write_text(
        f'[statsd]\nurl = "{node_statsd.udp}"\n[[postgres]]\nname = "main"\n'
        f'dsn = {json.dumps(cluster.dsn())}\ndatabases = ["appbd", "!x*"]\n'
    )
    done = pgstats("check", "--json", "--config", str(path))
    assert done.returncode == 1
    (failed,) = [f for f in json.loads(done.stdout) if f["status"] == "failed"]
    assert "is meant by databases = appbd, !x*" in failed["message"]
    assert failed["remedy"]
    once = pgstats("once", "--no-state", "--config", str(path), "--verbose")
    assert once.returncode == 0
    assert "is meant by databases = appbd, !x*" in once.stderr


def test_each_process_behind_a_port_is_proven(bouncer: Bouncer, tmp_path: Path) -> None:
    path = tmp_path / "pgstats.toml"
    dsn = json.dumps(bouncer.dsn("pgbouncer", "stats"))
    sockets = json.dumps([bouncer.host, "/nowhere"])
    path.write_text(f"[[pgbouncer]]\ndsn = {dsn}\nsockets = {sockets}\n")
    found = json.loads(pgstats("check", "--json", "--config", str(path)).stdout)
    first, second, *_ = [finding["message"] for finding in found]
    assert first.startswith("process 1: PgBouncer 1.")
    assert second.startswith("process 2: connect: ")


def test_a_receiver_whose_name_is_unknown(cluster: Cluster) -> None:
    there = "udp://no-such-host.invalid:8125"
    done = pgstats("check", "--postgres", cluster.dsn(), "--statsd", there)
    assert done.returncode == 1
    assert f"failed statsd: {there}: " in done.stdout
    assert "-> correct the name: [statsd] url" in done.stdout
