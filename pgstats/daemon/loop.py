"""The loop: hands due jobs over, hears what became of them, obeys signals, talks to systemd.

What happens elsewhere, such as a signal, arrives in one inbox as a call for the main thread to
make. So all state belongs to the main thread and needs no lock, and a signal ends the wait at once
(`SimpleQueue.put` is safe in a signal handler; `Event.set` is not: it can deadlock with the wait it
interrupts). Only what became of runs wakes nobody: it is heard when something else is to be done.
"""

from __future__ import annotations

import os
import signal
import time
import traceback  # noqa: F401 - `Failure.bug` could not load it where descriptors are out
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from queue import Empty, SimpleQueue

from pgstats.daemon.crew import Crew
from pgstats.daemon.desk import PATIENCE, Desk, doors
from pgstats.daemon.grid import Grid
from pgstats.daemon.jobs import Done, Entry, Job, Record, Standing
from pgstats.daemon.systemd import Systemd
from pgstats.daemon.tidy import Tidy, one_heap
from pgstats.errors import DeskError, PgstatsError
from pgstats.model import Failure

#: Up to so many jobs all start at once; more are spread over their first interval.
FEW = 10

#: Steps of that part of a circle never meet, and come close to no place twice. So those that stand
#: together in a file, as all PostgreSQL may, are not polled one after the other.
_GOLDEN = (5**0.5 - 1) / 2

#: Seconds that runs at work are given to end by themselves when the daemon stops.
GRACE = 1.0

_PAUSE = 0.5  # seconds until there may be memory again
_GLIMPSE = 0.02  # seconds between two looks at who is still at work in the end

_ERROR, _WARNING, _NOTICE, _DEBUG = 3, 4, 5, 7


def serve(
    jobs: Sequence[Job],
    *,
    reload: Callable[[], Sequence[Job]],
    tell: Callable[[int, str], None],
    environ: Mapping[str, str],
    show: Callable[[Sequence[Standing]], str] | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> int:
    """Runs the jobs on their grid until SIGTERM or SIGINT; returns the exit code.

    SIGHUP exchanges the jobs for what ``reload`` returns; when it raises, the old ones go on.
    ``tell`` writes one line of the log (a priority of syslog, the text) and must be quick.
    ``show`` makes the document of `pgstats status`, in a thread of its own.
    The process must end soon after: workers that hang are left behind, and the signals
    stay caught.
    """
    one_heap()
    loop = _Loop(reload, tell, Systemd(environ, os.getpid()), monotonic)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.call(loop.stop))
    signal.signal(signal.SIGHUP, lambda *_: loop.call(loop.reload))
    loop.adopt(jobs)
    desk = _desk(loop, show, environ, tell) if show else None
    loop.run()
    if desk:
        desk.close()
    return 0


def _desk(
    loop: _Loop,
    show: Callable[[Sequence[Standing]], str],
    environ: Mapping[str, str],
    tell: Callable[[int, str], None],
) -> Desk | None:
    """Where visitors may ask; without a place for it nothing else is missing."""

    def document() -> str:
        standings: SimpleQueue[Sequence[Standing]] = SimpleQueue()
        loop.call(lambda: standings.put(loop.standings()))
        try:
            return show(standings.get(timeout=PATIENCE))
        except Empty:
            return ""

    try:
        return Desk(doors(environ)[0], document)
    except DeskError as error:
        tell(_WARNING, f"`pgstats status` will not see this daemon: {error}")
        return None


