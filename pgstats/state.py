"""What pgstats remembers between polls: in memory, and in a file that outlives the process.

The file is replaced whole by a rename, so that whoever reads it, and a kill at any moment, finds
the old one or the new one. Its first line holds the version of the format and a checksum of the
rest: what passes that is what pgstats wrote, and all else is told and left behind. So nobody who
uses the memory has to distrust it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import stat
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pgstats.errors import StateError, StateLocked
from pgstats.model import Target

#: Bytes of a state file: the labels of about a million series.
LARGEST = 64 << 20

_VERSION = 1
_HEAD = rb"pgstats state ([0-9]{1,9}) ([0-9a-f]{8})\n"

Memory = dict[str, Any]
_Key = tuple[str, str, str]


class _Entry:
    """What is remembered of one target, and the file that listed it when it was last polled."""

    def __init__(
        self,
        family: str,
        name: str,
        peer: str = "",
        identity: str = "",
        inventory: str = "",
        tags: Mapping[str, str] | None = None,
        memory: Memory | None = None,
        sent: Memory | None = None,
    ) -> None:
        self.family = family
        self.name = name
        self.peer = peer
        self.identity = identity
        self.inventory = inventory
        self.tags = tags or {}
        self.memory = memory or {}
        self.sent = sent or {}


class State:
    """What is remembered of each target, as plain data for JSON; with no path it stays in memory.

    Whoever reads or changes a memory holds ``lock``. ``fault`` says why a file that was there
    could not be used, "" if nothing is wrong. ``largest`` limits the file, in bytes.
    """

    def __init__(self, path: str = "", *, largest: int = LARGEST) -> None:
        self.fault = ""
        self.lock = threading.RLock()
        self._path, self._largest = path, largest
        self._entries: dict[_Key, _Entry] = {}  # the one used last is the last
        # The same by family and name: among hundreds of targets nobody looks through all.
        self._processes: defaultdict[tuple[str, str], dict[_Key, _Entry]] = defaultdict(dict)
        self._strays = False  # entries may be there of targets that are not expected
        self._inventory = ""
        self._expected: set[tuple[str, str]] = set()
        self._saving = threading.Lock()
        self._saved = -math.inf

    def of(self, target: Target, identity: str = "") -> Memory:
        """What is remembered of a target's server; nothing when another one answers now.

        ``identity`` is "" where it is unknown this time.
        """
        entry = self._entry(target)
        if identity and entry.identity not in ("", identity):
            entry.memory = {}
        entry.identity = identity or entry.identity
        return entry.memory

    def memories(self, target: Target) -> list[Memory]:
        """What is remembered of a target, and of each process behind its port."""
        there = self._processes.get((target.family, target.name), {})
        return [entry.memory for entry in there.values()]

    def sent(self, target: Target) -> Memory:
        """What is remembered of what was shipped under a target's name, whoever answered."""
        return self._entry(target).sent

    def expect(self, targets: Iterable[Target], inventory: str) -> None:
        """Note the targets there are now, and the file that lists them.

        Who lists targets elsewhere ("") says nothing about those that were listed in a file, nor
        does one file about another's.
        """
        with self.lock:
            self._expected = {(target.family, target.name) for target in targets}
            self._inventory = inventory
            self._strays = True

    def lost(self, polled: Iterable[Target] = ()) -> list[tuple[Target, Memory]]:
        """What was shipped of targets that have left the file; it is handed over and forgotten.

        Where the processes behind a port were ``polled``, those that are no more among them are
        lost as well.
        """
        there = {_key(target) for target in polled if target.peer}
        lost = {
            key
            for group in {key[:2] for key in there}
            for key, entry in self._processes[group].items()
            if entry.peer and key not in there
        }
        if self._strays:
            lost |= {
                key
                for key, entry in self._entries.items()
                if entry.inventory == self._inventory != "" and key[:2] not in self._expected
            }
            self._strays = False
        entries = [self._drop(key) for key in sorted(lost)]
        return [(Target(e.family, e.name, "", tags=e.tags, peer=e.peer), e.sent) for e in entries]

    def save(self, every: float = 0.0) -> bool:
        """Write the file, unless that was tried less than ``every`` seconds ago; says whether.

        Raises `StateError` when it cannot be written, or when not all of it fits.
        """
        # Only the end of the process waits for another thread that is writing.
        if not self._path or not self._saving.acquire(blocking=not every):
            return False
        try:
            due = time.monotonic() - self._saved >= every
            if due:
                self._saved = time.monotonic()
                self._write()
            return due
        finally:
            self._saving.release()

    def load(self, path: str) -> None:
        """Read a file; one that cannot be used leaves nothing but the `fault`."""
        try:
            entries = _entries(_payload(_read(path, self._largest)))
        except FileNotFoundError:
            return
        except (OSError, ValueError, StateError) as error:
            why = getattr(error, "strerror", None) or str(error)
            self.fault = f"{path}: {why}; starting without what was remembered"
        else:
            for entry in entries:
                self._keep((entry.family, entry.name, entry.peer), entry)

    def _entry(self, target: Target) -> _Entry:
        key = _key(target)
        entry = self._entries.pop(key, None) or _Entry(*key)
        entry.tags, entry.inventory = dict(target.tags), self._inventory
        self._keep(key, entry)
        return entry

    def _keep(self, key: _Key, entry: _Entry) -> None:
        self._entries[key] = self._processes[key[:2]][key] = entry
        self._strays |= key[:2] not in self._expected

    def _drop(self, key: _Key) -> _Entry:
        del self._processes[key[:2]][key]
        return self._entries.pop(key)

    def _write(self) -> None:
        texts, left_out = self._texts()
        payload = f"[{','.join(texts)}]\n".encode()
        head = f"pgstats state {_VERSION} {zlib.crc32(payload):08x}\n"
        try:
            _replace(self._path, head.encode() + payload)
        except OSError as error:
            raise _unwritable(self._path, error) from error
        if left_out:
            names = ", ".join(left_out)
            text = f"{self._path}: more than {self._largest} bytes; nothing is remembered of"
            raise StateError(f"{text} {names} (fewer tables or targets would fit)")

    def _texts(self) -> tuple[list[str], list[str]]:
        """The entries as JSON, and the names of those that are too large.

        Those used last come first, so that what is long gone makes room.
        """
        room, texts, left_out = self._largest, [], []
        with self.lock:
            for entry in reversed(self._entries.values()):
                text = json.dumps(vars(entry), separators=(",", ":"))
                if len(text) < room:
                    room -= len(text) + 1
                    texts.append(text)
                else:
                    left_out.append(entry.name)
        return texts[::-1], left_out


