"""The loop of `pgstats run`, as processes of their own with real signals, clocks and sockets."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from pgstats.daemon.crew import Crew
from pgstats.daemon.grid import Grid
from pgstats.daemon.jobs import Done, Entry, Job, Record
from pgstats.daemon.tidy import Tidy

#: Serves the jobs that a file of JSON lists, and prints everything that happens as JSON.
SCRIPT = """
import gc, json, os, resource, sys, time, weakref
from pathlib import Path
from pgstats.daemon import Done, Job, serve, tidy
from pgstats.errors import ConfigError

ahead = [0.0]

def say(event, **more):
    line = json.dumps({"event": event, "at": time.monotonic(), **more})
    os.write(1, line.encode() + b"\\n")

def job(name, interval, seconds=0.0, fault="", ok=True, jump=0.0, timeout=10.0, circle=False):
    runs = []
    def work(skipped):
        threads = len(os.listdir("/proc/self/task"))
        say("work", name=name, skipped=skipped, threads=threads)
        ahead[0] += jump if runs.append(1) is None and len(runs) == 3 else 0.0
        time.sleep(seconds)
        if fault:
            raise RuntimeError(fault)
        if circle:
            round = lambda: round
            weakref.finalize(round, say, "freed")
        say("done", name=name)
        return Done(ok, 0.041)
    return Job(name, interval, work, lambda: say("close", name=name), timeout)

def load():
    found = json.loads(Path(sys.argv[1]).read_text())
    if isinstance(found, str):
        raise ConfigError(found.split(";"))
    return [job(**each) for each in found]

gc.disable()
tidy.EVERY = 0.5
if len(sys.argv) > 2:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[2]),) * 2)
tell = lambda level, text: say("tell", level=level, text=text)
clock = lambda: time.monotonic() + ahead[0]
sys.exit(serve(load(), reload=load, tell=tell, environ=os.environ, monotonic=clock))
"""

Event = dict[str, Any]
Spec = dict[str, Any]


class Daemon:
    """A running script and what it has printed so far."""

    def __init__(self, folder: Path, jobs: list[Spec], *more: str, **environ: str) -> None:
        self.file = folder / "jobs.json"
        self.load(jobs)
        command = [sys.executable, "-c", SCRIPT, str(self.file), *more]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environ},
        )
        self.events: list[Event] = []
        self.inbox: SimpleQueue[Event] = SimpleQueue()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def load(self, jobs: list[Spec] | str) -> None:
        self.file.write_text(json.dumps(jobs))

    def read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.inbox.put(json.loads(line))

    def wait(self, event: str, times: int = 1, within: float = 20.0, **like: object) -> list[Event]:
        """Reads on until so many such events have come; returns all of them so far."""
        end = time.monotonic() + within
        while len(found := self.found(event, **like)) < times:
            left = end - time.monotonic()
            assert left > 0, f"{event} {like} came {len(found)} times of {times}: {self.events}"
            try:
                self.events.append(self.inbox.get(timeout=left))
            except Empty:
                continue
        return found

    def found(self, event: str, **like: object) -> list[Event]:
        wanted = {"event": event, **like}
        return [seen for seen in self.events if wanted.items() <= seen.items()]

    def drain(self) -> None:
        while not self.inbox.empty():
            self.events.append(self.inbox.get())

    def told(self, level: int) -> list[str]:
        return [event["text"] for event in self.found("tell", level=level)]

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Sends the signal, expects a clean end and returns the seconds it took."""
        start = time.monotonic()
        self.process.send_signal(number)
        assert self.process.wait(timeout=20) == 0
        seconds = time.monotonic() - start
        self.reader.join()
        self.drain()
        assert self.process.stderr
        assert self.process.stderr.read() == ""
        return seconds

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream
            stream.close()


