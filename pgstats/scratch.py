"""Private, throw-away servers in a temporary folder: one PostgreSQL cluster, one PgBouncer, ...

The demo and the tests run on them. They listen on 127.0.0.1 and on a unix socket in their own
folder, run as an unprivileged user when we are root, never see the machine's own servers, and
go when we go, however we go:

* the kernel signals each server when the thread that started it ends (PR_SET_PDEATHSIG), so
  start them from the main thread;
* every process holds the writing end of one pipe, and a shell that waits for its end removes
  the folder: when the last of them is gone, killed or not, nothing is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from pgstats.errors import ScratchError

ADVICE = """\
  Debian, Ubuntu: apt-get install postgresql pgbouncer
  Fedora, RHEL:   dnf install postgresql-server pgbouncer
  macOS:          brew install postgresql pgbouncer"""

_PROGRAMS = ("postgres", "initdb", "psql")
_POSTGRES_FOLDERS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql*/bin",
    "usr/local/opt/postgresql*/bin",
)
# Debian and RHEL keep pgbouncer where an ordinary user's PATH does not look.
_SYSTEM_FOLDERS = "/usr/sbin:/usr/local/sbin:/sbin"
# Below the ports that the kernel hands to clients, so that none takes ours between two starts.
_PORTS = range(20000, 30000)
_PATIENCE = 60.0  # seconds for a server to come up or to go down on a busy machine
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where the programs are: the folder of PostgreSQL's, and pgbouncer itself."""

    postgres: Path
    pgbouncer: Path


def find_binaries(environ: Mapping[str, str] = os.environ) -> Binaries:
    """Look in $PGSTATS_PG_BIN, PATH and the usual folders; say how to install what is missing."""
    postgres = _find_postgres(environ)
    pgbouncer = shutil.which("pgbouncer", path=f"{environ.get('PATH', '')}:{_SYSTEM_FOLDERS}")
    if postgres and pgbouncer:
        return Binaries(postgres, Path(pgbouncer))
    missing = [] if postgres else [f"PostgreSQL's server ({', '.join(_PROGRAMS)})"]
    missing += [] if pgbouncer else ["pgbouncer"]
    raise ScratchError(
        f"not found on this machine: {' and '.join(missing)}. To install:\n{ADVICE}\n"
        "PostgreSQL in another place is found through PGSTATS_PG_BIN=its bin folder"
    )


def _find_postgres(environ: Mapping[str, str]) -> Path | None:
    if chosen := environ.get("PGSTATS_PG_BIN"):
        if _holds_postgres(Path(chosen)):
            return Path(chosen)
        raise ScratchError(f"PGSTATS_PG_BIN={chosen} does not hold {', '.join(_PROGRAMS)}")
    on_path = shutil.which("postgres", path=environ.get("PATH", ""))
    installed = (folder for pattern in _POSTGRES_FOLDERS for folder in Path("/").glob(pattern))
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(installed, key=_version_in, reverse=True)
    return next(filter(_holds_postgres, folders), None)


def _holds_postgres(folder: Path) -> bool:
    return all(os.access(folder / program, os.X_OK) for program in _PROGRAMS)


def _version_in(folder: Path) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", str(folder)))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses, neither for TCP nor for UDP."""
    for port in random.sample(_PORTS, 100):
        with contextlib.suppress(OSError):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(type=kind) as probe:
                    probe.bind(("127.0.0.1", port))
            return port
    raise ScratchError(f"no free port between {_PORTS.start} and {_PORTS.stop} on 127.0.0.1")


def conninfo(**values: object) -> str:
    """Those values as a libpq connection string: ``host='/tmp/x' port='20000'``."""
    return " ".join(f"{key}={_quoted(value)}" for key, value in values.items())


def _quoted(value: object) -> str:
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def _environment() -> dict[str, str]:
    """Ours, less what would lead PostgreSQL's programs (and pgstats) to other servers."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return kept | {"LC_ALL": "C"}


def _die_with_parent(death_signal: int) -> Callable[[], None] | None:
    """What a new child does so that the kernel signals it when its parent thread ends."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), death_signal)

    return arm


