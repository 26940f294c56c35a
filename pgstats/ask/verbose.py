"""Has libpq tell why a login failed in a form that knows no languages.

A server tells in its own language (lc_messages) that it is full, and psycopg2 passes on nothing
else of a failed login. With libpq's PQsetErrorVerbosity the text holds the SQLSTATE as well.
psycopg2 hands out the pointer that this takes; where its libpq cannot be reached, the text has to
do.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

from pgstats.ask.dsn import psycopg2

_DEFAULT, _VERBOSE = 1, 2

#: "FATAL:  53300: sorry, too many clients already", whatever the language of all its words.
_STATE = r":  ([0-9A-Z]{5}): "
#: "LOCATION:  InitProcess, proc.c:357"
_LOCATION = r"(?m)^\S+:\s+\w+, \S+\.c:\d+\n?"


def _switch() -> Any:
    """Libpq's function, as psycopg2's own module has it loaded."""
    try:
        switch = ctypes.PyDLL(psycopg2._psycopg.__file__).PQsetErrorVerbosity
    except (OSError, AttributeError):
        return None
    switch.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return switch


_SWITCH = _switch()


def more(raw: Any) -> None:
    """Have errors hold their SQLSTATE from now on: while logging in."""
    _set(raw, _VERBOSE)


def usual(raw: Any) -> None:
    """Have errors be as usual: psycopg2 knows the SQLSTATE of a statement that fails."""
    _set(raw, _DEFAULT)


def _set(raw: Any, verbosity: int) -> None:
    if _SWITCH and (pointer := raw.pgconn_ptr):
        _SWITCH(pointer, verbosity)


def parted(text: str) -> tuple[str, str]:
    """A message as it would usually be, and its SQLSTATE, "" if it has none."""
    found = re.search(_STATE, text)
    if not found:
        return text, ""
    return re.sub(_LOCATION, "", re.sub(_STATE, ":  ", text, count=1)), found[1]
