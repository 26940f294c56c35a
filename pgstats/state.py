"""The state file: so far its lock, which keeps runs from piling up."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgstats.errors import StateError, StateLocked


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the lock of a state file; "" is no file and no lock.

    Raises `StateLocked` at once when another run holds it and says who, and `StateError` when
    the place cannot be written to. The kernel lets go of the lock when its holder ends, however
    that happens, so that the file may stay.
    """
    if not path:
        yield
        return
    descriptor = _open(Path(f"{path}.lock"))
    try:
        _take(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"no state: cannot write {path}: {error.strerror}") from error


def _take(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        raise StateLocked(
            f"another run (pid {holder}) holds the state file {path}; nothing was polled "
            "(--no-state runs beside it)"
        ) from error
