"""Hands lines to statsd: the only door to the statsd package, which it extends.

The package resolves names once for ever, swallows every error, and loses what a receiver's buffer
does not hold. Here packets are whole lines, paced, counted, and sent over a connected socket, so
that a receiver that is not there is noticed.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from statsd.client.base import PipelineBase, StatsClientBase

from pgstats.errors import ShipError
from pgstats.lookup import LookupFailed, addresses, is_name

BURST = 20  # packets that may go out at once: a fifth of what a default receive buffer holds
RESOLVE_EVERY = 60.0  # seconds
PATIENCE = 2.0  # seconds a look-up, a connect or a stalled receiver may take
GIVE_UP_AFTER = 3  # packets refused in a row, then the rest of a shipment is dropped
ANSWER = 0.2  # seconds in which another host says that nobody listens on a UDP port


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """Whole lines in packets of at most ``size`` bytes; a longer line goes alone.

    A negative gauge stays with the zero in front of it: in two packets they could be swapped.
    """
    data = data.rstrip(b"\n")
    start = 0
    while start < len(data):
        end = _end(data, start, size)
        if end > start:
            yield data[start:end]
        start = end + 1


def _end(data: bytes, start: int, size: int) -> int:
    """Where the packet ends that starts there: as late as fits, but after one line or pair."""
    if len(data) - start <= size:
        return len(data)
    end = data.rfind(b"\n", start, start + size + 1)
    if end >= 0 and _paired(data, end):
        end = data.rfind(b"\n", start, end)
    if end >= 0:
        return end
    end = data.find(b"\n", start)
    if end >= 0 and _paired(data, end):
        end = data.find(b"\n", end + 1)
    return end if end >= 0 else len(data)


def _paired(data: bytes, end: int) -> bool:
    """Whether the line that ends there is the zero of the negative gauge in the next."""
    name, zero, _ = data[data.rfind(b"\n", 0, end) + 1 : end].partition(b":0|")
    return bool(zero) and data.startswith(name + b":-", end + 1)


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

    def take(self, seconds: float) -> bool:
        """Wait until one more packet may go; False, and no wait, if that takes any longer."""
        if not self._rate:
            return True
        self._refill()
        wait = (1 - self._tokens) / self._rate
        if wait > seconds:
            return False
        if wait > 0:
            self._sleep(wait)
            self._refill()
        self._tokens -= 1
        return True

    def _refill(self) -> None:
        now = self._clock()
        self._tokens = min(BURST, self._tokens + (now - self._at) * self._rate)
        self._at = now


class _Lost(OSError):
    """A packet that is not to be tried again: that might send it twice, or hide the loss."""


class _Stalled(_Lost):
    """The receiver is there but reads nothing."""


#: What the next packet would only wait for as long again.
_HOPELESS = (TimeoutError, LookupFailed, _Stalled)


class _Pipeline(PipelineBase):  # type: ignore[misc]
    """Several stats at once, through the same cutting and pacing."""

    def _send(self) -> None:
        lines = "\n".join(self._stats)
        self._stats.clear()
        self._client._after(lines)


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
        self._sending = threading.Lock()
        self._counting = threading.Lock()

    def ship(self, text: str, seconds: float = PATIENCE) -> bool:
        """Send lines, for at most so many seconds; says whether the wire took them all."""
        until = time.monotonic() + seconds
        packets = cut(text.encode(errors="replace"), self.max_packet)
        if not self._sending.acquire(timeout=max(0.0, seconds)):
            return self._drop(packets)
        try:
            self.fault = self._offer(packets, until)
            return not self.fault
        finally:
            self._sending.release()

    def _drop(self, packets: Iterator[bytes]) -> bool:
        """Count packets as lost: the time was up before another's shipment was through."""
        for packet in packets:
            self._count(packet, taken=False)
        self.fault = "took too long"
        return False

    def probe(self) -> str:
        """What is wrong with the receiver, "" if nothing shows; sends it blank lines."""
        with self._sending:
            try:
                self._knock(time.monotonic() + 3 * PATIENCE)
            except OSError as error:
                return _said(error)
        return ""

    def _knock(self, until: float) -> None:
        self._put(b"\n", until)

    def _offer(self, packets: Iterator[bytes], until: float) -> str:
        """Put packets on the wire as long as there is hope; says what went wrong first."""
        fault, refused = "", 0
        for packet in packets:
            taken = False
            if refused < GIVE_UP_AFTER:
                try:
                    self._put(packet, until)
                    taken, refused = True, 0
                except OSError as error:
                    refused = GIVE_UP_AFTER if isinstance(error, _HOPELESS) else refused + 1
                    fault = fault or _said(error)
            self._count(packet, taken=taken)
        return fault

    def _count(self, packet: bytes, *, taken: bool) -> None:
        with self._counting:
            if not taken:
                self.counts["errors"] += 1
                return
            self.counts["lines"] += packet.count(b"\n") + 1
            self.counts["packets"] += 1
            self.counts["bytes"] += len(packet)

    def _put(self, packet: bytes, until: float) -> None:
        """Hand one packet to the receiver or raise OSError."""
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

    def _put(self, packet: bytes, until: float) -> None:  # noqa: ARG002
        self.packets.append(packet)


