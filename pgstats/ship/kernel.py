"""What the kernel knows of a receiver on this machine: Linux tells everybody, by way of /proc."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress

_TABLES = {4: "/proc/net/udp", 16: "/proc/net/udp6"}  # by the bytes of an address
_ADDRESS, _QUEUES, _DROPS = 1, 4, -1  # columns


def drops(address: str, port: int) -> int | None:
    """Datagrams that did not fit into the buffer of the receiver bound there, since it was bound.

    None where that cannot be known: it is on another machine, or not there.
    """
    found = _receivers(address, port)
    return sum(int(row[_DROPS]) for row in found) if found else None


def unread(address: str, port: int) -> int:
    """Bytes that wait in the buffer of the receiver bound there, 0 where that cannot be known."""
    return sum(int(row[_QUEUES].partition(":")[2], 16) for row in _receivers(address, port))


def _receivers(address: str, port: int) -> list[list[str]]:
    """The kernel's rows on the sockets that a datagram to that loopback address reaches."""
    host = address.partition("%")[0]
    if not _loops(_packed(host)):
        return []
    return next(filter(None, (_bound(name, port) for name in _bound_as(host))), [])


def _bound_as(host: str) -> list[str]:
    """Where a datagram to that address arrives: at the first of these that is bound."""
    return [host, "::"] if ":" in host else [host, "0.0.0.0", f"::ffff:{host}", "::"]  # noqa: S104


def _bound(address: str, port: int) -> list[list[str]]:
    """The rows on the sockets bound to that very address and port."""
    packed = _packed(address)
    wanted = f"{_hexed(packed)}:{port:04X}"
    with suppress(OSError), open(_TABLES[len(packed)], encoding="ascii") as lines:
        return [row for row in map(str.split, lines) if row[_ADDRESS] == wanted]
    return []


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _loops(packed: bytes) -> bool:
    """Whether an address means the machine that it is said on."""
    return packed[0] == 127 if len(packed) == 4 else packed == bytes(15) + b"\1"


def _hexed(packed: bytes) -> str:
    """An address as the kernel's tables have it: words of 32 bits in the machine's order."""
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
