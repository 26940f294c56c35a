"""Runs a target's ``password_command``."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import time
from contextlib import suppress

from pgstats.errors import AskError

#: Bytes that a command may print: any token fits, and a program that never ends is noticed.
_MOST = 65536
BY_HAND = "run it by hand as the user pgstats runs as"


def output(command: str, until: float) -> tuple[bytes, str]:
    """What a command prints, and what to call it. What it writes to standard error is left unread.

    It may be a secret too; neither do we wait for programs that are left behind and still hold it.
    """
    words = shlex.split(command)
    name = f"password_command {words[0]}"
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise AskError("password", "auth", f"{name}: {text}") from error
    found = _hear(process, name, until)
    if process.returncode:
        raise AskError(
            "password",
            "auth",
            f"{name} ended with exit code {process.returncode}",
            BY_HAND,
        )
    return found, name


def _hear(process: subprocess.Popen[bytes], name: str, until: float) -> bytes:
    """All that a command prints; whatever ends the wait early ends the command's children too."""
    try:
        found = _read_all(process, until)
        process.wait(max(0.1, until - time.monotonic()))
    except BaseException as error:
        _end(process)
        if isinstance(error, (TimeoutError, subprocess.TimeoutExpired)):
            text = f"{name}: took too long"
            cure = "it must print the password well before the target's timeout; run it by hand"
            raise AskError("password", "timeout", text, cure) from error
        raise
    if len(found) > _MOST:
        raise AskError("password", "auth", f"{name}: prints more than {_MOST} bytes", BY_HAND)
    return found


def _read_all(process: subprocess.Popen[bytes], until: float) -> bytes:
    """What it prints until it closes its output; of too much only the beginning."""
    assert process.stdout
    line, found = process.stdout.fileno(), b""
    poll = select.poll()
    poll.register(line, select.POLLIN)
    while len(found) <= _MOST:
        if not poll.poll(1000 * max(0.1, until - time.monotonic())):
            raise TimeoutError
        if not (more := os.read(line, _MOST + 1 - len(found))):
            process.stdout.close()
            return found
        found += more
    _end(process)
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its children; one that became another user cannot be waited for."""
    if process.stdout:
        process.stdout.close()
    with suppress(OSError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(1.0)
