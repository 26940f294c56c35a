"""A statsd receiver for eyes: shows what arrives and counts what does not.

It understands the lines of every dialect and keeps the last value of every series. It listens on
udp (IPv4 and IPv6), tcp, unix (stream) or unixgram, and is driven by `receive`, or by a thread of
its own between `start` and `stop`.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TextIO
from urllib.parse import urlsplit

from pgstats.errors import ConfigError, ShipError
from pgstats.printing import escaped

#: A series: its name and its tags in order of their keys.
Series = tuple[str, tuple[tuple[str, str], ...]]

_KINDS = ("g", "c", "ms", "h", "d", "s")  # of statsd and dogstatsd
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_BUFFER = 4 << 20  # bytes asked of the kernel: a poll of 100,000 lines while we are not looking
_LARGEST = 1 << 16  # bytes: no datagram is longer
_BURST = 64  # packets taken from one socket before the others have their turn


@dataclass(frozen=True, slots=True)
class Line:
    """One line, parsed: ``value`` as it was sent, so that a sign is still seen."""

    series: Series
    value: str
    kind: str
    rate: float = 1.0


def series(name: str, tags: Mapping[str, str] | None = None) -> Series:
    """The key of a series in `Sink.values`."""
    return name, tuple(sorted((tags or {}).items()))


def parse(text: str) -> Line | None:
    """Read a line of any dialect; None when no statsd would take it for a metric."""
    head, _, rest = text.partition(":")
    value, *fields = rest.split("|")
    name, tags = _split_head(head)
    if not name or not fields or fields[0] not in _KINDS:
        return None
    if fields[0] != "s" and not _NUMBER.fullmatch(value):
        return None
    rate = 1.0
    for extra in fields[1:]:
        if extra.startswith("#"):
            tags |= _pairs(extra[1:].split(","), ":")
        elif extra.startswith("@") and _NUMBER.fullmatch(extra[1:]):
            rate = float(extra[1:])
    return Line(series(name, tags), value, fields[0], rate)


def _split_head(head: str) -> tuple[str, dict[str, str]]:
    """Name and tags of graphite's ``name;k=v`` and influx' ``name,k=v``."""
    name, *tags = head.split(";" if ";" in head else ",")
    return name, _pairs(tags, "=")


def _pairs(tags: list[str], between: str) -> dict[str, str]:
    parts = (tag.partition(between) for tag in tags if tag)
    return {key: value for key, _, value in parts}


class Sink:
    """A statsd server on one socket. ``url`` holds the real port once it is open.

    ``values`` maps each series to its last value: gauges (signed values move them), counters
    (summed), timings (the last one). Thread-safe through `snapshot` and `wait`.
    """

    def __init__(self, url: str = "udp://127.0.0.1:0") -> None:
        self.values: dict[Series, float] = {}
        self.lines = self.packets = self.bytes = self.bad_lines = 0
        self._lost = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._partial: dict[socket.socket, bytes] = {}
        self._socket = _listen(url)
        self._stream = self._socket.type == socket.SOCK_STREAM
        self.url = _url_of(self._socket, url)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)

    # ---- receiving

    def receive(self, seconds: float) -> list[str]:
        """The lines of what arrives next, none when nothing does within that time."""
        texts: list[str] = []
        for key, _ in self._selector.select(seconds):
            assert isinstance(key.fileobj, socket.socket)
            for packet in self._read(key.fileobj):
                texts += self._absorb(packet)
        return texts

    def _read(self, ready: socket.socket) -> Iterator[bytes]:
        if not self._stream:
            yield from _datagrams(ready)
        elif ready is self._socket:
            self._accept()
        else:
            yield self._read_stream(ready)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            connection, _ = self._socket.accept()
            connection.setblocking(False)
            self._partial[connection] = b""
            self._selector.register(connection, selectors.EVENT_READ)

    def _read_stream(self, connection: socket.socket) -> bytes:
        """The whole lines that a stream has for us; at its end (or without any) all there is."""
        try:
            data = connection.recv(_LARGEST)
        except BlockingIOError:
            return b""
        except ConnectionError:
            data = b""
        whole, newline, rest = (self._partial[connection] + data).rpartition(b"\n")
        if not data or len(rest) > _LARGEST:
            self._drop(connection)
            return whole + newline + rest
        self._partial[connection] = rest
        return whole + newline

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._partial[connection]
        connection.close()

    def _absorb(self, packet: bytes) -> list[str]:
        """Count a packet and take over its values."""
        texts = [text for text in packet.decode("utf-8", "backslashreplace").split("\n") if text]
        if packet:
            with self._changed:
                self.packets += 1
                self.bytes += len(packet)
                self.lines += len(texts)
                for text in texts:
                    self._take(parse(text))
                self._changed.notify_all()
        return texts

    def _take(self, line: Line | None) -> None:
        if line is None:
            self.bad_lines += 1
        elif line.kind != "s":  # the members of a set are no numbers
            self.values[line.series] = self._value_after(line)

    def _value_after(self, line: Line) -> float:
        before, value = self.values.get(line.series, 0.0), float(line.value)
        if line.kind == "c":
            return before + value / (line.rate or 1.0)
        moves = line.kind == "g" and line.value[0] in "+-"
        return before + value if moves else value

    # ---- asking

    @property
    def lost(self) -> int:
        """Packets that the kernel threw away since our buffer was full (known for UDP only)."""
        if self._socket.fileno() >= 0:
            self._lost = _kernel_drops(self._socket)
        return self._lost

    def snapshot(self) -> dict[Series, float]:
        """A copy of all values."""
        with self._changed:
            return dict(self.values)

    def wait(self, fact: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is true of what a running sink received."""
        with self._changed:
            return self._changed.wait_for(fact, seconds)

    def summary(self) -> str:
        """All counts in one line for people."""
        return (
            f"{self.url}: {self.lines} lines in {self.packets} packets, {self.bytes} bytes, "
            f"{len(self.values)} series, {self.bad_lines} bad lines, {self.lost} packets lost"
        )

    # ---- the thread, and the end

    def start(self) -> Self:
        """Receive in a thread until `stop`."""
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)
        self._thread.start()
        return self

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.receive(0.1)

    def stop(self) -> None:
        """End the thread and close everything; the numbers stay."""
        self._stopping.set()
        if self._thread:
            self._thread.join()
        self._lost = self.lost
        for connection in list(self._partial):
            self._drop(connection)
        self._selector.close()
        path = self._socket.getsockname() if self._socket.fileno() >= 0 else ""
        self._socket.close()
        if isinstance(path, str) and path:
            Path(path).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def show(
    sink: Sink, out: TextIO, *, count: int | None = None, seconds: float | None = None
) -> None:
    """Print every line as it arrives: ``count`` lines, or for some seconds, or until a signal."""
    deadline = None if seconds is None else time.monotonic() + seconds
    left = count
    with _interruptible():
        while left != 0 and (deadline is None or time.monotonic() < deadline):
            wait = 60.0 if deadline is None else max(0.0, deadline - time.monotonic())
            texts = sink.receive(wait)[:left]
            out.writelines(f"{escaped(text)}\n" for text in texts)
            out.flush()
            left = None if left is None else left - len(texts)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGINT and SIGTERM end what is inside in peace.

    Both are set: a shell starts background jobs with SIGINT ignored.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _datagrams(ready: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        for _ in range(_BURST):
            yield ready.recv(_LARGEST)


def _listen(url: str) -> socket.socket:
    """A socket bound to that address, its buffer as large as the kernel lets us have."""
    try:
        family, kind, address = _address(url)
        sock = socket.socket(family, kind)
    except ValueError as error:
        raise ConfigError([f"{url}: {error}"]) from error
    except OSError as error:
        raise ShipError(f"{url}: {error}") from error
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    if family != socket.AF_UNIX and kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(address)
        if kind == socket.SOCK_STREAM:
            sock.listen()
    except OSError as error:
        sock.close()
        raise ShipError(f"{url}: cannot listen there: {error.strerror or error}") from error
    return sock


def _address(url: str) -> tuple[socket.AddressFamily, socket.SocketKind, str | tuple[str, int]]:
    parts = urlsplit(url)
    kinds = {"udp": socket.SOCK_DGRAM, "unixgram": socket.SOCK_DGRAM}
    kinds |= {"tcp": socket.SOCK_STREAM, "unix": socket.SOCK_STREAM}
    if parts.scheme not in kinds:
        raise ValueError(
            "expected udp://HOST:PORT, tcp://HOST:PORT, unix:///PATH or unixgram:///PATH"
        )
    kind = kinds[parts.scheme]
    if parts.scheme.startswith("unix"):
        if not parts.path.startswith("/"):
            raise ValueError("expected a path, as in unix:///run/statsd.sock")
        return socket.AF_UNIX, kind, parts.path
    host, port = parts.hostname or "127.0.0.1", 8125 if parts.port is None else parts.port
    family, _, _, _, address = socket.getaddrinfo(host, port, type=kind)[0]
    return family, kind, (str(address[0]), int(address[1]))


def _url_of(sock: socket.socket, url: str) -> str:
    if sock.family == socket.AF_UNIX:
        return url
    host, port = sock.getsockname()[:2]
    host = f"[{host}]" if sock.family == socket.AF_INET6 else host
    return f"{urlsplit(url).scheme}://{host}:{port}"


def _kernel_drops(sock: socket.socket) -> int:
    """The last column of /proc/net/udp for our socket, which its inode tells from others."""
    inode = str(os.fstat(sock.fileno()).st_ino)
    if sock.family == socket.AF_UNIX or sock.type != socket.SOCK_DGRAM:
        return 0
    table = Path("/proc/net/udp6" if sock.family == socket.AF_INET6 else "/proc/net/udp")
    with contextlib.suppress(OSError), table.open(encoding="ascii") as lines:
        return next((int(row[-1]) for row in map(str.split, lines) if row[9] == inode), 0)
    return 0
