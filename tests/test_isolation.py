"""Two hundred targets in one process, fifty of them stopped processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pgstats.scratch import Bouncer, Cluster, Scratch
from tests.test_run import running, wait_for

pytestmark = pytest.mark.full

INTERVAL = 10.0
STOPPED, CONSOLES, CLUSTERS = 50, 120, 30
ROUNDS = 6


class Ear(threading.Thread):
    """A receiver that notes when each target was reported up or down."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.heard: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.skipped: dict[str, float] = {}
        self.start()

    def run(self) -> None:
        while True:
            for line in self.socket.recv(65536).decode().splitlines():
                name, _, rest = line.partition(":")
                parts, value = name.split("."), rest.partition("|")[0]
                if parts[-1] == "up":
                    self.heard[parts[2], value].append(time.monotonic())
                elif parts[-1] == "skipped_runs":
                    self.skipped[parts[3]] = float(value)


@pytest.fixture
def stopped(scratch: Scratch) -> Iterator[list[Bouncer]]:
    """PgBouncers that stand still."""
    bouncers = [
        Bouncer(scratch, {}, stats_users=["stats"], name=f"still{n}") for n in range(STOPPED)
    ]
    with ExitStack() as stack:
        for one in bouncers:
            stack.enter_context(one)
        for one in bouncers:
            os.kill(one.pid, signal.SIGSTOP)
        yield bouncers
        for one in bouncers:
            os.kill(one.pid, signal.SIGCONT)


def test_the_other_hundred_and_fifty_are_polled_on_time(
    tmp_path: Path, cluster: Cluster, bouncer: Bouncer, stopped: list[Bouncer]
) -> None:
    ear = Ear(tmp_path / "ear")
    targets = [("pgbouncer", f"still{n}", one) for n, one in enumerate(stopped)]
    sound: list[tuple[str, str, Cluster | Bouncer]] = [
        *(("pgbouncer", f"console{n}", bouncer) for n in range(CONSOLES)),
        *(("postgres", f"cluster{n}", cluster) for n in range(CLUSTERS)),
    ]
    lines = [f'interval = "10s"\n[statsd]\nurl = "unixgram://{tmp_path}/ear"\nrate = 0']
    for family, name, server in [*targets, *sound]:
        dsn = server.dsn("pgbouncer", "stats") if family == "pgbouncer" else server.dsn()
        lines.append(f'[[{family}]]\nname = "{name}"\ndsn = {json.dumps(dsn)}')
    file = tmp_path / "pgstats.toml"
    file.write_text("\n".join(lines))
    names = [name for _, name, _ in sound]
    with running(tmp_path, str(file), "--no-state") as daemon:
        assert wait_for(
            lambda: all(len(ear.heard[name, "1"]) > ROUNDS for name in names),
            (ROUNDS + 6) * INTERVAL,
        )
        task = Path(f"/proc/{daemon.pid}/task")
        threads = len(list(task.iterdir()))
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
    lags = [
        at - times[0] - number * INTERVAL
        for times in (ear.heard[name, "1"] for name in names)
        for number, at in enumerate(times)
    ]
    sys.stdout.write(
        f"{len(lags)} polls of {len(names)} targets beside {STOPPED} that stand still: late by "
        f"{statistics.median(lags):.3f} s (median), {max(lags):.3f} s (most); {threads} threads\n"
    )
    assert {ear.skipped[name] for name in names} == {0.0}, "no run was left out"
    assert not any(ear.heard[name, "0"] for name in names)
    for number in range(STOPPED):
        assert len(ear.heard[f"still{number}", "0"]) >= 3
        assert not ear.heard[f"still{number}", "1"]
    assert threads <= 130
