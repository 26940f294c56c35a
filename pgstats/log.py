"""What the person who runs pgstats is told on standard error: one line for each event.

Not the standard library's logging: importing that alone costs a one-shot command 20 ms.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock

from pgstats.printing import escaped

ERROR, WARNING, NOTICE, INFO, DEBUG = 3, 4, 5, 6, 7  # the priorities of syslog

NAMES = {ERROR: "error", WARNING: "warning", NOTICE: "notice", INFO: "info", DEBUG: "debug"}

#: The least urgent priority that each verbosity shows.
VERBOSITY = {"quiet": ERROR, "normal": INFO, "verbose": DEBUG}

#: Characters of a line, so that it fits into a pipe in one piece (4096 bytes).
LONGEST = 1000

_DIGITS = str.maketrans("", "", "0123456789")


class Log:
    """Writes events as lines, from any thread.

    ``daemon`` adds a UTC time stamp, and drops lines while nobody takes them: a full pipe must
    not stop the polls. Under systemd's journal every line starts with its priority instead of
    the time. ``form`` is text, or json: an object a line. ``wall`` and ``monotonic`` are clocks in
    seconds.
    """

    def __init__(
        self,
        verbosity: str,
        environ: Mapping[str, str],
        *,
        daemon: bool = False,
        form: str = "text",
        descriptor: int = 2,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = VERBOSITY[verbosity]
        self._journal = _is_journal(descriptor, environ.get("JOURNAL_STREAM", ""))
        self._daemon, self._json, self._descriptor = daemon, form == "json", descriptor
        self._wall, self._monotonic = wall, monotonic
        self._faults: dict[str, tuple[str, float]] = {}  # key: the fault, since when
        self._patience = 0.5  # seconds to wait for somebody to take a line
        self._lock = Lock()

    def tell(self, level: int, text: str) -> None:
        """Writes one event, unless the verbosity hides its priority."""
        if self.hears(level):
            line = f"{self._head(level)}{self._body(level, text)}\n".encode()
            with self._lock, suppress(OSError):  # a log that is gone is no reason to end
                self._write(line)

    def hears(self, level: int) -> bool:
        """Whether events of that priority are written: what is costly to say may be left unsaid."""
        return level <= self._most

    def state(self, key: str, fault: str, level: int = ERROR) -> None:
        """Tells a fault when it appears or becomes another, and when it is gone ("").

        A fault that differs only in its numbers ("timeout after 8.01 s") is the same.
        """
        now = self._monotonic()
        with self._lock:
            before, since = self._faults.pop(key, ("", now))
            if fault:
                self._faults[key] = fault, since
        if _gist(fault) != _gist(before):
            self.tell(*((level, f"{key}: {fault}") if fault else (NOTICE, _well(key, now - since))))

    def _head(self, level: int) -> str:
        """What stands before the text."""
        if self._journal:
            return f"<{level}>"
        return f"{self._stamp()} " if self._daemon and not self._json else ""

    def _stamp(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._wall()))

    def _body(self, level: int, text: str) -> str:
        if not self._json:
            return printable(text)
        import json  # noqa: PLC0415 - only for those who want it

        event = {"time": self._stamp(), "level": NAMES[level], "message": printable(text)}
        return json.dumps(event)

    def _write(self, line: bytes) -> None:
        """Writes all of a line; a daemon only if it is taken soon, and waits for that once."""
        if self._daemon:
            taken = select.select([], [self._descriptor], [], self._patience)[1]
            self._patience = 0.5 if taken else 0.0
            if not taken:
                return
        while line:
            line = line[os.write(self._descriptor, line) :]


def printable(text: str) -> str:
    """One line that cannot move a terminal's cursor: folded, escaped, cut to a fair length."""
    line = escaped(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]} [...]"


def duration(seconds: float) -> str:
    """A time span for people: "41 s", "3 min 20 s", "3 h 12 min", "2 d 4 h"."""
    whole, unit, part, finer = int(seconds), "s", 0, ""
    for larger, factor in (("min", 60), ("h", 60), ("d", 24)):
        if whole < factor:
            break
        (whole, part), unit, finer = divmod(whole, factor), larger, unit
    return f"{whole} {unit} {part} {finer}" if part else f"{whole} {unit}"


def _gist(fault: str) -> str:
    """A fault without its numbers, unless they are all there is."""
    return fault.translate(_DIGITS) or fault


def _well(key: str, seconds: float) -> str:
    """Says that a fault is gone."""
    return f"{key}: well again after {duration(seconds)}"


def _is_journal(descriptor: int, stream: str) -> bool:
    """Whether the descriptor is the one systemd names in $JOURNAL_STREAM as device:inode."""
    if not stream:
        return False
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"
