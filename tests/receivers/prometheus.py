"""Prometheus, which scrapes a page that the tests make as statsd_exporter would."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pgstats.scratch import Scratch, Server
from tests.mappings import Named

Page = Callable[[], str]


def exposition(values: dict[str, float], mapped: Callable[[str], Named | None]) -> str:
    """Gauges as Prometheus reads them, by a mapping of their names."""
    lines = []
    for name, value in values.items():
        if found := mapped(name):
            metric, labels = found
            pairs = ",".join(f'{key}="{label}"' for key, label in sorted(labels))
            lines.append(f"{metric}{{{pairs}}} {value!r}\n")
    return "".join(sorted(lines))


class Exporter:
    """Answers each scrape with a page that is made then."""

    def __init__(self, page: Page) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = page().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Prometheus(Server):
    """It scrapes one port each second and evaluates rules as often."""

    def __init__(self, scratch: Scratch, exporter: int, rules: str) -> None:
        super().__init__(scratch, "prometheus")
        self.exporter, self.rules = exporter, rules

    def configure(self) -> None:
        rules = self.scratch.write(f"{self.name}.rules.yml", self.rules)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {
                    "job_name": "statsd",
                    "static_configs": [{"targets": [f"127.0.0.1:{self.exporter}"]}],
                }
            ],
        }
        self.scratch.write(f"{self.name}.yml", json.dumps(config))

    def command(self) -> list[str | Path]:
        return [
            "prometheus",
            f"--config.file={self.scratch.path / f'{self.name}.yml'}",
            f"--storage.tsdb.path={self.folder}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def ready(self) -> bool:
        try:
            self._get("/-/ready")
        except OSError:
            return False
        return True

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now."""
        answer = json.loads(self._get("/api/v1/query", query=expression))
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def _get(self, path: str, **parameters: str) -> bytes:
        url = f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                body: bytes = answer.read()
                return body
        except urllib.error.HTTPError as error:
            if error.code == 503:  # not ready
                raise
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
