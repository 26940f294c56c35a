"""netdata as a private statsd server, read back through its HTTP API."""

from __future__ import annotations

import json
import signal
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

from pgstats.scratch import Scratch, Server, free_port

CHARTS = 30_000  # without a limit of its own it keeps 1,000


class Netdata(Server):
    """Only its statsd plugin, on ``port``; charts in memory; nothing leaves the machine."""

    stop_signal = signal.SIGTERM
    death_signal = signal.SIGKILL

    def __init__(self, scratch: Scratch, name: str, application: str = "") -> None:
        super().__init__(scratch, f"netdata_{name}")
        self.web = free_port()
        self.application = application  # a file of statsd.d

    @property
    def udp(self) -> str:
        """Its address as pgstats takes it."""
        return f"udp://127.0.0.1:{self.port}"

    def configure(self) -> None:
        folders = ("config", "stock config", "log", "web files", "cache", "lib", "home")
        paths = {f"{name}{' directory' * (name == 'stock config')}": name for name in folders}
        directories = [f"  {key} = {self._folder(name)}" for key, name in paths.items()]
        (self._folder("config") / ".opt-out-from-anonymous-statistics").touch()
        if self.application:
            (self._folder("config/statsd.d") / "pgstats.conf").write_text(self.application)
        off = ("cloud", "ml", "health", "registry")
        text = f"""
[global]
  run as user = {self._user()}
  hostname = tests
[directories]
{chr(10).join(directories)}
[logs]
  debug = none
  access = none
  error = stderr
[db]
  mode = ram
  update every = 1
[web]
  bind to = 127.0.0.1
  default port = {self.web}
[plugins]
  statsd = yes
  {self._others()}
[statsd]
  default port = {self.port}
  bind to = udp:127.0.0.1
  max private charts hard limit = {CHARTS}
  gaps on gauges (deleteGauges) = no
{"".join(f"[{name}]{chr(10)}  enabled = no{chr(10)}" for name in off)}"""
        self.scratch.write(f"{self.name}.conf", text)

    def _folder(self, name: str) -> Path:
        path = self.folder / name.replace(" ", "_")
        path.mkdir(exist_ok=True)
        path.chmod(0o777)  # inside a folder that is the servers' user's alone
        return path

    def _user(self) -> str:
        return self.folder.owner()

    @staticmethod
    def _others() -> str:
        names = (
            "timex", "idlejitter", "proc", "diskspace", "cgroups", "tc", "slabinfo", "apps",
            "charts.d", "node.d", "python.d", "go.d", "ebpf", "perf", "nfacct", "cups", "freeipmi",
            "ioping", "netdata monitoring", "netdata monitoring extended", "checks",
            "enable running new plugins",
        )  # fmt: skip
        return "\n  ".join(f"{name} = no" for name in names)

    def command(self) -> list[str | Path]:
        return ["/usr/sbin/netdata", "-D", "-c", self.scratch.path / f"{self.name}.conf"]

    def ready(self) -> bool:
        try:
            self.gauges()
        except (URLError, ConnectionError):
            return False
        return f"listening on 'udp:127.0.0.1:{self.port}'" in self.log.read_text(errors="replace")

    def charts(self) -> dict[str, Any]:
        """Every chart, by its name."""
        url = f"http://127.0.0.1:{self.web}/api/v1/allmetrics?format=json"
        with urllib.request.urlopen(url, timeout=30) as answer:
            charts: dict[str, Any] = json.load(answer)
        return charts

    def gauges(self) -> dict[str, float]:
        """Every gauge that has a chart, by its name."""
        return {
            name.removeprefix("statsd_").removesuffix("_gauge"): dimension["value"]
            for name, chart in self.charts().items()
            if name.startswith("statsd_") and name.endswith("_gauge")
            for dimension in chart["dimensions"].values()
        }