def _key(target: Target) -> _Key:
    return target.family, target.name, target.peer


@contextmanager
def held(path: str) -> Iterator[State]:
    """The state of a file that nobody else uses meanwhile; "" is no file and no lock.

    Raises `StateLocked` at once when another run holds it and says who, and `StateError` when
    the place cannot be written to. The kernel lets go of the lock when its holder ends, however
    that happens, so that the lock's file may stay.
    """
    if not path:
        yield State()
        return
    descriptor = _open(path)
    try:
        _take(descriptor, path)
        state = State(path)
        state.load(path)
        yield state
    finally:
        os.close(descriptor)


def glanced(path: str) -> State:
    """The state of a file as it is now: for who changes nothing and so needs no lock."""
    state = State()
    if path:
        state.load(path)
    return state


def _open(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        if not stat.S_ISREG(_mode(path)):  # /dev/null would be replaced like any file
            raise OSError(errno.EEXIST, "this is not a regular file")
        return os.open(f"{path}.lock", flags, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from error


def _mode(path: str) -> int:
    """What kind of thing is there; nothing counts as a file to be."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return stat.S_IFREG


def _unwritable(path: str, error: OSError) -> StateError:
    return StateError(
        f"cannot write {path}: {error.strerror}; nothing is remembered for the next run "
        "(see state in the configuration; --no-state does without)"
    )


def _take(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        raise StateLocked(
            f"another run (pid {holder}) holds the state file {path}; nothing was polled "
            "(--no-state runs beside it)"
        ) from error
    except OSError as error:  # a file system without locks
        raise _unwritable(path, error) from error
    with suppress(OSError):  # on a full disk the lock holds without a name
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())


def _read(path: str, largest: int) -> bytes:
    """The bytes of a regular file, its first line included; anything else might never end."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > largest + 100:
            raise StateError("not a state file of pgstats")
        return file.read()


def _payload(data: bytes) -> bytes:
    """What follows the first line, if that vouches for it."""
    head = re.match(_HEAD, data)
    if not head:
        raise StateError("not a state file of pgstats")
    if int(head[1]) != _VERSION:
        raise StateError(f"written by another version of pgstats (format {int(head[1])})")
    payload = data[head.end() :]
    if zlib.crc32(payload) != int(head[2], 16):
        raise StateError("damaged")
    return payload


def _entries(payload: bytes) -> list[_Entry]:
    """What stands in the file; another version may have kept other things of a target."""
    try:
        return [_Entry(**entry) for entry in json.loads(payload)]
    except TypeError as error:
        raise StateError("written by another version of pgstats") from error


def _replace(path: str, data: bytes) -> None:
    """Put a file in the place of another one, all of it or nothing."""
    fresh = f"{path}.new"
    try:
        _fill(fresh, data)
        os.replace(fresh, path)
    except OSError:
        with suppress(OSError):
            os.unlink(fresh)
        raise


def _fill(path: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)  # one that a kill left behind may have been anybody's
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
