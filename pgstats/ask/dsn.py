"""Reads libpq's connection strings, and finds out where they lead as libpq would.

What a string does not say comes from its service, then from the environment. libpq looks names up
by itself, but nothing can end that and every other thread stands still meanwhile: pgstats does it
first, and hands libpq addresses.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pgstats.errors import ConfigError
from pgstats.lookup import addresses, is_name


def _import_psycopg2() -> Any:
    """Import psycopg2 without ssl, which doubles its cost.

    psycopg2 imports ssl only to set thread callbacks that OpenSSL dropped in 1.1, and carries on
    when that fails. TLS is libpq's own business and works all the same.
    """
    hide = "ssl" not in sys.modules
    if hide:
        sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        import psycopg2  # noqa: PLC0415
        import psycopg2.extensions  # noqa: PLC0415
    finally:
        if hide:
            del sys.modules["ssl"]
    return psycopg2


psycopg2 = _import_psycopg2()
extensions = psycopg2.extensions

#: One way to a server as keywords of libpq: host, hostaddr and port. {} leaves it to libpq.
Place = dict[str, str]

_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "service": "PGSERVICE",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "load_balance_hosts": "PGLOADBALANCEHOSTS",
    "sslrootcert": "PGSSLROOTCERT",
}
#: Where builds of libpq look for the whole machine's pg_service.conf. One that looks elsewhere
#: still finds its file by itself; then only the look-up of names is without a time limit.
_SYSTEM_FOLDERS = ("/etc/postgresql-common", "/etc/postgresql", "/etc/sysconfig/pgsql", "/etc")

#: A line of a service file that begins so is the address of the rest.
_DIRECTORY = "ldap"
#: Where systems keep the authorities that they trust. The libpq of psycopg2's wheel looks for those
#: of sslrootcert=system in a folder of the machine that it was built on.
_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def trust(given: Mapping[str, str]) -> None:
    """Have OpenSSL find the system's authorities where they are asked for.

    It knows no other way than its variable; one that the user has set holds.
    """
    if given.get("sslrootcert") == "system" and "SSL_CERT_DIR" not in os.environ:
        found = next(filter(os.path.exists, _AUTHORITIES), "")
        if found:
            os.environ.setdefault("SSL_CERT_FILE", found)


def parse_dsn(dsn: str) -> dict[str, str]:
    """The keywords of a libpq connection string or URI.

    libpq's own message may quote a piece of a password, so it is not passed on.
    """
    try:
        found: dict[str, str] = extensions.parse_dsn(dsn)
    except psycopg2.ProgrammingError as error:
        raise ConfigError([_dsn_fault(str(error))]) from None
    except UnicodeError:
        raise ConfigError(["holds characters that are not UTF-8"]) from None
    return found


def moved(dsn: str, host: str, port: str = "") -> str:
    """The same connection string, but to another host or socket folder."""
    given = parse_dsn(dsn) | {"host": host, "hostaddr": ""}  # not that of a service either
    return str(extensions.make_dsn(**(given | ({"port": port} if port else {}))))


def composed(dbname: str = "", **given: str) -> str:
    """The connection string of psql's options; ``dbname`` may be one itself, which then wins."""
    is_dsn = "=" in dbname or dbname.startswith(("postgres://", "postgresql://"))
    given |= parse_dsn(dbname) if is_dsn else {"dbname": dbname}
    return str(extensions.make_dsn(**{key: value for key, value in given.items() if value}))


def _dsn_fault(message: str) -> str:
    """A safe sentence; a keyword is named only when it is nearly a known one."""
    if found := re.search(r'invalid connection option "(\w+)"', message):
        import difflib  # noqa: PLC0415

        if near := difflib.get_close_matches(found[1], _KEYWORDS, 1):
            return f'unknown connection keyword "{found[1]}"; did you mean "{near[0]}"?'
    return (
        "not a libpq connection string; write 'host=... port=... user=... dbname=...' "
        "or 'postgresql://user@host:port/dbname'"
    )


