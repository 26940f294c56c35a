"""`pgstats run`."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import click

from pgstats import __version__
from pgstats.cli.options import configured, held, log_of, overlaps, with_state, with_targets
from pgstats.errors import StateError
from pgstats.log import DEBUG, WARNING, printable

if TYPE_CHECKING:
    from pgstats.cli.cycle import Cycle
    from pgstats.config import Config
    from pgstats.daemon import Job, Standing
    from pgstats.instrumenting import Courier
    from pgstats.log import Log
    from pgstats.model import Failure, Poll, Target
    from pgstats.state import State

SAVE_EVERY = 60.0  # seconds; a kill loses no more of what was remembered
GATHER = 0.2  # seconds in which what is told of the jobs may gather: a thread each would cost more
LAST_CHANCE = 0.3  # seconds at the end for what is still to be told of the jobs


@click.command("run")
@with_targets
@with_state
@click.option("--interval", metavar="DURATION", help="Time between polls: 250ms, 10s, 2m [10s].")
def command(**options: Any) -> int:
    """Polls on a schedule until SIGTERM or SIGINT: for a daemon. SIGHUP reads the file again."""
    from pgstats.cli.cycle import Cycle  # noqa: PLC0415
    from pgstats.daemon import serve  # noqa: PLC0415
    from pgstats.log import INFO  # noqa: PLC0415

    config = configured(options)
    log = log_of(options, daemon=True)
    with ExitStack() as stack:
        state = held(config.state, stack, log)
        log.tell(INFO, f"polling {len(config.targets)} targets, shipping to {config.statsd.url}")
        for target in config.targets:
            log.state(f"{target.name}: timeout", overlaps(target), WARNING)
        cycle = Cycle(config, state, partial(log.tell, WARNING))
        courier = _courier(config, cycle, log)
        started = time.monotonic()

        def reload() -> Sequence[Job]:
            nonlocal config, cycle, courier
            config = configured(options)
            for target in config.targets:
                log.state(f"{target.name}: timeout", overlaps(target), WARNING)
            cycle = cycle.renewed(config)
            courier.flush(0)  # runs at work will still post to it
            courier = _courier(config, cycle, log)
            return jobs(config, cycle, courier, state, log)

        code = serve(
            jobs(config, cycle, courier, state, log),
            reload=reload,
            tell=log.tell,
            environ=os.environ,
            show=lambda standings: _document(standings, cycle, started),
        )
        courier.flush(LAST_CHANCE)
        _save(state, log)
        return code


def _courier(config: Config, cycle: Cycle, log: Log) -> Courier:
    """Ships what becomes of the jobs, and the account of all shipping, over the wire of the polls.

    It holds none of them up. Hundreds of targets make no more than a few accounts a second.
    """
    from pgstats.instrumenting import Courier  # noqa: PLC0415
    from pgstats.model import Failure  # noqa: PLC0415

    traced: set[str] = set()

    def account() -> str:
        owed, bugs = "", []
        try:
            owed = cycle.owed()
        except Exception as error:  # a bug there must not cost what is told of the jobs
            bugs = [Failure.bug("account", error)]
        if owed or bugs:
            log.state("self.ship", _line(bugs))
            _trace(bugs, traced, log)
        return owed

    seconds = min(target.interval for target in config.targets) / 2
    pause = min(GATHER, seconds)
    return Courier(lambda: cycle.wire, seconds=seconds, pause=pause, more=account)


def jobs(config: Config, cycle: Cycle, courier: Courier, state: State, log: Log) -> Sequence[Job]:
    """One job per target; all ship over one wire and share what is remembered."""
    return [_job(target, cycle, courier, state, log) for target in config.targets]


class _Teller:
    """Ships what becomes of the runs of a target's job, under `self.job`."""

    def __init__(self, target: Target, cycle: Cycle, courier: Courier) -> None:
        self._target, self._cycle, self._courier = target, cycle, courier

    def started(self) -> None:
        """A run begins."""
        self._courier.post(self._start)

    def ended(self, seconds: float, *, failed: bool) -> None:
        """A run is over."""
        outcome = "failed" if failed else "succeeded"
        self._courier.post(self._text({outcome: 1, "duration": round(1000 * seconds, 3)}))

    @cached_property
    def _start(self) -> str:
        return self._text({"started": 1})

    def _text(self, numbers: Mapping[str, float]) -> str:
        from pgstats.shape import job  # noqa: PLC0415

        return self._cycle.text(self._target, [job(self._target, numbers)])


