"""Follows the culprits of a verdict through the configured PgBouncers to their applications."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pgstats.ask.links import addresses, links
from pgstats.evidence import Limit, Links
from pgstats.model import PGBOUNCER
from pgstats.why.trace import DIRECT, Trail, follow

if TYPE_CHECKING:
    from pgstats.ask.witness import Witness
    from pgstats.config import Config
    from pgstats.model import Failure, Target
    from pgstats.why.cause import Found
    from pgstats.why.verdict import Verdict

#: PgBouncers that are asked at the same time.
AT_ONCE = 16


class _Consoles:
    """The consoles of all configured PgBouncers, and what could not be read of them."""

    def __init__(self, config: Config) -> None:
        self._targets = [one for one in config.targets if one.family == PGBOUNCER]
        self.failures: dict[str, Failure] = {}
        self.unasked: list[str] = []

    def read(self) -> list[Links]:
        """Who is linked with whom, in all of them."""
        if not self._targets:
            return []
        with ThreadPoolExecutor(min(AT_ONCE, len(self._targets))) as pool:
            return [one for found in pool.map(self._read, self._targets) for one in found]

    def _read(self, target: Target) -> list[Links]:
        found, failures = links(target, time.monotonic() + target.timeout)
        if failures:
            self.failures[target.name] = failures[0]
        if not found:
            until = time.monotonic() + target.timeout
            self.unasked += [address for address, _ in addresses(target, until)]
        return found


def traced(verdict: Verdict, witness: Witness, config: Config) -> Verdict:
    """The verdict with the client of each session that holds or blocks something."""
    sessions = [row for found in verdict.causes for row in found.sessions]
    if not sessions:
        return verdict
    consoles = _Consoles(config)
    known = addresses(witness.target, time.monotonic() + witness.target.timeout)
    trails = iter(
        follow(sessions, consoles.read, witness.sessions, known=known, unasked=consoles.unasked)
    )
    causes = [_with(found, [next(trails) for _ in found.sessions]) for found in verdict.causes]
    missed = [
        Limit(f"SHOW SERVERS and SHOW CLIENTS of PgBouncer {name}", str(failure))
        for name, failure in consoles.failures.items()
    ]
    return verdict._replace(causes=causes, limits=[*verdict.limits, *missed])


def _with(found: Found, trails: Sequence[Trail]) -> Found:
    """A cause with the client of its culprit, and of who is behind that."""
    if not trails:
        return found
    whose, *behind = trails
    reasons = tuple(
        f"Not traceable: {trail.reason}."
        for trail in trails
        if not trail.client and trail.reason not in ("", DIRECT)
    )
    notes = tuple(
        f"Traced to {trail.client.addr}: {trail.client.note}."
        for trail in trails
        if trail.client and trail.client.note
    )
    blocker = next((trail.client for trail in behind if trail.client), None)
    return found._replace(
        client=whose.client, blocker=blocker, limits=(*found.limits, *reasons, *notes)
    )
