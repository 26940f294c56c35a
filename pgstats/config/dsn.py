"""What a connection string's parameters tell: a name for the target, and what may be shown."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import chain, count

#: Parameters of libpq whose values are no secrets. What is not listed is masked, so that a
#: parameter of a newer libpq (a token, a key) never shows.
_OPEN = frozenset(
    {"host", "hostaddr", "port", "dbname", "user", "service", "passfile", "application_name"}
    | {"sslmode", "sslnegotiation", "sslrootcert", "sslcert", "sslkey", "sslcrl", "gssencmode"}
    | {"require_auth", "channel_binding", "connect_timeout", "tcp_user_timeout", "keepalives"}
    | {"target_session_attrs", "load_balance_hosts", "client_encoding"}
)
MASK = "***"

#: libpq's own environment: any of these names a server to go to.
LIBPQ = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE", "PGUSER")


_AT_IN_PATH = r"postgres(ql)?://[^/?]*/[^?]*@"


def fault(text: str, parameters: Mapping[str, str]) -> str:
    """What is wrong with a DSN that libpq understands, "" for nothing.

    A URI whose password holds a bare @, : or / is cut in the wrong places, and parts of the
    password end up where they would be shown.
    """
    host, port = parameters.get("host", ""), parameters.get("port", "")
    odd = port.strip("0123456789, ")
    if odd or "@" in host[1:] or ("@" in text and re.match(_AT_IN_PATH, text)):
        return (
            "cannot be cut into host, port and database; inside the parts of a URI write @ as "
            "%40, : as %3A and / as %2F, or keep the password in password_file"
        )
    return ""


def masked(parameters: Mapping[str, str], secrets: Sequence[str]) -> str:
    """The connection string to show: secrets masked, and all that holds or is part of one."""
    hidden = [secret for secret in [*secrets, *_decoded(secrets)] if secret]
    return " ".join(
        f"{key}={_quoted(value) if _is_open(key, value, hidden) else MASK}"
        for key, value in parameters.items()
    )


def _decoded(texts: Sequence[str]) -> list[str]:
    """The texts with percent-encoding undone, as a URI's parts are."""
    if not any("%" in text for text in texts):
        return []
    from urllib.parse import unquote  # noqa: PLC0415 - rarely needed

    return [unquote(text) for text in texts]


def _is_open(key: str, value: str, hidden: Iterable[str]) -> bool:
    if key not in _OPEN or ("@" in value[1:] and key != "user"):
        return False  # an @ elsewhere is what is left of a URI's password with a / in it
    return not any(secret in value or value in secret for secret in hidden)


def _quoted(value: str) -> str:
    """A value as libpq's keyword form wants it."""
    if value.split() == [value] and not set("'\\").intersection(value):
        return value
    return "'" + re.sub(r"(['\\])", r"\\\1", value) + "'"


def free_name(
    parameters: Mapping[str, str], environ: Mapping[str, str], taken: Container[str]
) -> str:
    """A name for a target that has none, with a number behind it where it is taken."""
    name = _default_name(parameters, environ)
    numbered = chain([name], (f"{name}_{number}" for number in count(2)))
    return next(free for free in numbered if free not in taken)


def _default_name(parameters: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """A target's name after where it is: host and port, a socket's folder, or the service."""
    host = parameters.get("host") or parameters.get("hostaddr")
    service = parameters.get("service") or environ.get("PGSERVICE")
    if not host and service:
        return _plain(service)
    host = host or environ.get("PGHOST") or environ.get("PGHOSTADDR") or "localhost"
    if host[0] in "/@":
        return _plain(host.rstrip("/").rpartition("/")[2])
    return _plain(f"{host}_{parameters.get('port') or environ.get('PGPORT') or '5432'}")


def _plain(name: str) -> str:
    """A name in letters, digits, _ and -, never empty."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_") or "localhost"
