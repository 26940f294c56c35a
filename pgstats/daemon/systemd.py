"""What systemd is told: the datagrams of sd_notify(3)."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from math import inf


class Systemd:
    """The service manager at the other end of $NOTIFY_SOCKET; without one nothing is sent."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        #: Seconds between two signs of life: half of what the watchdog grants; infinity without.
        self.pulse = _watchdog(environ, pid) / 2 if self._address else inf

    def send(self, *lines: str) -> None:
        """Sends assignments such as READY=1 in one datagram, and never blocks over it."""
        if not self._address.startswith(("/", "@")):
            return
        address = self._address.replace("@", "\0", 1) if self._address[0] == "@" else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto("\n".join(lines).encode(), address)


def _watchdog(environ: Mapping[str, str], pid: int) -> float:
    """The seconds that systemd's watchdog grants this process; infinity when it has none."""
    meant = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
    granted = environ.get("WATCHDOG_USEC", "")
    return int(granted) / 1e6 if meant and granted.isdecimal() and int(granted) else inf
