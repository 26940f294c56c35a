"""What all wires have in common: packets, the time they may take, and the account of their loss."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat

from statsd.client.base import PipelineBase, StatsClientBase

from pgstats.catalogue.own import LOSSES
from pgstats.errors import kept
from pgstats.lookup import LookupFailed
from pgstats.ship.pace import Rest
from pgstats.ship.packets import packed

PATIENCE = 2.0  # seconds a look-up, a connect or a stalled receiver may take
READ_WITHIN = 1.0  # seconds in which a receiver that is well reads what a probe sent
GIVE_UP_AFTER = 3  # packets refused in a row, then the rest of a shipment is dropped
AT_ONCE = 64  # packets between two looks at the clock, while all is well

_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ENOENT: "refused",  # a socket's path without a socket
    errno.ECONNRESET: "closed",
    errno.EPIPE: "closed",
    errno.ENOTCONN: "closed",
    errno.ETIMEDOUT: "timeout",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EMSGSIZE: "too_long",
}

_CURES = {
    errno.EPROTOTYPE: "it is a socket of the other kind: unix:// is a stream, unixgram:// is not",
    errno.EACCES: "let the user that runs pgstats write to the socket and enter its folder",
}


class Lost(OSError):
    """A packet that is not to be tried again: that might send it twice, or hide the loss.

    Of those that were handed over together, so many before it are ``out``.
    """

    def __init__(self, *what: int | str | None, out: int = 0) -> None:
        super().__init__(*what)
        self.out = out


class Stalled(Lost):
    """The receiver is there but reads nothing; ``whole`` says that it has no half of a line."""

    def __init__(self, *, whole: bool = True) -> None:
        super().__init__("stalled: it reads nothing")
        self.whole = whole


class TimeUp(TimeoutError):
    """The time for a shipment is over, which says nothing about the receiver."""


class _Pipeline(PipelineBase):  # type: ignore[misc]
    """Several stats at once, through the same cutting and pacing."""

    def _send(self) -> None:
        lines = "\n".join(self._stats)
        self._stats.clear()
        self._client._after(lines)


class Wire(StatsClientBase):  # type: ignore[misc]
    """A statsd client that packs, paces and counts. `fault` says what is wrong, "" if nothing.

    What cannot be handed over is dropped, and counted in `drops` by its reason: nothing is kept
    for later, when it would be wrong. Safe to share between threads; shipments do not interleave.
    """

    #: After these nothing is tried for a while; most failures tell by themselves when they end.
    tiring: tuple[type[OSError], ...] = ()

    def __init__(self, url: str, max_packet: int = 1400) -> None:
        self._prefix = None
        self.url = url
        self.max_packet = max_packet
        self.fault = ""
        self.counts: dict[str, float] = dict.fromkeys(
            ("lines", "packets", "bytes", "errors", "dropped", "seconds"), 0
        )
        self.drops = dict.fromkeys(LOSSES, 0)  # lines
        self._rest = Rest()
        self._sending = threading.Lock()
        self._counting = threading.Lock()

    def ship(self, text: str, seconds: float = PATIENCE) -> bool:
        """Send lines, for at most so many seconds; says whether the wire took them all."""
        return not self.hand_over([text], seconds)

    def hand_over(self, texts: Iterable[str], seconds: float) -> str:
        """The same of several texts; says what went wrong, "" if nothing did.

        Each text is asked for when those before it are out, so that they need not exist at once.
        """
        start = time.monotonic()
        packets = packed(texts, self.max_packet)
        if not self._sending.acquire(timeout=max(0.0, seconds)):
            return self._drop(packets)
        try:
            return self._blame(self._offer(packets, start + seconds))
        finally:
            self._sending.release()

    def _drop(self, texts: Iterator[list[bytes]]) -> str:
        """Count packets as lost: the time was up before another's shipment was through."""
        late = TimeUp("took too long")
        for packets in texts:
            self._count(packets, late)
        return self._blame(late)

    def _blame(self, fault: OSError | None) -> str:
        """Note what went wrong: what is known of a receiver says more than a lack of time."""
        known = self.fault if isinstance(fault, TimeUp) else ""
        self.fault = told = known or (said(fault) if fault else "")
        return told

    def probe(self) -> OSError | None:
        """What is wrong with the receiver, None if nothing shows; sends it blank lines."""
        with self._sending:
            try:
                self._knock(time.monotonic() + 3 * PATIENCE)
            except OSError as error:
                return error
            until = time.monotonic() + READ_WITHIN
            while self._unread():
                if time.monotonic() > until:
                    return Stalled()
                time.sleep(0.01)
        return None

    def prompt(self) -> bool:
        """Whether packets go out now, unless their pace makes them wait; no receiver can."""
        return False

    def lost(self) -> int | None:
        """Packets that the receiver's kernel threw away, None where that cannot be known."""
        return None

    def _unread(self) -> int:
        """Bytes that the receiver has not taken yet, as far as the kernel knows."""
        return 0

    def _knock(self, until: float) -> None:
        self._put([b"\n"], until)

    def _offer(self, texts: Iterator[list[bytes]], until: float) -> OSError | None:
        """Put packets on the wire as long as there is hope; says what went wrong first.

        They go out together while all is well, and one by one at first and after trouble. What
        is not tried is lost for the reason that took the hope.
        """
        start = time.monotonic()
        first = hopeless = self._rest.fault()
        refused, together = 0, 1
        for packets in texts:
            at = 0
            while at < len(packets) and not hopeless:
                out, fault = self._tried(packets[at : at + together], until)
                self._count(packets[at : at + out], None)
                at += out
                refused, together = (refused + 1, 1) if fault else (0, AT_ONCE)
                if fault:
                    self._count(packets[at : at + 1], fault)
                    at += 1
                    first = first or fault
                if refused == GIVE_UP_AFTER or isinstance(fault, (TimeUp, *self.tiring)):
                    hopeless = fault
            if hopeless:
                self._count(packets[at:], hopeless)
        self.counts["seconds"] += time.monotonic() - start
        return first

    def _tried(self, packets: list[bytes], until: float) -> tuple[int, OSError | None]:
        """How many packets were handed over, and what happened to the one behind them."""
        try:
            out = self._put(packets, until)
        except OSError as error:
            fault = kept(error)
            if isinstance(fault, self.tiring) and not isinstance(fault, TimeUp):
                self._rest.begin(fault)
            return fault.out if isinstance(fault, Lost) else 0, fault
        self._rest.end()
        return out, None

    def _count(self, packets: Sequence[bytes], fault: OSError | None) -> None:
        lines = len(packets) + sum(map(bytes.count, packets, repeat(b"\n")))
        with self._counting:
            if fault:
                self.counts["errors"] += len(packets)
                self.counts["dropped"] += lines
                self.drops[reason(fault)] += lines
                return
            self.counts["lines"] += lines
            self.counts["packets"] += len(packets)
            self.counts["bytes"] += sum(map(len, packets))

    def _put(self, packets: list[bytes], until: float) -> int:
        """Hand packets to the receiver until one meets trouble; says how many.

        Raises OSError if the first does.
        """
        raise NotImplementedError

    def _send(self, data: str) -> None:
        self.ship(data)

    def pipeline(self) -> _Pipeline:
        """Collects stats and ships them together."""
        return _Pipeline(self)

    def close(self) -> None:
        """Let go of the socket; the next shipment opens another."""


