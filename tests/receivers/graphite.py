"""statsd, carbon and graphite-web in a row, on loopback, with a flush and a step of a second."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pgstats.scratch import Scratch, Server, free_port
from tests.node_statsd import NodeStatsd

#: Where ./dev test-full installs carbon and graphite-web.
HOME = Path(__file__).parents[2] / ".cache" / "graphite"


class Carbon(Server):
    """carbon-cache: lines of text on ``port``, asked by graphite-web on ``query``."""

    ours = True  # the folder it is installed in may be private

    def __init__(self, scratch: Scratch, schemas: str, aggregation: str) -> None:
        super().__init__(scratch, "carbon")
        self.query, self.pickle = free_port(), free_port()
        self.tags_at = 0  # the port of the graphite-web that keeps the tags
        self.schemas, self.aggregation = schemas, aggregation

    def configure(self) -> None:
        settings = {
            "STORAGE_DIR": self.folder,
            "CONF_DIR": self.folder,
            "LOG_DIR": self.folder,
            "PID_DIR": self.folder,
            "LOCAL_DATA_DIR": self.folder / "whisper",
            "USER": "",
            "MAX_CREATES_PER_MINUTE": "inf",
            "MAX_UPDATES_PER_SECOND": "inf",
            "WHISPER_AUTOFLUSH": True,
            "ENABLE_TAGS": bool(self.tags_at),
            "GRAPHITE_URL": f"http://127.0.0.1:{self.tags_at}",
            "LINE_RECEIVER_INTERFACE": "127.0.0.1",
            "LINE_RECEIVER_PORT": self.port,
            "PICKLE_RECEIVER_INTERFACE": "127.0.0.1",
            "PICKLE_RECEIVER_PORT": self.pickle,
            "CACHE_QUERY_INTERFACE": "127.0.0.1",
            "CACHE_QUERY_PORT": self.query,
        }
        text = "".join(f"{key} = {value}\n" for key, value in settings.items())
        (self.folder / "carbon.conf").write_text(f"[cache]\n{text}")
        (self.folder / "storage-schemas.conf").write_text(self.schemas)
        (self.folder / "storage-aggregation.conf").write_text(self.aggregation)

    def command(self) -> list[str | Path]:
        program = HOME / "bin" / "carbon-cache.py"
        options = [f"--config={self.folder}/carbon.conf", "--nodaemon", "start"]
        return [HOME / "bin" / "python", program, *options]

    def ready(self) -> bool:
        return _open(self.port) and _open(self.query)


class GraphiteStatsd(NodeStatsd):
    """A statsd that flushes to carbon each second."""

    def __init__(self, scratch: Scratch, program: Path, carbon: int) -> None:
        self.carbon = carbon
        super().__init__(scratch, program, "graphite_statsd")

    def configure(self) -> None:
        super().configure()
        path = self.folder / "config.js"
        more = {
            "flushInterval": 1000,
            "backends": ["./backends/graphite"],
            "graphiteHost": "127.0.0.1",
            "graphitePort": self.carbon,
            "graphite": {"legacyNamespace": False},
        }
        path.write_text(json.dumps(json.loads(path.read_text()) | more))


class GraphiteWeb(Server):
    """graphite-web over the files and the cache of a carbon."""

    ours = True

    def __init__(self, scratch: Scratch, carbon: Carbon) -> None:
        super().__init__(scratch, "graphite_web")
        self.carbon = carbon

    def configure(self) -> None:
        (self.folder / "site_settings.py").write_text(
            f"""from graphite.settings import *
SECRET_KEY = "tests"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
LOG_DIR = {str(self.folder)!r}
STORAGE_DIR = CERES_DIR = RRD_DIR = {str(self.folder)!r}
WHISPER_DIR = {str(self.carbon.folder / "whisper")!r}
STANDARD_DIRS = [WHISPER_DIR]
INDEX_FILE = {str(self.folder / "index")!r}
CARBONLINK_HOSTS = ["127.0.0.1:{self.carbon.query}"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3",
                         "NAME": {str(self.folder / "graphite.db")!r},
                         "OPTIONS": {{"timeout": 60}}}}}}
DEFAULT_CACHE_DURATION = 0
TIME_ZONE = "UTC"
"""
        )
        self._admin("migrate", "--run-syncdb")

    def _environment(self) -> dict[str, str]:
        settings = {"DJANGO_SETTINGS_MODULE": "site_settings", "PYTHONPATH": str(self.folder)}
        return os.environ | settings | {"PYTHONWARNINGS": "ignore"}

    def _admin(self, *arguments: str) -> None:
        command: list[str | Path] = [HOME / "bin" / "django-admin", *arguments]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def command(self) -> list[str | Path]:
        pairs = [f"{key}={value}" for key, value in self._environment().items() if key != "PATH"]
        chosen = [pair for pair in pairs if pair.startswith(("DJANGO", "PYTHON"))]
        server = ["runserver", "--noreload", f"127.0.0.1:{self.port}"]
        return ["env", *chosen, HOME / "bin" / "django-admin", *server]

    def ready(self) -> bool:
        return _open(self.port)

    # ---- what it is asked

    def render(self, targets: Iterable[str], **more: str) -> bytes:
        """A picture, or with format="json" the numbers, of the last minutes."""
        pairs = [*(("target", target) for target in targets), *more.items()]
        data = urllib.parse.urlencode(pairs).encode()
        return self._ask("/render", data)

    def numbers(self, target: str, since: str = "-3min") -> dict[str, list[float]]:
        """The known numbers of each curve, by its name; no curve without any."""
        answer = json.loads(self.render([target], **{"format": "json", "from": since}))
        found = {
            curve["target"]: [value for value, _ in curve["datapoints"] if value is not None]
            for curve in answer
        }
        return {name: values for name, values in found.items() if values}

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Keep a dashboard."""
        data = urllib.parse.urlencode({"state": json.dumps(state)}).encode()
        answer = json.loads(self._ask(f"/dashboard/save/{name}", data))
        assert answer == {"success": True}, answer

    def load(self, name: str) -> dict[str, Any]:
        """A dashboard that was kept."""
        state: dict[str, Any] = json.loads(self._ask(f"/dashboard/load/{name}"))["state"]
        return state

    def _ask(self, path: str, data: bytes | None = None) -> bytes:
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urllib.request.urlopen(url, data, timeout=60) as answer:
                body: bytes = answer.read()
                return body
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")[-2000:]
            raise AssertionError(
                f"{error} {urllib.parse.unquote_plus(str(data))}\n{text}"
            ) from None


def _open(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
