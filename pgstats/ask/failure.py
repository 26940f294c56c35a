"""Turns psycopg2's exceptions into `AskError`: why it failed, and what to do about it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from pgstats.ask.verbose import parted
from pgstats.errors import AskError
from pgstats.model import PGBOUNCER, POSTGRES, Failure


class DeadlinePassed(Exception):
    """The time given to a connection is used up."""


# libpq gives no SQLSTATE for a failed login, so the text has to tell. First match wins. Names in
# quotes are taken out before, since anything may be called anything.
_TELLTALES = (
    (r"too many open files|can't start new thread|cannot allocate memory", "other"),
    (r"could not translate host name|name or service not known|cannot look up|looking up", "dns"),
    (r"timeout expired|timed out|query_wait_timeout", "timeout"),
    (
        # "the database system is" starting up, shutting down, in recovery mode
        r"connection refused|no such file or directory\s*is the server|the database system is"
        r"|server closed the connection|connection reset by peer|broken pipe"
        r"|terminating connection|cannot connect to server"
        r"|ssl syscall error|ssl connection has been closed|unexpected eof while reading"
        r"|no route to host|network is unreachable|host is (down|unreachable)",
        "refused",
    ),
    (
        r"certificate|private (ssl )?key|ssl error|(could not \w+|does not support) ssl"
        r"|ssl (was )?required|sslmode",
        "tls",
    ),
    (
        r"too many (clients|connections)|remaining connection slots|connections exceeded"
        r"|no more connections allowed",
        "too_many_connections",
    ),
    (r'no such database|database "" does not exist', "wrong_database"),
    (
        r"auth(entication)? failed|no password supplied|no such user|wrong password type"
        r'|no authentication method|scram|role "" does not exist',
        "auth",
    ),
    (r"unsupported startup parameter(: options| in options)", "wrong_database"),
    (
        r"no pg_hba.conf entry|not allowed|permission denied|not permitted to log in"
        r"|not currently accepting connections|pg_hba.conf rejects",
        "not_allowed",
    ),
    (r"server login has been failing", "refused"),
)

_RESOLVER = "check the name and this machine's resolver"
_REMEDIES = {
    (PGBOUNCER, "dns"): _RESOLVER,
    (POSTGRES, "dns"): _RESOLVER,
    (PGBOUNCER, "auth"): "check user and password; a console user must be in PgBouncer's auth_file",
    (PGBOUNCER, "not_allowed"): "add the user to stats_users in pgbouncer.ini, then RELOAD",
    (PGBOUNCER, "wrong_database"): "the console is the database pgbouncer of a PgBouncer: "
    "check its port, set dbname=pgbouncer; a PostgreSQL belongs under [[postgres]]",
    (PGBOUNCER, "refused"): "is PgBouncer running, and is this its host and port?",
    (PGBOUNCER, "timeout"): "PgBouncer takes connections but does not answer: "
    "it may be suspended (RESUME), stopped, or out of file descriptors",
    (PGBOUNCER, "too_many_connections"): "raise max_user_client_connections for this user, "
    "or let pgstats have a user of its own",
    (POSTGRES, "auth"): "check user and password, or ~/.pgpass",
    (POSTGRES, "not_allowed"): "let the role in: pg_hba.conf, GRANT CONNECT, LOGIN",
    (POSTGRES, "wrong_database"): "name an existing database: dbname=postgres nearly always is one",
    (POSTGRES, "refused"): "is PostgreSQL running, and is this its host and port?",
    (POSTGRES, "timeout"): "the server takes connections but does not answer in time; "
    "is it stopped or overloaded?",
    (POSTGRES, "too_many_connections"): "the server is full; from PostgreSQL 16 on, "
    "GRANT pg_use_reserved_connections lets pgstats in",
}

_REMEDY_BY_TEXT = (
    (
        r"too many open files",
        "let pgstats open more files: LimitNOFILE= in its unit, or ulimit -n",
    ),
    (
        r"can't start new thread",
        "let pgstats have more threads and memory: TasksMax= and MemoryMax= in its unit, or ulimit",
    ),
    (
        r"session is (not )?read-only|server is (not )?in hot standby mode",
        "none of these servers is what target_session_attrs asks for",
    ),
    (
        r"unsupported startup parameter(: options| in options)",
        "this is a PgBouncer, not PostgreSQL: name PostgreSQL itself, or set pooled = true; "
        "a console belongs under [[pgbouncer]]",
    ),
    (r"unsupported startup parameter", "take that parameter out of the DSN"),
    (
        r"does not support ssl",
        "turn TLS on in the server, or ask for less: sslmode=prefer",
    ),
    (
        r"certificate|sslrootcert",
        "check sslmode, sslrootcert and the name in the server's certificate",
    ),
    (
        r"no such file or directory",
        "is the server running, and is this the folder of its socket? "
        "systemd's PrivateTmp hides sockets in /tmp",
    ),
    (
        r'role "" does not exist',
        "create the role: CREATE ROLE pgstats LOGIN; GRANT pg_monitor TO pgstats;",
    ),
)

_STATES = {
    "53300": "too_many_connections",
    "57014": "timeout",
    "55P03": "timeout",
    "42501": "not_allowed",
    "3D000": "wrong_database",
    "28P01": "auth",
    "57P01": "refused",
    "57P02": "refused",
    "57P03": "refused",
}
#: What stands for several reasons: it counts where the text tells nothing.
_VAGUE_STATES = {"28000": "auth"}


def sqlstate(error: AskError) -> str:
    """What the server called its error, "" where it was not the server that failed."""
    return getattr(error.__cause__, "pgcode", None) or ""


def classify(text: str, state: str | None) -> str:
    """The reason of a failure, one of `pgstats.model.REASONS`."""
    if state in _STATES:
        return _STATES[state]
    return _first(_TELLTALES, text) or _VAGUE_STATES.get(state or "", "other")


def remedy(family: str, reason: str, text: str) -> str:
    """What a person can do, "" where nothing is known."""
    return _first(_REMEDY_BY_TEXT, text) or _REMEDIES.get((family, reason), "")


def _nameless(text: str) -> str:
    """The message without names and quoted SQL; PgBouncer writes some names without quotes."""
    text = re.sub(r'"[^"]*"', '""', re.sub(r"\bLINE \d+: .*", "", text))
    return re.sub(r"(no such (user|database)): .*", r"\1", text)


def _first(table: Iterable[tuple[str, str]], text: str) -> str:
    plain = _nameless(text)
    return next((word for telltale, word in table if re.search(telltale, plain, re.IGNORECASE)), "")


def fold(text: str, secrets: Iterable[str]) -> str:
    """One line of a message, without secrets."""
    for secret in secrets:
        text = text.replace(secret, "***")
    lines = [line.strip() for line in text.strip().splitlines()]
    return " ".join(line for line in lines if line)


def failure(error: AskError) -> Failure:
    """The error as a value."""
    return Failure(error.stage, error.reason, str(error), error.remedy)


def translate(error: Exception, stage: str, family: str, secrets: Iterable[str]) -> AskError:
    """The `AskError` for an exception of psycopg2, of the system or of the deadline."""
    if isinstance(error, DeadlinePassed):
        text, reason = "no answer in time", "timeout"
    else:
        text, state = parted(_words(error))
        text = fold(text, secrets)
        reason = classify(text, getattr(error, "pgcode", None) or state)
    return AskError(stage, reason, text, remedy(family, reason, text))


def _words(error: Exception) -> str:
    """What an exception says; libpq says nothing when it cannot even open a socket."""
    said = error.strerror if isinstance(error, OSError) else ""
    if isinstance(error, UnicodeDecodeError):  # before login a server speaks its own encoding
        said = error.object.decode(errors="replace")
    return said or str(error).strip() or _shortage() or type(error).__name__


def _shortage() -> str:
    """Why the system hands out no file descriptor, "" if it does."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return f"out of file descriptors: {error.strerror}"
    return ""
