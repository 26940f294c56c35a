"""What the faults strike: two servers of their own, beside two that nothing happens to."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pgstats.scratch import Bouncer, Cluster
from tests.receivers.sink import SinkProcess

ROOT = Path(__file__).parents[2]
PASSWORD = "the-right-one"
PATIENCE = 60.0  # seconds that something may take on a busy machine before it counts as missing


@dataclass
class World:
    """The struck servers, the sound ones, the receiver, and how pgstats is run meanwhile.

    A fault may change ``dsn``, ``statsd``, ``state``, ``environ`` and what stands before the
    command (``before``); all that is fresh for each cell.
    """

    folder: Path
    cluster: Cluster
    bouncer: Bouncer
    sound_cluster: Cluster
    sound_bouncer: Bouncer
    sink: SinkProcess
    dsn: dict[str, str]
    secret: Path
    statsd: str
    state: str
    environ: dict[str, str] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    program: list[str] = field(default_factory=lambda: [sys.executable, "-m", "pgstats"])
    daemon: subprocess.Popen[bytes] | None = None
    road: Road | None = None
    standby: Cluster | None = None

    @property
    def servers(self) -> Mapping[str, Cluster | Bouncer]:
        """Those that are struck, by what they are."""
        return {"postgres": self.cluster, "pgbouncer": self.bouncer}

    def configured(self, whom: str) -> str:
        """A configuration file: the struck target, and one sound target of each kind."""
        file = self.folder / "pgstats.toml"
        struck = [(whom, "struck", self.dsn[whom])] if whom in self.dsn else []
        sound = [
            ("postgres", "main", self.sound_cluster.dsn()),
            ("pgbouncer", "front", self.sound_bouncer.dsn("pgbouncer", "stats")),
        ]
        lines = [f'interval = "1s"\nstate = "{self.state}"\n[statsd]\nurl = "{self.statsd}"']
        for family, name, dsn in struck + sound:
            lines.append(f'[[{family}]]\nname = "{name}"\ndsn = {json.dumps(dsn)}\ntimeout = "2s"')
            if name == "struck":
                lines.append(f'password_file = "{self.secret}"')
        file.write_text("\n".join(lines) + "\n")
        return str(file)

    def argv(self, command: str, whom: str, *more: str) -> list[str]:
        """How pgstats is run."""
        return [*self.before, *self.program, command, "--config", self.configured(whom), *more]

    @property
    def environment(self) -> dict[str, str]:
        """Ours, without what would lead to other servers or files."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "XDG_"))}
        clean |= {"RUNTIME_DIRECTORY": str(self.folder / "run"), "PYTHONPATH": str(ROOT)}
        return clean | self.environ

    def run(self, command: str, whom: str, *more: str) -> subprocess.CompletedProcess[str]:
        """A command to its end."""
        return subprocess.run(
            self.argv(command, whom, *more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=self.environment,
        )

    @contextmanager
    def running(self, whom: str) -> Iterator[subprocess.Popen[bytes]]:
        """`pgstats run`, its log in a file."""
        with self.log.open("wb") as log:
            self.daemon = subprocess.Popen(
                self.argv("run", whom),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
            )
            try:
                yield self.daemon
            finally:
                self.daemon.kill()
                self.daemon.wait()

    @property
    def log(self) -> Path:
        """What the daemon tells."""
        return self.folder / "log"


def wait_for(fact: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Whether it comes true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if fact():
            return True
        time.sleep(0.05)
    return False


def family_of(pid: int) -> list[int]:
    """A process and its children, as PostgreSQL's backends are."""
    found = [pid]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            rest = stat.read_text().rpartition(") ")[2].split()
            if int(rest[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def signal_all(pid: int, number: int) -> None:
    """Send a signal to a server and all its children, the parent first."""
    for one in family_of(pid):
        with suppress(ProcessLookupError):
            os.kill(one, number)


class Road(threading.Thread):
    """A way to a unix socket that can be bad: every connection is handed on as ``mode`` says.

    ``pass``, ``slow`` (each piece waits), ``silent`` (nothing goes through, nothing is closed),
    ``reset`` (a new connection is cut hard, an old one too).
    """

    def __init__(self, to: str, host: str = "127.0.0.1") -> None:
        super().__init__(daemon=True)
        self.to, self.mode = to, "pass"
        self._listener = socket.create_server((host, 0))
        self.host, self.port = self._listener.getsockname()
        self.start()

    def run(self) -> None:
        with suppress(OSError):
            while True:
                visitor, _ = self._listener.accept()
                threading.Thread(target=self._lead, args=(visitor,), daemon=True).start()

    def close(self) -> None:
        """Nobody comes here any more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _lead(self, visitor: socket.socket) -> None:
        with visitor, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            if self.mode == "reset":
                _cut_hard(visitor)
                return
            server.connect(self.to)
            while self._step(visitor, server):
                pass

    def _step(self, visitor: socket.socket, server: socket.socket) -> bool:
        """Hand on what comes; says whether the connection goes on."""
        ready = select.select([visitor, server], [], [], 0.1)[0]
        if self.mode == "reset":
            _cut_hard(visitor)
            return False
        if self.mode == "silent":
            time.sleep(0.05)
            return True
        for one in ready:
            data = one.recv(65536)
            if not data:
                return False
            time.sleep(0.01 if self.mode == "slow" else 0)
            (server if one is visitor else visitor).sendall(data)
        return True


def _cut_hard(visitor: socket.socket) -> None:
    """Have the kernel send a reset instead of a farewell."""
    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    visitor.close()


def sh(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the system and take what it says."""
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE)


def told(text: str) -> Sequence[str]:
    """What must never show, in what pgstats said."""
    return [word for word in (PASSWORD, "Traceback") if re.search(re.escape(word), text)]


STOP, GO = signal.SIGSTOP, signal.SIGCONT
