"""Where `pgstats status` asks: a unix socket in the runtime folder.

Whoever connects is sent one document and hung up on; nothing is ever read. A thread of its own
does that, one visitor after the other, each within `PATIENCE`: a visitor that reads nothing keeps
other visitors waiting, and nobody else.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from pgstats.errors import DeskError

#: Seconds that a visitor may take, and that the daemon may take to answer one.
PATIENCE = 2.0

_NAME = "status.sock"
_SYSTEM = "/run/pgstats"


def doors(environ: Mapping[str, str]) -> list[Path]:
    """Where the socket may be: a daemon opens it at the first of them.

    systemd names the folder of a service; else it is the user's own, then the system's.
    """
    if own := environ.get("RUNTIME_DIRECTORY", ""):
        folders = [own.partition(":")[0]]
    else:
        home = environ.get("XDG_RUNTIME_DIR", "")
        folders = [*([f"{home}/pgstats"] if home else []), _SYSTEM]
    return [Path(folder, _NAME) for folder in folders]


def visit(environ: Mapping[str, str]) -> str:
    """The document of the daemon that answers; raises `DeskError` where none does."""
    faults = []
    for door in doors(environ):
        try:
            with _knock(door) as line, line.makefile("rb") as stream:
                if text := stream.read():
                    return text.decode()
            faults.append(f"{door}: the daemon hung up without an answer")
        except OSError as error:
            faults.append(f"{door}: {error.strerror or error}")
    raise DeskError(f"no daemon answers: {'; '.join(faults)}")


class Desk:
    """Answers visitors with what ``document`` returns, "" for nothing, until closed."""

    def __init__(self, door: Path, document: Callable[[], str]) -> None:
        self._door = door
        self._document = document
        self._closed = False
        self._listener = _opened(door)
        threading.Thread(target=self._serve, name="desk", daemon=True).start()

    def close(self) -> None:
        """Take the socket away; visitors meet nobody from now on."""
        self._closed = True
        with suppress(OSError):
            self._door.unlink()
        with suppress(OSError):  # ends the wait for visitors
            self._listener.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        while not self._closed:
            try:
                visitor, _ = self._listener.accept()
            except OSError:
                time.sleep(1.0)  # out of descriptors: the next visitor may have more luck
                continue
            with visitor, suppress(OSError):
                visitor.settimeout(PATIENCE)
                visitor.sendall(self._document().encode(errors="replace"))


def _opened(door: Path) -> socket.socket:
    """A listening socket that nobody but its owner can use; one that is left over is replaced."""
    with suppress(OSError), _knock(door):
        raise DeskError(f"another daemon answers at {door}")
    listener = socket.socket(socket.AF_UNIX)
    try:
        door.parent.mkdir(mode=0o700, exist_ok=True)
        door.unlink(missing_ok=True)
        _bind(listener, door)
        listener.listen()
    except OSError as error:
        listener.close()
        raise DeskError(f"cannot listen at {door}: {error.strerror or error}") from error
    return listener


def _bind(listener: socket.socket, door: Path) -> None:
    """Make the socket's file, which is its owner's alone from the beginning."""
    before = os.umask(0o177)
    try:
        listener.bind(str(door))
    finally:
        os.umask(before)


def _knock(door: Path) -> socket.socket:
    """A connection to whoever listens there."""
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(2 * PATIENCE)
    try:
        line.connect(str(door))
    except OSError:
        line.close()
        raise
    return line
