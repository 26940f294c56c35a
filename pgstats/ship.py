"""Hands lines to statsd: the only door to the statsd package, which it extends.

The package resolves names once for ever, swallows every error, and loses what a receiver's buffer
does not hold. Here packets are whole lines, paced, counted, and sent over a connected socket, so
that a receiver that is not there is noticed.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import SplitResult, urlsplit

from statsd.client.base import PipelineBase, StatsClientBase

from pgstats.errors import ShipError
from pgstats.lookup import LookupFailed, addresses, is_name

BURST = 20  # packets that may go out at once: a fifth of what a default receive buffer holds
RESOLVE_EVERY = 60.0  # seconds
PATIENCE = 2.0  # seconds a look-up, a connect or a stalled receiver may take
GIVE_UP_AFTER = 3  # packets refused in a row, then the rest of a shipment is dropped

_NEGATIVE = re.compile(rb"[^:\n]*:-")


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """Whole lines in packets of at most ``size`` bytes; a longer line goes alone.

    A negative value stays with the zero in front of it: in two packets they could be swapped.
    """
    data = data.rstrip(b"\n")
    start = 0
    while len(data) - start > size:
        end = data.rfind(b"\n", start, start + size + 1)
        while end > start and _NEGATIVE.match(data, end + 1):
            end = data.rfind(b"\n", start, end)
        if end <= start:
            end = data.find(b"\n", start)
            while end > 0 and _NEGATIVE.match(data, end + 1):
                end = data.find(b"\n", end + 1)
            if end < 0:
                break
        yield data[start:end]
        start = end + 1
    if start < len(data):
        yield data[start:]


class Pace:
    """A token bucket: `BURST` packets at once, then ``rate`` a second; 0 is no limit."""

    def __init__(
        self,
        rate: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._tokens = float(BURST)
        self._at = clock()

    def take(self) -> None:
        """Wait until one more packet may go."""
        if not self._rate:
            return
        self._refill()
        if self._tokens < 1:
            self._sleep((1 - self._tokens) / self._rate)
            self._refill()
        self._tokens -= 1

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(BURST, self._tokens + (now - self._at) * self._rate)
        self._at = now


class _Pipeline(PipelineBase):  # type: ignore[misc]
    """Several stats at once, through the same cutting and pacing."""

    def _send(self) -> None:
        text = "".join(f"{stat}\n" for stat in self._stats)
        self._stats.clear()
        self._client.ship(text)


class Wire(StatsClientBase):  # type: ignore[misc]
    """A statsd client that packs, paces and counts. `fault` says what is wrong, "" if nothing.

    Safe to share between threads; shipments do not interleave.
    """

    def __init__(self, url: str, max_packet: int = 1400) -> None:
        self._prefix = None
        self.url = url
        self.max_packet = max_packet
        self.fault = ""
        self.counts = {"lines": 0, "packets": 0, "bytes": 0, "errors": 0}
        self._lock = threading.Lock()

    def ship(self, text: str, seconds: float = 60.0) -> bool:
        """Send lines, for at most so many seconds; says whether the wire took them all."""
        until = time.monotonic() + seconds
        refused = 0
        fault = ""
        with self._lock:
            for packet in cut(text.encode(), self.max_packet):
                trouble = self._trouble(packet, until, refused)
                refused = refused + 1 if trouble else 0
                fault = fault or trouble
                self._count(packet, trouble)
            self.fault = fault
        return not fault

    def probe(self) -> str:
        """What is wrong with the receiver, "" if nothing shows; sends it a blank line."""
        try:
            self._put(b"\n")
        except OSError as error:
            return str(error.strerror or error)
        return ""

    def _trouble(self, packet: bytes, until: float, refused: int) -> str:
        if refused >= GIVE_UP_AFTER:
            return "gave up"
        if time.monotonic() > until:
            return "took too long"
        try:
            self._put(packet)
        except OSError as error:
            return str(error.strerror or error)
        return ""

    def _count(self, packet: bytes, trouble: str) -> None:
        if trouble:
            self.counts["errors"] += 1
            return
        self.counts["lines"] += packet.count(b"\n") + 1
        self.counts["packets"] += 1
        self.counts["bytes"] += len(packet)

    def _put(self, packet: bytes) -> None:
        """Hand one packet to the receiver or raise OSError."""
        raise NotImplementedError

    def _send(self, data: str) -> None:
        self.ship(data)

    def pipeline(self) -> _Pipeline:
        """Collects stats and ships them together."""
        return _Pipeline(self)

    def close(self) -> None:
        """Let go of the socket."""


class Paper(Wire):
    """Keeps the packets instead of sending them: for a dry run."""

    def __init__(self, max_packet: int = 1400) -> None:
        super().__init__("", max_packet)
        self.packets: list[bytes] = []

    def _put(self, packet: bytes) -> None:
        self.packets.append(packet)


class _SocketWire(Wire):
    """A wire over a connected socket, connected anew when it fails."""

    kind = socket.SOCK_DGRAM

    def __init__(self, url: str, max_packet: int = 1400) -> None:
        super().__init__(url, max_packet)
        parts = urlsplit(url)
        self._path = parts.path if parts.scheme.startswith("unix") else ""
        self._host, self._port = ("", 0) if self._path else _host_port(url, parts)
        self._socket: socket.socket | None = None
        self._addresses = [self._host]
        self._turn = 0  # which of the addresses, counted on over failures
        self._resolved = 0.0

    def _put(self, packet: bytes) -> None:
        """Hand a packet to the first address that takes it (localhost may be ::1 or 127.0.0.1)."""
        try:
            self._hand(packet)
        except OSError:
            self.close()
            self._turn += 1
            if self._turn % len(self._addresses) == 0:
                raise
            self._put(packet)

    def _hand(self, packet: bytes) -> None:
        raise NotImplementedError

    def _connected(self) -> socket.socket:
        stale = is_name(self._host) and time.monotonic() - self._resolved > RESOLVE_EVERY
        if self._socket is None or stale:
            self._reconnect()
        assert self._socket
        return self._socket

    def _reconnect(self) -> None:
        family, address = self._address()
        fresh = socket.socket(family, self.kind)
        try:
            fresh.settimeout(PATIENCE)
            fresh.connect(address)
        except OSError:
            fresh.close()
            raise
        self.close()
        self._socket = fresh

    def _address(self) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
        if self._path:
            return socket.AF_UNIX, self._path
        if is_name(self._host):
            self._resolve()
        host = self._addresses[self._turn % len(self._addresses)]
        return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, self._port)

    def _resolve(self) -> None:
        """Look the name up again; the old addresses are better than none."""
        try:
            self._addresses = addresses(self._host, self._port, self.kind, PATIENCE)
        except LookupFailed:
            if not self._resolved:
                raise
        self._resolved = time.monotonic()

    def close(self) -> None:
        """Close the socket; the next packet opens another."""
        if self._socket:
            self._socket.close()
        self._socket = None


class DatagramWire(_SocketWire):
    """udp:// and unixgram://: one packet a datagram, paced since receivers drop what they miss."""

    def __init__(self, url: str, max_packet: int = 1400, rate: int = 1000) -> None:
        super().__init__(url, max_packet)
        self._pace = Pace(rate)

    def _put(self, packet: bytes) -> None:
        self._pace.take()
        super()._put(packet)

    def _hand(self, packet: bytes) -> None:
        wire = self._connected()
        wire.send(packet)
        # On loopback the answer "nobody listens" is there before send() returns.
        if fault := wire.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(fault, os.strerror(fault))