class Scratch:
    """A temporary folder and the processes that live in it, all gone after `close`."""

    def __init__(self, binaries: Binaries | None = None) -> None:
        self.binaries = binaries or find_binaries()
        # Always /tmp: $TMPDIR may be too long for a unix socket (107 bytes) or closed to others.
        self.path = Path(tempfile.mkdtemp(prefix="pgstats-", dir="/tmp"))
        self.path.chmod(0o711)
        self._identity = _unprivileged() if os.geteuid() == 0 else {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._servers: list[Server] = []
        self._lifeline, self._remover = self._watch()

    def _watch(self) -> tuple[IO[bytes], subprocess.Popen[bytes]]:
        """The pipe that all processes hold, and the shell that removes the folder at its end."""
        reading, writing = os.pipe()
        remover = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r _; exec rm -rf -- "$0"', str(self.path)],
            stdin=reading,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        os.close(reading)
        return os.fdopen(writing, "wb"), remover

    def _own(self, path: Path) -> None:
        if self._identity:
            os.chown(path, self._identity["user"], self._identity["group"])

    def folder(self, name: str) -> Path:
        """A new folder that only the servers' user (and root) can enter, numbered if taken."""
        path = self.path / name
        for number in itertools.count(2):
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
                break
            path = self.path / f"{name}-{number}"
        self._own(path)
        return path

    def write(self, name: str, text: str) -> Path:
        """A file that only the servers' user can read, beside its folder.

        Not inside: root must not write where another user may have put a link.
        """
        path = self.path / name
        path.touch(mode=0o600)
        path.write_text(text, "utf-8")
        self._own(path)
        return path

    def _manners(
        self, death_signal: int, environ: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """How every process lives here, and dies: arguments of Popen."""
        return {
            "env": _environment() | dict(environ or {}),
            "cwd": self.path,
            "start_new_session": True,
            "pass_fds": [self._lifeline.fileno()],
            "preexec_fn": _die_with_parent(death_signal),
        }

    def adopt(self, server: Server) -> None:
        """Stop that server too when all ends."""
        self._servers.append(server)

    def launch(
        self,
        argv: Sequence[str | Path],
        *,
        output: Path,
        death_signal: int = signal.SIGKILL,
        ours: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a process that dies with us, as the servers' user or (``ours``) as ourselves.

        Ctrl-C on the terminal does not reach it: whoever started it ends it.
        """
        with output.open("ab") as log:
            try:
                process = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    **self._manners(death_signal) | ({} if ours else self._identity),
                )
            except OSError as error:
                raise ScratchError(f"cannot run {argv[0]}: {error.strerror}") from error
        self._processes.append(process)
        return process

    def run(
        self, argv: Sequence[str | Path], text: str = "", secrets: Mapping[str, str] | None = None
    ) -> str:
        """Run a program to its end as the servers' user; ``text`` is its input."""
        try:
            done: subprocess.CompletedProcess[str] = subprocess.run(
                list(argv),
                input=text,
                capture_output=True,
                check=False,
                encoding="utf-8",
                errors="backslashreplace",
                timeout=_PATIENCE,
                **self._manners(signal.SIGKILL, secrets) | self._identity,
            )
        except OSError as error:
            raise ScratchError(f"cannot run {argv[0]}: {error.strerror}") from error
        except subprocess.TimeoutExpired as error:
            raise ScratchError(f"{argv[0]} took more than {_PATIENCE:.0f} s") from error
        if done.returncode:
            raise ScratchError(f"{Path(argv[0]).name}: {done.stderr.strip() or done.stdout}")
        return done.stdout

    def close(self) -> None:
        """End the processes, clients before servers, and wait until the folder is removed."""
        servers = {server.process for server in self._servers}
        for process in self._processes:
            if process not in servers:
                process.kill()
                process.wait()
        for server in reversed(self._servers):
            server.stop()
        self._lifeline.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # as with thousands of files
            self._remover.wait(_PATIENCE)
        self._remover.kill()
        self._remover.wait()
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unprivileged() -> dict[str, Any]:
    """Who the servers run as when we are root, which both refuse: arguments of Popen."""
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


class Server:
    """One private server: its folder (also of its unix socket), port and process."""

    stop_signal = signal.SIGINT
    death_signal = signal.SIGINT
    ours = False  # run as ourselves even when we are root

    def __init__(self, scratch: Scratch, name: str) -> None:
        self.scratch = scratch
        self.folder = scratch.folder(name)
        self.name = self.folder.name
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        scratch.adopt(self)

    @property
    def log(self) -> Path:
        """The file that holds all it ever said."""
        return self.scratch.path / f"{self.name}.log"

    @property
    def host(self) -> str:
        """The folder of its unix socket, as libpq's ``host``."""
        return str(self.folder)

    @property
    def address(self) -> str:
        """Host and port alone, as a connection string."""
        return conninfo(host=self.host, port=self.port)

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    def dsn(self, dbname: str = "postgres", user: str = "postgres", **more: object) -> str:
        """A connection string over the unix socket; ``host="127.0.0.1"`` makes it TCP."""
        values: dict[str, object] = {"host": self.host, "port": self.port}
        return conninfo(**values | {"dbname": dbname, "user": user} | more)

    def start(self) -> Self:
        """Write the settings, start the server and wait until it lets clients in."""
        self.configure()
        self.process = self.scratch.launch(
            self.command(), output=self.log, death_signal=self.death_signal, ours=self.ours
        )
        deadline = time.monotonic() + _PATIENCE
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise ScratchError(f"{self.name} did not start. Its log ends with:\n{self.tail()}")
            time.sleep(0.02)
        return self

    def configure(self) -> None:
        """Write the configuration files."""
        raise NotImplementedError

    def command(self) -> Sequence[str | Path]:
        """The command that runs the server in the foreground."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether the server that was just started lets clients in."""
        raise NotImplementedError

    def signal(self, number: int) -> None:
        """Send the server process a signal."""
        self._running().send_signal(number)

    def stop(self) -> None:
        """End the server in good order (hard when it does not go); nothing when it is down."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End the server by SIGKILL: a crash."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start, on the same port, with the settings as they are now."""
        self.stop()
        self.start()

    def tail(self, lines: int = 6) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

    def _psql(self, sql: str, dsn: str, password: str = "") -> str:
        psql = self.scratch.binaries.postgres / "psql"
        argv: list[str | Path] = [psql, "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-f", "-"]
        return self.scratch.run(argv, sql, {"PGPASSWORD": password}).rstrip("\n")

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            raise ScratchError(f"{self.name} is not running")
        return self.process

    def _end(self, number: int) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(number)
        self.process.send_signal(signal.SIGCONT)  # a stopped one would not see it
        try:
            self.process.wait(_PATIENCE / 6)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class Cluster(Server):
    """A PostgreSQL cluster: superuser ``postgres``, no passwords asked, nothing synced to disk.

    ``settings`` go into postgresql.conf at each start; ``data`` is the data directory, where
    pg_hba.conf may be changed.
    """

    def __init__(
        self, scratch: Scratch, settings: Mapping[str, object] | None = None, name: str = "postgres"
    ) -> None:
        super().__init__(scratch, name)
        self.data = self.folder / "data"
        self.settings: dict[str, object] = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.host,
            "fsync": "off",
            "shared_buffers": "32MB",
            "dynamic_shared_memory_type": "mmap",  # files of ours: a crash leaves none in /dev/shm
        } | dict(settings or {})
        initdb = scratch.binaries.postgres / "initdb"
        options = ["-U", "postgres", "-A", "trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        scratch.run([initdb, "-D", self.data, *options])

    def configure(self) -> None:
        """Write postgresql.conf."""
        lines = [f"{key} = {_quoted(value)}\n" for key, value in self.settings.items()]
        self._conf = self.scratch.write(f"{self.name}.conf", "".join(lines))

    def command(self) -> Sequence[str | Path]:
        """The postmaster in the foreground: our child, so that it can die with us."""
        postgres = self.scratch.binaries.postgres / "postgres"
        return [postgres, "-D", self.data, "-c", f"config_file={self._conf}"]

    def ready(self) -> bool:
        """Whether the postmaster says so in its pid file; its port answers earlier."""
        lines = self._pid_file()
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def psql(self, sql: str, dbname: str = "postgres", user: str = "postgres") -> str:
        """What psql prints for those statements: rows without header, columns parted by |."""
        return self._psql(sql, self.dsn(dbname, user))

    def reload(self) -> None:
        """Have postgresql.conf and pg_hba.conf read again."""
        self.configure()
        self.psql("SELECT pg_reload_conf()")

    def stop(self, mode: str = "fast") -> None:
        """End it the way ``pg_ctl stop -m MODE`` does: smart, fast or immediate."""
        modes = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
        self._end(modes[mode])

    def kill(self) -> None:
        """End the postmaster by SIGKILL: a crash. Its backends notice and go."""
        super().kill()
        memory = self._pid_file()[6:7]  # "key id" of the System V segment that nobody frees now
        if memory and (ipcrm := shutil.which("ipcrm")):
            with contextlib.suppress(ScratchError):
                self.scratch.run([ipcrm, "-m", memory[0].split()[-1]])

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []


class Bouncer(Server):
    """A PgBouncer in front of ``databases``: name (or ``*``) to connection string.

    ``users`` maps names to passwords; with the default ``auth_type`` trust none is asked.
    ``settings`` are of the [pgbouncer] section. All of it is written again at each start.
    """

    death_signal = signal.SIGKILL  # SIGINT would wait for clients' transactions; nothing is lost

    def __init__(
        self,
        scratch: Scratch,
        databases: Mapping[str, str],
        *,
        users: Mapping[str, str] | None = None,
        admin_users: Sequence[str] = (),
        stats_users: Sequence[str] = (),
        auth_type: str = "trust",
        pool_mode: str = "transaction",
        settings: Mapping[str, object] | None = None,
        name: str = "pgbouncer",
    ) -> None:
        super().__init__(scratch, name)
        self.databases = dict(databases)
        self.users = dict(users or dict.fromkeys((*admin_users, *stats_users, "postgres"), ""))
        self.settings: dict[str, object] = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": self.host,
            "auth_type": auth_type,
            "auth_file": self.scratch.path / f"{name}.users",
            "admin_users": ", ".join(admin_users),
            "stats_users": ", ".join(stats_users),
            "pool_mode": pool_mode,
        } | dict(settings or {})

    def configure(self) -> None:
        """Write its ini file and its list of users."""
        ini = _section("databases", self.databases) + _section("pgbouncer", self.settings)
        self._ini = self.scratch.write(f"{self.name}.ini", ini)
        users = [f"{_listed(name)} {_listed(secret)}\n" for name, secret in self.users.items()]
        self.scratch.write(f"{self.name}.users", "".join(users))

    def command(self) -> Sequence[str | Path]:
        """PgBouncer in the foreground."""
        return [self.scratch.binaries.pgbouncer, self._ini]

    def ready(self) -> bool:
        """Whether it takes connections; the unix socket is the last one it opens."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.folder / f".s.PGSQL.{self.port}")) == 0

    def console(self, sql: str, user: str = "pgbouncer", password: str = "") -> str:
        """What psql prints for that command on the admin console.

        The user ``pgbouncer`` needs no password from the servers' own user, which we are here.
        """
        return self._psql(sql, self.dsn("pgbouncer", user), password)

    def psql(self, sql: str, dbname: str, user: str = "postgres", password: str = "") -> str:
        """What psql prints for those statements in a database behind it."""
        return self._psql(sql, self.dsn(dbname, user), password)

    def reload(self) -> None:
        """Write the configuration files and have them read again."""
        self.configure()
        self.console("RELOAD")


def _section(name: str, values: Mapping[str, object]) -> str:
    return "".join([f"[{name}]\n", *(f"{key} = {value}\n" for key, value in values.items())])


def _listed(text: str) -> str:
    """A word of userlist.txt, where quotes are doubled."""
    doubled = text.replace('"', '""')
    return f'"{doubled}"'