class Start:
    """Starts daemons and ends those that the test has left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: list[Daemon] = []

    def __call__(self, *jobs: Spec, more: tuple[str, ...] = (), **environ: str) -> Daemon:
        self.daemons.append(Daemon(self.folder, list(jobs), *more, **environ))
        return self.daemons[-1]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    starter = Start(tmp_path)
    yield starter
    for daemon in starter.daemons:
        daemon.close()


def note(figure: str) -> None:
    """Shows a figure to whoever runs pytest with -rP; figures are asserted on only generously."""
    sys.stdout.write(f"{figure}\n")


def times(events: list[Event]) -> list[float]:
    return [event["at"] for event in events]


# --- the grid


def test_runs_start_on_the_grid_whatever_the_work_takes(start: Start) -> None:
    daemon = start({"name": "a", "interval": 0.25, "seconds": 0.1})
    starts = times(daemon.wait("work", 13))
    lags = [at - starts[0] - k * 0.25 for k, at in enumerate(starts)]
    note(f"lag of 12 cycles: median {statistics.median(lags):.4f} s, last {lags[-1]:.4f} s")
    assert statistics.median(lags) < 0.1  # `schedule` alone would be 0.6 s late by now


def test_a_late_run_does_not_move_the_grid() -> None:
    now, starts = 0.0, []
    grid = Grid(lambda: now)
    grid.add("a", 10.0, 0.0, lambda: starts.append(now))
    for now in (0.0, 12.5, 20.0, 47.0, 49.9, 50.0):  # noqa: B007 - it is the grid that reads it
        grid.run_pending()
    assert starts == [0.0, 12.5, 20.0, 47.0, 50.0]


def test_one_second_is_an_interval_like_any_other(start: Start) -> None:
    daemon = start({"name": "a", "interval": 1, "seconds": 0.2})
    starts = times(daemon.wait("work", 4))
    assert starts[3] - starts[0] == pytest.approx(3.0, abs=0.3)


def test_few_jobs_start_at_once(start: Start) -> None:
    daemon = start(*({"name": f"t{n}", "interval": 3600} for n in range(10)))
    starts = times(daemon.wait("done", 10))
    assert max(starts) - min(starts) < 10


def test_many_jobs_are_spread_over_the_first_interval(start: Start) -> None:
    daemon = start(*({"name": f"t{n}", "interval": 2} for n in range(40)))
    daemon.wait("work", 40)
    starts = times(daemon.events)
    assert max(starts) - min(starts) == pytest.approx(1.95, abs=0.5)
    order = [int(event["name"][1:]) for event in daemon.found("work")][:40]
    assert sorted(order) == list(range(40))
    assert all(abs(a - b) > 1 for a, b in pairwise(order)), "neighbours of the file are apart"


@pytest.mark.parametrize("change", ["forward", "backward"])
def test_a_step_of_the_local_clock_changes_nothing(start: Start, change: str) -> None:
    # Summer time that begins, or ends, within two seconds: what `schedule` reads moves an hour.
    moment = time.gmtime(time.time() + 1.5)
    zones = "AAA0BBB-1" if change == "forward" else "AAA0BBB1"
    rule = f"{moment.tm_yday - 1}/{moment.tm_hour}:{moment.tm_min}:{moment.tm_sec}"
    last = "364/24" if moment.tm_yday < 360 else "0/0"
    daemon = start({"name": "a", "interval": 0.5}, TZ=f"{zones},{rule},{last}")
    starts = times(daemon.wait("work", 7))
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert statistics.median(gaps) == pytest.approx(0.5, abs=0.1)
    assert len([gap for gap in gaps if gap < 0.1]) <= 1


def test_a_long_sleep_of_the_machine_makes_neither_a_burst_nor_silence(start: Start) -> None:
    # The third run moves the monotonic clock on by a thousand intervals and a bit.
    daemon = start({"name": "a", "interval": 0.5, "jump": 500.1})
    starts = times(daemon.wait("work", 8))
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert gaps[:2] + gaps[4:] == pytest.approx([0.5] * 5, abs=0.2)
    assert sum(gaps[2:4]) < 1.2  # one run as soon as the loop wakes, the next one on the grid
    assert daemon.found("work")[-1]["skipped"] <= 1  # what fell due while the third was at work


def test_no_jobs_at_all_is_a_quiet_life(start: Start) -> None:
    daemon = start()
    time.sleep(1.5)
    assert daemon.stop() < 2
    assert daemon.events == []


# --- the crew


def test_a_slow_job_delays_no_other_and_its_own_overlaps_are_skipped(start: Start) -> None:
    daemon = start(
        {"name": "slow", "interval": 0.2, "seconds": 0.7}, {"name": "quick", "interval": 0.2}
    )
    daemon.wait("work", 3, name="slow")
    assert [event["skipped"] for event in daemon.found("work", name="slow")] == [0, 3, 6]
    assert {event["skipped"] for event in daemon.found("work", name="quick")} == {0}
    assert len(daemon.found("work", name="quick")) >= 6


def test_a_raise_is_told_once_without_its_message_and_stops_nothing(start: Start) -> None:
    daemon = start(
        {"name": "bad", "interval": 0.1, "fault": "secretpw"}, {"name": "good", "interval": 0.1}
    )
    daemon.wait("work", 5, name="bad")
    daemon.wait("work", 5, name="good")
    (told,) = daemon.told(3)
    assert told.startswith("bad: a bug in pgstats: RuntimeError at <string>:")
    assert "secretpw" not in told
    assert daemon.told(7)[-1] == "RuntimeError"
    assert not any("secretpw" in line for line in daemon.told(7))
    assert daemon.stop() < 2


def test_hanging_jobs_do_not_delay_the_healthy_ones(start: Start) -> None:
    hanging: list[Spec] = [
        {"name": f"h{n}", "interval": 1, "seconds": 3600 if n % 2 else 0.8} for n in range(50)
    ]
    healthy: list[Spec] = [{"name": f"g{n}", "interval": 1, "seconds": 0.001} for n in range(150)]
    daemon = start(*hanging, *healthy)
    daemon.wait("work", 4, name="g149")
    runs = [event for event in daemon.found("work") if event["name"].startswith("g")]
    lags = [
        at - starts[0] - k
        for starts in (times(daemon.found("work", name=f"g{n}")) for n in range(150))
        for k, at in enumerate(starts)
    ]
    note(f"600 healthy runs beside 50 hanging jobs: at most {max(lags):.3f} s late")
    assert {event["skipped"] for event in runs} == {0}
    assert statistics.median(lags) < 0.1
    assert max(event["threads"] for event in runs) <= 129
    assert daemon.stop() < 2


def test_more_hanging_jobs_than_threads_still_let_the_others_through(start: Start) -> None:
    jobs: list[Spec] = [{"name": f"h{n}", "interval": 1, "seconds": 1.0} for n in range(200)]
    daemon = start(*jobs, {"name": "good", "interval": 1})
    daemon.wait("work", 3, name="good")
    threads = max(event["threads"] for event in daemon.found("work"))
    assert threads == 129
    assert daemon.stop() < 2


def test_five_hundred_jobs_need_few_threads(start: Start) -> None:
    jobs: list[Spec] = [{"name": f"t{n}", "interval": 3, "seconds": 0.002} for n in range(500)]
    daemon = start(*jobs)
    daemon.wait("work", 600)
    threads = max(event["threads"] for event in daemon.found("work"))
    note(f"500 jobs ran on {threads - 1} threads")
    assert threads <= 40


class Hall:
    """A crew, and what its threads do."""

    def __init__(self, idle: float) -> None:
        self.reports: SimpleQueue[Entry] = SimpleQueue()
        self.crew = Crew(lambda entry, *_: self.reports.put(entry), idle=idle)
        self.threads: list[int] = []
        self.open = threading.Event()

    def work(self, skipped: int) -> Done:
        self.threads.append(threading.get_ident())
        self.open.wait(60)
        return Done(ok=not skipped, seconds=0.0)

    def run(self, count: int) -> set[int]:
        """Have so many runs done at once; which threads did them."""
        self.threads.clear()
        self.open.clear()
        for _ in range(count):
            self.crew.take(Entry(Job("job", 1.0, self.work, lambda: None), Record()))
        assert soon(lambda: not self.crew.grow() and len(self.threads) == count)
        self.open.set()
        for _ in range(count):
            self.reports.get(timeout=60)
        return set(self.threads)


def soon(met: Callable[[], bool], within: float = 60.0) -> bool:
    """Whether it comes to be."""
    end = time.monotonic() + within
    while not met() and time.monotonic() < end:
        time.sleep(0.01)
    return met()


def test_the_thread_that_was_free_last_comes_first() -> None:
    hall = Hall(idle=3600)
    assert len(hall.run(20)) == 20
    assert soon(lambda: len(hall.crew._idle) == 20)
    seen = set()
    for _ in range(30):
        seen |= hall.run(1)
        assert soon(lambda: len(hall.crew._idle) == 20)
    assert len(seen) == 1


def test_threads_without_work_leave_but_for_one() -> None:
    hall = Hall(idle=0.05)
    task = Path("/proc/self/task")
    before = len(list(task.iterdir()))
    for _ in range(3):
        assert len(hall.run(20)) == 20
        assert soon(lambda: len(hall.crew._hands) == 1)
        assert soon(lambda: len(list(task.iterdir())) <= before + 1)
    assert len(hall.run(1)) == 1


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_a_thread_that_cannot_be_had_is_tried_again_a_second_later(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And meanwhile nobody spins: there is time for signals and for runs that have ended."""

    def none(_: object) -> None:
        raise error

    hall = Hall(idle=3600)
    with monkeypatch.context() as without:
        without.setattr("pgstats.daemon.crew.Hand", none)
        hall.crew.take(Entry(Job("job", 1.0, hall.work, lambda: None), Record()))
        assert "polls may be late" in hall.crew.grow()
        assert hall.crew.left() > 0.5
    hall.open.set()
    assert soon(lambda: not hall.crew.grow() and not hall.reports.empty()), "the run is not lost"


