"""What processes cost: CPU time, memory, wall time. On a shared machine CPU time is what counts."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_TICK = 1000 / os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """Of one piece of work: milliseconds of CPU in client and server and of wall time, MiB."""

    client: float
    server: float = 0.0
    wall: float = 0.0
    peak: float = 0.0
    gauges: float = 0.0


def cpu(pid: int) -> float:
    """Milliseconds of CPU that a process has taken, with threads that have ended."""
    return time.clock_gettime_ns(~pid << 3 | 2) / 1e6  # the clock of another process, on Linux


def tree(pid: int) -> float:
    """The same of a server, of its children, and of those of them that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ended = sum(map(int, fields[13:15])) * _TICK
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    try:
        living = sum(cpu(int(child)) for child in children)
    except OSError:  # one has just ended, and is among those that have the next time
        return tree(pid)
    return cpu(pid) + ended + living


def status(pid: int, key: str) -> float:
    """MiB that the kernel tells of a process: VmRSS, VmHWM (the peak)."""
    line = next(
        one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith(key)
    )
    return int(line.split()[1]) / 1024


def private(pid: int) -> float:
    """MiB that belong to a process alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(one.split()[1]) for one in lines if one.startswith("Private_")) / 1024


def resting(server: Callable[[], float], seconds: float = 5.0) -> float:
    """Milliseconds of CPU that a server takes in a second while nobody asks it anything."""
    before, started = server(), time.monotonic()
    time.sleep(seconds)
    return (server() - before) / (time.monotonic() - started)


def asked_for(cost: Cost, rate: float) -> Cost:
    """A cost without what the server would have taken meanwhile, ``rate`` a second, anyway."""
    return cost._replace(server=cost.server - rate * cost.wall / 1000)


def run(argv: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> Cost:
    """A program from its start to its end, with what it starts and waits for."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            list(argv), cwd="/", env=environment(environ), stdout=subprocess.DEVNULL, stderr=said
        )
        peak, code, usage = _waited(process.pid)
        process.returncode = os.waitstatus_to_exitcode(code)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{argv}: exit code {process.returncode}: {said.read().decode()}")
    wall = (time.monotonic() - started) * 1000
    return Cost(seconds(usage) * 1000, wall=wall, peak=peak)


def _waited(pid: int) -> tuple[float, int, resource.struct_rusage]:
    """The peak of a process as far as it was seen, then what `os.wait4` says.

    What that says of the peak includes ours, of which the process was born.
    """
    peak = 0.0
    while True:
        ended, code, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return peak, code, usage
        with suppress(StopIteration):  # a process that is about to be gone has no memory
            peak = max(peak, status(pid, "VmHWM"))
        time.sleep(0.003)


def seconds(usage: resource.struct_rusage) -> float:
    """User and system time."""
    return usage.ru_utime + usage.ru_stime


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, less what would lead Python or PostgreSQL's programs astray."""
    left_out = ("PG", "PYTHON")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    return kept | {"LC_ALL": "C.UTF-8"} | dict(more or {})


def median(costs: Sequence[Cost]) -> Cost:
    """Of each number by itself."""
    return Cost(*(statistics.median(numbers) for numbers in zip(*costs, strict=True)))


def alternately(work: Mapping[str, Callable[[], Cost]], rounds: int) -> dict[str, list[Cost]]:
    """What each costs in each round, after one that warms up: all take turns."""
    found: dict[str, list[Cost]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, do in work.items():
            cost = do()
            if number:
                found[name].append(cost)
    return found


def ratio(ours: Sequence[Cost], theirs: Sequence[Cost], of: Callable[[Cost], float]) -> float:
    """The median over the rounds of how much more ours took than theirs."""
    return statistics.median(
        of(one) / max(of(other), 1e-9) for one, other in zip(ours, theirs, strict=True)
    )