class _SocketWire(Wire):
    """A wire over a connected socket, connected anew when it fails.

    ``place`` is a path, or a host and a port.
    """

    kind = socket.SOCK_DGRAM

    def __init__(self, url: str, place: str | tuple[str, int], max_packet: int) -> None:
        super().__init__(url, max_packet)
        self._unix = isinstance(place, str)
        self._host, self._port = (place, 0) if isinstance(place, str) else place
        self._named = not self._unix and is_name(self._host)
        self._addresses = [] if self._named else [self._host]
        self._look_up_at = 0.0  # on the monotonic clock
        self._turn = 0  # which of the addresses, counted on over failures
        self._used = ""  # the address that the socket is connected to
        self._socket: socket.socket | None = None

    def _put(self, packet: bytes, until: float) -> None:
        """Hand a packet to the first address that takes it (localhost may be ::1 or 127.0.0.1).

        An open socket may have failed because the receiver was started anew: its address is
        tried again.
        """
        self._look_up(until)
        fault = OSError()
        for _ in range(len(self._addresses) + (self._socket is not None)):
            try:
                self._hand(self._connected(until), packet)
            except OSError as error:
                fault = error
                self.close()
                self._turn += 1
            except BaseException:
                self.close()  # a signal's exception may have left half a line behind
                raise
            else:
                return
            if isinstance(fault, _Lost):
                break
        self._look_up_at = min(self._look_up_at, time.monotonic() + PATIENCE)
        raise fault

    def _hand(self, to: socket.socket, packet: bytes) -> None:
        raise NotImplementedError

    def _look_up(self, until: float) -> None:
        """Look the name up when it is time; the old addresses are better than none.

        A connection stays as long as its address is among them.
        """
        if not self._named or time.monotonic() < self._look_up_at:
            return
        try:
            self._addresses = addresses(self._host, self._port, self.kind, _left(until))
        except LookupFailed:
            if not self._addresses:
                raise
        self._look_up_at = time.monotonic() + RESOLVE_EVERY
        if self._used not in self._addresses:
            self.close()

    def _connected(self, until: float) -> socket.socket:
        if self._socket is None:
            self._socket = self._connect(self._addresses[self._turn % len(self._addresses)], until)
        self._socket.settimeout(_left(until))
        return self._socket

    def _connect(self, address: str, until: float) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        fresh = socket.socket(socket.AF_UNIX if self._unix else family, self.kind)
        try:
            fresh.settimeout(_left(until))
            fresh.connect(address if self._unix else (address, self._port))
        except BaseException:
            fresh.close()
            raise
        self._used = address
        return fresh

    def close(self) -> None:
        """Close the socket; the next packet opens another."""
        if self._socket:
            self._socket.close()
        self._socket = None


class DatagramWire(_SocketWire):
    """udp:// and unixgram://: one packet a datagram, paced since receivers drop what they miss."""

    def __init__(
        self, url: str, place: str | tuple[str, int], max_packet: int = 1400, rate: int = 1000
    ) -> None:
        super().__init__(url, place, max_packet)
        self._pace = Pace(rate)

    def _put(self, packet: bytes, until: float) -> None:
        if not self._pace.take(until - time.monotonic()):
            raise TimeoutError("took too long")
        super()._put(packet, until)

    def _hand(self, to: socket.socket, packet: bytes) -> None:
        try:
            to.send(packet)
        except TimeoutError as error:
            raise _Stalled("stalled: it reads nothing") from error
        except ConnectionRefusedError as error:
            if self._unix:
                raise
            # Another host's late answer to an earlier packet, which counts as sent.
            raise _Lost(error.errno, error.strerror) from error
        # On loopback the answer "nobody listens" is there before send() returns.
        if fault := to.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(fault, os.strerror(fault))

    def _knock(self, until: float) -> None:
        """Send two datagrams: another host's refusal of the first is told to the second."""
        self._put(b"\n", until)
        if not self._unix:
            time.sleep(ANSWER)
            self._put(b"\n", until)


class StreamWire(_SocketWire):
    """tcp:// and unix://: lines on a stream, which holds us up where a datagram would be lost."""

    kind = socket.SOCK_STREAM

    def _connected(self, until: float) -> socket.socket:
        if self._socket and _hung_up(self._socket):
            self.close()
        return super()._connected(until)

    def _hand(self, to: socket.socket, packet: bytes) -> None:
        """Send a packet. A failed write may leave half a line behind: the caller closes."""
        try:
            to.sendall(packet + b"\n")
        except TimeoutError as error:
            raise _Stalled("stalled: it reads nothing") from error


def _hung_up(stream: socket.socket) -> bool:
    """Whether the receiver has closed: the first write after that would be lost in silence."""
    stream.setblocking(False)
    try:
        return stream.recv(1 << 16) == b""
    except BlockingIOError:
        return False


def _left(until: float) -> float:
    """How many seconds one step may take."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("took too long")
    return min(PATIENCE, left)


def _said(error: OSError) -> str:
    return str(error.strerror or error)


def wire(url: str, *, rate: int = 1000, max_packet: int = 1400) -> Wire:
    """The wire for a URL: udp://host:port, tcp://host:port, unix:///path, unixgram:///path."""
    scheme, _, path = url.partition("://")
    if scheme not in ("udp", "tcp", "unix", "unixgram"):
        raise ShipError(f"{url}: must start with udp://, tcp://, unix:// or unixgram://")
    place = _host_port(url) if scheme in ("udp", "tcp") else path
    if isinstance(place, str) and not place.startswith("/"):
        raise ShipError(f"{url}: must name the whole path of a socket: {scheme}:///run/statsd.sock")
    if scheme in ("udp", "unixgram"):
        return DatagramWire(url, place, max_packet, rate)
    return StreamWire(url, place, max_packet)


def _host_port(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, 8125 if parts.port is None else parts.port
    except ValueError as error:
        raise ShipError(f"{url}: {error}") from error
    if not host or not port:
        raise ShipError(f"{url}: must name a host and a port from 1 to 65535")
    return host, port
