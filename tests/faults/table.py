"""The faults: one entry each."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgstats.errors import ScratchError
from pgstats.scratch import Cluster, conninfo, free_port
from tests.faults.world import GO, PASSWORD, STOP, Road, World, sh, signal_all
from tests.test_ask_postgres import Standby

Step = Callable[[World, str], AbstractContextManager[None]]

TARGETS = ("postgres", "pgbouncer")
COMMANDS = ("once", "run", "why", "check")


def _nothing(world: World, whom: str) -> AbstractContextManager[None]:  # noqa: ARG001
    return nullcontext()


@dataclass(frozen=True)
class Fault:
    """What happens, to whom, and what must still arrive.

    ``scene`` is set before pgstats starts, ``strike`` happens when it has started (before it does
    where it runs once). With a ``reason`` the struck target is down for it; with several, for one
    of them. ``kept`` is what the daemon knows of a PostgreSQL all the same, over the connection
    that it keeps: "up". ``codes`` are exit codes that differ from the usual.
    """

    name: str
    strike: Step
    must: str
    whom: tuple[str, ...] = TARGETS
    commands: tuple[str, ...] = COMMANDS
    reason: tuple[str, ...] = ()
    kept: str = ""
    scene: Step = _nothing
    codes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    quick: bool = False  # its one-shot cells are in the normal run


DOWN = "up 0 and the reason; all of the sound targets"
KEPT = f"{DOWN}; through a kept connection, all of its own database"
ALL = "all, from all targets"


# --- what becomes of a server


@contextmanager
def killed(world: World, whom: str) -> Iterator[None]:
    """`kill -9`: a crash."""
    world.servers[whom].kill()
    try:
        yield
    finally:
        world.servers[whom].start()


@contextmanager
def stopped(world: World, whom: str) -> Iterator[None]:
    """Every process of it stands still; its kernel goes on taking connections."""
    pid = world.servers[whom].pid
    signal_all(pid, STOP)
    try:
        yield
    finally:
        signal_all(pid, GO)


@contextmanager
def restarted(world: World, whom: str) -> Iterator[None]:
    """It is away for a moment."""
    world.servers[whom].stop()
    world.servers[whom].start()
    yield


@contextmanager
def full(world: World, whom: str) -> Iterator[None]:
    """Nobody else is let in."""
    from pgstats.ask.connection import psycopg2  # noqa: PLC0415

    taken = []
    try:
        if whom == "pgbouncer":
            taken = [psycopg2.connect(world.bouncer.dsn(password=PASSWORD)) for _ in range(3)]
        with suppress(psycopg2.OperationalError):
            while True:
                taken.append(psycopg2.connect(world.servers[whom].dsn(password=PASSWORD)))
        yield
    finally:
        for one in taken:
            one.close()


# --- what becomes of a login


@contextmanager
def rotated(world: World, whom: str) -> Iterator[None]:
    """The password is another one, and pgstats does not know it yet."""
    _set_password(world, whom, "another")
    try:
        yield
    finally:
        _set_password(world, whom, PASSWORD)


def _set_password(world: World, whom: str, password: str) -> None:
    if whom == "postgres":
        world.cluster.psql(f"ALTER ROLE watch PASSWORD '{password}'")
    else:
        world.bouncer.users["stats"] = password
        world.bouncer.reload()


@contextmanager
def barred(world: World, whom: str) -> Iterator[None]:
    """The role is dropped, or is no stats user any more."""
    if whom == "postgres":
        world.cluster.psql("REVOKE pg_monitor FROM watch; DROP ROLE watch")
    else:
        world.bouncer.settings["stats_users"] = "somebody"
        world.bouncer.reload()
    try:
        yield
    finally:
        if whom == "postgres":
            world.cluster.psql(f"CREATE ROLE watch LOGIN PASSWORD '{PASSWORD}'")
            world.cluster.psql("GRANT pg_monitor TO watch")
        else:
            world.bouncer.settings["stats_users"] = "stats"
            world.bouncer.reload()


@contextmanager
def expired(world: World, whom: str) -> Iterator[None]:
    """The certificate of the server is no longer valid."""
    _certify(world, whom, "expired")
    try:
        yield
    finally:
        _certify(world, whom, "valid")


@contextmanager
def over_tls(world: World, whom: str) -> Iterator[None]:
    """The target's certificate is verified."""
    _certify(world, whom, "valid")
    host = conninfo(host="localhost", hostaddr="127.0.0.1")
    authority = world.folder.parent / "tls" / "valid"
    world.dsn[whom] += f" {host} {conninfo(sslmode='verify-full', sslrootcert=authority)}"
    yield


