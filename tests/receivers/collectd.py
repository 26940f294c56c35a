"""collectd as a private statsd server, read back through its unixsock plugin."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

from pgstats.scratch import Scratch, Server


class Collectd(Server):
    """Only its statsd plugin, on ``port``, and the one that answers."""

    stop_signal = signal.SIGTERM
    death_signal = signal.SIGKILL

    def __init__(self, scratch: Scratch, name: str) -> None:
        super().__init__(scratch, f"collectd_{name}")

    @property
    def udp(self) -> str:
        """Its address as pgstats takes it."""
        return f"udp://127.0.0.1:{self.port}"

    @property
    def _asked(self) -> Path:
        return self.folder / "asked"

    def configure(self) -> None:
        self.scratch.write(
            f"{self.name}.conf",
            f"""
Hostname "tests"
FQDNLookup false
Interval 1
BaseDir "{self.folder}"
PIDFile "{self.folder}/pid"
TypesDB "/usr/share/collectd/types.db"
LoadPlugin statsd
<Plugin statsd>
  Host "127.0.0.1"
  Port "{self.port}"
</Plugin>
LoadPlugin unixsock
<Plugin unixsock>
  SocketFile "{self._asked}"
  SocketPerms "0600"
  SocketGroup "{self.folder.group()}"
  DeleteSocket true
</Plugin>
""",
        )

    def command(self) -> list[str | Path]:
        return ["/usr/sbin/collectd", "-f", "-C", self.scratch.path / f"{self.name}.conf"]

    def ready(self) -> bool:
        try:
            self.ask(["LISTVAL"])
        except OSError:
            return False
        return True

    def gauges(self) -> dict[str, float]:
        """Every gauge, by its name."""
        listed = [line.split(" ", 1)[1] for line in self.ask(["LISTVAL"])[0]]
        named = [name for name in listed if "/statsd/gauge-" in name]
        answers = self.ask([f'GETVAL "{name}"' for name in named])
        return {
            name.partition("/statsd/gauge-")[2]: float(answer[0].partition("=")[2])
            for name, answer in zip(named, answers, strict=True)
        }

    def ask(self, commands: list[str]) -> list[list[str]]:
        """The lines that each command is answered with."""
        answers = []
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self._asked))
            with connection.makefile("rw", encoding="ascii") as stream:
                for command in commands:
                    stream.write(f"{command}\n")
                    stream.flush()
                    status = stream.readline()
                    answers.append([stream.readline().rstrip() for _ in range(_count(status))])
        return answers


def _count(status: str) -> int:
    """How many lines follow; a command that was refused says -1 and why."""
    count = int(status.split(" ", 1)[0])
    assert count >= 0, status
    return count
