"""Looks a host name up within a time limit; the system's resolver knows none."""

from __future__ import annotations

import socket
import threading


class LookupFailed(OSError):
    """The name has no address, or finding it took too long."""


def addresses(host: str, port: int, kind: socket.SocketKind, seconds: float) -> list[str]:
    """The addresses of a host, best first.

    The look-up runs in a thread that is left behind when it takes too long.
    """
    found: list[str] = []
    fault: list[OSError] = []

    def work() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=kind)
        except OSError as error:
            fault.append(error)
        except UnicodeError:  # "a..b", or a part longer than 63 bytes
            fault.append(OSError("no host can have such a name"))
        else:
            found.extend(dict.fromkeys(str(address[0]) for *_, address in answers))

    thread = threading.Thread(target=work, name="look-up", daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    if thread.is_alive():
        raise LookupFailed(f"looking up {host} took too long")
    if fault:
        text = fault[0].strerror or str(fault[0])
        raise LookupFailed(f"cannot look up {host}: {text}") from fault[0]
    return found


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
