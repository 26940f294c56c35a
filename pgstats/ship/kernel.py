"""What the kernel knows of a receiver on this machine: Linux tells everybody, by way of /proc."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

_TABLES = {4: Path("/proc/net/udp"), 6: Path("/proc/net/udp6")}
_ADDRESS, _DROPS = 1, -1  # columns


def drops(address: str, port: int) -> int | None:
    """Datagrams that did not fit into the buffer of the receiver bound there, since it was bound.

    None where that cannot be known: it is on another machine, or not there.
    """
    host = address.partition("%")[0]
    if not ip_address(host).is_loopback:
        return None
    for name in _bound_as(host):
        if found := _dropped(name, port):
            return sum(found)
    return None


def _bound_as(host: str) -> list[str]:
    """Where a datagram to that address arrives: at the first of these that is bound."""
    return [host, "::"] if ":" in host else [host, "0.0.0.0", f"::ffff:{host}", "::"]  # noqa: S104


def _dropped(address: str, port: int) -> list[int]:
    """What each socket bound to that very address and port has lost."""
    wanted = f"{_hexed(address)}:{port:04X}"
    table = _TABLES[ip_address(address).version]
    with suppress(OSError), table.open(encoding="ascii") as lines:
        rows = map(str.split, lines)
        return [int(row[_DROPS]) for row in rows if row[_ADDRESS] == wanted]
    return []


def _hexed(address: str) -> str:
    """An address as the kernel's tables have it: words of 32 bits in the machine's order."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