class _Loop:
    """The state of the main thread."""

    def __init__(
        self,
        reload: Callable[[], Sequence[Job]],
        tell: Callable[[int, str], None],
        systemd: Systemd,
        clock: Callable[[], float],
    ) -> None:
        self._load, self._tell, self._systemd, self._clock = reload, tell, systemd, clock
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.call = self._inbox.put
        self._reports: deque[tuple[Entry, Done, BaseException | None, float]] = deque()
        self._crew = Crew(lambda *report: self._reports.append((*report, clock())))
        self._grid = Grid(clock)
        self._entries: dict[str, Entry] = {}
        self._leaving: dict[str, Entry] = {}  # retired while at work, which they still are
        self._at_work = 0
        self._stopping = False
        self._until = 0.0  # when the wait for calls ends, on the clock
        self._rhythm = min(1.0, systemd.pulse / 2)  # seconds between two reports
        self._reported = -inf
        self._fed = clock()  # when the watchdog was last fed
        self._tidy = Tidy(clock())
        self._status = self._shortage = self._stall = ""

    def run(self) -> None:
        """Goes on until it is stopped, then lets go of everything."""
        self._hand_out()
        self._systemd.send("READY=1")
        while not self._stopping:
            try:
                self._report()
                self._listen()
                self._hand_out()
            except MemoryError:
                time.sleep(_PAUSE)
        self._end()

    def adopt(self, jobs: Sequence[Job]) -> None:
        """Replaces all jobs. Those that keep name and interval keep their place on the grid.

        One whose last run is still at work skips its runs until that has ended and is closed:
        a target is never asked twice at once.
        """
        before = self._entries
        records = {name: entry.record for name, entry in before.items()}
        self._entries = {job.name: Entry(job, records.get(job.name) or Record()) for job in jobs}
        grid, now = Grid(self._clock), self._clock()
        for position, (name, entry) in enumerate(self._entries.items()):
            lag = entry.job.interval * (position * _GOLDEN % 1) if len(jobs) > FEW else 0.0
            due = self._grid.next_of(name, entry.job.interval)
            start = now + lag if due is None else due
            grid.add(name, entry.job.interval, start, partial(self._hand_over, entry))
        self._grid = grid
        for entry in before.values():
            self._retire(entry)

    def stop(self) -> None:
        """Ends the loop after the call in hand."""
        self._stopping = True
        self._until = -inf

    def reload(self) -> None:
        """Fetches the jobs anew and tells systemd how long that takes."""
        if self._stopping:
            return
        self._systemd.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            self.adopt(self._load())
        except PgstatsError as error:
            self._keep(str(error).splitlines())
        except Exception as error:  # a bug there must not end the polls either
            self._bug("reload", error)
            self._keep([])
        else:
            self._tell(_NOTICE, f"reloaded: {len(self._entries)} targets")
        self._systemd.send("READY=1")
        self._until = -inf

    def _keep(self, faults: Sequence[str]) -> None:
        """Says why the old jobs stay."""
        for fault in faults:
            self._tell(_ERROR, fault)
        self._tell(_WARNING, "not reloaded: the old configuration stays in force")

    def standings(self) -> Sequence[Standing]:
        """How every job fares now."""
        self._hear()
        now = self._clock()
        due = self._grid.due_of
        return [entry.standing(now, due(name)) for name, entry in self._entries.items()]

    def _hand_out(self) -> None:
        """Gives every due job to the crew."""
        self._hear()
        self._grid.run_pending()
        shortage = self._crew.grow()
        if shortage and not self._shortage:
            self._tell(_ERROR, shortage)
        self._shortage = shortage

    def _hand_over(self, entry: Entry) -> None:
        """Gives one job to the crew, unless its last run is still at work."""
        if entry.since is not None or entry.job.name in self._leaving:
            entry.record.skipped += 1
            return
        self._crew.take(entry)  # first: without memory it would be at work for ever
        entry.since = self._clock()
        self._at_work += 1

    def _hear(self) -> None:
        """Notes what the workers have reported."""
        while self._reports:
            self._finished(*self._reports.popleft())

    def _finished(self, entry: Entry, done: Done, error: BaseException | None, at: float) -> None:
        """Notes what became of a run, and when."""
        self._release(entry)
        self._tidy.ran()
        bug = Failure.bug(entry.job.name, error).message if error else ""
        entry.note(replace(done, error=bug) if bug else done, at)
        if error and bug != entry.bug:
            self._bug(entry.job.name, error)
        elif entry.bug and not bug:
            self._tell(_NOTICE, f"{entry.job.name}: the bug has not shown again")
        entry.bug = bug

    def _release(self, entry: Entry) -> None:
        """Marks an entry as no longer at work, and closes it if that was awaited."""
        entry.since = None
        self._at_work -= 1
        if entry.retired:
            self._leaving.pop(entry.job.name, None)
            self._close(entry.job)

    def _retire(self, entry: Entry) -> None:
        """Closes a job for good: now, or when the run at work ends."""
        entry.retired = True
        if entry.since is None:
            self._close(entry.job)
        else:
            self._leaving[entry.job.name] = entry

    def _close(self, job: Job) -> None:
        """Lets go of what the job keeps between its runs."""
        try:
            job.close()
        except Exception as error:  # the others are to be closed nevertheless
            self._bug(job.name, error)

    def _bug(self, where: str, error: BaseException) -> None:
        """Tells of a bug without its message, which might hold a secret; --verbose tells where."""
        bug = Failure.bug(where, error)
        self._tell(_ERROR, str(bug))
        for line in bug.trace.splitlines():
            self._tell(_DEBUG, line)

    def _listen(self) -> None:
        """Makes the calls that arrive until a job, the next report or another thread is due."""
        waits = self._clock() + self._crew.left()
        self._until = min(self._grid.due(), self._reported + self._rhythm, waits)
        while (left := self._until - self._clock()) > 0:
            self._answer(left)

    def _answer(self, patience: float) -> None:
        """Makes one call if it comes within so many seconds."""
        try:
            call = self._inbox.get(timeout=patience)
        except Empty:
            return
        call()

    def _report(self) -> None:
        """Tells systemd what has changed and that all is moving; at most once a second."""
        now = self._clock()
        if now - self._reported < self._rhythm:
            return
        self._reported = now
        self._tidy.look(now)
        status = self._summary()
        if status != self._status:
            self._systemd.send(f"STATUS={status}")
        self._status = status
        if self._progress(now) and now - self._fed >= self._systemd.pulse:
            self._systemd.send("WATCHDOG=1")
            self._fed = now

    def _summary(self) -> str:
        """How the last runs went, as "3/3 targets ok, 41 ms" (the slowest one's time)."""
        last = [entry.last for entry in self._entries.values() if entry.last]
        text = f"{sum(done.ok for done in last)}/{len(self._entries)} targets ok"
        if last:
            text += f", {max(done.seconds for done in last) * 1000:.0f} ms"
        waiting = len(self._entries) - len(last)
        return f"{text}, {waiting} not polled yet" if waiting else text

    def _progress(self, now: float) -> bool:
        """Whether no run is stuck, or keeps its successor from starting; the first is told once."""
        leaving = [entry for name, entry in self._leaving.items() if name in self._entries]
        entries = [*self._entries.values(), *leaving]
        stuck = [entry.job.name for entry in entries if entry.stuck(now)]
        stall = stuck[0] if stuck else ""
        if stall and stall != self._stall:
            self._tell(_ERROR, f"{stall}: its poll does not end; the watchdog is not fed for it")
        self._stall = stall
        return not stuck

    def _end(self) -> None:
        """Gives the runs at work a moment to end, and closes every job that is not at work."""
        self._systemd.send("STOPPING=1")
        self._hear()
        for entry in self._crew.drop():
            self._release(entry)
        for entry in self._entries.values():
            self._retire(entry)
        end = self._clock() + GRACE
        while self._at_work and (left := end - self._clock()) > 0:
            self._answer(min(left, _GLIMPSE))
            self._hear()
