"""Where servers are, in words by which what PgBouncer says and what a DSN says can be compared."""

from __future__ import annotations

from collections.abc import Mapping

from pgstats.model import Site

#: The machine that pgstats runs on, by whatever address or socket.
OURS = "localhost"
_DEFAULT_PORT = "5432"


def reached(parameters: Mapping[str, str]) -> Site:
    """Where a connection with those parameters of libpq leads: by its name and by its address."""
    words = [parameters.get("host", ""), parameters.get("hostaddr", "")]
    hosts = dict.fromkeys(OURS if _loops(word) else word.lower() for word in words if word)
    return Site(tuple(hosts) or (OURS,), parameters.get("port") or _DEFAULT_PORT)


def behind(host: object, port: object, front: Site) -> Site:
    """Where a PgBouncer's database is, which stands there as PgBouncer sees it.

    A socket and the loopback address mean PgBouncer's own machine.
    """
    words = str(host or "").split(",")
    hosts = [one for word in words for one in (front.hosts if _loops(word) else (word.lower(),))]
    return Site(tuple(dict.fromkeys(hosts)), str(port or _DEFAULT_PORT), several=len(words) > 1)


def _loops(word: str) -> bool:
    """Whether it means the machine that it is said on."""
    return not word or word.startswith(("/", "@", "127.")) or word.lower() in (OURS, "::1")
