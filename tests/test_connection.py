"""Connecting: which servers are tried, for how long, with which password; and what failures say."""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pgstats.ask.connection import Connection, psycopg2
from pgstats.ask.dsn import merged, moved, places
from pgstats.ask.failure import classify, remedy
from pgstats.ask.password import Secret
from pgstats.ask.pgbouncer import PgBouncerAsker, connect
from pgstats.errors import AskError
from pgstats.model import PGBOUNCER, POSTGRES, Target
from pgstats.scratch import Bouncer, Cluster, Scratch, free_port
from tests.namespace import with_own
from tests.test_ask_postgres import Standby

ROOT = Path(__file__).parent.parent
LONG = 30.0  # seconds that no test comes near unless something waits that must not


def opened(dsn: str, seconds: float = LONG, secret: Secret | None = None) -> Connection:
    return Connection(POSTGRES, dsn, {}, time.monotonic() + seconds, secret)


def refused(dsn: str, seconds: float = LONG, secret: Secret | None = None) -> AskError:
    """The error that connecting ends with."""
    with pytest.raises(AskError) as caught:
        opened(dsn, seconds, secret)
    return caught.value


def port_of(connection: Connection) -> int:
    """The port of the server that was reached."""
    with closing(connection):
        return int(connection.ask("SELECT current_setting('port')")[1][0][0])


@pytest.fixture
def dead() -> Iterator[int]:
    """A port where connections are taken and nothing is ever said."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


class Gate(threading.Thread):
    """A server that asks for the password in clear text and lets nobody in."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._passwords: queue.Queue[str | None] = queue.Queue()

    def told(self) -> str | None:
        """The next visitor's password, None where it had none."""
        return self._passwords.get(timeout=LONG)

    def unvisited(self) -> bool:
        return self._passwords.empty()

    def run(self) -> None:
        while True:
            try:
                visitor, _ = self.listener.accept()
            except OSError:
                return
            with visitor, visitor.makefile("rb") as stream:
                self._passwords.put(self._ask(visitor, stream.read))

    @staticmethod
    def _ask(visitor: socket.socket, read: Callable[[int], bytes]) -> str | None:
        code = 80877103  # SSLRequest, which is answered by N, then comes the login
        while code >> 16 != 3:
            length, code = struct.unpack("!II", read(8))
            read(length - 8)
            if code >> 16 != 3:
                visitor.sendall(b"N")
        visitor.sendall(b"R" + struct.pack("!II", 8, 3))
        head = read(5)
        if len(head) < 5:
            return None
        found = read(struct.unpack("!I", head[1:])[0] - 4)[:-1].decode()
        told = b"SFATAL\0C28P01\0Mpassword authentication failed\0\0"
        visitor.sendall(b"E" + struct.pack("!I", len(told) + 4) + told)
        return found


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    gate.start()
    yield gate
    gate.listener.close()


# --- which servers are tried


@pytest.mark.parametrize("timeout", ["", " connect_timeout=1"])
def test_a_dead_server_leaves_time_for_the_next(cluster: Cluster, dead: int, timeout: str) -> None:
    dsn = f"host=127.0.0.1,127.0.0.1 port={dead},{cluster.port} user=postgres{timeout}"
    assert port_of(opened(dsn, 8)) == cluster.port


def test_connect_timeout_holds_for_one_server_too(dead: int) -> None:
    start = time.monotonic()
    error = refused(f"host=127.0.0.1 port={dead} user=u connect_timeout=1")
    assert error.reason == "timeout"
    assert str(error).endswith("no answer in time")
    assert time.monotonic() - start < LONG / 2
    assert "connect_timeout" in str(refused(f"port={dead} user=u connect_timeout=soon"))