def test_a_machine_without_room_for_threads_polls_late_and_says_so(start: Start) -> None:
    jobs: list[Spec] = [{"name": f"t{n}", "interval": 1, "seconds": 0.5} for n in range(60)]
    daemon = start(*jobs, more=(str(12 << 20),))
    for number in range(60):
        daemon.wait("done", name=f"t{number}", within=60)
    assert "worker threads, polls may be late" in daemon.told(3)[0]
    assert daemon.stop() < 2


# --- its memory


def test_what_goes_round_in_circles_is_let_go_of_now_and_then(start: Start) -> None:
    daemon = start({"name": "round", "interval": 0.2, "circle": True})
    daemon.wait("freed", 3)


def _found(monkeypatch: pytest.MonkeyPatch, share: float, *looks: tuple[float, int]) -> list[bool]:
    """Whether each look, at this time after so many runs more, found what there was."""
    monkeypatch.setattr("pgstats.daemon.tidy._SHARE", share)

    class Round:
        def __init__(self) -> None:
            self.itself = self

    gc.collect()
    gc.disable()
    try:
        tidy = Tidy(1000.0)
        found = []
        for now, runs in looks:
            for _ in range(runs):
                tidy.ran()
            seen = weakref.ref(Round())
            tidy.look(now)
            found.append(seen() is None)
    finally:
        gc.enable()
    return found