def _certify(world: World, whom: str, which: str) -> None:
    """Have the server show that certificate."""
    source = world.folder.parent / "tls"
    server = world.servers[whom]
    for name, kind in ((which, "crt"), ("key", "key")):
        place = server.folder / f"server.{kind}"
        shutil.copy(source / name, place)
        shutil.chown(place, server.folder.stat().st_uid, server.folder.stat().st_gid)
        place.chmod(0o600)
    if isinstance(server, Cluster):
        files = {"ssl_cert_file": "server.crt", "ssl_key_file": "server.key"}
        server.settings |= {"ssl": "on"} | {k: server.folder / v for k, v in files.items()}
    else:
        files = {"client_tls_cert_file": "server.crt", "client_tls_key_file": "server.key"}
        server.settings |= {"client_tls_sslmode": "allow"}
        server.settings |= {k: server.folder / v for k, v in files.items()}
    server.reload()


# --- what becomes of a database


@contextmanager
def dropped(world: World, whom: str) -> Iterator[None]:
    """One of several databases goes while it is polled."""
    if whom == "postgres":
        world.cluster.psql("DROP DATABASE goes WITH (FORCE)")
    else:
        world.bouncer.databases.pop("goes")
        world.bouncer.reload()
    yield
    with suppress(ScratchError):
        world.cluster.psql("CREATE DATABASE goes")
    world.bouncer.databases["goes"] = world.cluster.address
    world.bouncer.reload()


@contextmanager
def dropped_own(world: World, whom: str) -> Iterator[None]:  # noqa: ARG001
    """The database that the DSN leads to goes."""
    world.cluster.psql("DROP DATABASE home WITH (FORCE)")
    try:
        yield
    finally:
        world.cluster.psql("CREATE DATABASE home")


@contextmanager
def at_home(world: World, whom: str) -> Iterator[None]:
    """The DSN leads to a database of its own."""
    world.dsn[whom] = f"{world.dsn[whom]} dbname=home"
    yield


# --- what becomes of a pair


@contextmanager
def with_standby(world: World, whom: str) -> Iterator[None]:
    """There is a standby, and the DSN leads to whichever may be written to."""
    with Standby(world.cluster) as standby:
        world.standby = standby
        hosts = {"host": f"{world.cluster.host},{standby.host}"}
        hosts["port"] = f"{world.cluster.port},{standby.port}"
        world.dsn[whom] += " " + conninfo(**hosts, target_session_attrs="read-write")
        yield


@contextmanager
def failed_over(world: World, whom: str) -> Iterator[None]:  # noqa: ARG001
    """The primary is killed and the standby takes over."""
    assert world.standby
    world.cluster.kill()
    world.standby.psql("SELECT pg_promote()")
    try:
        yield
    finally:
        world.cluster.start()


# --- what becomes of the way


def _by_road(world: World, whom: str, host: str = "127.0.0.1") -> Road:
    server = world.servers[whom]
    road = Road(f"{server.host}/.s.PGSQL.{server.port}", host)
    world.dsn[whom] += " " + conninfo(host=road.host, port=road.port)
    return road


@contextmanager
def on_a_road(world: World, whom: str) -> Iterator[None]:
    """The way to the target can be made bad."""
    world.road = _by_road(world, whom)
    try:
        yield
    finally:
        world.road.close()


