"""The statsd server of npm as a private process, read back through its management port."""

from __future__ import annotations

import json
import re
import signal
import socket
from pathlib import Path

from pgstats.scratch import Scratch, Server, free_port

# One property of an object as util.inspect prints it: a bare or a quoted key, then a number.
_PROPERTY = re.compile(r"""(?:'([^']*)'|"([^"]*)"|([\w$]+)): (-?[\d.]+(?:e[+-]?\d+)?)""")

# The same of a list, which may go over several lines.
_TIMES = re.compile(r"'([^']*)': \[([^\]]*)\]")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


class NodeStatsd(Server):
    """statsd 0.9: UDP and TCP on ``port``, a unix stream; it never flushes.

    It is asked on the port ``management``.
    """

    stop_signal = signal.SIGTERM
    death_signal = signal.SIGTERM
    ours = True  # the folder it is installed in may be private

    def __init__(self, scratch: Scratch, program: Path, name: str = "node_statsd") -> None:
        assert program.exists(), f"{program} is missing: ./dev test installs it"
        super().__init__(scratch, name)
        self.program = program
        self.management = free_port()
        self.start()

    @property
    def udp(self) -> str:
        """Its address as pgstats takes it."""
        return f"udp://127.0.0.1:{self.port}"

    @property
    def tcp(self) -> str:
        """Its stream address as pgstats takes it."""
        return f"tcp://127.0.0.1:{self.port}"

    @property
    def unix(self) -> str:
        """Its unix stream as pgstats takes it."""
        return f"unix://{self.folder}/stream"

    def configure(self) -> None:
        servers: list[dict[str, object]] = [
            {"server": f"./servers/{kind}", "address": "127.0.0.1", "port": self.port}
            for kind in ("udp", "tcp")
        ]
        servers.append({"server": "./servers/tcp", "socket": f"{self.folder}/stream"})
        (self.folder / "stream").unlink(missing_ok=True)  # a hard kill leaves it behind
        settings = {
            "servers": servers,
            "mgmt_address": "127.0.0.1",
            "mgmt_port": self.management,
            "flushInterval": 24 * 3600 * 1000,
            "backends": [],
        }
        (self.folder / "config.js").write_text(json.dumps(settings))

    def command(self) -> list[str | Path]:
        return ["node", self.program, self.folder / "config.js"]

    def ready(self) -> bool:
        try:
            return "health: up" in self.ask("health", "\n")
        except ConnectionError:
            return False

    def gauges(self) -> dict[str, float]:
        """All gauges set since `forget`, by name."""
        return _numbers(self.ask("gauges"))

    def counters(self) -> dict[str, float]:
        """All counters, its own ``statsd.bad_lines_seen`` and ``statsd.packets_received`` too."""
        return _numbers(self.ask("counters"))

    def timers(self) -> dict[str, list[float]]:
        """All timings, by name."""
        found = _TIMES.findall(self.ask("timers"))
        return {name: [float(time) for time in _NUMBER.findall(times)] for name, times in found}

    def forget(self) -> None:
        """Delete every gauge, some at a time: a command must arrive in one piece."""
        names = list(self.gauges())
        for start in range(0, len(names), 100):
            self.ask(f"delgauges {' '.join(names[start : start + 100])}")

    def ask(self, command: str, end: str = "END\n\n") -> str:
        """What the management port answers."""
        with socket.create_connection(("127.0.0.1", self.management), timeout=30) as connection:
            connection.sendall(f"{command}\n".encode())
            answer = b""
            while not answer.endswith(end.encode()) and (more := connection.recv(1 << 16)):
                answer += more
        return answer.decode()


def _numbers(inspected: str) -> dict[str, float]:
    found = _PROPERTY.findall(inspected)
    return {single or double or bare: float(number) for single, double, bare, number in found}