_KEYWORDS = (
    "host", "hostaddr", "port", "dbname", "user", "password", "passfile", "service", "options",
    "application_name", "client_encoding", "connect_timeout", "sslmode", "sslcert", "sslkey",
    "sslrootcert", "sslcrl", "sslpassword", "gssencmode", "krbsrvname", "require_auth",
    "channel_binding", "target_session_attrs", "load_balance_hosts", "keepalives",
    "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
)  # fmt: skip


def merged(dsn: str, settings: Mapping[str, str]) -> dict[str, str]:
    """The parameters that libpq will use: ours, the string's, its service's, the environment's.

    ``service`` is among them only where libpq alone knows what it means: its definition was not
    found, or is in an LDAP directory.
    """
    given = parse_dsn(dsn) | dict(settings)
    outside = {key: os.environ[name] for key, name in _VARIABLES.items() if name in os.environ}
    name = given.get("service") or outside.get("service")
    defined = _service(name) if name else {}
    if defined is None or _DIRECTORY in defined:
        return outside | given
    given = outside | defined | given
    given.pop("service", None)
    given.setdefault("user", _own_name())
    given.setdefault("dbname", given["user"])
    return given


@cache
def _own_name() -> str:
    """The user that pgstats runs as: looked up once, for that reads files."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""


def _service(name: str) -> dict[str, str] | None:
    """What the first pg_service.conf that knows the service says of it."""
    for file in _service_files():
        try:
            with open(file, encoding="utf-8", errors="replace") as opened:
                lines = opened.read().split("\n")
        except OSError:
            continue
        if (found := _section(lines, name)) is not None:
            return found
    return None


def _service_files() -> Iterator[str]:
    yield os.environ.get("PGSERVICEFILE") or os.path.expanduser("~/.pg_service.conf")
    folder = os.environ.get("PGSYSCONFDIR")
    yield from (f"{one}/pg_service.conf" for one in ([folder] if folder else _SYSTEM_FOLDERS))


def _section(lines: list[str], name: str) -> dict[str, str] | None:
    """The values below ``[name]``, read as libpq does: no quotes, no blanks around =."""
    found: dict[str, str] | None = None
    for line in map(str.strip, lines):
        if line.startswith("["):
            if found is not None:
                break
            found = {} if line.startswith(f"[{name}]") else None
        elif found is not None and line.startswith(_DIRECTORY):
            return {_DIRECTORY: line}
        elif found is not None and line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, value)
    return found


def places(given: Mapping[str, str]) -> list[Place]:
    """The hosts of merged parameters in libpq's order; [{}] where only libpq knows or complains."""
    hosts, literal, ports = (given.get(k, "").split(",") for k in ("host", "hostaddr", "port"))
    count = max(len(hosts), len(literal))
    hosts = hosts * count if hosts == [""] else hosts
    literal = literal * count if literal == [""] else literal
    ports = ports * count if len(ports) == 1 else ports
    if "service" in given or {len(hosts), len(literal), len(ports)} != {count}:
        return [{}]
    found = [
        {"host": host, "hostaddr": address, "port": port}
        for host, address, port in zip(hosts, literal, ports, strict=True)
    ]
    return _dealt(found, given)


def located(place: Place, given: Mapping[str, str], until: float) -> list[Place]:
    """The same place once for each address of its host; may raise `LookupFailed`."""
    host = place.get("host", "")
    if place.get("hostaddr") or not host or host.startswith(("/", "@")):
        return [place]
    found = [host]
    if is_name(host):
        found = addresses(host, 0, socket.SOCK_STREAM, until - time.monotonic())
    return _dealt([place | {"hostaddr": address} for address in found], given)


def _dealt(found: list[Place], given: Mapping[str, str]) -> list[Place]:
    """The places in the order in which to try them."""
    if given.get("load_balance_hosts") != "random" or len(found) == 1:
        return found
    import random  # noqa: PLC0415

    return random.sample(found, len(found))