#: Among all the objects of the tests a look takes longer than the share it has of a minute.
NO_TIME = 1e9


def test_garbage_is_looked_for_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = (1059.9, 0), (1060.1, 0), (1119.9, 0), (1120.2, 0)
    assert _found(monkeypatch, NO_TIME, *looks) == [False, True, False, True]


def test_garbage_is_looked_for_after_a_thousand_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = (1001.0, 999), (1002.0, 1), (1003.0, 999), (1004.0, 1)
    assert _found(monkeypatch, NO_TIME, *looks) == [False, True, False, True]


def test_looking_for_garbage_has_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = (1060.0, 1000), (1200.0, 1000)
    assert _found(monkeypatch, 1e-9, *looks) == [True, False]


#: How much memory is set aside for heaps, each of one thread or more.
HEAPS = """
import sys, threading
from pgstats.daemon.tidy import one_heap
if sys.argv[1] == "one":
    one_heap()
together = threading.Barrier(5)
def work():
    kept = bytes(100_000)
    together.wait()
    together.wait()
for _ in range(4):
    threading.Thread(target=work).start()
together.wait()
with open("/proc/self/maps") as maps:
    spans = [line.split()[0].split("-") for line in maps if " ---p " in line]
together.wait()
print(sum(int(end, 16) - int(start, 16) > 32 << 20 for start, end in spans))
"""


