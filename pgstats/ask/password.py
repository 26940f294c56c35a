"""Finds the password of a target where the DSN does not hold it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping

from pgstats.errors import AskError, kept
from pgstats.model import Target

#: Folders of the unix socket that libpq may have as its default, and then calls localhost.
_LOCALHOST = ("", "/var/run/postgresql", "/run/postgresql", "/tmp")  # noqa: S108


class Secret:
    """A target's password, asked for when a connection first needs it, and then remembered.

    So is a failure: a command that failed is not run again for the next database.
    """

    def __init__(self, target: Target, until: float) -> None:
        self._target = target
        self._until = until
        self._found: str | None = None
        self._fault: AskError | None = None
        self._lock = threading.Lock()

    def of(self, given: Mapping[str, str]) -> str:
        """The password for a connection with those parameters of libpq; "" leaves it to libpq."""
        with self._lock:
            if self._found is None and self._fault is None:
                try:
                    self._found = _fetch(self._target, self._until)
                except AskError as error:
                    self._fault = kept(error)
        if self._fault:
            fault = self._fault  # a new one for each, since whoever catches it may add to it
            raise AskError(fault.stage, fault.reason, str(fault), fault.remedy) from fault
        if self._target.passfile and not self._found and not given.get("password"):
            return _look_up(self._target.passfile, given)
        return self._found or ""


def _fetch(target: Target, until: float) -> str:
    if target.password_file:
        return _read(target.password_file).rstrip("\r\n")
    if target.password_command:
        from pgstats.ask.command import BY_HAND, output  # noqa: PLC0415 - subprocess costs every start

        said, name = output(target.password_command, until)
        source = f"the output of {name}"
        if found := _text(said.partition(b"\n")[0], source).rstrip("\r"):
            return found
        raise AskError("password", "auth", f"{source} begins with no password", BY_HAND)
    return ""


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return _text(file.read(), path)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError)
        cure = "write it, or name another path" if gone else "make it readable for pgstats"
        fault = f"cannot read {path}: {error.strerror}"
        raise AskError("password", "auth", fault, cure) from error


def _text(found: bytes, source: str) -> str:
    """What libpq can send as a password."""
    try:
        text = found.decode()
    except UnicodeDecodeError as error:
        raise AskError("password", "auth", f"{source}: not UTF-8 text") from error
    if "\0" in text:
        raise AskError("password", "auth", f"{source} holds a NUL character")
    return text


def _look_up(path: str, given: Mapping[str, str]) -> str:
    """The first fitting line of a pgpass file, read as libpq reads ~/.pgpass.

    libpq itself refuses the file that newer systemd hands out, since its group may read it.
    """
    host = given.get("host") or given.get("hostaddr", "")
    hosts = {host, "localhost"} if host in _LOCALHOST else {host}
    rest = (given.get("port") or "5432", given.get("dbname", ""), given.get("user", ""))
    wanted = (hosts, *({value} for value in rest))
    for *fields, secret in _entries(_read(path)):
        if all(f == "*" or _plain(f) in want for f, want in zip(fields, wanted, strict=True)):
            return _plain(secret)
    return ""


_ENTRY = ":".join([r"((?:\\.|[^\\:])*)"] * 4) + r":((?:\\.|[^\\:])*\\?)"


def _entries(text: str) -> Iterator[tuple[str, ...]]:
    """The lines as host, port, database, user and password, each still with its backslashes."""
    for line in text.split("\n"):
        if not line.startswith("#") and (entry := re.match(_ENTRY, line.rstrip("\r"))):
            yield entry.groups()


def _plain(field: str) -> str:
    return re.sub(r"\\(.)", r"\1", field)