class Paper(Wire):
    """Keeps the packets instead of sending them: for a dry run."""

    def __init__(self, max_packet: int = 1400) -> None:
        super().__init__("", max_packet)
        self.packets: list[bytes] = []

    def _put(self, packets: list[bytes], until: float) -> int:  # noqa: ARG002
        self.packets += packets
        return len(packets)


def reason(fault: OSError) -> str:
    """Why a packet was lost: one in `pgstats.catalogue.own.LOSSES`."""
    for kind, name in ((Stalled, "stalled"), (LookupFailed, "dns"), (TimeoutError, "timeout")):
        if isinstance(fault, kind):
            return name
    return _REASONS.get(fault.errno or 0, "other")


def said(fault: OSError) -> str:
    """What went wrong, for people."""
    return str(fault.strerror or fault)


def cure(fault: OSError) -> str:
    """What to do about it."""
    start = "start the receiver, or set the address: [statsd] url, --statsd, $PGSTATS_STATSD"
    if isinstance(fault, Stalled):
        return "it is there: see whether it was stopped, hangs, or has too much to do"
    if isinstance(fault, LookupFailed):
        return "correct the name: [statsd] url, --statsd, $PGSTATS_STATSD; or see to DNS"
    return _CURES.get(fault.errno or 0, start)
