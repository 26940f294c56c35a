"""InfluxDB 1.6, which reads templates as Telegraf does, on its port for Graphite's lines."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pgstats.scratch import Scratch, Server, free_port

DATABASE = "pgstats"


class InfluxDB(Server):
    """Answers on ``port``, listens for lines of Graphite on ``graphite``."""

    def __init__(self, scratch: Scratch, templates: Iterable[str]) -> None:
        super().__init__(scratch, "influxdb")
        self.graphite, self.backup = free_port(), free_port()
        self.templates = list(templates)

    def configure(self) -> None:
        for name in ("meta", "data", "wal"):
            self.scratch.folder(f"{self.name}/{name}")
        self.scratch.write(
            f"{self.name}.toml",
            f"""
reporting-disabled = true
bind-address = "127.0.0.1:{self.backup}"
[meta]
  dir = "{self.folder}/meta"
[data]
  dir = "{self.folder}/data"
  wal-dir = "{self.folder}/wal"
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:{self.port}"
  log-enabled = false
[[graphite]]
  enabled = true
  database = "{DATABASE}"
  bind-address = "127.0.0.1:{self.graphite}"
  protocol = "tcp"
  batch-timeout = "100ms"
  separator = "_"
  templates = {json.dumps(self.templates)}
""",
        )

    def command(self) -> list[str | Path]:
        return ["influxd", "-config", self.scratch.path / f"{self.name}.toml"]

    def ready(self) -> bool:
        try:
            return bool(self.query("SHOW DATABASES"))
        except OSError:
            return False

    def take(self, values: dict[str, float]) -> None:
        """Write numbers of this moment."""
        now = int(time.time())
        lines = "".join(f"{name} {value!r} {now}\n" for name, value in values.items())
        with socket.create_connection(("127.0.0.1", self.graphite), timeout=30) as connection:
            connection.sendall(lines.encode())

    def query(self, text: str) -> list[dict[str, Any]]:
        """The series that a query gives."""
        parameters = urllib.parse.urlencode({"db": DATABASE, "q": text})
        url = f"http://127.0.0.1:{self.port}/query?{parameters}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                (result,) = json.load(answer)["results"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{text}: {error.read().decode()}") from None
        assert "error" not in result, f"{text}: {result}"
        found: list[dict[str, Any]] = result.get("series", [])
        return found