def way(mode: str) -> Step:
    """The way is bad in that manner."""

    @contextmanager
    def strike(world: World, whom: str) -> Iterator[None]:  # noqa: ARG001
        assert world.road
        world.road.mode = mode
        try:
            yield
        finally:
            world.road.mode = "pass"

    return strike


@contextmanager
def refused(world: World, whom: str) -> Iterator[None]:
    """Nobody listens at the address."""
    before = world.dsn[whom]
    world.dsn[whom] += f" host=127.0.0.1 port={free_port()}"
    yield
    world.dsn[whom] = before


@contextmanager
def on_two_hosts(world: World, whom: str) -> Iterator[None]:
    """pgstats runs in a network of its own, a wire leads to the target."""
    if sh("ip", "netns", "add", _space()).returncode:
        pytest.skip("only root may make networks")
    ours, theirs = f"pgs{os.getpid()}a", f"pgs{os.getpid()}b"
    inside = ["ip", "netns", "exec", _space(), "ip"]
    address = f"10.211.{os.getpid() % 250}"
    try:
        for words in (
            ["ip", "link", "add", ours, "type", "veth", "peer", "name", theirs],
            ["ip", "link", "set", theirs, "netns", _space()],
            ["ip", "address", "add", f"{address}.1/24", "dev", ours],
            ["ip", "link", "set", ours, "up"],
            [*inside, "address", "add", f"{address}.2/24", "dev", theirs],
            [*inside, "link", "set", theirs, "up"],
            [*inside, "link", "set", "lo", "up"],
        ):
            done = sh(*words)
            assert done.returncode == 0, (words, done.stderr)
        world.before = ["ip", "netns", "exec", _space()]
        world.road = _by_road(world, whom, f"{address}.1")
        yield
        world.road.close()
    finally:
        sh("ip", "link", "del", ours)
        sh("ip", "netns", "del", _space())


def _space() -> str:
    return f"pgstats-{os.getpid()}"


@contextmanager
def cut(world: World, whom: str) -> Iterator[None]:  # noqa: ARG001
    """The wire is pulled: packets are lost in silence."""
    wire = f"pgs{os.getpid()}b"
    inside = ["ip", "netns", "exec", _space()]
    # The other end loses what it is sent: a link that is down would be told to the sender.
    assert sh("ip", "link", "set", f"pgs{os.getpid()}a", "down").returncode == 0
    assert sh(*inside, "ip", "neigh", "flush", "dev", wire).returncode == 0
    try:
        yield
    finally:
        assert sh("ip", "link", "set", f"pgs{os.getpid()}a", "up").returncode == 0


@contextmanager
def black_hole(world: World, whom: str) -> Iterator[None]:  # noqa: ARG001
    """The target's address exists, and whatever is sent there is lost."""
    address = f"10.211.{os.getpid() % 250}.1"
    wire = f"pgs{os.getpid()}b"
    inside = ["ip", "netns", "exec", _space(), "ip", "neigh"]
    nobody = ["lladdr", "02:00:00:00:00:99", "dev", wire]
    assert sh(*inside, "replace", address, *nobody, "nud", "permanent").returncode == 0
    try:
        yield
    finally:
        assert sh(*inside, "del", address, "dev", wire).returncode == 0


@contextmanager
def by_name(world: World, whom: str) -> Iterator[None]:
    """The target is known by a name, and who knows names can be made silent."""
    etc = world.folder / "etc"
    etc.mkdir()
    (etc / "hosts").write_text("127.0.0.1 localhost\n")
    (etc / "resolv.conf").write_text("nameserver 127.0.0.78\noptions timeout:20 attempts:1\n")
    (etc / "nsswitch.conf").write_text("hosts: files dns\n")
    files = [
        name for name in ("hosts", "resolv.conf", "nsswitch.conf") if Path("/etc", name).exists()
    ]
    script = " && ".join([f"mount --bind {etc}/{name} /etc/{name}" for name in files])
    if sh("unshare", "-m", "sh", "-c", script).returncode:
        pytest.skip("only root may have an /etc/hosts of its own")
    road = _by_road(world, whom)
    world.dsn[whom] += " host=struck.example"
    world.before = ["unshare", "-m", "sh", "-c", f'{script} && exec "$@"', "sh"]
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.78", 53))
        yield
    road.close()