@pytest.mark.parametrize("way", ["string", "uri", "service", "environment", "sockets"])
def test_hosts_come_from_wherever_libpq_takes_them(
    way: str, cluster: Cluster, dead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts, ports = "127.0.0.1,127.0.0.1", f"{dead},{cluster.port}"
    services = tmp_path / "services"
    services.write_text(
        f"[main2]\nhost=wrong\n# comment\n[main]\n\n  host={hosts}\nport={ports}\n"
        "connect_timeout=1\nhost=second\n[other]\nhost=wrong\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    if way == "environment":
        monkeypatch.setenv("PGHOST", hosts)
        monkeypatch.setenv("PGPORT", ports)
        monkeypatch.setenv("PGCONNECT_TIMEOUT", "1")
    dsn = {
        "string": f"host={hosts} port={ports} user=postgres",
        "uri": f"postgresql://postgres@127.0.0.1:{dead},127.0.0.1:{cluster.port}/postgres",
        "service": "service=main user=postgres",
        "environment": "user=postgres",
        "sockets": f"host=/nowhere,{cluster.host} port={cluster.port} user=postgres",
    }[way]
    assert port_of(opened(dsn, 8)) == cluster.port


def test_what_is_merged_is_what_libpq_uses(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = tmp_path / "pg_service.conf"
    services.write_text(
        f"[s]\nhost={cluster.host}\nport={cluster.port}\ndbname=template1\nuser=nobody\n"
    )
    monkeypatch.delenv("PGSERVICEFILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path))
    monkeypatch.setenv("PGDATABASE", "never")
    monkeypatch.setenv("PGAPPNAME", "x")
    dsn = "service=s user=postgres"
    found = merged(dsn, {})
    with closing(psycopg2.connect(dsn)) as theirs:
        used = theirs.info.dsn_parameters
    for key in ("host", "port", "dbname", "user"):
        assert found[key] == used[key]
    monkeypatch.delenv("PGDATABASE")
    dsn = f"host={cluster.host} port={cluster.port} user=postgres"
    with closing(psycopg2.connect(dsn)) as theirs:
        assert merged(dsn, {})["dbname"] == theirs.info.dbname == "postgres"


def test_an_unknown_service_is_told_by_libpq(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    assert 'service "nowhere" not found' in str(refused("service=nowhere"))
    assert places(merged("service=nowhere", {})) == [{}], "its file may be where we do not look"


def test_a_service_in_a_directory_is_left_to_libpq(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = tmp_path / "services"
    services.write_text("[s]\n# far away\nldap://127.0.0.1:1/dc=x?y?one?z\nhost=fallback\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    given = merged("service=s user=me", {})
    assert given["service"] == "s"
    assert places(given) == [{}]
    assert not any(key.startswith("ldap") for key in given)


@pytest.mark.parametrize("more", ["host=a,b port=1,2,3", "host=a hostaddr=127.0.0.1,127.0.0.2"])
def test_what_does_not_match_is_told_by_libpq(more: str) -> None:
    assert "could not match" in str(refused(f"{more} user=u"))


def test_a_socket_beside_tcp_is_no_address_of_the_environment(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.9")
    dsn = moved("host=a hostaddr=127.0.0.8 port=1 user=postgres", cluster.host, str(cluster.port))
    assert port_of(opened(dsn)) == cluster.port


def test_a_server_that_says_no_ends_the_search(cluster: Cluster, gate: Gate) -> None:
    dsn = f"host={cluster.host},127.0.0.1 port={cluster.port},{gate.port} user=postgres"
    error = refused(f"{dsn} dbname=never_there")
    assert error.reason == "wrong_database"
    assert gate.unvisited()


def test_all_that_failed_is_told(dead: int) -> None:
    closed = free_port()
    dsn = f"host=localhost,127.0.0.1,no-such-host.invalid port={closed},{dead},1 user=u"
    error = refused(f"{dsn} connect_timeout=1")
    first, second, third = str(error).split("; ")[-3:]
    assert first == f"localhost (127.0.0.1) port {closed}: Connection refused"
    assert second == f"127.0.0.1 port {dead}: no answer in time"
    assert third.startswith("no-such-host.invalid port 1: cannot look up no-such-host.invalid")
    assert error.reason == "dns"


@pytest.fixture(scope="module")
def standby(cluster: Cluster) -> Iterator[Standby]:
    with Standby(cluster) as standby:
        yield standby


@pytest.mark.parametrize(
    ("wanted", "order", "found"),
    [
        ("any", "ps", "p"),
        ("primary", "sp", "p"),
        ("read-write", "dsp", "p"),
        ("standby", "ps", "s"),
        ("prefer-standby", "pds", "s"),
        ("prefer-standby", "dp", "p"),
        ("prefer-standby", "p", "p"),
    ],
)
def test_target_session_attrs(
    wanted: str, order: str, found: str, cluster: Cluster, standby: Standby, dead: int
) -> None:
    ports = {"p": cluster.port, "s": standby.port, "d": dead}
    dsn = (
        f"host={','.join(['127.0.0.1'] * len(order))} port={','.join(str(ports[c]) for c in order)}"
    )
    dsn += f" user=postgres connect_timeout=1 target_session_attrs={wanted}"
    assert port_of(opened(dsn)) == ports[found]


def test_no_server_is_what_target_session_attrs_asks_for(cluster: Cluster) -> None:
    dsn = f"host=127.0.0.1,127.0.0.1 port={cluster.port} user=postgres target_session_attrs=standby"
    error = refused(dsn)
    assert str(error).count("server is not in hot standby mode") == 2
    assert "target_session_attrs" in error.remedy


def again_and_again(dsn: str) -> None:
    for _ in range(200):
        opened(dsn).close()


def test_random_order(cluster: Cluster, gate: Gate) -> None:
    """Each of two servers is met first at some time; the gate turns everybody away."""
    dsn = f"host=127.0.0.1,127.0.0.1 port={cluster.port},{gate.port} user=postgres"
    dsn += " password=x load_balance_hosts=random"
    with pytest.raises(AskError, match="password authentication failed"):
        again_and_again(dsn)


# --- names


APART = """
import sys, threading, time
from pgstats.ask.connection import Connection
from pgstats.errors import AskError

gaps, ended = [0.0], False
def tick():
    last = time.monotonic()
    while not ended:
        time.sleep(0.02)
        now = time.monotonic()
        gaps.append(now - last)
        last = now

ticker = threading.Thread(target=tick)
ticker.start()
start = time.monotonic()
try:
    connection = Connection("postgres", sys.argv[1], {}, start + float(sys.argv[2]))
    print("ok", connection.ask("SELECT current_setting('port')")[1][0][0])
except AskError as error:
    print(error.reason, error)
ended = True
ticker.join()
print(max(gaps), time.monotonic() - start)
"""


def with_names(
    folder: Path, hosts: str, resolver: str, *arguments: str, **environment: str
) -> tuple[str, float, float]:
    """What connecting gives where names mean what we say; the longest standstill; the time."""
    (folder / "hosts").write_text(hosts)
    (folder / "resolv.conf").write_text(resolver)
    (folder / "nsswitch.conf").write_text("hosts: files dns\n")
    binds = [
        f"mount --bind {folder}/{name} /etc/{name}"
        for name in ("hosts", "resolv.conf", "nsswitch.conf")
        if Path("/etc", name).exists()
    ]
    script = " && ".join([*binds, 'exec "$@"'])
    argv = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", APART, *arguments]
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
    assert done.returncode == 0, done.stderr
    said, numbers = done.stdout.splitlines()
    gap, seconds = map(float, numbers.split())
    return said, gap, seconds


def _can_mount() -> bool:
    argv = ["unshare", "-m", "mount", "--bind", "/etc/hosts", "/etc/hosts"]
    return (
        bool(shutil.which("unshare")) and not subprocess.run(argv, capture_output=True).returncode
    )


names = pytest.mark.skipif(not _can_mount(), reason="needs root, to have an /etc/hosts of its own")


@names
def test_a_dead_address_of_a_name_leaves_time_for_the_next(
    tmp_path: Path, cluster: Cluster
) -> None:
    with socket.create_server(("127.0.0.2", cluster.port)):
        hosts = "127.0.0.2 twofold\n127.0.0.1 twofold\n"
        dsn = f"host=twofold port={cluster.port} user=postgres"
        said, *_ = with_names(tmp_path, hosts, "", dsn, "8")
        assert said == f"ok {cluster.port}"


@names
@pytest.mark.parametrize("way", ["string", "second", "service", "environment"])
def test_slow_names_end_in_time_and_stop_nobody(way: str, tmp_path: Path) -> None:
    services = tmp_path / "services"
    services.write_text("[main]\nhost=slow.example\n")
    dsn, environment = {
        "string": ("host=slow.example", {}),
        "second": (f"host=127.0.0.1,slow.example port={free_port()}", {}),
        "service": ("service=main", {"PGSERVICEFILE": str(services)}),
        "environment": ("", {"PGHOST": "slow.example"}),
    }[way]
    resolver = "nameserver 127.0.0.77\noptions timeout:20 attempts:1\n"
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        try:
            silent.bind(("127.0.0.77", 53))
        except OSError:
            pytest.skip("port 53 is taken")
        said, gap, seconds = with_names(
            tmp_path, "127.0.0.1 localhost\n", resolver, f"{dsn} user=u", "1", **environment
        )
    assert said.startswith("dns "), said
    assert "looking up slow.example took too long" in said
    assert seconds < 15
    assert gap < 10


# --- a machine that has nothing left


SCARCE = """
import os, resource, sys, threading, time
from pgstats.ask.connection import Connection
from pgstats.errors import AskError

def opened(dsn):
    return Connection("postgres", dsn, {}, time.monotonic() + 20)

def exhaust():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True:
            os.dup(0)
    except OSError:
        pass

case, dsn = sys.argv[1:]
kept = opened(dsn) if case == "close" else None
if case == "thread":
    opened("user=postgres host=localhost " + dsn).close()
    threading.stack_size(1 << 46)
else:
    exhaust()
try:
    kept.close(1.0) if kept else opened(dsn)
except AskError as error:
    print(error.reason, "|", error, "|", error.remedy)
else:
    print("closed", kept.closed)
"""


@pytest.mark.parametrize(
    ("case", "host", "said"),
    [
        (
            "files",
            "127.0.0.1",
            "other | out of file descriptors: Too many open files | let pgstats",
        ),
        (
            "files",
            "localhost",
            "other | cannot look up localhost: Too many open files | let pgstat",
        ),
        ("thread", "localhost", "other | can't start new thread | let pgstats have more threads"),
        ("close", "127.0.0.1", "closed True"),
    ],
)
def test_scarcity_is_told(case: str, host: str, said: str, cluster: Cluster) -> None:
    dsn = f"host={host} port={cluster.port} user=postgres"
    argv = [sys.executable, "-c", SCARCE, case, dsn]
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.startswith(said), done.stdout + done.stderr


# --- why it failed


@pytest.fixture(scope="module")
def strict(scratch: Scratch) -> Iterator[Cluster]:
    """A cluster with TLS that asks for passwords over TCP."""
    if not shutil.which("openssl"):
        pytest.fail("openssl makes the certificate: ./dev test installs it")
    cluster = Cluster(scratch, name="strict")
    key, certificate = cluster.data / "server.key", cluster.data / "server.crt"
    words = "req -new -x509 -days 2 -nodes -subj /CN=localhost -newkey rsa:2048"
    scratch.run(["openssl", *words.split(), "-keyout", key, "-out", certificate])
    key.chmod(0o600)
    cluster.settings["ssl"] = "on"
    (cluster.data / "pg_hba.conf").write_text(
        "local all all trust\nhost all barred all reject\nhost all postgres all trust\n"
        "hostssl all sealed all cert\nhost all all 127.0.0.1/32 scram-sha-256\n"
    )
    with cluster:
        for role in ("cert_sslmode", "barred", "sealed"):
            cluster.psql(f"CREATE ROLE {role} LOGIN PASSWORD 'right'")
        cluster.psql("CREATE ROLE scram_group")
        yield cluster


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("host=127.0.0.1 user=cert_sslmode password=wrong", "auth"),
        ("host=127.0.0.1 user=no_such_certificate password=wrong", "auth"),
        ("host={host} user=postgres dbname=scram_db", "wrong_database"),
        ("host={host} user=postgres dbname='timed out certificate'", "wrong_database"),
        ("host={host} user='connection refused'", "auth"),
        ("host={host} user=scram_group", "not_allowed"),
        ("host=127.0.0.1 user=barred password=right", "not_allowed"),
        ("host=127.0.0.1 user=sealed dbname=scram_db", "tls"),
        ("host=127.0.0.1 user=postgres sslmode=verify-ca sslrootcert=/nowhere/scram", "tls"),
    ],
)
def test_names_do_not_change_the_reason(more: str, reason: str, strict: Cluster) -> None:
    error = refused(f"dbname=postgres port={strict.port} {more.format(host=strict.host)}")
    assert error.reason == reason, str(error)


VERIFIED = """
import os, sys, time
from pgstats.ask.connection import Connection
from pgstats.errors import AskError
try:
    Connection("postgres", sys.argv[1], {}, time.monotonic() + 20).close()
    print("verified")
except AskError as error:
    print(error.reason)
"""


@pytest.mark.parametrize("way", ["string", "environment", "service"])
@pytest.mark.parametrize("trusted", [True, False])
def test_the_authorities_of_the_system(
    way: str, trusted: bool, strict: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    if not Path(bundle).exists():
        pytest.skip(f"this system has no {bundle}")
    own = strict.data / "server.crt" if trusted else Path(bundle)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    dsn = f"host=localhost hostaddr=127.0.0.1 port={strict.port} user=postgres dbname=postgres"
    if way == "environment":
        monkeypatch.setenv("PGSSLROOTCERT", "system")
        dsn += " sslmode=verify-full"
    elif way == "service":
        (tmp_path / "services").write_text("[tls]\nsslrootcert=system\nsslmode=verify-full\n")
        monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
        dsn += " service=tls"
    else:
        dsn += " sslrootcert=system"
    said, _ = with_own(bundle, own, VERIFIED, dsn).communicate(timeout=60)
    assert said.strip() == ("verified" if trusted else "tls")


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_a_crash_over_tls_is_refused_and_no_matter_of_tls(strict: Cluster, signal: str) -> None:
    dsn = f"host=127.0.0.1 port={strict.port} user=postgres sslmode=require"
    with closing(opened(dsn)) as connection:
        (pid,) = connection.ask("SELECT pg_backend_pid()")[1][0]
        os.kill(pid, 9 if signal == "KILL" else 15)
        with pytest.raises(AskError) as caught:
            connection.ask("SELECT pg_sleep(20)")
    assert caught.value.reason == "refused", str(caught.value)
    assert recovered(dsn), "a killed backend makes the server restart"


def recovered(dsn: str) -> bool:
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        with contextlib.suppress(AskError):
            opened(dsn).close()
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("SSL SYSCALL error: EOF detected", "refused"),
        ("SSL connection has been closed unexpectedly", "refused"),
        ("SSL error: unexpected eof while reading", "refused"),
        ("SSL SYSCALL error: Connection timed out", "timeout"),
        ("SSL error: certificate verify failed", "tls"),
        ('private key file "scram" has group or world access', "tls"),
        ("server does not support SSL, but SSL was required", "tls"),
        ("FATAL: no such database: scram_certificate", "wrong_database"),
        ("ERROR: no such user: sslmode", "auth"),
        ("FATAL: unsupported startup parameter in options: statement_timeout", "wrong_database"),
        ("FATAL: unsupported startup parameter: options", "wrong_database"),
        ('FATAL: role "a" is not permitted to log in', "not_allowed"),
        ('FATAL: role "permission denied" does not exist', "auth"),
        ('no pg_hba.conf entry for host "1", user "scram", database "d", SSL off', "not_allowed"),
        ("connection requires a valid client certificate", "tls"),
        ("pgbouncer cannot connect to server", "refused"),
        ("FATAL: no more connections allowed (max_client_conn)", "too_many_connections"),
        ("client connections exceeded (max_user_client_connections)", "too_many_connections"),
        ("No route to host", "refused"),
        ("canceling statement LINE 1: SELECT certificate FROM scram", "other"),
    ],
)
def test_reasons(text: str, reason: str) -> None:
    """Messages as servers of several versions and libpq send them."""
    assert classify(text, None) == reason
    if reason != "other":
        assert classify(text, "28000") == reason


def test_states_tell_where_the_text_does_not() -> None:
    assert classify("Datenbank ist voll", "53300") == "too_many_connections"
    assert classify("Rolle fehlt", "28000") == "auth"
    assert classify("Rolle fehlt", None) == "other"
    assert "CREATE ROLE" in remedy(POSTGRES, "auth", 'FATAL: role "certificate" does not exist')


# --- passwords


def target(**more: str) -> Target:
    return Target(POSTGRES, "main", "host=127.0.0.1", **more)  # type: ignore[arg-type]


def found(one: Target, seconds: float = LONG) -> str:
    return Secret(one, time.monotonic() + seconds).of({})


def fault(one: Target, seconds: float = LONG, reason: str = "auth") -> str:
    with pytest.raises(AskError) as caught:
        found(one, seconds)
    assert (caught.value.stage, caught.value.reason) == ("password", reason)
    return str(caught.value)


def alive(group: int) -> list[str]:
    """The running processes of a process group."""
    stats = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().rpartition(") ")
        except OSError:
            continue
        state, _, number = rest.split()[:3]
        if int(number) == group and state != "Z":
            stats.append(name)
    return stats


def test_what_a_slow_command_started_ends_with_it(tmp_path: Path) -> None:
    command = f"sh -c 'echo $$ > {tmp_path}/pid; sleep 57 | cat'"
    told = fault(target(password_command=command), 1.0, "timeout")
    assert told == "password_command sh: took too long"
    group = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + LONG
    while alive(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive(group) == []


def test_what_a_command_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    """An agent, or the master of ssh, which keep standard error open."""
    command = f"sh -c 'echo $$ > {tmp_path}/pid; echo secret; exec >&-; sleep 57 &'"
    assert found(target(password_command=command)) == "secret"
    os.killpg(int((tmp_path / "pid").read_text()), 9)


@pytest.mark.parametrize("command", ["yes", "cat /dev/zero", "sh -c 'yes & yes'"])
def test_a_command_that_prints_for_ever_is_ended(command: str) -> None:
    told = fault(target(password_command=command))
    assert told.endswith(": prints more than 65536 bytes")
    ours = f" {os.getpid()} "
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    assert [s for s in stats if "(yes) R" in s and ours in s] == []


def test_a_command_is_asked_once_and_so_is_one_that_fails(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for code in (0, 3):
        command = f"sh -c 'echo x | tee -a {log}; exit {code}'"
        secret = Secret(target(password_command=command), time.monotonic() + LONG)
        errors = []
        for _ in range(3):
            try:
                opened(cluster.dsn(), secret=secret).close()
            except AskError as error:
                errors.append(error)
        assert log.read_text() == "x\n"
        log.unlink()
    assert [str(error) for error in errors] == ["password_command sh ended with exit code 3"] * 3
    assert len({id(error) for error in errors}) == 3, "each may get another stage"


def test_passwords_that_cannot_be_sent(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for content, said in ((b"a\0b", "holds a NUL character"), (b"\xff", "not UTF-8 text")):
        file.write_bytes(content)
        assert said in fault(target(password_file=str(file)))
        told = fault(target(password_command=f"cat {file}"))
        assert said in told
        assert told.startswith("the output of password_command cat")
        assert said in fault_of_passfile(file)
    assert "No such file" in fault(target(password_file=str(tmp_path / "none")))
    assert "begins with no password" in fault(target(password_command="true"))


def fault_of_passfile(file: Path) -> str:
    return fault(target(passfile=str(file)))


@pytest.mark.parametrize(
    "line",
    [
        "127.0.0.1:{port}:db:me:plain",
        "127.0.0.1:{port}:db:me:with\\:colon and \\\\ and \\x",
        "127.0.0.1:{port}:db:me:ends:here",
        "127.0.0.1:{port}:db:me:back\\",
        "127.0.0.1:{port}:d\\b:m\\e:escaped",
        "*:*:*:*:any",
        "127.0.0.1:{port}:\\*:me:no wildcard",
        "127.0.0.1:{port}:other:me:wrong\n127.0.0.1:{port}:db:me:second\r\n*:*:*:*:third",
        "#*:*:*:*:comment\nlocalhost:{port}:db:me:no\n",
        "*:5432:db:me:other port",
        "too:short\n*:*:*:me:long enough",
        "*:*:*:me:",
        "*:*:db:me:é\u2028ü",
    ],
)
@pytest.mark.parametrize("way", ["string", "service", "environment"])
def test_a_passfile_is_read_as_libpq_reads_it(
    line: str, way: str, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pgpass"
    file.write_text(line.format(port=gate.port), newline="")
    file.chmod(0o600)
    services = tmp_path / "services"
    services.write_text(f"[s]\nhost=127.0.0.1\nport={gate.port}\ndbname=db\nuser=me\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    dsn = "service=s"
    if way == "string":
        dsn = f"hostaddr=127.0.0.1 port={gate.port} dbname=db user=me"
    elif way == "environment":
        dsn = "user=me"
        monkeypatch.setenv("PGHOST", "127.0.0.1")
        monkeypatch.setenv("PGPORT", str(gate.port))
        monkeypatch.setenv("PGDATABASE", "db")
    refused(f"{dsn} passfile={file}")
    theirs = gate.told()
    monkeypatch.setenv("PGPASSFILE", "/nowhere/pgpass")
    refused(dsn, secret=Secret(target(passfile=str(file)), time.monotonic() + LONG))
    assert gate.told() == theirs


def test_each_database_has_its_own_line(gate: Gate, tmp_path: Path) -> None:
    (tmp_path / "pgpass").write_text("*:*:one:me:1\n*:*:two:me:2\n")
    secret = Secret(target(passfile=str(tmp_path / "pgpass")), time.monotonic() + LONG)
    for name in ("one", "two"):
        with pytest.raises(AskError, match="password authentication failed"):
            Connection(
                POSTGRES,
                f"host=127.0.0.1 port={gate.port} user=me dbname=one",
                {"dbname": name},
                time.monotonic() + LONG,
                secret,
            )
    assert [gate.told(), gate.told()] == ["1", "2"]


@pytest.mark.parametrize("way", ["string", "environment", "service"])
def test_a_given_password_comes_before_the_passfile(
    way: str, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pgpass").write_text("*:*:*:*:file\n")
    (tmp_path / "services").write_text("[s]\npassword=given\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    dsn = f"host=127.0.0.1 port={gate.port} user=me "
    if way == "environment":
        monkeypatch.setenv("PGPASSWORD", "given")
    dsn += {"string": "password=given", "service": "service=s", "environment": ""}[way]
    secret = Secret(target(passfile=str(tmp_path / "pgpass")), time.monotonic() + LONG)
    refused(dsn, secret=secret)
    assert gate.told() == "given"


def test_a_console_password_that_cannot_be_had_is_no_wrong_database(bouncer: Bouncer) -> None:
    one = Target(PGBOUNCER, "front", bouncer.dsn("other", "stats"), password_command="false")
    with pytest.raises(AskError) as caught:
        connect(one, time.monotonic() + LONG, Secret(one, time.monotonic() + LONG))
    assert (caught.value.stage, caught.value.reason) == ("password", "auth")


def test_all_processes_of_a_group_share_one_secret(bouncer: Bouncer, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = f"sh -c 'echo x | tee -a {log}'"
    sockets = (bouncer.host, bouncer.host)
    dsn = bouncer.dsn("pgbouncer", "stats")
    asks = PgBouncerAsker(
        Target(PGBOUNCER, "front", dsn, password_command=command, sockets=sockets)
    )
    for polls in (1, 2):
        assert [peer.up for peer in asks.poll().peers] == [True, True]
        assert log.read_text() == "x\n" * polls


def test_no_secret_is_told(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "password authentication")
    error = refused(f"host=127.0.0.1 port={gate.port} user=me")
    assert "password authentication" not in str(error)


def sockets() -> int:
    links = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(link.startswith("socket:") for link in links)


def test_a_failed_connection_is_closed_at_once(dead: int) -> None:
    """Whoever keeps the error keeps no connection with it."""
    before = sockets()
    error = refused(f"host=127.0.0.1 port={dead} user=me", 0.2)
    assert sockets() == before, error


@pytest.mark.parametrize("trouble", ["refused", "two", "dead", "auth", "dns", "secret"])
def test_a_failed_connection_leaves_nothing_for_the_collector(
    trouble: str, dead: int, gate: Gate
) -> None:
    """A daemon would else grow with each poll of a dead server until Python's next full look."""
    shut = free_port()
    dsn = {
        "refused": f"host=127.0.0.1 port={shut} user=me",
        "two": f"host=127.0.0.1,127.0.0.1 port={shut},{dead} user=me",
        "dead": f"host=127.0.0.1 port={dead} user=me",
        "auth": f"host=127.0.0.1 port={gate.port} user=me password=wrong",
        "dns": "host=no-such-host.invalid user=me",
        "secret": f"host=127.0.0.1,127.0.0.1 port={shut},{shut} user=me",
    }[trouble]
    target = Target(POSTGRES, "main", dsn, password_command="false")

    def attempt() -> None:
        secret = Secret(target, time.monotonic() + LONG) if trouble == "secret" else None
        with contextlib.suppress(AskError):
            opened(dsn, 1, secret)

    attempt()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            attempt()
        assert gc.collect() == 0
    finally:
        gc.enable()
