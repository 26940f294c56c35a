"""Turns psycopg2's exceptions into `AskError`: why it failed, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pgstats.errors import AskError
from pgstats.model import PGBOUNCER, POSTGRES, Failure

# libpq gives no SQLSTATE for a failed login, so the text has to tell. First match wins.
_TELLTALES = (
    (r"could not translate host name|name or service not known", "dns"),
    (r"certificate|ssl error|does not support ssl|ssl required|sslmode", "tls"),
    (
        r"too many (clients|connections)|remaining connection slots|connections exceeded"
        r"|no more connections allowed",
        "too_many_connections",
    ),
    (
        r"auth(entication)? failed|no password supplied|no such user|wrong password type"
        r'|no authentication method|scram|role ".*" does not exist',
        "auth",
    ),
    (
        r'no such database|database ".*" does not exist|unsupported startup parameter: options',
        "wrong_database",
    ),
    (
        r"no pg_hba.conf entry|not allowed|permission denied|not permitted to log in"
        r"|not currently accepting connections|pg_hba.conf rejects",
        "not_allowed",
    ),
    (
        # "the database system is" starting up, shutting down, in recovery mode
        r"connection refused|no such file or directory|the database system is"
        r"|server closed the connection|connection reset by peer",
        "refused",
    ),
    (r"timeout expired|timed out", "timeout"),
)

_REMEDIES = {
    (PGBOUNCER, "auth"): "check user and password; a console user must be in PgBouncer's auth_file",
    (PGBOUNCER, "not_allowed"): "add the user to stats_users in pgbouncer.ini, then RELOAD",
    (PGBOUNCER, "wrong_database"): "the console's database is pgbouncer: set dbname=pgbouncer",
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
        r"unsupported startup parameter: options",
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
        r'role ".*" does not exist',
        "create the role: CREATE ROLE pgstats LOGIN; GRANT pg_monitor TO pgstats;",
    ),
)

_STATES = {
    "53300": "too_many_connections",
    "57014": "timeout",
    "55P03": "timeout",
    "42501": "not_allowed",
    "3D000": "wrong_database",
    "28000": "auth",
    "28P01": "auth",
}


def classify(text: str, state: str | None) -> str:
    """The reason of a failure, one of `pgstats.model.REASONS`."""
    if state in _STATES:
        return _STATES[state]
    return _first(_TELLTALES, text) or "other"


def remedy(family: str, reason: str, text: str) -> str:
    """What a person can do, "" where nothing is known."""
    return _first(_REMEDY_BY_TEXT, text) or _REMEDIES.get((family, reason), "")


def _first(table: Iterable[tuple[str, str]], text: str) -> str:
    return next((word for telltale, word in table if re.search(telltale, text, re.IGNORECASE)), "")


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
    """The `AskError` for an exception of psycopg2 or of the deadline."""
    if type(error).__name__ == "DeadlinePassed":
        text, reason = "no answer in time", "timeout"
    else:
        text = fold(str(error), secrets) or type(error).__name__
        reason = classify(text, getattr(error, "pgcode", None))
    return AskError(stage, reason, text, remedy(family, reason, text))