@pytest.mark.parametrize(("heaps", "own"), [("one", False), ("many", True)])
def test_all_threads_share_one_heap(heaps: str, *, own: bool) -> None:
    argv = [sys.executable, "-c", HEAPS, heaps]
    found = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert (int(found.stdout) > 0) is own


#: How large the process is before and after a look: free are 90 MB, but in pieces.
PIECES = """
from pgstats.daemon.tidy import EVERY, Tidy
def size():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1])
taken = [bytes(5000) for _ in range(20_000)]
kept = taken[::10]
del taken
before = size()
Tidy(0.0).look(EVERY)
print(before, size())
"""


def test_what_is_free_between_others_is_given_back() -> None:
    argv = [sys.executable, "-c", PIECES]
    found = subprocess.run(argv, capture_output=True, text=True, check=True)
    before, after = map(int, found.stdout.split())
    assert after < before / 2


# --- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_daemon_and_closes_its_jobs(start: Start, number: int) -> None:
    daemon = start({"name": "a", "interval": 3600}, {"name": "b", "interval": 3600})
    daemon.wait("done", 2)
    assert daemon.stop(number) < 2
    assert {event["name"] for event in daemon.found("close")} == {"a", "b"}


def test_a_signal_ends_it_although_a_worker_hangs(start: Start) -> None:
    daemon = start({"name": "hung", "interval": 3600, "seconds": 3600})
    daemon.wait("work")
    assert daemon.stop() < 2
    assert daemon.found("close") == []  # closing what a hanging thread holds could hang as well


def test_a_run_at_work_may_end_before_the_daemon_does(start: Start) -> None:
    daemon = start({"name": "a", "interval": 3600, "seconds": 0.5})
    daemon.wait("work")
    daemon.stop()
    assert [event["event"] for event in daemon.events] == ["work", "done", "close"]


def test_a_signal_ends_it_at_any_moment(start: Start) -> None:
    for moment in range(12):
        daemon = start(*({"name": f"t{n}", "interval": 0.02} for n in range(9)))
        daemon.wait("work")
        time.sleep(moment * 0.007)
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.stop() < 2


def test_reload_exchanges_the_jobs(start: Start) -> None:
    daemon = start({"name": "old", "interval": 3600}, {"name": "kept", "interval": 0.5})
    daemon.wait("done", name="old")
    daemon.load([{"name": "new", "interval": 3600}, {"name": "kept", "interval": 0.5}])
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait("close", name="old")
    daemon.wait("close", name="kept")
    daemon.wait("done", name="new")
    starts = times(daemon.wait("work", 5, name="kept"))
    assert starts[-1] - starts[0] == pytest.approx(0.5 * (len(starts) - 1), abs=0.2)
    assert daemon.told(5) == ["reloaded: 2 targets"]


def test_a_job_at_work_is_closed_after_its_run(start: Start) -> None:
    daemon = start({"name": "old", "interval": 3600, "seconds": 1.0})
    daemon.wait("work")
    daemon.load([{"name": "new", "interval": 3600}])
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait("done", name="new")
    daemon.wait("close", name="old")
    order = [event["event"] for event in daemon.events if event.get("name") == "old"]
    assert order == ["work", "done", "close"]


def most_at_once(daemon: Daemon, name: str) -> int:
    """How many runs of a job there were side by side."""
    count = most = 0
    for event in daemon.events:
        if event.get("name") == name and event["event"] in ("work", "done"):
            count += 1 if event["event"] == "work" else -1
            most = max(most, count)
    return most


