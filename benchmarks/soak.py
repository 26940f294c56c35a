"""Runs the daemon for thousands of cycles with faults injected, and watches what it keeps.

python benchmarks/soak.py [THOUSANDS] [INTERVAL]

The daemon polls a PgBouncer, a PostgreSQL and an address where nobody listens, as often as it can.
Every few hundred cycles something happens to one of them, to the receiver, or to the configuration.
Printed are, per thousand cycles, its memory, descriptors, threads, and the bytes of its state; then
how much each grew per thousand cycles over the second half. The exit code is 1 unless all are flat.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from pgstats.scratch import Bouncer, Cluster, Scratch, free_port  # noqa: E402
from tests.receivers.sink import SinkProcess  # noqa: E402

EVERY = 200  # cycles between two faults


class Size(NamedTuple):
    """What the daemon has at some time."""

    rss_kib: int
    descriptors: int
    threads: int
    state_bytes: int


#: What growth per thousand cycles is noise. Garbage that is not yet collected varies by more.
NOISE = Size(rss_kib=128, descriptors=0, threads=0, state_bytes=64)


class Place:
    """The servers, and the daemon that polls them."""

    def __init__(self, scratch: Scratch, interval: str) -> None:
        self.cluster = Cluster(scratch).start()
        self.bouncer = Bouncer(scratch, {"*": self.cluster.address}, stats_users=["stats"]).start()
        self.sink = SinkProcess(scratch, "sink").start()
        self.folder = scratch.path / "daemon"
        self.folder.mkdir()
        self.cycles = 0
        self._seen = 0
        self.file = self.folder / "pgstats.toml"
        gone = f"host=127.0.0.1 port={free_port()} user=me"
        console = self.bouncer.dsn("pgbouncer", "stats")
        self.text = (
            f'interval = "{interval}"\nstate = "{self.folder}/state"\n'
            f'[statsd]\nurl = "{self.sink.url}"\nrate = 0\n'
            f'[[pgbouncer]]\nname = "front"\ndsn = {json.dumps(console)}\ntimeout = "1s"\n'
            f'[[postgres]]\nname = "main"\ndsn = {json.dumps(self.cluster.dsn())}\ntimeout = "1s"\n'
            f'[[postgres]]\nname = "gone"\ndsn = {json.dumps(gone)}\ntimeout = "1s"\n'
        )
        self.file.write_text(self.text)

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        """`pgstats run` for as long as it is watched."""
        argv = [sys.executable, "-m", "pgstats", "run", "--config", str(self.file)]
        environ = os.environ | {"PYTHONPATH": str(ROOT), "RUNTIME_DIRECTORY": str(self.folder)}
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, env=environ)
            try:
                yield self.process
            finally:
                self.process.terminate()
                if self.process.wait(10):
                    raise SystemExit("the daemon did not end well")

    def size(self) -> Size:
        """What the daemon has now."""
        proc = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        state = self.folder / "state"
        return Size(
            int(status["VmRSS"].split()[0]),
            len(list((proc / "fd").iterdir())),
            int(status["Threads"]),
            state.stat().st_size if state.exists() else 0,
        )

    def until(self, cycles: int) -> None:
        """Wait for so many cycles of the PgBouncer and the PostgreSQL together, per target."""
        while self.cycles < cycles:
            if self.process.poll() is not None:
                raise SystemExit(f"the daemon ended: {(self.folder / 'log').read_text()}")
            time.sleep(0.1)
            self._count()

    def _count(self) -> None:
        """Count the polls that have arrived; a log that is long is forgotten."""
        with self.sink.log.open("rb") as log:
            log.seek(self._seen)
            text = log.read()
        whole = text.rfind(b"\n") + 1
        self._seen += whole
        self.cycles += text[:whole].count(b".main.up:")
        if self._seen > 64 << 20:
            os.truncate(self.sink.log, 0)
            self._seen = 0

    # --- what happens

    def kill_front(self) -> None:
        """The PgBouncer crashes."""
        self.bouncer.kill()
        time.sleep(0.2)
        self.bouncer.start()

    def stop_front(self) -> None:
        """It stands still for longer than its timeout."""
        os.kill(self.bouncer.pid, signal.SIGSTOP)
        time.sleep(1.5)
        os.kill(self.bouncer.pid, signal.SIGCONT)

    def cut_sessions(self) -> None:
        """The kept connection is terminated."""
        others = "backend_type = 'client backend' AND pid <> pg_backend_pid()"
        self.cluster.psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")

    def come_and_go(self) -> None:
        """A database with a table comes, is polled, and goes."""
        self.cluster.psql("CREATE DATABASE passing")
        self.cluster.psql("CREATE TABLE t AS SELECT 1", "passing")
        time.sleep(0.5)
        self.cluster.psql("DROP DATABASE passing WITH (FORCE)")

    def lose_receiver(self) -> None:
        """The receiver crashes."""
        self.sink.kill()
        time.sleep(0.2)
        self.sink.start()

    def reload(self) -> None:
        """The configuration is read again, once faulty, then sound."""
        for text in ("nonsense = 1\n", self.text):
            self.file.write_text(text)
            self.process.send_signal(signal.SIGHUP)
            time.sleep(0.2)

    def restart_main(self) -> None:
        """The PostgreSQL is restarted."""
        self.cluster.stop()
        self.cluster.start()

    def ask(self) -> None:
        """Somebody wants to know the status."""
        environ = os.environ | {"PYTHONPATH": str(ROOT), "RUNTIME_DIRECTORY": str(self.folder)}
        argv = [sys.executable, "-m", "pgstats", "status"]
        subprocess.run(argv, stdout=subprocess.DEVNULL, env=environ, check=False)

    def faults(self) -> Iterator[Callable[[], None]]:
        """One after the other, for ever."""
        return itertools.cycle(
            (
                self.kill_front,
                self.stop_front,
                self.cut_sessions,
                self.come_and_go,
                self.lose_receiver,
                self.reload,
                self.restart_main,
                self.ask,
            )
        )


def main(thousands: int = 10, interval: str = "10ms") -> int:
    """Run, print, judge."""
    with Scratch() as scratch:
        place = Place(scratch, interval)
        started = time.monotonic()
        print("{:>8} {:>9} {:>12} {:>8} {:>12} {:>8}".format("cycles", *Size._fields, "seconds"))
        with place.daemon():
            sizes = list(_watched(place, thousands, started))
    half = sizes[len(sizes) // 2 :]
    growth = Size(*(_slope(column) for column in zip(*half, strict=True)))
    print("growth per thousand cycles over the second half:")
    for name, grown, noise in zip(Size._fields, growth, NOISE, strict=True):
        print(f"  {name:<12} {grown:+.1f}  {'flat' if grown <= noise else 'GROWS'}")
    return int(any(grown > noise for grown, noise in zip(growth, NOISE, strict=True)))


def _watched(place: Place, thousands: int, started: float) -> Iterator[Size]:
    """The least size in each thousand of cycles: what garbage comes and goes does not count."""
    faults = place.faults()
    for thousand in range(1, thousands + 1):
        sizes: list[Size] = []
        for cycle in range((thousand - 1) * 1000 + EVERY, thousand * 1000 + 1, EVERY):
            place.until(cycle)
            sizes.append(place.size())
            next(faults)()
        place.until(thousand * 1000 + EVERY // 2)
        sizes.append(place.size())
        size = Size(*map(min, zip(*sizes, strict=True)))
        print(
            "{:>8} {:>9} {:>12} {:>8} {:>12} {:>8.0f}".format(
                place.cycles, *size, time.monotonic() - started
            ),
            flush=True,
        )
        yield size


def _slope(values: tuple[float, ...]) -> float:
    """How much is added from one value to the next, by the straight line through all of them."""
    if len(values) < 2:
        return 0.0
    return statistics.linear_regression(range(len(values)), values).slope


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(int(given[0]) if given else 10, *given[1:2]))