def _job(target: Target, cycle: Cycle, courier: Courier, state: State, log: Log) -> Job:
    from pgstats.ask import asker  # noqa: PLC0415
    from pgstats.cli.cycle import memo, polled, problems, repeated  # noqa: PLC0415
    from pgstats.daemon import Done, Job, Rest  # noqa: PLC0415
    from pgstats.instrumenting import wrapped  # noqa: PLC0415

    one = asker(target, memo=memo(state, target))
    traced: set[str] = set()
    rest = Rest(target.interval)
    polls: list[Poll] = []

    def work(skipped_runs: int) -> Done:
        nonlocal polls
        started = time.monotonic()
        if started < rest.until:
            polls = repeated(polls)
        else:
            polls = polled(target, one.poll)
            rest.note(up=any(poll.up for poll in polls), now=time.monotonic())
        poll = polls[0]
        left = _left(target.interval, time.monotonic() - started)
        cycle.ship(polls, left, skipped_runs, accounted=False)  # the courier's business
        failures = problems(polls)
        log.state(target.name, _line(failures))
        log.state(f"{target.name}: note", "; ".join(poll.notes), WARNING)
        _trace(failures, traced, log)
        log.state(f"statsd at {cycle.wire.url}", _lost(cycle))
        if log.hears(DEBUG):
            log.tell(DEBUG, cycle.told())
        # What was added to a counter must not be added again after a kill.
        _save(state, log, target.interval / 2 if target.counters == "count" else SAVE_EVERY)
        error = printable(_line(failures))
        if any(poll.up for poll in polls):
            polls = []  # never repeated, and large: not to be held until the next one is there
        return Done(not failures, poll.seconds, error, rest.until)

    measured = wrapped(work, _Teller(target, cycle, courier), lambda done: not done.ok)
    return Job(target.name, target.interval, measured, one.close, target.timeout)


def _document(standings: Sequence[Standing], cycle: Cycle, started: float) -> str:
    """What `pgstats status` is told."""
    import json  # noqa: PLC0415

    found = {
        "pid": os.getpid(),
        "version": __version__,
        "running_seconds": round(time.monotonic() - started, 3),
        "targets": [asdict(standing) for standing in standings],
        "statsd": cycle.shipped(),
    }
    return json.dumps(found)


def _left(interval: float, spent: float) -> float:
    """The seconds that shipping may take, so that the next poll starts in time.

    A poll that left none itself has a tenth of the interval all the same.
    """
    return max(0.1 * interval, 0.9 * interval - spent)


def _lost(cycle: Cycle) -> str:
    """What is wrong with the receiver, and what that has cost; "" if nothing is."""
    dropped = cycle.wire.counts["dropped"]
    return f"{cycle.fault}; {dropped} lines dropped so far" if cycle.fault else ""


def _trace(failures: Sequence[Failure], before: set[str], log: Log) -> None:
    """Where the bugs are that the last run had not; whoever wants to know has asked for it."""
    traces = {failure.message: failure.trace for failure in failures if failure.trace}
    for message in traces.keys() - before:
        for line in traces[message].splitlines():
            log.tell(DEBUG, line)
    before.clear()
    before.update(traces)


def _line(failures: Sequence[Failure]) -> str:
    """All failures of a target as one line, each remedy once."""
    texts = "; ".join(str(failure._replace(remedy="")) for failure in failures)
    cures = "; ".join(dict.fromkeys(failure.remedy for failure in failures if failure.remedy))
    return f"{texts} ({cures})" if cures else texts


def _save(state: State, log: Log, every: float = 0.0) -> None:
    """Keep what is remembered for the next start; trouble is told once."""
    try:
        written = state.save(every)
    except StateError as error:
        log.state("state", str(error))
    else:
        if written:
            log.state("state", "")