def test_a_target_is_never_asked_twice_at_once_however_often_it_is_reloaded(start: Start) -> None:
    hanging: Spec = {"name": "a", "interval": 0.1, "seconds": 2.0}
    daemon = start(hanging)
    daemon.wait("work")
    for times in range(1, 5):
        daemon.process.send_signal(signal.SIGHUP)
        while len(daemon.told(5)) < times:
            daemon.wait("tell", times, level=5)
    daemon.wait("work", 3)
    assert most_at_once(daemon, "a") == 1
    order = [event["event"] for event in daemon.events if event.get("name") == "a"]
    second = order.index("work", 1)
    assert order[second - 2 : second] == ["done", "close"], "the old one is closed before"
    assert daemon.found("work")[1]["skipped"] > 5


def test_not_even_when_it_was_away_meanwhile(start: Start) -> None:
    hanging: Spec = {"name": "a", "interval": 0.1, "seconds": 1.5}
    daemon = start(hanging)
    daemon.wait("work")
    for times, jobs in enumerate(([{"name": "b", "interval": 0.1}], [hanging]), 1):
        daemon.load(jobs)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait("tell", times, level=5)
    daemon.wait("work", 2, name="a")
    daemon.wait("done", 2, name="a")
    assert most_at_once(daemon, "a") == 1


def test_a_run_that_keeps_its_successor_waiting_for_ever_is_told(start: Start) -> None:
    daemon = start({"name": "a", "interval": 0.2, "timeout": 0.1, "seconds": 3600})
    daemon.wait("work")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait("tell", level=5)
    daemon.wait("tell", level=3)
    assert daemon.told(3) == ["a: its poll does not end; the watchdog is not fed for it"]
    daemon.load([{"name": "b", "interval": 0.2}])
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait("done", name="b")
    assert len(daemon.told(3)) == 1, "what was taken out keeps nobody waiting"


def test_a_bad_configuration_changes_nothing(start: Start) -> None:
    daemon = start({"name": "a", "interval": 0.2})
    daemon.wait("work")
    daemon.load("pgstats.toml:3: unknown key;pgstats.toml:9: wrong type")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait("tell", level=4)
    faults = ["pgstats.toml:3: unknown key", "pgstats.toml:9: wrong type"]
    assert daemon.told(3) == faults
    daemon.wait("work", len(daemon.found("work")) + 3)
    assert daemon.found("close") == []
    daemon.load([{"name": "b", "interval": 0.2}])
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait("work", name="b")


def test_a_bug_in_the_reload_changes_nothing_either(start: Start) -> None:
    daemon = start({"name": "a", "interval": 0.2})
    daemon.wait("work")
    daemon.load([{"nonsense": 1}])
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait("tell", level=4)
    assert daemon.told(3)[0].startswith("reload: a bug in pgstats: TypeError at <string>:")
    daemon.wait("work", len(daemon.found("work")) + 3)


# --- systemd


