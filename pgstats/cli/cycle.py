"""The main job, put together: ask, shape, spell, ship.

A bug in pgstats costs no more than it must: what asks a target, and what shapes and spells its
answers, is bounded for each target, so that everything else is shipped all the same.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from pgstats import shape, why
from pgstats.ask import asker, unmatched
from pgstats.config import Config
from pgstats.model import PGBOUNCER, POSTGRES, Failure, Frame, Memo, Poll, Target
from pgstats.noun import Noun
from pgstats.ship import Wire, wire
from pgstats.spell import DIALECTS, Counts, Speller
from pgstats.state import Memory, State

if TYPE_CHECKING:
    from pgstats.ask.burst import Burst

AT_ONCE = 64  # targets polled at the same time by a one-shot run
GRACE = 1.0  # seconds an asker may need beyond its timeout to give up

_LOOK_EVERY = 1.0  # seconds; the kernel's table of receivers has all sockets of the machine

_GATHER_EVERY = 1.0  # seconds; each of many clusters would look at each of many PgBouncers

_MOST = 0.9  # of the time for shipping; the rest is for the account of what did not fit into that

_T = TypeVar("_T")
_Count = TypeVar("_Count", int, float)


class Shaped(Noun):
    """What is to be said of a target: the last values of what is gone, then the rest.

    What goes wrong with it is a failure of the poll.
    """

    target: Target
    last: list[Frame]
    frames: list[Frame]
    poll: Poll


class _Tally:
    """What has happened since the start of the process, whatever was configured meanwhile."""

    def __init__(self) -> None:
        self.spelled = Counts()  # by all spellers: each has its own, for a thread of its own
        self.retired = 0  # series
        self.told: set[str] = set()  # what somebody was warned of
        self.counts: list[Mapping[str, float]] = []  # of each wire that was used
        self.drops: list[Mapping[str, int]] = []
        # At the start: with a clock that nobody sets added it is the time of a poll.
        self.epoch = time.time() - time.monotonic()

    def follow(self, wire: Wire) -> None:
        """Count what that wire does, from now on."""
        if not any(counts is wire.counts for counts in self.counts):
            self.counts.append(wire.counts)
            self.drops.append(wire.drops)

    def add(self, counts: Counts) -> None:
        """Take over what a speller has counted."""
        self.spelled.skipped_values += counts.skipped_values
        self.spelled.altered_names += counts.altered_names
        counts.skipped_values = counts.altered_names = 0


class Cycle:
    """Spells the polls of a configuration and ships them over one wire.

    ``warn`` is told once what somebody should know of the names on the wire.
    """

    def __init__(
        self,
        config: Config,
        state: State,
        warn: Callable[[str], None],
        to: Wire | None = None,
        tally: _Tally | None = None,
    ) -> None:
        self._config = config
        self._fronts = [target for target in config.targets if target.family == PGBOUNCER]
        self._state = state
        self._warn = warn
        self._spellers: dict[tuple[str, str], Speller] = {}
        self.fault = ""  # what was wrong with the last shipment
        self._owing = False
        self._looked = -math.inf  # when the receiver's drops were looked up
        self._lost_there: int | None = None
        self._gathered = -math.inf  # when it was looked up which PgBouncers lead where
        self._leading: shape.Leading | None = None
        self._glances: dict[tuple[str, str, str], shape.Glance] = {}
        statsd = config.statsd
        self.wire = to or wire(statsd.url, rate=statsd.rate, max_packet=statsd.max_packet)
        self._tally = tally or _Tally()
        self._tally.follow(self.wire)
        state.expect(config.targets, config.inventory)

    def renewed(self, config: Config) -> Cycle:
        """The cycle for another configuration; what is counted since the start goes on."""
        old, new = (
            (one.statsd.url, one.statsd.rate, one.statsd.max_packet)
            for one in (self._config, config)
        )
        to = self.wire if old == new else None
        return Cycle(config, self._state, self._warn, to, self._tally)

    def text(self, target: Target | None, frames: Iterable[Frame]) -> str:
        """The lines of frames, with the tags of their target."""
        return self._speller(target).spell(*frames)

    def _speller(self, target: Target | None, sent: Memory | None = None) -> Speller:
        """The one of a target; it goes on with the names under which was ``sent`` before."""
        key = (target.family, target.name) if target else ("", "")
        if key not in self._spellers:
            if sent is None:
                with self._state.lock:
                    sent = self._state.sent(target) if target else {}
            tags = {**self._config.statsd.tags, **(target.tags if target else {})}
            dialect = DIALECTS[self._config.statsd.dialect]
            tagged, known = sent.get("altered", (None, {}))
            known = known if tagged == dialect.tagged else {}
            self._spellers[key] = Speller(dialect, self._config.prefix, tags, known)
        return self._spellers[key]

    def shaped(self, polls: Sequence[Poll], skipped_runs: int = 0) -> list[Shaped]:
        """All that is to be said of the targets, and of those that are gone."""
        with self._state.lock:
            for poll in polls:
                _bounded(poll, partial(self._commit, poll), None)
            found = [self._shaped(poll, skipped_runs) for poll in polls]
            return found + _bounded(polls[0], lambda: self._lost(polls), list[Shaped]())

    def ship(
        self,
        polls: Sequence[Poll],
        seconds: float,
        skipped_runs: int = 0,
        *,
        accounted: bool = True,
    ) -> bool:
        """Ship polls within so many seconds; says whether the wire took everything.

        The `account` follows, unless they are not ``accounted`` for now: then it is `owed`.
        """
        found = self.shaped(polls, skipped_runs)
        until = time.monotonic() + seconds
        texts = chain.from_iterable(self._spelled(one, skipped_runs) for one in found)
        fault = self.wire.hand_over(texts, _MOST * seconds if accounted else seconds)
        for one in found:
            if one.frames:
                self._note(one.target)
        self._account_for(found, taken=not fault)
        if accounted:
            later = self.wire.hand_over([self.account()], until - time.monotonic())
            fault = fault or later
        self._owing = not accounted
        self.fault = fault
        return not self.fault

    def _commit(self, poll: Poll) -> None:
        """Keep what a PgBouncer may open for the polls of the clusters it leads to."""
        if poll.target.family == PGBOUNCER:
            memory = self._state.of(poll.target, poll.identity)
            shape.commit(poll, memory, self._tally.epoch + poll.at)

    def _overcommit(self, poll: Poll, at: float) -> list[Frame]:
        if not 0 <= at - self._gathered < _GATHER_EVERY:
            self._leading = shape.leading(map(self._state.memories, self._fronts))
            self._gathered = at
        return shape.overcommit(poll, self._leading, at)

    def _shaped(self, poll: Poll, skipped_runs: int) -> Shaped:
        """All that is to be said of a target, and of how that went."""
        memory = self._state.of(poll.target, poll.identity)
        if poll.memo:
            memory["memo"] = poll.memo
        at = self._tally.epoch + poll.at
        implied = _bounded(poll, lambda: shape.derived(poll, memory, at), list[Frame]())
        implied += _bounded(poll, lambda: why.frames(poll, memory), list[Frame]())
        if poll.target.family == POSTGRES:
            implied += _bounded(poll, lambda: self._overcommit(poll, at), list[Frame]())
        value, sent = self._config.statsd.on_vanish, self._state.sent(poll.target)
        said, failed = [*implied, *self._said(poll, skipped_runs)], len(poll.failures)
        retire = partial(shape.retired, said, sent, value, glance=self._glance(poll.target))
        own = poll.target.questions
        last = _bounded(poll, lambda: retire(partial=poll.partial, questions=own), list[Frame]())
        if len(poll.failures) > failed:  # of which the account is not told yet
            said = [*implied, *self._said(poll, skipped_runs)]
        return Shaped(poll.target, last, said, poll)

    def _glance(self, target: Target) -> shape.Glance:
        key = (target.family, target.name, target.peer)
        return self._glances.get(key) or self._glances.setdefault(key, shape.Glance())

    def _lost(self, polls: Sequence[Poll]) -> list[Shaped]:
        """The last values of the targets that have left the configuration."""
        value = self._config.statsd.on_vanish
        lost = self._state.lost([poll.target for poll in polls])
        for target, sent in lost:
            self._speller(target, sent)
        return [Shaped(target, shape.ended(sent, value), [], polls[0]) for target, sent in lost]

    def _spelled(self, one: Shaped, skipped_runs: int) -> Iterator[str]:
        """The lines of a target; where they cannot be spelled, whether it is up and that failed.

        Last values that may have been among them are due again.
        """
        try:
            yield from self._speller(one.target).spelling(*one.last, *one.frames)
        except Exception as error:
            one.poll.failures.append(Failure.bug("shape", error))
            self._account_for([one], taken=False)
            one.last.clear()
            if one.frames:
                said = self._said(one.poll.but(frames=[]), skipped_runs)
                yield self.text(one.target, said)

    @staticmethod
    def _said(poll: Poll, skipped_runs: int) -> list[Frame]:
        """A poll's frames, which tell the time of day as the clock has it now, set or not."""
        return shape.frames(poll, skipped_runs, time.time() - time.monotonic() + poll.at)

    def _note(self, target: Target) -> None:
        """Remember the names; what is odd about them is told once, by all runs and targets."""
        speller = self._speller(target)
        with self._state.lock:
            sent = self._state.sent(target)
            sent["altered"] = [speller.dialect.tagged, speller.altered()]
            told = sent.setdefault("told", [])
            fresh = {what: text for what, text in speller.notes.items() if what not in told}
            told += fresh
        for what, text in fresh.items():
            if what not in self._tally.told:
                self._tally.told.add(what)
                self._warn(f"{target.name}: {text} (told once)")

    def _account_for(self, found: Iterable[Shaped], *, taken: bool) -> None:
        """Count what was spelled; have last values sent again if they may not have arrived."""
        with self._state.lock:
            for one in found:
                self._tally.add(self._speller(one.target).counts)
                if taken:
                    self._tally.retired += sum(f.height * len(f.metrics) for f in one.last)
                elif one.last:
                    shape.restore(one.last, self._state.sent(one.target))

    def account(self) -> str:
        """The lines of `self.ship`: what became of all others so far."""
        return self.text(None, [shape.shipping(self._numbers())])

    def owed(self) -> str:
        """The same, if polls were shipped since it was made; else ""."""
        owing, self._owing = self._owing, False
        return self.account() if owing else ""

    def told(self) -> str:
        """The account for people."""
        numbers = self._numbers()
        drops = [f"{lines} {why}" for why, lines in _added(self._tally.drops).items() if lines]
        lost = f", {numbers['receiver_drops']} lost there" if "receiver_drops" in numbers else ""
        return (
            f"shipped {numbers['lines']} lines in {numbers['packets']} packets, "
            f"{numbers['bytes']} bytes, in {1000 * numbers['seconds']:.0f} ms{lost}; "
            f"{numbers['errors']} packets and {numbers['dropped']} lines dropped"
            f"{' (' + ', '.join(drops) + ')' if drops else ''}; "
            f"{numbers['skipped_values']} values skipped, {numbers['altered_names']} names altered"
        )

    def shipped(self) -> dict[str, object]:
        """The same as data; ``dropped_by_reason`` holds what has happened alone."""
        drops = {why: lines for why, lines in _added(self._tally.drops).items() if lines}
        counts = {name: int(number) for name, number in _added(self._tally.counts).items()}
        return {
            "url": self.wire.url,
            "fault": self.fault,
            **{name: counts[name] for name in ("lines", "packets", "bytes", "errors", "dropped")},
            "dropped_by_reason": drops,
        }

    def _numbers(self) -> dict[str, float]:
        """The numbers of `self.ship`; what is not known is left out."""
        counts = _added(self._tally.counts)
        lost = self._receiver_drops()
        with self._state.lock:
            self._tally.add(self._speller(None).counts)
        return {
            **counts,
            **{f"dropped_{why}": lines for why, lines in _added(self._tally.drops).items()},
            **({} if lost is None else {"receiver_drops": lost}),
            "skipped_values": self._tally.spelled.skipped_values,
            "altered_names": self._tally.spelled.altered_names,
            "retired_series": self._tally.retired,
        }

    def _receiver_drops(self) -> int | None:
        """Packets that the receiver's kernel threw away, as of now or a moment ago."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_EVERY:
            there = self.wire if self.wire.url else wire(self._config.statsd.url)  # of a dry run
            self._looked, self._lost_there = now, there.lost()
        return self._lost_there


def _added(several: Sequence[Mapping[str, _Count]]) -> dict[str, _Count]:
    """The sum of each number over all that have it."""
    return {name: sum((one[name] for one in several), start=0) for name in several[0]}


def _bounded(poll: Poll, step: Callable[[], _T], otherwise: _T) -> _T:
    """What a step gives; where that is a bug, one of the poll's failures."""
    try:
        return step()
    except Exception as error:
        poll.failures.append(Failure.bug("shape", error))
        return otherwise