# --- what becomes of the receiver


@contextmanager
def by_stream(world: World, whom: str) -> Iterator[None]:  # noqa: ARG001
    """The receiver is one of TCP that nobody listens at."""
    world.statsd = f"tcp://127.0.0.1:{free_port()}"
    yield


@contextmanager
def receiver_killed(world: World, whom: str) -> Iterator[None]:  # noqa: ARG001
    """The receiver is gone, its socket is left."""
    world.sink.kill()
    try:
        yield
    finally:
        world.sink.start()


@contextmanager
def receiver_stopped(world: World, whom: str) -> Iterator[None]:  # noqa: ARG001
    """The receiver reads nothing."""
    os.kill(world.sink.pid, STOP)
    try:
        yield
    finally:
        os.kill(world.sink.pid, GO)


# --- what becomes of the machine that pgstats runs on


@contextmanager
def on_a_small_disk(world: World, whom: str) -> Iterator[None]:  # noqa: ARG001
    """The state is on a disk of its own."""
    disk = world.folder / "disk"
    disk.mkdir()
    if sh("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)).returncode:
        pytest.skip("only root may mount")
    world.state = f"{disk}/state"
    try:
        yield
    finally:
        sh("umount", "--lazy", str(disk))


@contextmanager
def disk_full(world: World, whom: str) -> Iterator[None]:  # noqa: ARG001
    """There is no room for another byte."""
    filler = Path(world.state).with_name("filler")
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()
    try:
        yield
    finally:
        filler.unlink()


def limited(what: str, room: Callable[[int], int]) -> Step:
    """The process may have no more of it than it has now, or than a one-shot run can start with."""

    @contextmanager
    def strike(world: World, whom: str) -> Iterator[None]:  # noqa: ARG001
        if not world.daemon:
            world.before = ["prlimit", f"--{what}={room(0)}"]
            yield
            return
        limit = ["prlimit", "--noheadings", "--raw", "--pid", str(world.daemon.pid)]
        usual = sh(*limit, f"--{what}", "--output", "SOFT").stdout.strip()
        assert sh(*limit, f"--{what}={room(world.daemon.pid)}:").returncode == 0
        try:
            yield
        finally:
            assert sh(*limit, f"--{what}={usual}:").returncode == 0

    return strike


def _descriptors(pid: int) -> int:
    """As many as are open: none is left."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir())) if pid else 6


def _memory(pid: int) -> int:
    """Not a page more than it has."""
    if not pid:
        return 140 << 20
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")


#: Runs pgstats with a wall clock that is off by what a file says.
CLOCK = """
import os, runpy, sys, time
real, offset = time.time, os.environ["CLOCK_OFFSET"]
def shifted():
    with open(offset) as file:
        return real() + float(file.read() or 0)
time.time = shifted
sys.argv[0] = "pgstats"
runpy.run_module("pgstats", run_name="__main__")
"""


@contextmanager
def with_a_clock(world: World, whom: str) -> Iterator[None]:  # noqa: ARG001
    """The clock on the wall can be set."""
    import sys  # noqa: PLC0415

    (world.folder / "clock").write_text("0")
    world.environ["CLOCK_OFFSET"] = str(world.folder / "clock")
    world.program = [sys.executable, "-c", CLOCK]
    yield


def stepped(seconds: int) -> Step:
    """Somebody sets the clock."""

    @contextmanager
    def strike(world: World, whom: str) -> Iterator[None]:  # noqa: ARG001
        (world.folder / "clock").write_text(str(seconds))
        yield

    return strike


PG, PB, NONE = ("postgres",), ("pgbouncer",), ("receiver",)
MACHINE = ("machine",)
HERE = ("once", "run")

FAULTS = (
    Fault("killed (kill -9)", killed, DOWN, reason=("refused",), quick=True),
    Fault("stopped (SIGSTOP)", stopped, DOWN, reason=("timeout",)),
    Fault("restarted", restarted, ALL),
    Fault("full", full, KEPT, PG, reason=("too_many_connections",), kept="up", quick=True),
    Fault("full", full, ALL, PB, ("once", "run", "check"), quick=True),
    Fault("password rotated", rotated, KEPT, PG, reason=("auth",), kept="up", quick=True),
    Fault("password rotated", rotated, DOWN, PB, reason=("auth",), quick=True),
    Fault("role dropped", barred, DOWN, PG, reason=("auth",)),
    Fault("no stats user any more", barred, DOWN, PB, reason=("not_allowed", "auth")),
    Fault("certificate expired", expired, KEPT, PG, reason=("tls",), kept="up", scene=over_tls),
    Fault("certificate expired", expired, DOWN, PB, reason=("tls",), scene=over_tls),
    Fault("one database dropped", dropped, ALL, quick=True),
    Fault("own database dropped", dropped_own, DOWN, PG, reason=("wrong_database",), scene=at_home),
    Fault(
        "failover to a standby", failed_over, "all, from the new primary", PG, scene=with_standby
    ),
    Fault(
        "connection refused", refused, DOWN, commands=("once", "why", "check"), reason=("refused",)
    ),
    Fault("connection reset", way("reset"), DOWN, PG, reason=("refused",), scene=on_a_road),
    # The daemon finds that its unix socket still answers: a shutdown that waits for clients.
    Fault(
        "connection reset",
        way("reset"),
        f"{DOWN}; what its unix socket knows, if that was seen before",
        PB,
        ("once", "run", "check"),
        reason=("refused",),
        kept="up",
        scene=on_a_road,
    ),
    Fault(
        "nothing comes back (half open)", way("silent"), DOWN, scene=on_a_road, reason=("timeout",)
    ),
    Fault("slow network", way("slow"), ALL, scene=on_two_hosts),
    Fault("network cut", cut, DOWN, scene=on_two_hosts, reason=("timeout", "refused")),
    Fault("address in a black hole", black_hole, DOWN, scene=on_two_hosts, reason=("timeout",)),
    Fault(
        "DNS silent",
        _nothing,
        DOWN,
        commands=("once", "why", "check"),
        scene=by_name,
        reason=("dns",),
    ),
    Fault(
        "receiver killed",
        receiver_killed,
        "nothing meanwhile, all afterwards",
        NONE,
        HERE,
        codes=(("once", (69,)),),
        quick=True,
    ),
    Fault(
        "receiver stopped (SIGSTOP)",
        receiver_stopped,
        "no poll is late, all afterwards",
        NONE,
        HERE,
        codes=(("once", (0, 1, 69)),),
    ),
    Fault(
        "no receiver over TCP",
        by_stream,
        "nothing; it ends in time",
        NONE,
        ("once",),
        codes=(("once", (69,)),),
        quick=True,
    ),
    Fault(
        "disk of the state full", disk_full, ALL, MACHINE, HERE, scene=on_a_small_disk, quick=True
    ),
    Fault(
        "no descriptors",
        limited("nofile", _descriptors),
        "all as soon as there are some",
        MACHINE,
        HERE,
        codes=(("once", (0, 1, 69)),),
    ),
    Fault("no memory (ulimit -v)", limited("as", _memory), "all, late perhaps", MACHINE, ("run",)),
    Fault("clock an hour ahead", stepped(3600), ALL, MACHINE, ("run",), scene=with_a_clock),
    Fault("clock a day back", stepped(-86400), ALL, MACHINE, ("run",), scene=with_a_clock),
)