class Manager:
    """Systemd's end of a notification socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.seen: list[str] = []

    def close(self) -> None:
        self.socket.close()

    def wait(self, text: str, within: float = 20.0) -> str:
        """Receives until a datagram begins so, and returns it."""
        end = time.monotonic() + within
        while not self.seen or not self.seen[-1].startswith(text):
            self.socket.settimeout(max(end - time.monotonic(), 0.001))
            self.seen.append(self.socket.recv(4096).decode())
        return self.seen[-1]

    def listen(self, seconds: float) -> list[str]:
        """All that comes in so many seconds."""
        end, heard = time.monotonic() + seconds, []
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                heard.append(self.socket.recv(4096).decode())
            except TimeoutError:
                break
        return heard


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Manager, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@pgstats-test-{os.getpid()}"
    with closing(Manager(name.replace("@", "\0", 1))) as end:
        yield end, name


def test_systemd_hears_of_the_whole_life(start: Start, manager: tuple[Manager, str]) -> None:
    systemd, address = manager
    ok: Spec = {"name": "a", "interval": 0.2}
    failing: Spec = {"name": "b", "interval": 0.2, "ok": False}
    daemon = start(ok, {**ok, "name": "c"}, NOTIFY_SOCKET=address)
    systemd.wait("READY=1")
    systemd.wait("STATUS=2/2 targets ok, 41 ms")
    daemon.load([ok, failing])
    before = time.monotonic_ns() // 1000
    daemon.process.send_signal(signal.SIGHUP)
    text = systemd.wait("RELOADING=1\nMONOTONIC_USEC=")
    assert before <= int(text.partition("USEC=")[2]) <= time.monotonic_ns() // 1000
    systemd.wait("READY=1")
    systemd.wait("STATUS=1/2 targets ok, 41 ms")
    daemon.stop()
    systemd.wait("STOPPING=1")
    assert not any(seen.startswith("WATCHDOG") for seen in systemd.seen)


def test_ready_comes_after_the_first_handing_out(start: Start, tmp_path: Path) -> None:
    with closing(Manager(str(tmp_path / "notify"))) as systemd:
        daemon = start(
            {"name": "a", "interval": 3600, "seconds": 3600}, NOTIFY_SOCKET=str(tmp_path / "notify")
        )
        systemd.wait("READY=1")
        daemon.wait("work", within=5)
        systemd.wait("STATUS=0/1 targets ok, 1 not polled yet")


def test_the_watchdog_is_fed_while_runs_end(start: Start, tmp_path: Path) -> None:
    with closing(Manager(str(tmp_path / "notify"))) as systemd:
        start(
            {"name": "a", "interval": 0.2},
            NOTIFY_SOCKET=str(tmp_path / "notify"),
            WATCHDOG_USEC="400000",
        )
        systemd.wait("READY=1")
        assert systemd.listen(3.0).count("WATCHDOG=1") >= 8


def test_the_watchdog_is_not_fed_once_a_run_hangs(start: Start, tmp_path: Path) -> None:
    with closing(Manager(str(tmp_path / "notify"))) as systemd:
        daemon = start(
            {"name": "good", "interval": 0.2},
            {"name": "hung", "interval": 0.2, "timeout": 0.1, "seconds": 3600},
            NOTIFY_SOCKET=str(tmp_path / "notify"),
            WATCHDOG_USEC="400000",
        )
        systemd.wait("WATCHDOG=1")
        daemon.wait("tell", level=3)
        systemd.listen(0.5)
        assert "WATCHDOG=1" not in systemd.listen(2.0)
        assert daemon.told(3) == ["hung: its poll does not end; the watchdog is not fed for it"]


def test_the_watchdog_of_another_process_is_not_fed(start: Start, tmp_path: Path) -> None:
    with closing(Manager(str(tmp_path / "notify"))) as systemd:
        start(
            {"name": "a", "interval": 0.2},
            NOTIFY_SOCKET=str(tmp_path / "notify"),
            WATCHDOG_USEC="400000",
            WATCHDOG_PID="1",
        )
        systemd.wait("STATUS=1/1")
        assert "WATCHDOG=1" not in systemd.listen(1.0)


def test_a_manager_that_is_gone_or_deaf_is_no_reason_to_stop(start: Start, tmp_path: Path) -> None:
    with closing(Manager(str(tmp_path / "notify"))):
        daemon = start(
            {"name": "a", "interval": 0.05},
            NOTIFY_SOCKET=str(tmp_path / "notify"),
            WATCHDOG_USEC="20000",  # fills the socket's queue at once; nobody reads
        )
        daemon.wait("work", 40)
        assert daemon.stop() < 2
    gone = start({"name": "a", "interval": 0.05}, NOTIFY_SOCKET=str(tmp_path / "nobody"))
    gone.wait("work", 5)
    assert gone.stop() < 2


# --- cost


def test_waiting_costs_next_to_nothing(start: Start) -> None:
    daemon = start({"name": "a", "interval": 3600})
    daemon.wait("done")
    time.sleep(0.5)
    before = spent(daemon.process.pid)
    time.sleep(2.0)
    cost = (spent(daemon.process.pid) - before) / 2.0
    note(f"idle: {cost * 1000:.3f} ms CPU a second")
    assert cost < 0.005


def spent(pid: int) -> float:
    """Seconds of CPU that all threads of a process have used."""
    stats = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(stat.read_text().split()[0]) for stat in stats) / 1e9
