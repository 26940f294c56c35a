"""The wires over sockets: udp, tcp, unix (stream) and unixgram (datagram).

The package resolves names once for ever and swallows every error. Here the socket is connected,
so that a receiver that is not there is noticed, and a name is looked up anew every
`RESOLVE_EVERY` seconds and soon after an error.
"""

from __future__ import annotations

import os
import re
import select
import socket
import sys
import time
from itertools import accumulate, takewhile

from pgstats.errors import ShipError, kept
from pgstats.lookup import LookupFailed, addresses, is_name
from pgstats.ship.base import PATIENCE, Lost, Stalled, TimeUp, Wire
from pgstats.ship.kernel import drops, unread
from pgstats.ship.pace import Pace

RESOLVE_EVERY = 60.0  # seconds
DEAD_AFTER = 60.0  # seconds in which a receiver reads nothing, then it is connected to anew
ANSWER = 0.2  # seconds in which another host says that nobody listens on a UDP port

#: Host and port of a URL; an IPv6 host stands in brackets.
_PLACE = r"\w+://(?:\[([^\]]+)\]|([^/:@?#\[\]]+))(?::([0-9]{1,5}))?(?:/.*)?"
_STATSD_PORT = 8125


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
        self._stalled_at = 0.0  # when its receiver stopped reading, 0 while it reads
        self._socket: socket.socket | None = None

    def _put(self, packets: list[bytes], until: float) -> int:
        """Hand packets to the first address that takes one (localhost may be ::1 or 127.0.0.1).

        An open socket may have failed because the receiver was started anew: its address is
        tried again.
        """
        self._look_up(until)
        fault = OSError()
        for _ in range(len(self._addresses) + (self._socket is not None)):
            try:
                out = self._hand(self._connected(until), packets, until)
            except TimeUp:
                raise
            except OSError as error:
                fault = kept(error)
                self._let_go(fault)
            except BaseException:
                self.close()  # a signal's exception may have left half a line behind
                raise
            else:
                self._stalled_at = 0.0
                return out
            if isinstance(fault, Lost):
                break
        self._look_up_at = min(self._look_up_at, time.monotonic() + PATIENCE)
        raise fault

    def _let_go(self, fault: OSError) -> None:
        """Close the socket, unless its receiver only does not read for now."""
        now = time.monotonic()
        self._stalled_at = self._stalled_at or now
        if isinstance(fault, Stalled) and fault.whole and now - self._stalled_at < DEAD_AFTER:
            return
        self._stalled_at = 0.0
        self._turn += 1
        self.close()

    def _hand(self, to: socket.socket, packets: list[bytes], until: float) -> int:
        """Send packets, says how many; raises `OSError` if the first cannot be sent by then."""
        raise NotImplementedError

    def _known(self) -> bool:
        """Whether the address need not be looked up now."""
        return not self._named or time.monotonic() < self._look_up_at

    def _look_up(self, until: float) -> None:
        """Look the name up when it is time; the old addresses are better than none.

        A connection stays as long as its address is among them.
        """
        if self._known():
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
            self._socket.setblocking(False)
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

    def _unread(self) -> int:
        """What a receiver on a unix socket has not read, or a TCP of elsewhere not confirmed."""
        from fcntl import ioctl  # noqa: PLC0415 - only a probe asks
        from termios import TIOCOUTQ  # noqa: PLC0415

        if not self._socket:
            return 0
        return int.from_bytes(ioctl(self._socket, TIOCOUTQ, bytes(4)), sys.byteorder)

    def close(self) -> None:
        """Close the socket; the next packet opens another."""
        if self._socket:
            self._socket.close()
        self._socket = None