def polled(target: Target, ask: Callable[[], Poll]) -> list[Poll]:
    """A poll of a target, and of each process behind its port; a bug counts as being down."""
    started = time.monotonic()
    try:
        poll = ask()
        poll.notes += filter(None, [unmatched(poll)])
        found = shape.spread(poll)
    except Exception as error:
        down = Failure.bug("poll", error)
        found = [Poll(target, down=down, seconds=time.monotonic() - started)]
    for one in found:
        one.at = one.at or started
    return found


def repeated(polls: Sequence[Poll]) -> list[Poll]:
    """What was found of a target that is down, once more: it is not asked just now.

    Bugs in shaping that come again add themselves.
    """
    return [
        poll.but(failures=[f for f in poll.failures if not f.trace], at=time.monotonic())
        for poll in polls
    ]


def problems(polls: Sequence[Poll]) -> list[Failure]:
    """Everything that failed about a target, each thing once.

    The group speaks for its processes, but for what went wrong later with their answers.
    """
    group, *processes = polls
    found = group.problems()
    told = {"", *(failure.trace for failure in found)}
    later = [
        failure._replace(stage=f"process {poll.target.peer}: {failure.stage}")
        for poll in processes
        for failure in poll.problems()
        if failure.trace not in told
    ]
    return found + later


