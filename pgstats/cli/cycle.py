"""The main job, put together: ask, shape, spell, ship."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence

from pgstats import shape
from pgstats.ask import Asker, Burst, asker
from pgstats.config import Config
from pgstats.model import Failure, Frame, Poll, Target
from pgstats.ship import Wire, wire
from pgstats.spell import DIALECTS, Counts, Speller
from pgstats.state import State

AT_ONCE = 64  # targets polled at the same time by a one-shot run
GRACE = 1.0  # seconds an asker may need beyond its timeout to give up

_Shaped = tuple[Target, list[Frame], list[Frame]]  # last values of what is gone, then the rest


class Cycle:
    """Spells the polls of a configuration and ships them over one wire."""

    def __init__(self, config: Config, state: State, to: Wire | None = None) -> None:
        self._config = config
        self._state = state
        state.expect(config.targets, config.inventory)
        # The time of day at the start, then a clock that nobody sets.
        self._epoch = time.time() - time.monotonic()
        self._counts = Counts()
        self._retired = 0  # series, since the start
        self._spellers: dict[tuple[str, str], Speller] = {}
        self.fault = ""  # what was wrong with the last shipment
        statsd = config.statsd
        self.wire = to or wire(statsd.url, rate=statsd.rate, max_packet=statsd.max_packet)

    def text(self, target: Target | None, frames: Iterable[Frame]) -> str:
        """The lines of frames, with the tags of their target."""
        key = (target.family, target.name) if target else ("", "")
        if key not in self._spellers:
            tags = {**self._config.statsd.tags, **(target.tags if target else {})}
            dialect = DIALECTS[self._config.statsd.dialect]
            self._spellers[key] = Speller(dialect, self._config.prefix, tags, self._counts)
        return self._spellers[key].spell(*frames)

    def ship(self, polls: Sequence[Poll], seconds: float, skipped_runs: int = 0) -> bool:
        """Ship polls and the account of the shipping; says whether the wire took everything."""
        with self._state.lock:
            found = [self._shaped(poll, skipped_runs) for poll in polls]
            found += self._lost([poll.target for poll in polls])
        text = "".join(self.text(target, [*last, *frames]) for target, last, frames in found)
        taken = self.wire.ship(text, seconds)
        fault = self.wire.fault
        self._account_for([(target, last) for target, last, _ in found], taken=taken)
        told = self.wire.ship(self.account())
        self.fault = fault or self.wire.fault
        return told and taken

    def _shaped(self, poll: Poll, skipped_runs: int) -> _Shaped:
        """All that is to be said of a target; the last values come before those of today."""
        memory = self._state.of(poll.target, poll.identity)
        implied = shape.derived(poll, memory, self._epoch + time.monotonic())
        frames = [*implied, *shape.frames(poll, skipped_runs)]
        value, sent = self._config.statsd.on_vanish, self._state.sent(poll.target)
        last = shape.retired(frames, sent, value, partial=poll.partial)
        return poll.target, last, frames

    def _lost(self, polled: Iterable[Target]) -> list[_Shaped]:
        """The last values of the targets that have left the configuration."""
        value, lost = self._config.statsd.on_vanish, self._state.lost(polled)
        return [(target, shape.ended(sent, value), []) for target, sent in lost]

    def _account_for(self, last: Iterable[tuple[Target, list[Frame]]], *, taken: bool) -> None:
        """Count the last values, or have them sent again if they may not have arrived."""
        with self._state.lock:
            for target, frames in last:
                if taken:
                    self._retired += sum(len(f.rows) * len(f.metrics) for f in frames)
                elif frames:
                    shape.restore(frames, self._state.sent(target))

    def account(self) -> str:
        """The lines of `self.ship`: what became of all others so far."""
        numbers = {
            **self.wire.counts,
            "skipped_values": self._counts.skipped_values,
            "altered_names": self._counts.altered_names,
            "retired_series": self._retired,
        }
        return self.text(None, [shape.shipping(numbers)])


def poll_all(targets: Sequence[Target], burst: Burst | None = None) -> list[Poll]:
    """One poll of each target, side by side, in the order of the targets.

    Where several processes share a port, their group comes first, then each of them.
    An asker keeps its own deadline; should one hang all the same (in the system's resolver, say)
    it is left behind and its target counts as down.
    """
    if len(targets) == 1:
        return shape.spread(_poll(asker(targets[0], burst)))
    polls: dict[int, Poll] = {}
    queue = iter(enumerate(targets))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                at, target = next(queue, (-1, None))
            if target is None:
                return
            polls[at] = _poll(asker(target, burst))

    threads = [threading.Thread(target=work, daemon=True) for _ in targets[:AT_ONCE]]
    rounds = -(-len(targets) // AT_ONCE)
    longest = max(target.timeout for target in targets) + (burst.seconds if burst else 0.0)
    until = time.monotonic() + rounds * longest + GRACE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    found = [polls.get(at) or _abandoned(target) for at, target in enumerate(targets)]
    return [one for poll in found for one in shape.spread(poll)]


def _poll(one: Asker) -> Poll:
    try:
        return one.poll()
    finally:
        one.close()


def _abandoned(target: Target) -> Poll:
    down = Failure("poll", "timeout", "did not end in time and was left behind")
    return Poll(target, down=down, seconds=target.timeout + GRACE)
