"""Looks a host name up within a time limit; the system's resolver knows none."""

from __future__ import annotations

import socket
import threading
import time

from pgstats.threads import Hand

#: Seconds after which nobody waits for the same look-up any more.
GIVEN_UP = 60.0


class LookupFailed(OSError):
    """The name has no address, or finding it took too long."""


class _Search:
    """One look-up, in a thread of its own."""

    def __init__(self, host: str, port: int, kind: socket.SocketKind) -> None:
        self.found: list[str] = []
        self.fault: OSError | None = None
        self._question = host, port, kind
        self.hand = Hand(self._run)

    @property
    def hangs(self) -> bool:
        """Whether it still waits, and not so long that it has to be given up."""
        return self.hand.alive and time.monotonic() - self.hand.since < GIVEN_UP

    def _run(self) -> None:
        host, port, kind = self._question
        try:
            answers = socket.getaddrinfo(host, port, type=kind)
        except OSError as error:
            self.fault = error.with_traceback(None)  # whose frame holds us
        except UnicodeError:  # "a..b", or a part longer than 63 bytes
            self.fault = OSError("no host can have such a name")
        else:
            self.found.extend(dict.fromkeys(str(address[0]) for *_, address in answers))


class _Searches:
    """The look-ups under way: who asks for what is being looked up waits for the same answer.

    Else each poll would leave another thread behind while a name server is silent.
    """

    def __init__(self) -> None:
        self._running: dict[tuple[str, int, int], _Search] = {}
        self._lock = threading.Lock()

    def of(self, host: str, port: int, kind: socket.SocketKind) -> _Search:
        """The search for a host that runs already, or a new one."""
        key = (host, port, kind)
        with self._lock:
            self._running = {k: search for k, search in self._running.items() if search.hangs}
            if key not in self._running:
                self._running[key] = _Search(host, port, kind)
            return self._running[key]


_SEARCHES = _Searches()


def addresses(host: str, port: int, kind: socket.SocketKind, seconds: float) -> list[str]:
    """The addresses of a host, best first.

    The look-up runs in a thread that is left behind when it takes too long.
    """
    search = _SEARCHES.of(host, port, kind)
    if not search.hand.wait(seconds):
        raise LookupFailed(f"looking up {host} took too long")
    if search.fault:
        text = search.fault.strerror or str(search.fault)
        raise LookupFailed(f"cannot look up {host}: {text}") from search.fault
    return list(search.found)


def is_name(host: str) -> bool:
    """Whether a host has to be looked up: it is neither empty, nor an address, nor a path."""
    if not host or host.startswith(("/", "@")):
        return False
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError):
            continue
        return False
    return True
