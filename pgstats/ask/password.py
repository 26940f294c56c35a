"""Finds the password of a target where the DSN does not hold it."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from pgstats.ask.connection import parse_dsn
from pgstats.errors import AskError
from pgstats.model import PGBOUNCER, Target


def password(target: Target, until: float) -> str:
    """The password from the target's file, command or pgpass file; "" leaves it to libpq."""
    if target.password_file:
        return _read(target.password_file).rstrip("\r\n")
    if target.password_command:
        return _run(target.password_command, until)
    if target.passfile:
        return _look_up(target)
    return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        text = error.strerror if isinstance(error, OSError) else "not a text file"
        raise AskError(
            "password", "auth", f"cannot read {path}: {text}", "make it readable for pgstats"
        ) from error


def _run(command: str, until: float) -> str:
    """The first line a command prints. What it writes to standard error may be a secret too."""
    words = shlex.split(command)
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=max(0.1, until - time.monotonic()),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        slow = isinstance(error, subprocess.TimeoutExpired)
        text = "took too long" if slow else str(getattr(error, "strerror", error))
        raise AskError("password", "auth", f"password_command {words[0]}: {text}") from error
    if done.returncode:
        raise AskError(
            "password",
            "auth",
            f"password_command {words[0]} ended with exit code {done.returncode}",
            "run it by hand as the user pgstats runs as",
        )
    return done.stdout.decode(errors="replace").partition("\n")[0].rstrip("\r")


def _look_up(target: Target) -> str:
    """The first fitting line of a pgpass file, read as libpq reads ~/.pgpass.

    libpq itself refuses the file that newer systemd hands out, since its group may read it.
    """
    given = parse_dsn(target.dsn)
    port = "6432" if target.family == PGBOUNCER else "5432"
    user = given.get("user") or os.environ.get("PGUSER", "")
    defaults = {"host": "localhost", "port": port, "dbname": user, "user": user}
    if target.family == PGBOUNCER:
        defaults["dbname"] = PGBOUNCER
    wanted = [given.get(key) or defaults[key] for key in ("host", "port", "dbname", "user")]
    for *fields, secret in _entries(_read(target.passfile)):
        if all(field in ("*", want) for field, want in zip(fields, wanted, strict=True)):
            return secret
    return ""


def _entries(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line and not line.startswith("#"):
            fields = line.replace(r"\\", "\0").replace(r"\:", "\1").split(":", 4)
            if len(fields) == 5:
                yield [field.replace("\0", "\\").replace("\1", ":") for field in fields]
