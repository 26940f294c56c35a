"""The struck servers, and the table that `./dev faults` ends with."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgstats.scratch import Bouncer, Cluster, Scratch, conninfo
from tests.faults.table import COMMANDS, FAULTS
from tests.faults.world import PASSWORD, World
from tests.receivers.sink import SinkProcess


@pytest.fixture(scope="session")
def _struck_cluster(scratch: Scratch) -> Iterator[Cluster]:
    settings = {"max_connections": 12, "wal_level": "replica", "max_prepared_transactions": 5}
    cluster = Cluster(scratch, settings, name="struck")
    (cluster.data / "pg_hba.conf").write_text(
        "local all postgres trust\nlocal replication all trust\nhost all postgres all trust\n"
        "local all all scram-sha-256\nhost all all all scram-sha-256\n"
    )
    with cluster:
        cluster.psql(f"CREATE ROLE watch LOGIN PASSWORD '{PASSWORD}'; GRANT pg_monitor TO watch")
        for name in ("goes", "stays", "home"):
            cluster.psql(f"CREATE DATABASE {name}")
        yield cluster


@pytest.fixture(scope="session")
def _struck_bouncer(scratch: Scratch, _struck_cluster: Cluster) -> Iterator[Bouncer]:
    address = _struck_cluster.address
    with Bouncer(
        scratch,
        {"goes": address, "*": address},
        users={"stats": PASSWORD, "postgres": PASSWORD, "pgadmin": ""},
        admin_users=["pgadmin"],
        stats_users=["stats"],
        auth_type="scram-sha-256",
        settings={"max_client_conn": 3},
        name="struck-bouncer",
    ) as bouncer:
        yield bouncer


@pytest.fixture(scope="session")
def _sink(scratch: Scratch) -> Iterator[SinkProcess]:
    with SinkProcess(scratch, "faults-sink") as sink:
        yield sink


AUTHORITY = """
[ca]
default_ca = own
[own]
database = index
unique_subject = no
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
x509_extensions = more
[any]
commonName = supplied
[more]
basicConstraints = CA:true
subjectAltName = DNS:localhost
"""


@pytest.fixture(scope="session")
def _certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One certificate that is valid, and one of the same key that was."""
    folder = tmp_path_factory.getbasetemp() / "tls"
    folder.mkdir()
    (folder / "authority").write_text(AUTHORITY)
    (folder / "index").write_text("")
    request = "req -new -nodes -subj /CN=localhost -newkey rsa:2048 -keyout key -out request"
    sign = "ca -batch -selfsign -notext -create_serial -config authority -keyfile key -in request"
    ends = {"valid": "20991231000000Z", "expired": "20200102000000Z"}
    dates = [f"-startdate 20200101000000Z -enddate {ends[name]} -out {name}" for name in ends]
    for words in (request, *(f"{sign} {some}" for some in dates)):
        done = subprocess.run(
            ["openssl", *words.split()], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def world(
    tmp_path: Path,
    cluster: Cluster,
    bouncer: Bouncer,
    _struck_cluster: Cluster,
    _struck_bouncer: Bouncer,
    _sink: SinkProcess,
    _certificates: Path,
) -> World:
    """All servers well, and nothing that has arrived."""
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD)
    _sink.forget()
    return World(
        folder=tmp_path,
        cluster=_struck_cluster,
        bouncer=_struck_bouncer,
        sound_cluster=cluster,
        sound_bouncer=bouncer,
        sink=_sink,
        dsn={
            "postgres": _struck_cluster.dsn(user="watch"),
            "pgbouncer": conninfo(
                host=_struck_bouncer.host, port=_struck_bouncer.port, user="stats"
            ),
        },
        secret=secret,
        statsd=_sink.url,
        state=f"{tmp_path}/state",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A verdict for each cell that was tried."""
    verdicts: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for outcome, word in (
        ("passed", "pass"),
        ("failed", "FAIL"),
        ("error", "FAIL"),
        ("skipped", "skip"),
    ):
        for report in terminalreporter.stats.get(outcome, ()):
            if cell := dict(getattr(report, "user_properties", ())).get("cell"):
                name, whom, command = cell.split("|")
                verdicts[name, whom][command] = word
    if not terminalreporter.config.getoption("fault_table"):
        return
    terminalreporter.section("faults")
    for line in lines(verdicts):
        terminalreporter.write_line(line)


def lines(verdicts: dict[tuple[str, str], dict[str, str]]) -> Iterator[str]:
    """The table."""
    form = "{:<32} {:<10} " + "{:<6}" * len(COMMANDS) + " {}"
    yield form.format("fault", "target", *COMMANDS, "what must still arrive")
    for fault in FAULTS:
        for whom in fault.whom:
            if found := verdicts.get((fault.name, whom)):
                words = [found.get(command, "-") for command in COMMANDS]
                yield form.format(fault.name, whom, *words, fault.must).rstrip()