class StreamWire(_SocketWire):
    """tcp:// and unix://: lines on a stream, which holds us up where a datagram would be lost."""

    kind = socket.SOCK_STREAM

    def _hand(self, packet: bytes) -> None:
        """Send a packet, over a new connection if the receiver has closed the old one.

        A failed write may leave half a line behind, so that the caller closes the stream.
        """
        if self._socket and self._hung_up(self._socket):
            self.close()
        self._connected().sendall(packet + b"\n")

    @staticmethod
    def _hung_up(wire: socket.socket) -> bool:
        """Whether the receiver has closed: the first write after that would be lost in silence."""
        wire.setblocking(False)
        try:
            return wire.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        finally:
            wire.settimeout(PATIENCE)


def _host_port(url: str, parts: SplitResult) -> tuple[str, int]:
    try:
        port = parts.port or 8125
    except ValueError as error:
        raise ShipError(f"{url}: the port must be a number up to 65535") from error
    return parts.hostname or "127.0.0.1", port


def wire(url: str, *, rate: int = 1000, max_packet: int = 1400) -> Wire:
    """The wire for a URL: udp://host:port, tcp://host:port, unix:///path, unixgram:///path."""
    scheme = urlsplit(url).scheme
    if scheme in ("udp", "unixgram"):
        return DatagramWire(url, max_packet, rate)
    if scheme in ("tcp", "unix"):
        return StreamWire(url, max_packet)
    raise ShipError(f"{url}: must start with udp://, tcp://, unix:// or unixgram://")