class DatagramWire(_SocketWire):
    """udp:// and unixgram://: one packet a datagram, paced since receivers drop what they miss."""

    tiring = (LookupFailed, Stalled)

    def __init__(
        self, url: str, place: str | tuple[str, int], max_packet: int = 1400, rate: int = 1000
    ) -> None:
        super().__init__(url, place, max_packet)
        self._pace = Pace(rate)

    def lost(self) -> int | None:
        """Packets that the receiver's kernel threw away, None where that cannot be known."""
        address = self._used or next(iter(self._addresses), "")
        return None if self._unix or not address else drops(address, self._port)

    def _unread(self) -> int:
        return super()._unread() if self._unix else unread(self._used, self._port)

    def prompt(self) -> bool:
        """Whether packets go out now: by UDP, to an address that is known."""
        return not self._unix and self._known()

    def _put(self, packets: list[bytes], until: float) -> int:
        allowed = self._pace.take(until - time.monotonic(), len(packets))
        if not allowed:
            raise TimeUp("took too long")
        used = 1
        try:
            used = super()._put(packets[:allowed], until)
        except Lost as fault:
            used += fault.out
            raise
        finally:
            self._pace.give_back(allowed - used)
        return used

    def _hand(self, to: socket.socket, packets: list[bytes], until: float) -> int:
        self._send_one(to, packets[0], until)
        return self._send_more(to, packets[1:]) if len(packets) > 1 else 1

    def _send_one(self, to: socket.socket, packet: bytes, until: float) -> None:
        left = _left(until)
        try:
            try:
                to.send(packet)
            except BlockingIOError:
                # Waits, and again where others that send to it were quicker.
                to.settimeout(left)
                try:
                    to.send(packet)
                finally:
                    to.setblocking(False)
        except TimeoutError as error:
            raise Stalled from error
        except ConnectionRefusedError as error:
            if self._unix:
                raise
            # Another host's late answer to an earlier packet, which counts as sent.
            raise Lost(error.errno, error.strerror) from error
        # On loopback the answer "nobody listens" is there before send() returns.
        if not self._unix and (fault := to.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            raise OSError(fault, os.strerror(fault))

    def _send_more(self, to: socket.socket, packets: list[bytes]) -> int:
        """Send what follows until one meets trouble, which is left to be met again.

        But a refusal is told once, by the packet behind or in the end: the last one sent is lost.
        """
        out = 1
        try:
            for _ in map(to.send, packets):
                out += 1
        except ConnectionRefusedError as error:
            if not self._unix:
                raise Lost(error.errno, error.strerror, out=out - 1) from error
        except OSError:
            pass
        if not self._unix and (fault := to.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            raise Lost(fault, os.strerror(fault), out=out - 1)
        return out

    def _knock(self, until: float) -> None:
        """Send two datagrams: another host's refusal of the first is told to the second."""
        super()._knock(until)
        if not self._unix:
            time.sleep(ANSWER)
            super()._knock(until)


class StreamWire(_SocketWire):
    """tcp:// and unix://: lines on a stream, which holds us up where a datagram would be lost."""

    kind = socket.SOCK_STREAM
    tiring = (OSError,)

    def _connected(self, until: float) -> socket.socket:
        if self._socket and _hung_up(self._socket):
            self.close()
        return super()._connected(until)

    def _hand(self, to: socket.socket, packets: list[bytes], until: float) -> int:
        """Send packets once there is room for them: a receiver which stalls has whole lines.

        Room is a quarter of the kernel's buffer or more. Only of a packet that is larger, or on
        a connection that breaks, a part may be left behind: then the stream ends there. It is
        never reset, since what arrived before would be lost, and the statsd of npm would die.
        """
        if not _has_room(to, _left(until)):
            raise Stalled
        out = _fitting(packets, to.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 8)
        to.settimeout(_left(until))
        try:
            to.sendall(b"\n".join([*packets[:out], b""]))
        except TimeoutError as error:
            raise Stalled(whole=False) from error
        return out


def _fitting(packets: list[bytes], size: int) -> int:
    """How many of the packets are no larger together; at least one."""
    return max(1, sum(1 for _ in takewhile(size.__ge__, accumulate(map(len, packets)))))


def _has_room(stream: socket.socket, seconds: float) -> bool:
    """Whether a stream takes more within that time, or has an error to tell."""
    ready = select.poll()
    ready.register(stream, select.POLLOUT)
    return bool(ready.poll(1000 * seconds))


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
        raise TimeUp("took too long")
    return min(PATIENCE, left)


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
    found = re.fullmatch(_PLACE, url)
    port = int(found[3] or _STATSD_PORT) if found else 0
    if not found or not 0 < port < 65536:
        raise ShipError(f"{url}: must name a host and a port from 1 to 65535")
    return found[1] or found[2], port
