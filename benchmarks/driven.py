"""Long-lived processes that do one cycle each time they are told to, so that all can take turns."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import meter
from benchmarks.lab import PYTHON
from benchmarks.meter import Cost
from pgstats.scratch import Scratch

_HERE = Path(__file__).parent


class Driven:
    """A program of `benchmarks/programs`: a line in is one cycle, the line out how many gauges.

    ``server`` is the CPU of whoever is asked.
    """

    def __init__(self, server: Callable[[], float], program: str, *arguments: str | Path) -> None:
        self._server = server
        self._process = subprocess.Popen(
            [PYTHON, _HERE / "programs" / f"{program}.py", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env=meter.environment(),
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def cycle(self) -> Cost:
        """One cycle, and what it cost."""
        assert self._process.stdin
        assert self._process.stdout
        before, asked, started = meter.cpu(self.pid), self._server(), time.monotonic()
        print(file=self._process.stdin, flush=True)
        said = self._process.stdout.readline()
        wall = (time.monotonic() - started) * 1000
        if not said:
            raise SystemExit(f"{self._process.args!r}: ended with {self._process.wait()}")
        return Cost(
            meter.cpu(self.pid) - before,
            self._server() - asked,
            wall,
            meter.status(self.pid, "VmHWM"),
            int(said),
        )

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


class Scraped:
    """An exporter: a cycle is what it takes to answer one scrape."""

    def __init__(
        self,
        scratch: Scratch,
        server: Callable[[], float],
        argv: Sequence[Any],
        port: int,
        **env: str,
    ) -> None:
        self._server = server
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._process = subprocess.Popen(
            list(argv),
            cwd="/",
            env=meter.environment(env),
            stdout=subprocess.DEVNULL,
            stderr=(scratch.path / "exporter.log").open("ab"),
        )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                self._scrape()
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise SystemExit(f"{self._process.args!r}: does not answer")

    def _scrape(self) -> int:
        with urllib.request.urlopen(self._url, timeout=120) as answer:
            text: bytes = answer.read()
        lines = text.splitlines()
        return sum(line.startswith((b"pg_", b"pgbouncer_")) for line in lines)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def cycle(self) -> Cost:
        """One scrape, and what it cost the exporter and the server."""
        before, asked, started = meter.cpu(self.pid), self._server(), time.monotonic()
        series = self._scrape()
        wall = (time.monotonic() - started) * 1000
        spent = meter.cpu(self.pid) - before
        return Cost(spent, self._server() - asked, wall, meter.status(self.pid, "VmHWM"), series)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