def memo(state: State, target: Target) -> Memo:
    """What the last poll of a target has left for the next one, in whatever process that is."""
    with state.lock:
        memories = state.memories(target)
        return next((one["memo"] for one in memories if "memo" in one), {})


def poll_all(
    targets: Sequence[Target], burst: Burst | None = None, state: State | None = None
) -> list[Poll]:
    """One poll of each target, side by side, in the order of the targets.

    Where several processes share a port, their group comes first, then each of them.
    An asker keeps its own deadline; should one hang all the same (in the system's resolver, say)
    it is left behind and its target counts as down.
    """
    ask = partial(_poll, burst=burst, state=state or State())
    if len(targets) == 1:
        return polled(targets[0], lambda: ask(targets[0]))
    polls: dict[int, list[Poll]] = {}
    queue = iter(enumerate(targets))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                at, target = next(queue, (-1, None))
            if target is None:
                return
            polls[at] = polled(target, partial(ask, target))

    threads = [threading.Thread(target=work, daemon=True) for _ in targets[:AT_ONCE]]
    rounds = -(-len(targets) // AT_ONCE)
    longest = max(target.timeout for target in targets) + (burst.seconds if burst else 0.0)
    until = time.monotonic() + rounds * longest + GRACE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    found = [polls.get(at) or [_abandoned(target)] for at, target in enumerate(targets)]
    return [one for several in found for one in several]


def _poll(target: Target, burst: Burst | None, state: State) -> Poll:
    with closing(asker(target, burst, memo(state, target))) as one:
        return one.poll()


def _abandoned(target: Target) -> Poll:
    down = Failure("poll", "timeout", "did not end in time and was left behind")
    return Poll(target, down=down, seconds=target.timeout + GRACE)
